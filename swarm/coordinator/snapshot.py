"""A job's state as bytes and back.

Owns the form of a snapshot and the name of that form. The form follows from the state's annotations; its name is a digest
of them and of the code that folds, so a snapshot of other code is never taken for one of this. Where it lies, and whether
it belongs to a log, is the store's to say.
"""

from __future__ import annotations

import hashlib
import typing
import zlib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import msgpack

from swarm import board, coordinator, events, names, payload
from swarm.board import Board
from swarm.coordinator.codec import Codec, codec
from swarm.coordinator.state import JobState
from swarm.errors import StoreError


@cache
def _codecs() -> dict[str, Codec]:
    """A codec for each field of a state but the board, which packs itself."""
    hints = typing.get_type_hints(JobState)
    return {one.name: codec(hints[one.name]) for one in fields(JobState) if one.name != "board"}


FOLDED_THROUGH = (events, payload, names)
"""The modules outside of coordinator and board on whose source it depends what a log folds to."""


@cache
def snapshot_format() -> str:
    """The name of the form in which this software writes snapshots, and of the fold that it writes them of.

    It changes with the fields of a state and with the source of all that folding runs through. So nobody has to remember
    to raise a number; the price is a fold from the first event after an upgrade.
    """
    code = hashlib.blake2b(digest_size=8)
    for name, one in _codecs().items():
        code.update(f"{name}: {one.shape}\n".encode())
    for package in (coordinator, board):
        for source in sorted(Path(package.__path__[0]).glob("*.py")):
            code.update(source.read_bytes())
    for module in FOLDED_THROUGH:
        code.update(Path(str(module.__file__)).read_bytes())
    return code.hexdigest()


def pack(state: JobState) -> tuple[bytes, dict[str, bytes]]:
    """The whole state: its head as msgpack, and the parts beside it by name.

    Raises:
        TypeError: it holds what no log can.
    """
    plain = {name: one.encode(getattr(state, name)) for name, one in _codecs().items()}
    notes, parts = state.board.packed()
    packed: bytes = msgpack.packb([plain, notes])
    return packed, parts


def unpack(head: bytes, parts: Mapping[str, bytes]) -> JobState:
    """The state that `pack` was given.

    Raises:
        StoreError: these bytes are no state of this form.
    """
    try:
        plain, notes = msgpack.unpackb(head, raw=False, strict_map_key=True, max_ext_len=0)
        held: dict[str, Any] = {name: one.decode(plain[name]) for name, one in _codecs().items()}
        return JobState(board=Board.unpacked(notes, parts), **held)
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error, msgpack.UnpackException) as error:
        text = f"the snapshot can't be read: {type(error).__name__} {error}"
        raise StoreError(text.splitlines()[0], "log") from error
