"""A run's inbox: messages of people to a job, through its folder.

Owns the files in `inbox/`. Posting never touches the log, whose only writer is the job's master; the master reads the
inbox, appends what it does about a message, and takes the message away after that. A message that was posted is durable,
and is read by whoever works on the job, now or later.
"""

from __future__ import annotations

import json
import time
import uuid
from contextlib import suppress
from pathlib import Path

from swarm.store.blobs import sync_folder, write_durably
from swarm.store.connection import naming
from swarm.store.interface import Message


def post(folder: Path, kind: str, text: str = "") -> str:
    """Leaves a message, durably, and returns its id; it is there whole or not at all.

    Raises:
        StoreError: the run folder is gone or cannot be written.
    """
    inbox = folder / "inbox"
    id = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"  # they are read in the order in which they were left
    with naming(inbox):
        inbox.mkdir(exist_ok=True)
        write_durably(inbox / f"{id}.json", json.dumps({"kind": kind, "text": text}).encode())
        sync_folder(inbox)
    return id


def messages(folder: Path) -> list[Message]:
    """The messages that wait, in the order in which they were left. What is none is removed; one that cannot be read just now
    stays for the next time."""
    inbox, out = folder / "inbox", []
    if not inbox.is_dir():
        return []
    for path in sorted(inbox.glob("[!.]*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError:  # taken away already, or for want of something: no reason to lose a person's word
            continue
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict) and isinstance(content.get("kind"), str):
            out.append(Message(path.stem, content["kind"], str(content.get("text", ""))))
        else:
            heard(folder, path.stem)
    return out


def heard(folder: Path, id: str) -> None:
    """Takes a message away whose effect is durable."""
    with suppress(OSError):  # a folder of such a name, or one that may not be changed
        (folder / "inbox" / f"{id}.json").unlink(missing_ok=True)
