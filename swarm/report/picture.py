"""The picture of the blackboard: its graph, gathered into few enough nodes to draw.

Owns which notes are drawn together. Every count is one of notes and edges; no text is read here but labels that are
handed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from swarm.board import Board
from swarm.protocol import NoteView
from swarm.report.shapes import Link, Node, Picture

MOST = 9
"""Nodes of a column that stand for themselves; what is left is put together."""
DOCUMENTS, VERDICTS, FINDINGS, SENTENCES = range(4)
VERDICT_ORDER = ("supported", "unchecked", "waiting", "unsupported", "refused by code")


def verdict_of(note: NoteView) -> str:
    """How a row or a rejected row stands, in words."""
    return "refused by code" if note.kind == "rejected" else note.verdict or "waiting"


def draw(
    board: Board,
    document_of: Callable[[NoteView], str],
    groups: Iterable[tuple[str, list[str]]],
    sentences: Iterable[tuple[str, list[str]]],
) -> Picture:
    """Gathers a board.

    `document_of` names the document that a row cites; `groups` are findings as (label, row notes they derive from), and
    `sentences` (label, row notes); each row is drawn into the first group that holds it.
    """
    rows = [note for kind in ("row", "rejected") for note in board.notes(kind)]
    document = {note.id: document_of(note) for note in rows}
    verdict = {note.id: verdict_of(note) for note in rows}
    group = _first_holding(groups)
    sentence = _first_holding(sentences)
    columns = [
        document,
        verdict,
        {id: name for id, name in group.items() if id in verdict},
        {id: name for id, name in sentence.items() if id in verdict and id in group},
    ]
    nodes: list[Node] = []
    names: list[dict[str, str]] = []
    for number, column in enumerate(columns):
        drawn, name_of = _column(number, column, verdict)
        nodes.extend(drawn)
        names.append(name_of)
    links: Counter[tuple[str, str, str]] = Counter()
    for left, right in ((DOCUMENTS, VERDICTS), (VERDICTS, FINDINGS), (FINDINGS, SENTENCES)):
        for id, label in columns[right].items():
            links[names[left][columns[left][id]], names[right][label], _tone(verdict[id])] += 1
    kinds = board.kinds()
    return Picture(
        notes=sum(kinds.values()), edges=board.edges, kinds=kinds, nodes=tuple(nodes),
        links=tuple(Link(source=a, target=b, count=n, tone=tone) for (a, b, tone), n in sorted(links.items())),
    )  # fmt: skip


def _column(number: int, labels: dict[str, str], verdict: dict[str, str]) -> tuple[list[Node], dict[str, str]]:
    """The nodes of a column, and each label's node."""
    counts = Counter(labels.values())
    if number == VERDICTS:
        kept = [label for label in VERDICT_ORDER if label in counts]
    elif number == SENTENCES:
        kept = sorted(counts)
    else:
        kept = [label for label, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:MOST]]
    rest = [label for label in counts if label not in kept]
    name_of = {label: f"{number}.{at}" for at, label in enumerate(kept)} | dict.fromkeys(rest, f"{number}.rest")
    nodes = [
        Node(id=name_of[label], column=number, label=label, count=counts[label],
             tone=_tone(label) if number == VERDICTS else "plain")
        for label in kept
    ]  # fmt: skip
    if rest:
        many = f"{len(rest)} more"
        nodes.append(
            Node(id=f"{number}.rest", column=number, label=many, count=sum(counts[one] for one in rest), tone="rest")
        )
    return nodes, name_of


def _first_holding(groups: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for label, ids in groups:
        for id in ids:
            found.setdefault(id, label)
    return found


def _tone(verdict: str) -> str:
    return {"supported": "good", "unchecked": "unsure", "waiting": "unsure"}.get(verdict, "bad")
