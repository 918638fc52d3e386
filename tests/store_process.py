"""A process of its own that works on a log, for tests that kill it, race it, or fence it.

Run as `python -m tests.store_process PLACE COMMAND`, with a folder or a URL; it says on stdout what is durable, and
takes orders on stdin.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from swarm.errors import StoreError
from swarm.events import Event, NotePosted, body_hash
from swarm.store.blobs import BLOB_BYTES
from swarm.store.interface import Writer
from tests.stores import Store, at

BATCHES = (1, 64, 3, 256, 1, 16)


def note(seq: int, epoch: int) -> tuple[Event, bytes]:
    """An event that shows its number everywhere, and its body: now and then one for the blob store."""
    size = BLOB_BYTES + 1 if seq % 500 == 0 else 10 + seq % 3000
    text = f"{seq}:".encode() + b"x" * size
    body = NotePosted(
        note=f"note-{seq}", kind="row", task="task", body=body_hash(text), cites=((seq, 0, size),)
    )
    return Event(seq, float(seq), epoch, seq - 1, f"key-{seq}", body), text


def batches(writer: Writer) -> Iterator[list[tuple[Event, bytes]]]:
    number = 0
    while True:
        size, first = BATCHES[number % len(BATCHES)], writer.last() + 1
        yield [note(seq, writer.epoch) for seq in range(first, first + size)]
        number += 1


def say(text: str) -> None:
    print(text, flush=True)


def append_for_ever(store: Store) -> None:
    """Appends until it is killed, and says each number that is durable."""
    say("starting")
    writer = store.writer()
    say("open")
    for batch in batches(writer):
        writer.append([event for event, _ in batch], {event.body.body: text for event, text in batch})
        say(str(batch[-1][0].seq))


def append_on_demand(store: Store) -> None:
    """Appends one event for each line that it is sent, and says its number or why not."""
    try:
        writer = store.writer()
    except StoreError as error:
        say(f"StoreError: {error.message.partition(' on ')[0]}")
        return
    say(str(writer.epoch))
    for _ in sys.stdin:
        event, text = note(writer.last() + 1, writer.epoch)
        try:
            writer.append([event], {event.body.body: text})
            say(str(event.seq))
        except StoreError as error:
            say(type(error).__name__)
    writer.close()


def race(store: Store) -> None:
    """Waits for a word, so that all who race start together, and then demands the job."""
    say("ready")
    sys.stdin.readline()
    append_on_demand(store)


if __name__ == "__main__":
    {"append": append_for_ever, "demand": append_on_demand, "race": race}[sys.argv[2]](at(sys.argv[1]))
