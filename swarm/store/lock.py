"""The lock that makes one process the only writer of a run folder.

Owns the `lock` file: an exclusive flock that the kernel releases when its holder dies, and the holder's name
written inside for people. It knows nothing of what the lock protects.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from swarm.errors import BusyError, StoreError

_ATTEMPTS = 1000
UNSIGNED = "another process"


class FolderLock:
    """An exclusive lock on a file, held until `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    @classmethod
    def take(cls, path: Path) -> FolderLock:
        """Takes the lock at once or not at all.

        Raises:
            BusyError: another process holds it.
            StoreError: the file system cannot lock.
            OSError: the lock file cannot be made.
        """
        for attempt in range(_ATTEMPTS):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with ExitStack() as undo:
                undo.callback(os.close, descriptor)
                lock = cls(path, descriptor)
                if lock._claim(last=attempt == _ATTEMPTS - 1):
                    undo.pop_all()
                    return lock
            # someone only looked at the lock or has not signed it yet, or the file was replaced under us: again
        raise StoreError("could not be locked: other processes keep looking at it", str(path), "try again")

    def _claim(self, last: bool) -> bool:
        if not _flock(self._descriptor, fcntl.LOCK_EX, self.path):
            if not _flock(self._descriptor, fcntl.LOCK_SH, self.path):
                named = _named(self._descriptor)
                if named == UNSIGNED and not last:
                    return False
                raise BusyError(
                    f"this run is in use by {named}",
                    str(self.path),
                    "wait until it ends, or stop that process; `swarm watch` follows a run without taking it",
                )
            return False
        if not _same_file(self._descriptor, self.path):
            return False
        os.ftruncate(self._descriptor, 0)
        since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        signed = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since})
        os.pwrite(self._descriptor, signed.encode(), 0)
        return True

    def release(self) -> None:
        """Gives the lock back; a second call does nothing."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def holder(path: Path) -> str | None:
    """Who holds the lock, as `process 17 on HOST since 2031-04-12 15:09:00`; None when it is free."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return None if _flock(descriptor, fcntl.LOCK_SH, path) else _named(descriptor)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        problem = f"this file system cannot lock files ({error.strerror})"
        raise StoreError(problem, str(path), "choose a local folder with --runs") from error
    return True


def _named(descriptor: int) -> str:
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
        since = f" since {content['since']}" if "since" in content else ""
        return f"process {content['pid']} on {content['host']}{since}"
    except (ValueError, KeyError, TypeError, RecursionError):  # just taken, and not signed yet; or not by us
        return UNSIGNED


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
