"""What lies in a log's write-ahead log that SQLite did not take from it.

Owns the reading of its frames (https://sqlite.org/walformat.html). SQLite goes through the write-ahead log up to the first
frame that is not whole, and says nothing of those behind it. One commit there is what a crash leaves of a commit that nobody
was told of; two are not, because a commit begins only when the one before is on the disk.

The log itself and SQLite's index (`-shm`) are never opened here: closing such a file lets go of every lock that this process
holds on it (https://sqlite.org/howtocorrupt.html), and another process then takes the index away under our feet.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import apsw

_HEADER, _FRAME = 32, 24
"""Bytes of the file's header, and of a frame's."""
_LOOKS, _BETWEEN_SECONDS = 3, 0.02
"""A writer that begins a new round is for a moment done with its index and not yet with the file: that passes, damage stays."""


def of(path: Path) -> Path:
    """The write-ahead log of a log."""
    return path.with_name(path.name + "-wal")


def lost_commits(connection: apsw.Connection, path: Path) -> int:
    """How many acknowledged commits lie behind what SQLite could read of a log's write-ahead log, at least.

    `connection` is one that has read the log. Safe while its writer is at work: the frames are looked at before SQLite is asked
    how many there are.

    Raises:
        OSError, apsw.Error: a file cannot be read.
    """
    lost = 0
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN_SECONDS)
        try:
            salt, commits = _commits(of(path))
            taken, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            same = _salt(of(path)) == salt
        except FileNotFoundError:
            return 0
        lost = max(0, sum(frame > taken for frame in commits) - 1) if same else 0
        if not lost:
            return 0
    return lost


def _salt(path: Path) -> bytes:
    """What tells the present round from the others."""
    with open(path, "rb") as file:
        return file.read(_HEADER)[16:24]


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
