"""The blackboard: a graph of notes, their links and the spans they cite, as a projection of the log.

Owns the graph and its queries. It holds ids, kinds, links and small flags, never text, and it changes only by applying
events. The notes that were touched last stand in the graph; the others in the archive, from where queries read them.
Span nodes are named `s:NUMBER`; every other node is a note.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any

import networkx as nx

from swarm.board.archive import BLOCK, Archive, row_of, view_of
from swarm.board.order import Order, Position
from swarm.errors import ProtocolError
from swarm.events import NoteJudged, NotePosted
from swarm.protocol import NoteView

NEAR = 256
"""Notes that stay in the graph: those that were posted or judged last."""


class Board:
    """Notes and links of one job. Queries answer from all notes. `near` is how many notes stay in the graph."""

    def __init__(self, near: int = NEAR) -> None:
        self.near = near
        self._graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        self._undrawn: dict[str, NoteView] = {}
        """Notes that belong into the graph and have not been asked for in it yet. Most leave it before anybody does."""
        self.archive = Archive()
        self.edges = 0
        """Links and cites of all notes."""
        self._near: dict[str, NoteView] = {}
        """The notes of the graph, the one that was touched longest ago first."""
        self._orders: dict[tuple[str, str, str], Order] = defaultdict(Order)
        """(kind, verdict, status) → the notes that have them, in the order of the text they cite."""
        self._tasks: dict[str, list[str]] = defaultdict(list)
        """Task → its notes in the graph."""

    def __len__(self) -> int:
        return sum(map(len, self._orders.values()))

    @property
    def graph(self) -> nx.MultiDiGraph[str]:
        """The notes touched last and what they link to. An edge's key is its kind, spans included."""
        graph = self._graph
        for view in self._undrawn.values():
            graph.add_node(view.id, note=view)
            for span, start, end in view.cites:
                graph.add_edge(view.id, f"s:{span}", key=f"cites:{start}:{end}")
            for kind, other in view.links:
                graph.add_edge(view.id, other, key=kind)
        self._undrawn.clear()
        return graph

    # ---- folding ----

    def post(self, event: NotePosted, seq: int) -> None:
        """Adds a note and its edges.

        Raises:
            ProtocolError: the note exists, or it links to a note that does not.
        """
        if event.note in self._near or event.note in self.archive:
            raise ProtocolError(f"posted note {event.note} twice", event.kind)
        for kind, other in event.links:
            if not self.knows(other):
                raise ProtocolError(f"note {event.note} {kind} {other}, which is not on the board", event.kind)
        view = NoteView(
            event.note, event.kind, event.task, event.status, event.verdict, event.body, seq, event.cites, event.links,
            event.flags,
        )
        self.edges += len(view.cites) + len(view.links)
        self._orders[view.kind, view.verdict, view.status].add(_position(view))
        self._place(view)

    def judge(self, event: NoteJudged) -> None:
        """Puts a verdict on a note; a later verdict replaces an earlier one."""
        view = self._near.get(event.note) or self.archive.take(event.note) or self.note(event.note)
        judged = NoteView(
            view.id, view.kind, view.task, view.status, event.verdict, view.body, view.seq, view.cites, view.links, view.flags
        )
        position = _position(view)
        self._orders[view.kind, view.verdict, view.status].remove(position)
        self._orders[view.kind, event.verdict, view.status].add(position)
        if event.note in self._near:
            del self._near[event.note]
            self._near[event.note] = judged
            if event.note in self._undrawn:
                self._undrawn[event.note] = judged
            else:
                self._graph.nodes[event.note]["note"] = judged
        else:
            self._place(judged)

    def _place(self, view: NoteView) -> None:
        """Puts a note into the graph, and some that nobody has touched for long into the archive."""
        self.archive.withdrawn.discard(view.id)
        self._near[view.id] = view
        self._tasks[view.task].append(view.id)
        self._undrawn[view.id] = view
        if len(self._near) >= self.near + BLOCK:
            oldest = list(islice(self._near.values(), BLOCK))
            self.archive.add(oldest)
            for one in oldest:
                self._leave(one)

    def _leave(self, view: NoteView) -> None:
        """Takes a note out of the graph. Its node stays, bare, as long as a note of the graph links to it."""
        graph, id = self._graph, view.id
        del self._near[id]
        self._tasks[view.task].remove(id)
        if not self._tasks[view.task]:
            del self._tasks[view.task]
        if self._undrawn.pop(id, None) is not None:
            return
        below = list(graph.successors(id))
        if graph.pred[id]:
            graph.remove_edges_from(list(graph.out_edges(id, keys=True)))
            del graph.nodes[id]["note"]
        else:
            graph.remove_node(id)
        graph.remove_nodes_from([other for other in below if other not in self._near and not graph.pred[other]])

    def withdraw(self, ids: Iterable[str]) -> None:
        """Takes notes off the board, each before those that it links to."""
        for id in ids:
            view = self.note(id)
            self._orders[view.kind, view.verdict, view.status].remove(_position(view))
            self.edges -= len(view.cites) + len(view.links)
            if id in self._near:
                self._leave(view)
            else:
                self.archive.take(id)
            self.archive.withdraw(id)

    # ---- snapshots ----

    def packed(self) -> tuple[list[Any], dict[str, bytes]]:
        """The board as plain data, and the blocks of its archive by name, which hardly change from one time to the next."""
        archive = self.archive
        blocks = {name: block for name, block in zip(archive.names, archive.blocks, strict=True) if name}
        rows = [row_of(view) for view in self._near.values()]
        return [self.edges, archive.names, sorted(archive.withdrawn), rows], blocks

    @classmethod
    def unpacked(cls, plain: Sequence[Any], blocks: Mapping[str, bytes], near: int = NEAR) -> Board:
        """The board that `packed` made plain data of.

        Raises:
            KeyError, ValueError, TypeError, zlib.error, msgpack.UnpackException: these are not what `packed` answered.
        """
        board = cls(near)
        edges, names, withdrawn, rows = plain
        views = [view_of(row) for row in rows]
        board.archive.restore([blocks[name] if name else b"" for name in names], {view.id for view in views}, withdrawn)
        positions: dict[tuple[str, str, str], list[Position]] = defaultdict(list)
        for view in board._all(views):
            positions[view.kind, view.verdict, view.status].append(_position(view))
        board._orders.update({key: Order(held) for key, held in positions.items()})
        for view in views:
            board._place(view)
        board.edges = edges
        return board

    def _all(self, near: Sequence[NoteView]) -> list[NoteView]:
        """Every note, in the order in which they were posted; `near` are those that do not count in the archive."""
        newest = {view.id: view for view in (*self.archive, *near)}
        return sorted(newest.values(), key=lambda view: view.seq)

    # ---- queries ----

    def note(self, id: str) -> NoteView:
        """The note of this id.

        Raises:
            ProtocolError: there is none.
        """
        view = self._near.get(id) or self.archive.find(id)
        if view is None:
            raise ProtocolError(f"there is no note {id} on the board", "note", "ids are shown by `swarm export`")
        return view

    def knows(self, id: str) -> bool:
        """Whether there is a note of this id, as `Archive.knows` tells: cheap, and near enough to catch a slip."""
        return id in self._near or self.archive.knows(id)

    def notes(self, kind: str, verdict: str | None = None, status: str | None = None) -> Iterator[NoteView]:
        """Notes of a kind in the order of the text they cite."""
        orders = self._matching(kind, verdict, status)
        for _, _, _, id in orders[0] if len(orders) == 1 else merge(*orders):
            yield self.note(id)

    def answer(self, query: tuple[str, str, int]) -> tuple[str, ...]:
        """The ids of the notes that a task's query (kind, verdict or empty, how many at most or 0) asks for, in the order of the
        text they cite."""
        kind, verdict, most = query
        found = self.notes(kind, verdict or None, "")
        return tuple(note.id for note in (islice(found, most) if most else found))

    def by_task(self, task: str) -> list[NoteView]:
        """The notes that a task posted, in that order."""
        near = {id: self._near[id] for id in self._tasks.get(task, ())}
        return _in_order(self.archive.by_task(task), near)

    def count(self, kind: str, verdict: str | None = None, status: str | None = None) -> int:
        return sum(map(len, self._matching(kind, verdict, status)))

    def _matching(self, kind: str, verdict: str | None, status: str | None) -> list[Order]:
        return [
            order
            for (k, v, s), order in self._orders.items()
            if k == kind and (verdict is None or v == verdict) and (status is None or s == status)
        ]

    def kinds(self) -> dict[str, int]:
        """How many notes of each kind there are."""
        out: Counter[str] = Counter()
        for (kind, _, _), order in self._orders.items():
            out[kind] += len(order)
        return {kind: number for kind, number in sorted(out.items()) if number}

    def citing(self, span: int) -> list[NoteView]:
        """Notes that cite a span."""
        node, graph = f"s:{span}", self.graph
        above = graph.predecessors(node) if node in graph else ()
        found = self.archive.citing(span) | {id: self._near[id] for id in above}
        return [self.note(id) for id in sorted(found)]

    def provenance(self, id: str) -> list[NoteView]:
        """The note and every note that it rests on, down to those that cite spans, each once, nearest first."""
        seen, queue, out = {id}, deque((id,)), []
        while queue:
            view = self.note(queue.popleft())
            out.append(view)
            for _, other in view.links:
                if other not in seen:
                    seen.add(other)
                    queue.append(other)
        return out

    def spans(self, id: str) -> list[tuple[int, int, int]]:
        """All (span, start, end) that a note rests on, itself or through others, in order of the text."""
        return sorted({cite for view in self.provenance(id) for cite in view.cites})

    def export(self) -> dict[str, Any]:
        """The graph as plain data: notes with their fields, links as [from, kind, to], cites as [from, span, start, end]."""
        views = self._all(list(self._near.values()))
        return {
            "notes": [
                {"id": v.id, "kind": v.kind, "task": v.task, "status": v.status, "verdict": v.verdict, "body": v.body,
                 "flags": dict(v.flags)}
                for v in views
            ],
            "links": [[v.id, kind, other] for v in views for kind, other in v.links],
            "cites": [[v.id, *cite] for v in views for cite in v.cites],
        }


def _in_order(*found: Mapping[str, NoteView]) -> list[NoteView]:
    """The notes of several tables, where a later one's copy counts, in the order in which they were posted."""
    newest = {id: view for held in found for id, view in held.items()}
    return sorted(newest.values(), key=lambda view: view.seq)


def _position(view: NoteView) -> Position:
    if view.cites:
        return (view.cites[0][0], view.cites[0][1], view.body, view.id)
    return (1 << 60, view.seq, "", view.id)
