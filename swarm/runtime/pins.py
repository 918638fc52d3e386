"""Pinning a job's inputs into its log, and checking on a resume that they are still the same.

Owns the way from spans to events and bodies. After it, a job reads only its own copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import msgpack

from swarm import events as ev
from swarm.coordinator import JobState
from swarm.corpus import Pinned, Source, Span, open_spans, pin, resolve
from swarm.errors import CorpusError, StoreError
from swarm.events import Body, body_hash
from swarm.runtime.prepare import Prepared
from swarm.spec import InputSpec
from swarm.store.interface import Reader

BLOCK = 256
"""Spans that are read, cut and made durable at a time; at most twice as many where a document ends among them."""


class PinnedSpan(NamedTuple):
    """A span as its block's body holds it, with `turns` as `Span` has them. `line` is 0 in logs that were written before
    lines were kept; in those that were written before `turns` were kept, it is not the file's line for HTML."""

    start: int
    end: int
    tokens: int
    digest: str
    breadcrumb: str
    line: int = 0
    turns: tuple[tuple[int, int], ...] | None = None


@dataclass(slots=True)
class Block:
    """Events that belong in one transaction, with their bodies."""

    events: list[Body] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)

    def keep(self, data: bytes) -> str:
        name = body_hash(data)
        self.bodies[name] = data
        return name


def pin_blocks(corpus: Pinned, job: Prepared, state: JobState) -> Iterator[Block]:
    """The events that pin a corpus, from where `state` left off, a bounded number of spans at a time.

    Raises:
        CorpusError: an input changed while it was read, or no text was found.
    """
    first, tokens = state.spans, state.span_tokens
    started = state.block_rows[-1][0] if state.block_rows else ""
    block, held = Block(), 0
    for source, document in zip(corpus.sources, corpus.documents, strict=True):
        if document.id in state.documents:
            continue
        spans = open_spans(source, job.tokenizer, job.protocol.span_tokens, document=document)
        done = sum(1 for _ in islice(spans, _spans_in(state, document.id))) if document.id == started else 0
        while rows := list(islice(spans, BLOCK)):
            size = sum(span.tokens for span, _ in rows)
            packed = block.keep(pack_block([span for span, _ in rows]))
            block.bodies |= {span.digest: text.encode("utf-8", "surrogatepass") for span, text in rows}
            block.events.append(
                ev.SpansPinned(document=document.id, first=first, count=len(rows), tokens=size, block=packed)
            )
            first, tokens, done, held = first + len(rows), tokens + size, done + len(rows), held + len(rows)
            if held >= BLOCK:  # spans, not bodies: equal passages share one
                yield block
                block, held = Block(), 0
        block.events.append(
            ev.DocumentPinned(
                document=document.id, path=block.keep(document.path.encode("utf-8", "surrogatepass")),
                media=str(document.media), origin=document.origin, licence=document.licence, train=document.train,
                digest=document.digest, size=document.size, spans=done,
            )
        )
    if not first:
        raise CorpusError("the inputs hold no text but white space", "inputs", "name files that hold text")
    for skipped in corpus.skipped:
        note = block.keep(msgpack.packb([skipped.path, skipped.reason], unicode_errors="surrogatepass"))
        block.events.append(ev.SourceSkipped(note=note))
    block.events.append(ev.CorpusPinned(documents=len(corpus.documents), spans=first, tokens=tokens))
    yield block


def _spans_in(state: JobState, document: str) -> int:
    """How many spans of a document are pinned, counted from its blocks."""
    starts = [*state.block_first, state.spans]
    return sum(starts[at + 1] - starts[at] for at, (owner, _) in enumerate(state.block_rows) if owner == document)


def pack_block(spans: list[Span]) -> bytes:
    rows = [PinnedSpan(s.start, s.end, s.tokens, s.digest, s.breadcrumb, s.line, s.turns) for s in spans]
    packed: bytes = msgpack.packb(
        [row if row.turns is not None else row[:-1] for row in rows], unicode_errors="surrogatepass"
    )
    return packed


def unpack_block(data: bytes) -> list[PinnedSpan]:
    return [PinnedSpan(*row) for row in msgpack.unpackb(data, unicode_errors="surrogatepass")]


def check_unchanged(job: Prepared, state: JobState, path_of: Callable[[str], str]) -> None:
    """Compares the inputs as they lie there now with the pinned ones; `path_of` reads a path from its body's hash.

    Raises:
        CorpusError: one of them has changed or is gone; the text says which, and what can be done.
    """
    cure = "resume with --pinned to go on with the copy that the run keeps, or start a new run with the new input"
    try:
        now = pin(job.spec.inputs).documents
    except CorpusError as error:
        raise CorpusError(f"{error.message}; it was there when the job began", error.where, cure) from None
    same = {document.id for document in now}
    called: defaultdict[str, list[str]] = defaultdict(list)
    for document in now if state.pinned else ():
        called[document.digest].append(document.path)
    for row in state.documents.values():
        if row.id in same:
            continue
        path = path_of(row.path)
        # a file that has its name may have come, or gone, since: it has a longer or a shorter one now
        if not any(f"/{one}".endswith(f"/{path}") or f"/{path}".endswith(f"/{one}") for one in called[row.digest]):
            raise CorpusError("has changed or gone since the job began", path, cure)


def came_later(inputs: Sequence[InputSpec], state: JobState, reader: Reader) -> list[str]:
    """The paths of files that lie in the folders of a pinned job's inputs now and are neither in it nor left out of it. They
    are known by their names alone: nothing is opened."""
    if not state.pinned:
        return []
    try:
        paths = reader.bodies(dict.fromkeys(row.path for row in state.documents.values())).values()
        notes = reader.bodies(dict.fromkeys(state.skipped)).values()
        known = {path.decode("utf-8", "surrogatepass") for path in paths}
        known |= {msgpack.unpackb(note, unicode_errors="surrogateescape")[0] for note in notes}
        known |= {path[at + 1 :] for path in known for at, letter in enumerate(path) if letter == "/"}  # some have longer names
        return [one.path for one in resolve(inputs) if isinstance(one, Source) and one.found and one.path not in known]
    except (CorpusError, StoreError):  # an input is gone, or a text withdrawn: whoever needs it says so
        return []
