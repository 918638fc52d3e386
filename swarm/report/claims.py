"""What a board claims, and on what: rows, statements, sentences, and what did not become part of the answer.

Owns the way from notes to claims with cites. Every cite comes from an edge of the graph; text of a model is shown as
such and never searched for references.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarm.board import Board
from swarm.protocol import NoteView
from swarm.report.shapes import WITHDRAWN, Cite, Headline, Row, Sentence, Statement, Unverified
from swarm.report.texts import Texts
from swarm.rows import claim_text, merge_rows
from swarm.spec import JobSpec

WEAKEST_FIRST = ("unsupported", "", "unchecked", "supported")
OVER_BUDGET = "the budget was reached before a verifier could judge it"
REASONS = {
    "unsupported": "the verifier found that the quote does not support it",
    "unchecked": "no verifier could judge it",
}
NOT_STATED = "the sentence does not state its finding, or states something besides"


@dataclass(frozen=True, slots=True)
class Found:
    """A merged claim before it is shown: the row notes it rests on, and the places that they cite."""

    note: str
    values: dict[str, str]
    rows: tuple[NoteView, ...]
    places: tuple[tuple[int, int, int], ...]


class Claims:
    """Reads the claims of one board. `fit` are the verdicts with which a row may be in the answer. `ended` says whether the job
    is over, `over` whether that is for want of budget, and `merge` how rows are merged."""

    def __init__(
        self, spec: JobSpec, board: Board, texts: Texts, fit: frozenset[str], ended: bool, merge: str, over: bool = False
    ) -> None:
        self.spec, self.board, self.texts, self.fit = spec, board, texts, fit
        self.ended, self.merge, self.over = ended, merge, over
        texts.fetch(note.body for kind in board.kinds() for note in board.notes(kind))
        findings = self._ranked("finding")
        self.found = self._merged(findings) if findings else self._so_far()
        self.unmerged = ended and not findings and bool(self.found)
        self._unjudged = "unchecked" if over else "waiting"
        self.used = {row.id: row for found in self.found for row in found.rows}
        self.cites: dict[tuple[int, int, int], Cite] = texts.cites(self._places())

    # ---- the answer ----

    def rows(self) -> tuple[Row, ...]:
        return tuple(
            Row(
                note=one.note,
                values=one.values,
                count=len(one.rows),
                verdict=_weakest(one.rows),
                cites=self._cited(one.places),
            )
            for one in self.found
        )

    def statements(self) -> tuple[Statement, ...]:
        return tuple(
            Statement(note=one.note, text=one.values.get("statement", WITHDRAWN), count=len(one.rows),
                      verdict=self._verdict_of_prose(one), cites=self._cited(one.places))
            for one in self.found
        )  # fmt: skip

    def headlines(self) -> tuple[Headline, ...]:
        return tuple(self._headline(note) for note in self._ranked("headline"))

    def sentences(self) -> tuple[Sentence, ...]:
        """The writer's sentences that code vouches for, the most frequent finding first."""
        told = [(self._stated(note), note) for note in self.board.notes("sentence", status="")]
        told.sort(key=lambda one: one[0].flags.get("rank", 0) if one[0] else 0)
        return tuple(
            Sentence(note=note.id, text=str(self.texts.content(note.body).get("text", WITHDRAWN)),
                     states=self._headline(states) if states else None, cites=self._cited(self.board.spans(note.id)))
            for states, note in told
        )  # fmt: skip

    def rows_of(self, sentence: str) -> list[str]:
        """The row notes that a sentence rests on."""
        return [note.id for note in self.board.provenance(sentence) if note.kind == "row"]

    def counted(self) -> list[tuple[str, dict[str, str]]]:
        """(path, values) of each row that the answer rests on, for the score."""
        return [(self.document_of(row), self._values(row)) for row in self.used.values()]

    # ---- what is not part of it ----

    def unverified(self) -> tuple[Unverified, ...]:
        rows = [note for note in self.board.notes("row") if note.verdict not in self.fit and note.id not in self.used]
        out = [self._not_taken("row", note, self._why(note)) for note in rows]
        for note in self.board.notes("rejected"):
            reason = str(self.texts.content(note.body).get("reason", WITHDRAWN))
            out.append(self._not_taken("row", note, reason, "refused by code"))
        for note in self.board.notes("sentence", status="rejected"):
            out.append(self._not_taken("sentence", note, NOT_STATED, "refused by code"))
        return tuple(out)

    def left_out(self) -> tuple[Unverified, ...]:
        """Rows that might be in the answer by their verdict, and on which nothing in it rests."""
        rows = [note for note in self.board.notes("row") if note.verdict in self.fit and note.id not in self.used]
        return tuple(self._not_taken("row", note, self._why_left_out()) for note in rows)

    def document_of(self, note: NoteView) -> str:
        """The path of the document that a note cites first."""
        return self.texts.path(self.texts.span(note.cites[0][0]).document) if note.cites else ""

    # ---- within ----

    def _merged(self, findings: Iterable[NoteView]) -> list[Found]:
        return [
            Found(note.id, self._values(note), self._leaves(note), tuple(self.board.spans(note.id))) for note in findings
        ]

    def _so_far(self) -> list[Found]:
        """For a draft, and for a job that ended before it merged: rows as the reducer would merge them now."""
        rows = {note.id: note for note in self.board.notes("row") if note.verdict in self.fit}
        if self.spec.answer.statements:
            return [Found(note.id, self._values(note), (note,), note.cites) for note in rows.values()]
        names = {column.name for column in self.spec.answer.columns}
        values = {id: self._values(note) for id, note in rows.items()}
        noted = [(id, values[id], note.cites) for id, note in rows.items() if names <= set(values[id])]
        merged = merge_rows(noted, self.spec.answer, self.merge)
        return [
            Found("", one.values, tuple(rows[id] for id in one.rows), tuple(sorted(set(one.cites)))) for one in merged
        ]

    def _ranked(self, kind: str) -> list[NoteView]:
        """Notes of a kind as they were ranked when they were merged; unranked ones in the order of the text."""
        return sorted(self.board.notes(kind, status=""), key=lambda note: note.flags.get("rank", 0))

    def _leaves(self, note: NoteView) -> tuple[NoteView, ...]:
        leaves = [one for one in self.board.provenance(note.id) if one.kind == "row"]
        return tuple(sorted(leaves, key=lambda one: (one.cites, one.id)))

    def _values(self, note: NoteView) -> dict[str, str]:
        values = self.texts.content(note.body).get("values")
        if isinstance(values, dict):
            return {str(name): str(value) for name, value in values.items()}
        names = [column.name for column in self.spec.answer.columns] or ["statement"]
        return dict.fromkeys(names, WITHDRAWN)

    def _headline(self, note: NoteView) -> Headline:
        count = self.texts.content(note.body).get("count", len(note.links))
        return Headline(note=note.id, values=self._values(note), count=int(count))

    def _stated(self, sentence: NoteView) -> NoteView | None:
        return next((self.board.note(other) for kind, other in sentence.links if kind == "states"), None)

    def _verdict_of_prose(self, one: Found) -> str:
        """A statement was judged where each row that it cites says the same. One that a model worded anew, or for which it
        cites rows that say something else, rests on verified passages, but nobody judged whether they say it."""
        if {self._values(row).get("statement") for row in one.rows} == {one.values.get("statement")}:
            return _weakest(one.rows)
        return "reworded"

    def _why(self, note: NoteView) -> str:
        if self.over and not note.verdict:
            return OVER_BUDGET
        return REASONS.get(note.verdict, "not judged before the job ended" if self.ended else "not judged yet")

    def _why_left_out(self) -> str:
        answer = self.spec.answer
        if answer.statements:
            return "no statement of the answer rests on it"
        if self.merge == "top-k":
            return f"its {answer.by or answer.columns[-1].name} is not among the {answer.top} most frequent"
        return "the answer was merged without it"

    def _not_taken(self, kind: str, note: NoteView, reason: str, verdict: str = "") -> Unverified:
        content = self.texts.content(note.body)
        values = self._values(note) if kind == "row" else {}
        cites = self._cited(note.cites)
        return Unverified(
            kind=kind, text=self._told(values) if kind == "row" else str(content.get("text", WITHDRAWN)), values=values,
            quote=str(content.get("quote", "")), verdict=verdict or note.verdict or self._unjudged, reason=reason,
            cites=cites if note.kind == "row" else tuple(cite.model_copy(update={"quote": ""}) for cite in cites),
        )  # fmt: skip

    def _told(self, values: dict[str, str]) -> str:
        return values.get("statement", WITHDRAWN) if self.spec.answer.statements else claim_text(values)

    def _places(self) -> set[tuple[int, int, int]]:
        places = {place for found in self.found for place in found.places}
        for kind in ("row", "rejected"):
            places.update(cite for note in self.board.notes(kind) for cite in note.cites)
        for note in self.board.notes("sentence"):
            places.update(self.board.spans(note.id))
        return places

    def _cited(self, places: Iterable[tuple[int, int, int]]) -> tuple[Cite, ...]:
        return tuple(self.cites[place] for place in sorted(set(places)))


def _weakest(rows: Sequence[NoteView]) -> str:
    verdicts = {row.verdict for row in rows}
    return next((one or "waiting" for one in WEAKEST_FIRST if one in verdicts), "unchecked")
