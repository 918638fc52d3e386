"""How far a log's writer has told others that its events are durable.

Owns the file `log.acknowledged`. A log whose end is gone looks like one that was never longer, so the number of the last record
is also written here, after each commit and before anyone is told of it. It is not synced: a crash of the process leaves it as
it is, and a power cut may leave an older one. So it is never ahead of a sound log, and a log that ends before it has lost
records that somebody was told of.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

MARK = "log.acknowledged"
_NUMBER = 8
"""Bytes of the number; its checksum of four stands behind it."""


class Mark:
    """The mark of a log that a writer holds."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def put(self, seq: int) -> None:
        """Says that all records up to `seq` are durable."""
        number = seq.to_bytes(_NUMBER, "big")
        os.pwrite(self._descriptor, number + zlib.crc32(number).to_bytes(4, "big"), 0)

    def close(self) -> None:
        """Lets go of the file. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def acknowledged(folder: Path) -> int:
    """The last record of a log that anyone was told of, at least; 0 where that is not known. It may be read while the writer is
    at work, but before the log: then the log is at least as long.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with open(folder / MARK, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return 0
    number, checksum = content[:_NUMBER], int.from_bytes(content[_NUMBER:], "big")
    return int.from_bytes(number, "big") if content and zlib.crc32(number) == checksum else 0  # else torn, or just being written
