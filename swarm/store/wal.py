"""What lies in a log's write-ahead log that SQLite did not take from it.

Owns the reading of its frames (https://sqlite.org/walformat.html). SQLite goes through the write-ahead log up to the first
frame that is not whole, and says nothing of those behind it. One commit there is what a crash leaves of a commit that nobody
was told of: a torn tail. Two are not, because a commit begins only when the one before is on the disk.

The log itself and SQLite's index (`-shm`) are never opened here: closing such a file lets go of every lock that this process
holds on it (https://sqlite.org/howtocorrupt.html), and another process then takes the index away under our feet.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import apsw

_HEADER, _FRAME = 32, 24
"""Bytes of the file's header, and of a frame's."""
_PAGES, _PAGE = {1 << power for power in range(9, 17)}, 4096
"""Bytes that a page may have, and has in our logs: a damaged header may say anything."""
_UNWRITTEN = bytes(8)
"""How a salt reads that a power cut kept from the disk."""
_TORN = "INSERT INTO meta VALUES ('torn', ?) ON CONFLICT(name) DO UPDATE SET value = max(value, excluded.value)"
_LOOKS, _BETWEEN_SECONDS = 3, 0.02
"""A writer that begins a new round is for a moment done with its index and not yet with the file: that passes, damage stays."""


def of(path: Path) -> Path:
    """The write-ahead log of a log."""
    return path.with_name(path.name + "-wal")


def lost_commits(connection: apsw.Connection, path: Path) -> int:
    """How many acknowledged commits lie behind what SQLite could read of a log's write-ahead log, at least.

    `connection` is one that has read the log. Safe while its writer is at work: the frames are looked at before SQLite is asked
    how many there are. It tells that only to those who may write there; to others none are known to be lost.

    Raises:
        OSError, apsw.Error: a file cannot be read.
    """
    lost = 0
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN_SECONDS)
        try:
            salt, frames = _frames(of(path))
            taken = _taken(connection)
            same = _salt(of(path)) == salt
        except (FileNotFoundError, apsw.ReadOnlyError):
            return 0
        lost = max(0, sum(frame.commits for frame in frames[taken:]) - 1) if same else 0
        if not lost:
            return 0
    return lost


def torn(connection: apsw.Connection, path: Path) -> int:
    """How many bytes lie behind what SQLite could read of a log's write-ahead log: of an unfinished commit.

    `connection` is one that has read the log, whose writer is not at work.

    Raises:
        OSError, apsw.Error: a file cannot be read.
    """
    try:
        _, frames = _frames(of(path))
    except FileNotFoundError:
        return 0
    return sum(frame.size for frame in frames[_taken(connection) :])


def note_torn(connection: apsw.Connection, path: Path) -> int:
    """As `torn`, and has the log remember it until an event says it: who is about to write into a log is not always one who
    writes events.

    Raises:
        OSError, apsw.Error: a file cannot be read, or the log cannot be written.
    """
    if size := torn(connection, path):
        connection.execute(_TORN, (size,))
    return size


def _taken(connection: apsw.Connection) -> int:
    """How many frames SQLite could read."""
    return connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[0]


def _salt(path: Path) -> bytes:
    """What tells the present round from the others."""
    with open(path, "rb") as file:
        return file.read(_HEADER)[16:24]


class _Frame(NamedTuple):
    """A frame: its bytes in the file, none if it is left from an earlier round; and whether it ends a commit of this one."""

    size: int
    commits: bool


def _frames(path: Path) -> tuple[bytes, list[_Frame]]:
    """The salt of the present round, and all frames."""
    frames: list[_Frame] = []
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header, end = os.pread(descriptor, _HEADER, 0), os.fstat(descriptor).st_size
        salt, page = header[16:24], int.from_bytes(header[8:12], "big")
        whole = _FRAME + (page if page in _PAGES else _PAGE)
        for start in range(_HEADER, end, whole):
            frame = os.pread(descriptor, 16, start)
            size = min(whole, end - start)
            earlier = len(frame) == 16 and frame[8:] not in (salt, _UNWRITTEN)
            commits = size == whole and frame[8:] == salt != _UNWRITTEN and frame[4:8] != bytes(4)
            frames.append(_Frame(0 if earlier else size, commits))
    finally:
        os.close(descriptor)
    return salt, frames
