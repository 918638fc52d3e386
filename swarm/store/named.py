"""Which bodies events name, so that a log whose texts are gone is not called sound.

Owns the list of the fields that hold a body's hash. Which bodies a store has, its caller says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import msgpack

from swarm.events import Body, CallStarted, Event, JobCreated, JobEnded, NoticeDue, PhaseChanged, SpansPinned
from swarm.names import reason_body

_BATCH = 500

_FIELDS = {
    "JobCreated": ("spec", "notes"),
    "NoticeFailed": ("error",),
    "PersonSaid": ("body",),
    "ApprovalAsked": ("text",),
    "ApprovalAnswered": ("why",),
    "SourceSkipped": ("note",),
    "SpansPinned": ("block",),
    "DocumentPinned": ("path",),
    "TaskFailed": ("error",),
    "CallFinished": ("output",),
    "CallFailed": ("error",),
    "NotePosted": ("body",),
}


def named(body: Body) -> Iterator[str]:
    """The hashes of the bodies that an event names. Those of passages stand in the body of their block: see `passages`."""
    for field in _FIELDS.get(type(body).__name__, ()):
        if hash := getattr(body, field):
            yield hash
    if isinstance(body, JobCreated):
        yield from body.roles.values()
    elif isinstance(body, CallStarted):
        yield from (segment[0] for segment in body.manifest)
    elif isinstance(body, (PhaseChanged, JobEnded, NoticeDue)) and (hash := reason_body(body.reason)):
        yield hash


def passages(block: bytes) -> list[str]:
    """The hashes of the passages' texts, from the body that a SpansPinned names."""
    rows: list[Any] = msgpack.unpackb(block, unicode_errors="surrogatepass")
    return [str(row[3]) for row in rows]


def missing(events: Iterable[Event], absent: Callable[[list[str]], list[str]], body: Callable[[str], bytes]) -> str:
    """Says which bodies a log lacks, in words; empty if it has all. `absent` picks those of some hashes that are not stored.

    Raises:
        StoreError: the body of a block of passages is damaged.
    """
    first, lost, rest = "", set[str](), iter(events)
    while batch := list(islice(rest, _BATCH)):
        wanted = {hash: event for event in reversed(batch) for hash in named(event.body)}
        gone = absent(list(wanted))
        blocks = {event.body.block: event for event in batch if isinstance(event.body, SpansPinned)}
        for block, event in blocks.items():
            if block not in gone:
                inside = dict.fromkeys(passages(body(block)), event)
                gone += absent(list(inside))
                wanted |= inside
        if gone and not first:
            hash = min(gone, key=lambda one: wanted[one].seq)
            first = f"{hash}, which event {wanted[hash].seq} ({wanted[hash].kind}) names"
        lost.update(gone)
    if not lost:
        return ""
    return f"the body {first}, is missing" + (f", and {len(lost) - 1} others are" if len(lost) > 1 else "")
