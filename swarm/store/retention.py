"""What lies in a run's folder and serves nothing any more.

Owns finding it and removing it, of a run whose log is there too; of one in a database, the files. Events and the bodies that
they may name are never among it, so a fork, a replay and a report find all they need; what goes is what crashes left behind,
and the snapshot of a job that has ended.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw

from swarm.errors import StoreError
from swarm.events import JobEnded
from swarm.names import draft_name, is_draft
from swarm.store import bodies, snapshots, wal
from swarm.store.blobs import sync_folder
from swarm.store.connection import naming, open_reading, open_writing
from swarm.store.interface import Needless
from swarm.store.lock import FolderLock, holder
from swarm.store.sqlite import LOG, SqliteReader

SPARED = 3600
"""Seconds for which a run that is not whole is left alone after it was last written to. That nobody holds it says little: who
makes it lets go of it between the epochs that it copies, and before it gives it its name."""
_START = re.compile(r"\.([a-z0-9][a-z0-9._-]*?)\.(?:starting|[0-9a-f]{32}\.driver\.log)")
"""What lies beside the runs while one is started; see `runtime/driver`."""


def needless(folder: Path) -> list[Needless]:
    """What can go of a run that lies in a folder. Safe while the run works, when it may name what is being written just now.

    Raises:
        StoreError: the log can't be read.
    """
    return list(_files(folder)) + list(_snapshot(folder))


def free(folder: Path) -> list[Needless]:
    """Removes what can go, and says what that was.

    Raises:
        StoreError: someone works on the run, or its log can't be read.
    """
    with naming(folder):
        lock = FolderLock.take(folder / "lock")
    try:
        found = needless(folder)
        with naming(folder):
            for one in found:
                if one.file is not None:
                    one.file.unlink(missing_ok=True)
        if any(one.file is None for one in found):
            with closing(open_writing(folder / LOG)) as connection, naming(folder / LOG):
                wal.note_torn(connection, folder / LOG)
                with connection:
                    snapshots.drop(connection)
    finally:
        lock.release()
    return found


def links(root: Path, remove: bool) -> list[Needless]:
    """Links beside the runs of a folder that crashes kept from becoming `latest`, and `latest` where the removal of its run did
    not come to it. With `remove` they go."""
    with naming(root):
        drafts = [path for path in sorted(root.glob(".latest.*")) if path.is_symlink() and _rests(path)]
        found = dict.fromkeys(drafts, "a link that was never finished")
        if _dangles(latest := root / "latest"):
            found[latest] = "a link to a run that is gone"
            if remove:
                drop_latest(root)
        for path in drafts if remove else ():
            path.unlink(missing_ok=True)
    return [Needless(what, 0, path) for path, what in found.items()]


def drop_latest(root: Path) -> None:
    """Removes `latest` if its run is gone, which somebody may point at another one meanwhile."""
    latest, aside = root / "latest", root / draft_name("latest")
    if not _dangles(latest):
        return
    with naming(root), suppress(FileNotFoundError):  # somebody was quicker
        latest.rename(aside)
        if not _dangles(aside):
            with suppress(FileExistsError):  # a still newer one
                latest.symlink_to(os.readlink(aside))
        aside.unlink()


def _dangles(link: Path) -> bool:
    return link.is_symlink() and "/" not in (run := os.readlink(link)) and not os.path.lexists(link.parent / run)


def starts(root: Path, held: Callable[[Path], str | None], remove: bool) -> list[Needless]:
    """Files beside the runs of a folder whose start was never finished, since whoever started them was killed. `held` says who
    works on a run: what its driver prints goes there then. With `remove` they go."""
    with naming(root):
        named = {path: found[1] for path in sorted(root.glob(".*")) if (found := _START.fullmatch(path.name))}

    def look(path: Path) -> int | None:
        if not path.is_file() or holder(path) is not None or held(root / named[path]) is not None:
            return None
        with naming(path):
            size = path.stat().st_size
            if remove:
                lock = FolderLock.take(path)  # or somebody starts the run just now
                path.unlink()
                lock.release()
        return size

    return drafts(named, look, "a start that was never finished")


def draft_folders(root: Path) -> list[Path]:
    """Folders with the names of runs that are not whole; whether they are any, their place must say."""
    with naming(root):
        found = [path for path in sorted(root.glob(".*")) if is_draft(path.name)]
        return [path for path in found if path.is_dir() and not path.is_symlink()]


def drafts(
    paths: Iterable[Path], look: Callable[[Path], int | None], what: str = "a run that was never finished"
) -> list[Needless]:
    """Those runs that never came to their names, and never will. `look` gives the size of one, having removed it if that is
    wanted; None for what is none, or is being worked on."""
    found: list[Needless] = []
    for path in paths:
        try:
            size = look(path) if _rests(path) else None
        except StoreError as error:  # it is told, and keeps no other from going
            found.append(Needless(what, 0, path, error.message))
        else:
            found += [Needless(what, size, path)] if size is not None else []
    return found


def _rests(path: Path) -> bool:
    with naming(path):
        try:
            inside = () if path.is_symlink() else path.rglob("*")
            files = [path, *inside] if os.path.lexists(path) else []
            newest = max((file.lstat().st_mtime for file in files), default=0.0)
        except FileNotFoundError:  # somebody is at it
            return False
    return time.time() - newest > SPARED


def _files(folder: Path) -> Iterator[Needless]:
    with closing(open_reading(folder / LOG)) as connection, naming(folder / LOG):
        named = bodies.outside(connection)
    yield from unfinished(folder)
    for path in sorted((folder / "blobs").glob("[!.]*")):
        if path.is_file() and path.name not in named:
            yield Needless("a body whose events never became durable", path.stat().st_size, path)


def unfinished(folder: Path) -> Iterator[Needless]:
    """Files in a run's folder that were never finished."""
    for path in sorted((*folder.glob("*"), *(folder / "blobs").glob(".*"), *(folder / "inbox").glob(".*"))):
        if path.is_file() and (is_draft(path.name) or path.name.startswith(f"{LOG}.new")):
            yield Needless("a file that was never finished", path.stat().st_size, path)


def _snapshot(folder: Path) -> Iterator[Needless]:
    with SqliteReader.open(folder) as reader:
        life = list(reader.life())
    if not life or not isinstance(life[-1].body, JobEnded):
        return
    with closing(open_reading(folder / LOG)) as connection, naming(folder / LOG):
        size = _size(connection)
    if size:
        yield Needless("the snapshot of a job that has ended", size)


def _size(connection: apsw.Connection) -> int:
    if not snapshots.exists(connection):
        return 0
    query = "SELECT (SELECT total(length(state)) FROM snapshot) + (SELECT total(length(bytes)) FROM parts)"
    found: Any = connection.execute(query).get
    return int(found)


def set_aside(folder: Path) -> Path:
    """Frees the name of a run's folder that is to be deleted: it gets a draft's, if it has none."""
    if is_draft(folder.name):
        return folder
    draft = folder.rename(folder.with_name(draft_name(folder.name)))
    sync_folder(folder.parent)
    return draft


def delete(folder: Path, last: Collection[str]) -> None:
    """Deletes a run's folder. Its name is free at once. What a crash leaves has the name of a draft, and the files in `last` as
    long as it has any others: by them it is known as a run's."""
    folder = set_aside(folder)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in last:
            path.unlink()
    shutil.rmtree(folder)
