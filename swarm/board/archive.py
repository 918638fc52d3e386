"""The notes of a board that nobody has touched for a while, packed in blocks.

Owns the blocks and the way from a note's id, its task or a span that it cites to the block. A block never changes: a
note that is needed again is taken out, and comes back in a later block, whose copy is the one that counts. A note takes
about a hundred bytes here, where it takes three thousand in the graph.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from sys import getsizeof
from typing import Any

import msgpack

from swarm.board.index import Index
from swarm.protocol import NoteView

BLOCK = 32
"""Notes of one block: few, because one that is asked for brings the others along."""
_OPEN = 128
"""Blocks that stay unpacked after they were read."""

_Rows = dict[str, list[Any]]


class Archive:
    """Packed notes, oldest block first."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        """What was packed, block for block; empty where no note of a block counts any more."""
        self.names: list[str] = []
        """A digest of each block; empty where no note of it counts any more."""
        self.withdrawn: set[str] = set()
        """Notes that were taken off the board; copies of theirs may still lie in a block."""
        self._living: list[int] = []
        """How many notes of each block count: their newest copy is there, and they have not been taken out."""
        self._notes, self._tasks, self._spans = Index(), Index(), Index()
        self._read: OrderedDict[int, _Rows] = OrderedDict()

    def __len__(self) -> int:
        return sum(self._living)

    def __sizeof__(self) -> int:
        """Bytes that it takes, but for the blocks that happen to be unpacked."""
        tables = sum(map(getsizeof, (self._notes, self._tasks, self._spans)))
        return tables + sum(map(getsizeof, self.blocks)) + sum(map(getsizeof, self.names)) + 24 * len(self.blocks)

    def add(self, views: Sequence[NoteView]) -> None:
        """Packs notes into one block. None of them may count in another."""
        rows = [row_of(view) for view in views]
        self._enter(rows, zlib.compress(msgpack.packb(rows), 1))

    def restore(self, blocks: Sequence[bytes], taken: set[str], withdrawn: Iterable[str]) -> None:
        """Fills an empty archive with the blocks of another, of which the notes `taken` had been taken out.

        Raises:
            ValueError, TypeError, zlib.error, msgpack.UnpackException: these are no blocks.
        """
        newest: dict[str, int] = {}
        for number, block in enumerate(blocks):
            rows = _unpacked(block) if block else []
            self._enter(rows, block)
            for id, *_ in rows:
                if id in newest:
                    self._outlived(newest[id])
                newest[id] = number
        self.withdrawn.update(withdrawn)
        for id in taken | self.withdrawn:
            if id in newest:
                self._outlived(newest[id])

    def _enter(self, rows: Sequence[Sequence[Any]], packed: bytes) -> None:
        number = len(self.blocks)
        self.blocks.append(packed)
        self.names.append(hashlib.blake2b(packed, digest_size=16).hexdigest() if packed else "")
        self._living.append(len(rows))
        for id, _, task, _, _, _, _, cites, *_ in rows:
            self._notes.add(id, number)
            self._tasks.add(task, number)
            for span, *_ in cites:
                self._spans.add(str(span), number)

    def __contains__(self, id: str) -> bool:
        return self._newest(id) is not None

    def knows(self, id: str) -> bool:
        """Whether a note of this id was archived. By its key alone, without unpacking a block: one unknown id in some thousands
        is taken for a known one where a million are, so this serves only to catch a protocol's slips."""
        return id not in self.withdrawn and bool(self._notes.get(id))

    def find(self, id: str) -> NoteView | None:
        """The newest copy of a note; None if there is none."""
        found = self._newest(id)
        return None if found is None else view_of(found[1])

    def take(self, id: str) -> NoteView | None:
        """As `find`; the note does not count here any more."""
        found = self._newest(id)
        if found is None:
            return None
        self._outlived(found[0])
        return view_of(found[1])

    def withdraw(self, id: str) -> None:
        """Forgets a note, which may have been taken out before."""
        found = self._newest(id)
        if found is not None:
            self.withdrawn.add(id)

    def _newest(self, id: str) -> tuple[int, list[Any]] | None:
        """A note's newest block and its row there."""
        if id in self.withdrawn:
            return None
        for number in self._notes.get(id):
            row = self._rows(number).get(id)
            if row is not None:
                return number, row
        return None

    def _outlived(self, number: int) -> None:
        self._living[number] -= 1
        if not self._living[number]:
            self.blocks[number], self.names[number] = b"", ""
            self._read.pop(number, None)

    def by_task(self, task: str) -> dict[str, NoteView]:
        """The notes of a task by id, the newest copy of each."""
        found = [row for number in reversed(self._tasks.get(task)) for row in self._rows(number).values()]
        return {row[0]: view_of(row) for row in found if row[2] == task and row[0] not in self.withdrawn}

    def citing(self, span: int) -> dict[str, NoteView]:
        """The notes that cite a span by id, the newest copy of each."""
        found = [row for number in reversed(self._spans.get(str(span))) for row in self._rows(number).values()]
        held = [row for row in found if row[0] not in self.withdrawn]
        return {row[0]: view_of(row) for row in held if any(cite[0] == span for cite in row[7])}

    def __iter__(self) -> Iterator[NoteView]:
        """Every copy of every note, the newest copy of each last."""
        for block in self.blocks:
            if block:
                yield from (view_of(row) for row in _unpacked(block) if row[0] not in self.withdrawn)

    def _rows(self, number: int) -> _Rows:
        rows = self._read.get(number)
        if rows is None:
            block = self.blocks[number]
            rows = self._read[number] = {row[0]: row for row in _unpacked(block)} if block else {}
            if len(self._read) > _OPEN:
                self._read.popitem(last=False)
        else:
            self._read.move_to_end(number)
        return rows


def row_of(view: NoteView) -> list[Any]:
    """A note as plain data."""
    return [
        view.id, view.kind, view.task, view.status, view.verdict, view.body, view.seq, view.cites, view.links,
        dict(view.flags),
    ]  # fmt: skip


def view_of(row: Sequence[Any]) -> NoteView:
    """The note that `row_of` made plain data of."""
    id, kind, task, status, verdict, body, seq, cites, links, flags = row
    cited, linked = tuple([tuple(cite) for cite in cites]), tuple([tuple(link) for link in links])
    return NoteView(id, kind, task, status, verdict, body, seq, cited, linked, flags)


def _unpacked(block: bytes) -> list[list[Any]]:
    rows: list[list[Any]] = msgpack.unpackb(zlib.decompress(block), strict_map_key=True, max_ext_len=0)
    return rows
