"""Room for a log's last words, kept while a driver works on it.

Owns the file `log.sqlite-reserve`. The commit that a full disk refuses is hardly larger than the one that says so: by chance it
has left room for that, or not. So bytes are kept beside the log from the start, and given up for those last words.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 128 << 10
"""A commit of a few pages, and the index of a write-ahead log that is opened anew (32 KiB)."""


def _beside(log: Path) -> Path:
    return log.with_name(f"{log.name}-reserve")


def keep(log: Path) -> None:
    """Keeps the room, or as much as there is. A log that is no file has its room elsewhere."""
    if not log.is_file():
        return
    with suppress(OSError), open(_beside(log), "wb", buffering=0) as file:
        file.write(os.urandom(RESERVE_BYTES))  # nothing that a file system could store as less


def give(log: Path) -> None:
    """Gives the room up."""
    with suppress(OSError):
        _beside(log).unlink(missing_ok=True)
