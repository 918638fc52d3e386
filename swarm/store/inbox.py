"""A run's inbox: words of people to a running job, through its folder.

Owns the files in `inbox/`. Posting never touches the log, whose only writer is the job's master; the master reads the
inbox and appends what it does about it.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path

from swarm.errors import StoreError

KINDS = ("pause", "cancel")


def post(folder: Path, kind: str, text: str = "") -> None:
    """Leaves a message; it is there whole or not at all.

    Raises:
        StoreError: the run folder is gone or cannot be written.
    """
    inbox = folder / "inbox"
    name = f"{uuid.uuid4().hex}.json"
    try:
        inbox.mkdir(exist_ok=True)
        part = inbox / f".{name}"
        part.write_text(json.dumps({"kind": kind, "text": text}), encoding="utf-8")
        os.replace(part, inbox / name)
    except OSError as error:
        raise StoreError(f"cannot take a message: {error.strerror}", str(inbox), "check the folder and its owner") from error


def drain(folder: Path) -> list[tuple[str, str]]:
    """(kind, text) of each message that waits; they are removed, and so is what cannot be read as one."""
    inbox, out = folder / "inbox", []
    if not inbox.is_dir():
        return []
    for path in sorted(inbox.glob("[!.]*.json"), key=lambda p: p.stat().st_mtime_ns):
        try:
            message = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            message = None
        with suppress(OSError):  # a folder of such a name, or one that may not be changed
            path.unlink(missing_ok=True)
        if isinstance(message, dict) and message.get("kind") in KINDS:
            out.append((message["kind"], str(message.get("text", ""))))
    return out
