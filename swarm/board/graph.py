"""The blackboard: a graph of notes, their links and the spans they cite, as a projection of the log.

Owns the graph and its queries. It holds ids, kinds, links and small flags, never text, and it changes only by applying
events. Span nodes are named `s:NUMBER`; every other node is a note.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Any

import networkx as nx

from swarm.board.order import Order, Position
from swarm.errors import ProtocolError
from swarm.events import NoteJudged, NotePosted
from swarm.protocol import NoteView


class Board:
    """Notes and links of one job. `graph` is a networkx MultiDiGraph; an edge's key is its kind, spans included."""

    def __init__(self) -> None:
        self.graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        self._nodes = self.graph.nodes
        self._orders: dict[tuple[str, str, str], Order] = defaultdict(Order)
        """(kind, verdict, status) → the notes that have them, in the order of the text they cite."""
        self._tasks: dict[str, list[str]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self._orders.values()))

    # ---- folding ----

    def post(self, event: NotePosted, seq: int) -> None:
        """Adds a note and its edges.

        Raises:
            ProtocolError: the note exists, or it links to a note that does not.
        """
        if event.note in self.graph:
            raise ProtocolError(f"posted note {event.note} twice", event.kind)
        for kind, other in event.links:
            if other not in self.graph:
                raise ProtocolError(f"note {event.note} {kind} {other}, which is not on the board", event.kind)
        self._place(
            NoteView(event.note, event.kind, event.task, event.status, "", event.body, seq, event.cites, event.links, event.flags)
        )

    def _place(self, view: NoteView) -> None:
        self.graph.add_node(view.id, note=view)
        for span, start, end in view.cites:
            self.graph.add_edge(view.id, f"s:{span}", key=f"cites:{start}:{end}")
        for kind, other in view.links:
            self.graph.add_edge(view.id, other, key=kind)
        self._orders[view.kind, view.verdict, view.status].add(_position(view))
        self._tasks[view.task].append(view.id)

    def judge(self, event: NoteJudged) -> None:
        """Puts a verdict on a note; a later verdict replaces an earlier one."""
        view, position = self.note(event.note), _position(self.note(event.note))
        self._orders[view.kind, view.verdict, view.status].remove(position)
        self._orders[view.kind, event.verdict, view.status].add(position)
        self._nodes[event.note]["note"] = NoteView(
            view.id, view.kind, view.task, view.status, event.verdict, view.body, view.seq, view.cites, view.links, view.flags
        )

    def withdraw(self, ids: Iterable[str]) -> None:
        """Takes notes off the board, each before those that it links to."""
        for id in ids:
            view = self.note(id)
            self._orders[view.kind, view.verdict, view.status].remove(_position(view))
            self._tasks[view.task].remove(id)
            self.graph.remove_node(id)

    # ---- snapshots ----

    def packed(self) -> list[Any]:
        """Every note as plain data, in the order in which they were posted."""
        views = [data["note"] for _, data in self.graph.nodes(data=True) if "note" in data]
        return [
            [v.id, v.kind, v.task, v.status, v.verdict, v.body, v.seq, v.cites, v.links, dict(v.flags)] for v in views
        ]

    @classmethod
    def unpacked(cls, rows: Iterable[list[Any]]) -> Board:
        """The board that `packed` made plain data of."""
        board = cls()
        for id, kind, task, status, verdict, body, seq, cites, links, flags in rows:
            cited, linked = tuple([tuple(cite) for cite in cites]), tuple([tuple(link) for link in links])
            board._place(NoteView(id, kind, task, status, verdict, body, seq, cited, linked, flags))
        return board

    # ---- queries ----

    def note(self, id: str) -> NoteView:
        """The note of this id.

        Raises:
            ProtocolError: there is none.
        """
        try:
            view: NoteView = self._nodes[id]["note"]
        except KeyError:
            raise ProtocolError(f"there is no note {id} on the board", "note", "ids are shown by `swarm export`") from None
        return view

    def notes(self, kind: str, verdict: str | None = None, status: str | None = None) -> Iterator[NoteView]:
        """Notes of a kind in the order of the text they cite."""
        orders = self._matching(kind, verdict, status)
        nodes = self._nodes
        for _, _, _, id in orders[0] if len(orders) == 1 else merge(*orders):
            view: NoteView = nodes[id]["note"]
            yield view

    def by_task(self, task: str) -> list[NoteView]:
        return [self.note(id) for id in self._tasks.get(task, ())]

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
        node = f"s:{span}"
        return [self.note(id) for id in sorted(set(self.graph.predecessors(node)))] if node in self.graph else []

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
        views = [data["note"] for _, data in self.graph.nodes(data=True) if "note" in data]
        return {
            "notes": [
                {"id": v.id, "kind": v.kind, "task": v.task, "status": v.status, "verdict": v.verdict, "body": v.body,
                 "flags": dict(v.flags)}
                for v in views
            ],
            "links": [[v.id, kind, other] for v in views for kind, other in v.links],
            "cites": [[v.id, *cite] for v in views for cite in v.cites],
        }


def _position(view: NoteView) -> Position:
    if view.cites:
        return (view.cites[0][0], view.cites[0][1], view.body, view.id)
    return (1 << 60, view.seq, "", view.id)
