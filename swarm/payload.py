"""The form of an event's body on disk: msgpack, by kind and version.

Owns packing, reading, and the steps from older versions to the current one. What the fields mean, `events` says.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack

from swarm import __version__
from swarm.errors import NewerError, StoreError
from swarm.events import KINDS, Body

_PACKER = msgpack.Packer(use_bin_type=True)
MAX_PAYLOAD = 16 << 20
"""Bytes that one event may take on disk; text that long belongs in a body."""

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
UPCASTS: dict[tuple[str, int], Upcast] = {
    ("JobOpened", 1): lambda fields: {**fields, "software": ""},
    ("CallStarted", 1): lambda fields: {**fields, "key": ""},
    ("CallFinished", 1): lambda fields: {**fields, "cached": False},
    ("ApprovalAsked", 1): lambda fields: {**fields, "tasks": ()},
    ("CallStrayed", 1): lambda fields: {**fields, "last": False},
    ("CallFailed", 1): lambda fields: {**fields, "doubt": False},
    ("NotePosted", 1): lambda fields: {**fields, "verdict": ""},
    ("BudgetReached", 1): lambda fields: {**fields, "role": "", "closing": True},
}
"""(kind, version) → the step from that version's fields to the next one's."""


def encode(body: Body) -> bytes:
    """The payload of an event as it stands on disk.

    Raises:
        StoreError: the payload is larger than MAX_PAYLOAD, or holds a number or text that can't be packed.
    """
    try:
        payload: bytes = _PACKER.pack(body.__dict__)
    except (OverflowError, UnicodeEncodeError) as error:
        raise StoreError(f"an event of kind {type(body).__name__} holds what no log can: {error}", "log") from error
    if len(payload) > MAX_PAYLOAD:
        raise StoreError(f"an event of kind {type(body).__name__} takes {len(payload)} bytes", "log", "store its text as a body")
    return payload


def decode(kind: str, version: int, payload: bytes) -> Body:
    """Reads a payload, raising older versions step by step to the current one.

    Raises:
        NewerError: the kind is unknown, or the version is newer than this software.
        StoreError: the payload is damaged.
    """
    model = KINDS.get(kind)
    if model is None:
        problem = f"holds an event of kind {kind!r}, which swarmloom {__version__} does not know"
        raise NewerError(problem, "log", "use a newer swarmloom")
    if version > model.version:
        problem = f"holds {kind} version {version}; swarmloom {__version__} reads up to version {model.version}"
        raise NewerError(problem, "log", "use a newer swarmloom")
    try:
        fields = msgpack.unpackb(payload, raw=False, strict_map_key=True, max_ext_len=0)
        while version < model.version:
            fields, version = UPCASTS[kind, version](fields), version + 1
        body: Body = model.__pydantic_validator__.validate_python(fields)  # what model_validate calls, by a shorter way
        return body
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        text = f"holds a damaged {kind}: {type(error).__name__} {error}"
        raise StoreError(text.splitlines()[0], "log", "see `swarm doctor`") from error


def written_by(payload: bytes) -> str:
    """The version of swarmloom that a JobOpened names, be the event itself newer than this software; empty if it names none."""
    with suppress(ValueError, TypeError, msgpack.UnpackException):
        fields = msgpack.unpackb(payload, raw=False, max_ext_len=0)
        software = fields.get("software") if isinstance(fields, dict) else ""
        return software if isinstance(software, str) and software.isprintable() else ""
    return ""
