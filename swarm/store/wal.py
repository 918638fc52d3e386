"""What lies in a log's write-ahead log that SQLite did not take from it.

Owns the reading of its frames and of SQLite's index of them (https://sqlite.org/walformat.html). SQLite goes through the
write-ahead log up to the first frame that is not whole, and says nothing of those behind it. One commit there is what a crash
leaves of a commit that nobody was told of; two are not, because a commit begins only when the one before is on the disk.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HEADER, _FRAME, _INDEX = 32, 24, 48
"""Bytes of the file's header, of a frame's header, and of the index's part that is read here."""


def of(path: Path) -> Path:
    """The write-ahead log of a log."""
    return path.with_name(path.name + "-wal")


def lost_commits(path: Path) -> int:
    """How many acknowledged commits lie behind what SQLite could read of a log's write-ahead log, at least.

    Somebody must have read the log through a connection that is still open: that makes the index. Safe while its writer is at
    work, because the frames are looked at before the index.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        salt, commits = _commits(of(path))
        index = _start(path.with_name(path.name + "-shm"), _INDEX) if len(commits) > 1 else b""
    except FileNotFoundError:
        return 0
    if len(index) < _INDEX or index[32:40] != salt:  # of another round: all that is in this one has been copied away
        return 0
    taken = int.from_bytes(index[16:20], sys.byteorder)
    return max(0, sum(frame > taken for frame in commits) - 1)


def _commits(path: Path) -> tuple[bytes, list[int]]:
    """The salt of the present round, and the numbers of its frames that end a commit."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = os.pread(descriptor, _HEADER, 0)
        salt, size = header[16:24], int.from_bytes(header[8:12], "big") + _FRAME
        count = (os.fstat(descriptor).st_size - _HEADER) // size if len(header) == _HEADER else 0
        frames = ((number, os.pread(descriptor, 16, _HEADER + (number - 1) * size)) for number in range(1, count + 1))
        return salt, [number for number, frame in frames if frame[8:16] == salt and frame[4:8] != b"\0\0\0\0"]
    finally:
        os.close(descriptor)


def _start(path: Path, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)
