"""How far a log's writer has told others that its events are durable.

Owns the file `log.acknowledged`. A log whose end is gone looks like one that was never longer, so the number of the last record
is also written here, after each commit and before anyone is told of it. It is not synced: a crash of the process leaves it as
it is, and a power cut may leave an older one. So it is never ahead of a sound log, and one that ends before it has lost records
that somebody was told of. A log is as good without it: where it cannot be read or written, less is noticed and nothing stops.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path

MARK = "log.acknowledged"
_NUMBER, _BYTES = 8, 12
"""Bytes of the number, and with the checksum behind it."""


class Mark:
    """The mark of a log, for its writer."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = -1
        with suppress(OSError):
            self._descriptor = os.open(folder / MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def put(self, seq: int) -> None:
        """Says that all records up to `seq` are durable."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.pwrite(self._descriptor, _packed(seq), 0)

    def close(self) -> None:
        """Lets go of the file. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def lower(folder: Path, seq: int) -> None:
    """Says that no record after `seq` is owed any more. That is synced: a power cut must not bring the old number back.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor = os.open(folder / MARK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(descriptor, _packed(seq), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def acknowledged(folder: Path) -> int:
    """The last record of a log that anyone was told of, at least; 0 where that is not known. It may be read while the writer is
    at work, but before the log: then the log is at least as long."""
    try:
        with open(folder / MARK, "rb") as file:
            content = file.read(_BYTES)
    except OSError:
        return 0
    seq = int.from_bytes(content[:_NUMBER], "big")
    return seq if content == _packed(seq) else 0  # else torn, or being written just now


def _packed(seq: int) -> bytes:
    number = seq.to_bytes(_NUMBER, "big")
    return number + zlib.crc32(number).to_bytes(_BYTES - _NUMBER, "big")
