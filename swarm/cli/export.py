"""A run's blackboard and events as JSON.

Owns their form outside the store. Bodies that are plain data are unpacked; what is no text is left as its hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgpack

from swarm.errors import StoreError
from swarm.events import Event
from swarm.names import plain
from swarm.runtime.pins import unpack_block
from swarm.runtime.session import fold
from swarm.store.interface import Reader


def event_document(event: Event) -> dict[str, Any]:
    """An event as plain data."""
    return {
        "seq": event.seq, "time": event.time, "epoch": event.epoch, "cause": event.cause, "key": event.key,
        "kind": event.kind, "version": event.body.version, "body": event.body.model_dump(mode="json"),
    }  # fmt: skip


def event_lines(reader: Reader) -> Iterator[str]:
    """Every event as a line of JSON."""
    for event in reader.read():
        yield json.dumps(event_document(event), ensure_ascii=False)


def board_document(reader: Reader) -> dict[str, Any]:
    """The graph with the content of each note, the documents, and the text of every span that a note cites."""
    state = fold(reader)
    graph = state.board.export()
    for note in graph["notes"]:
        note["content"] = _content(reader, note["body"])
    cited = sorted({cite[1] for cite in graph["cites"]})
    documents = [
        {"id": row.id, "path": _text(reader, row.path), "media": row.media, "origin": row.origin,
         "licence": row.licence, "digest": row.digest, "size": row.size}
        for row in state.documents.values()
    ]  # fmt: skip
    spans = {}
    for span in cited:
        document, block, at = state.block_of(span)
        row = unpack_block(reader.body(block))[at]
        spans[f"s:{span}"] = {
            "document": document, "start": row.start, "end": row.end, "line": row.line, "breadcrumb": row.breadcrumb,
            "text": _text(reader, row.digest),
        }  # fmt: skip
    created = state.created
    return {"job": created.job if created else "", **graph, "documents": documents, "spans": spans}


def _content(reader: Reader, hash: str) -> Any:
    try:
        return _printable(msgpack.unpackb(reader.body(hash), unicode_errors="surrogatepass"))
    except StoreError:
        return None


def _text(reader: Reader, hash: str) -> str | None:
    try:
        return reader.body(hash).decode("utf-8", "replace")
    except StoreError:
        return None


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list) else value
