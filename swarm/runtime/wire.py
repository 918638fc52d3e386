"""What travels between a JobMaster and its hosts: plain data, in msgpack where it crosses a process.

Owns the records and their packing. The same records pass unpacked between a master and a host in one process.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, Protocol

import msgpack

from swarm.coordinator import Report
from swarm.events import KINDS, record
from swarm.protocol import Material, NoteText, Passage, Said, TaskBrief

MAX_MESSAGE = 1 << 30
DIRECT, SQUEEZED = 100_000, 400_000
"""Bytes. What is longer than DIRECT, Ray brings to another process through shared memory, which takes milliseconds on both
sides; text of up to SQUEEZED is brought below that by the quickest compression in less."""
_ZLIB = b"x"
"""How compressed data begins. No message of ours does: they are arrays."""


class Order(StrEnum):
    """What a host should do after a pull."""

    WORK = "work"
    STOP = "stop"


@record
class Work:
    """A leased task with its working set and what it has said so far. `samples` counts recorded calls by turn."""

    brief: TaskBrief
    token: int
    material: Material
    said: tuple[Said, ...]
    samples: Mapping[int, int]
    left: tuple[int, int] | None = None
    """Tokens and calls that the agent may still spend; None for no limit."""


@record
class Batch:
    """The answer to a pull."""

    order: Order
    work: tuple[Work, ...] = ()
    refused: tuple[int, ...] = ()
    """Tokens of the reports that came after their lease had ended."""
    dropped: tuple[int, ...] = ()
    """Tokens of leases that were ended and that the host has not reported on since: nobody waits for their calls."""


@record
class Pull:
    """What a host did since its last pull, with the bodies that its events name, and how much more it can take."""

    host: str
    want: int
    reports: tuple[Report, ...] = ()
    bodies: Mapping[str, bytes] = field(default_factory=dict)
    """Hash → bytes."""


class Master(Protocol):
    """A JobMaster as its hosts see it."""

    async def pull(self, pull: Pull) -> Batch:
        """Makes the reports durable, then grants work; waits a little where there is none.

        Raises:
            StoreError: the reports could not be made durable; this master is finished.
        """
        ...


def pack_pull(pull: Pull) -> bytes:
    reports = [
        (r.task, r.token, r.retryable, r.after, [(type(body).__name__, body.__dict__) for body in r.events]) for r in pull.reports
    ]
    return _pack((pull.host, pull.want, reports, dict(pull.bodies)), "strict")


def unpack_pull(data: bytes) -> Pull:
    host, want, reports, bodies = _unpack(data)
    return Pull(
        host,
        want,
        tuple(
            Report(task, token, tuple(_body(kind, fields) for kind, fields in events), retryable, after)
            for task, token, retryable, after, events in reports
        ),
        bodies,
    )


def _body(kind: str, fields: Mapping[str, Any]) -> Any:
    return KINDS[kind].__pydantic_validator__.validate_python(fields)  # what model_validate calls, by a shorter way


def pack_batch(batch: Batch) -> bytes:
    work = [
        (
            (w.brief.id, w.brief.role, w.brief.goal, w.brief.attempt),
            w.token,
            [(p.number, p.document, p.path, p.start, p.text, p.tokens, p.breadcrumb, p.train) for p in w.material.passages],
            [(n.id, n.kind, n.content, n.cites, dict(n.flags), n.verdict) for n in w.material.notes],
            dict(w.material.facts),
            [(n.id, n.kind, n.content, n.cites, dict(n.flags), n.verdict) for n in w.material.words],
            [(s.turn, s.text, s.finish) for s in w.said],
            list(w.samples.items()),
            w.left,
        )
        for w in batch.work
    ]
    return _pack((batch.order.value, work, batch.refused, batch.dropped), "surrogatepass")


def unpack_batch(data: bytes) -> Batch:
    order, work, refused, dropped = _unpack(data)
    return Batch(Order(order), tuple(_work(*row) for row in work), refused, dropped)


def _work(
    brief: Any, token: int, passages: Any, notes: Any, facts: Any, words: Any, said: Any, samples: Any, left: Any
) -> Work:
    material = Material(tuple(Passage(*row) for row in passages), _notes(notes), facts, _notes(words))
    return Work(TaskBrief(*brief), token, material, tuple(Said(*row) for row in said), dict(samples), left)


def _notes(rows: Any) -> tuple[NoteText, ...]:
    return tuple(
        NoteText(id, kind, content, _cites(cites), flags, verdict) for id, kind, content, cites, flags, verdict in rows
    )


def _cites(rows: Any) -> tuple[tuple[int, int, int], ...]:
    return tuple((a, b, c) for a, b, c in rows)


def _pack(message: tuple[Any, ...], unicode_errors: str) -> bytes:
    packed: bytes = msgpack.packb(message, unicode_errors=unicode_errors)
    return zlib.compress(packed, 1) if DIRECT < len(packed) <= SQUEEZED else packed


def _unpack(data: bytes) -> Any:
    if data.startswith(_ZLIB):
        data = zlib.decompressobj().decompress(data, SQUEEZED)
    return msgpack.unpackb(
        data, raw=False, use_list=False, strict_map_key=False, max_ext_len=0, max_bin_len=MAX_MESSAGE,
        max_str_len=MAX_MESSAGE, unicode_errors="surrogatepass",
    )  # fmt: skip
