"""One agent, many turns: it reads passage after passage and sees what it wrote before, as far as its window holds that.

The baseline that map-reduce is measured against, and the plainest use of an agent that takes hundreds of turns: each turn
is recorded, so that another host can go on where one stopped, and old turns are left out when the window is full.
Rows are checked by code and not verified; they are merged by the same code as in map_reduce.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from swarm.errors import SpecError
from swarm.events import BudgetReached, Event, PersonSaid, Stuck
from swarm.protocol import (
    WORD,
    Action,
    AddNote,
    AddTask,
    CallModel,
    Decision,
    Done,
    Expected,
    Failed,
    Finish,
    Material,
    Part,
    Passage,
    Post,
    Said,
    TaskBrief,
    View,
    Word,
)
from swarm.rows import (
    READER_OUTPUT,
    SAMPLES,
    USUAL_BREADCRUMB,
    Finding,
    Rejected,
    Row,
    columns_text,
    merge_rows,
    passage_parts,
    read_rows,
    rows_schema,
    word_parts,
)
from swarm.spec import Frozen, JobSpec
from swarm.wording import explain

TURN_TOKENS = (12.0, 40.0)
"""What an earlier turn is reckoned at, besides what the agent said in it: a breadcrumb, and who speaks."""


class Options(Frozen):
    """Settings of this protocol, under `protocol.options`."""

    span_tokens: int = Field(default=320, ge=32, le=100_000)
    """Tokens of one passage at most."""
    passages: int = Field(default=200, ge=1, le=1000)
    """Passages that one agent reads, one a turn."""


class Rolling:
    """The protocol for one job."""

    name = "rolling"
    roles = ("notetaker", "reducer")
    note_kinds: Mapping[str, type[BaseModel]] = {"row": Row, "rejected": Rejected, "finding": Finding, WORD: Word}

    def __init__(self, spec: JobSpec, options: Options) -> None:
        self.spec, self.options = spec, options
        self.span_tokens = options.span_tokens

    def expects(self, spans: int, tokens: int) -> Mapping[str, Expected]:
        """One call for each span, in which there is, on average, half of what an agent has been told and has said."""
        passage = USUAL_BREADCRUMB + tokens / max(1, spans)
        turns = (min(spans, self.options.passages) - 1) / 2
        low, high = (passage + turns * (tokens + output) for tokens, output in zip(TURN_TOKENS, READER_OUTPUT, strict=True))
        return {
            "notetaker": Expected(self.span_tokens, (spans, spans * SAMPLES), (low, high), READER_OUTPUT),
            "reducer": Expected(calls=(0, 0)),
        }

    def start(self, view: View) -> Decision:
        size = self.options.passages
        parts = [tuple(range(at, min(at + size, view.spans))) for at in range(0, view.spans, size)]
        return Decision({"phase": "read"}, [AddTask("notetaker", spans=part, calls=len(part)) for part in parts])

    def react(self, state: Mapping[str, Any], event: Event, view: View) -> Decision:
        ended = view.ended
        if isinstance(event.body, Stuck):
            return Decision()  # its work is finite: there is no other plan
        if isinstance(event.body, BudgetReached):
            return self._reduce() if event.body.closing else Decision()
        if ended is None:
            return Decision({}, [AddNote(WORD, event.body.body)] if isinstance(event.body, PersonSaid) else ())
        if ended.role == "reducer":
            return Decision({"phase": "done"}, [Finish()])
        return Decision() if view.open.get("notetaker", 0) else self._reduce()

    def _reduce(self) -> Decision:
        return Decision({"phase": "reduce"}, [AddTask("reducer", query=("row", "unchecked", 0), calls=0)])

    def turn(self, task: TaskBrief, material: Material, transcript: Sequence[Said]) -> Action:
        if task.role == "reducer":
            return self._merge(material)
        if transcript:
            last = self._notes(material.passages[len(transcript) - 1], transcript[-1])
            if isinstance(last, Failed):
                return last
        if len(transcript) < len(material.passages):
            return self._ask(material, transcript)
        notes: list[Post] = []
        for passage, said in zip(material.passages, transcript, strict=True):
            found = self._notes(passage, said)
            notes.extend(() if isinstance(found, Failed) else found)
        return Done(tuple(notes), outcome="rows" if notes else "none")

    def _ask(self, material: Material, transcript: Sequence[Said]) -> Action:
        passages = material.passages
        earlier: list[Part] = []
        for passage, said in zip(passages, transcript, strict=False):
            origin = f"s:{passage.number}"
            earlier.append(Part("turn", f"Passage: {passage.breadcrumb}\n", "corpus", origin, passage.train))
            earlier.append(Part("turn", said.text, "agent", origin, passage.train, speaker="assistant"))
        opening = (
            Part("question", f"Question: {self.spec.question}\n"),
            Part("schema", columns_text(self.spec.answer.columns)),
            *word_parts(material),
        )
        now = passage_parts(passages[len(transcript)])
        return CallModel((*opening, *earlier, *now), rows_schema(len(self.spec.answer.columns)))

    def _notes(self, passage: Passage, said: Said) -> tuple[Post, ...] | Failed:
        answer = self.spec.answer
        return read_rows(passage, said.text, said.finish, answer.columns, answer.quote_pattern, "unchecked")

    def _merge(self, material: Material) -> Action:
        rows = [(note.id, dict(note.content["values"]), note.cites) for note in material.notes]
        merge = "set" if self.spec.answer.merge == "auto" else self.spec.answer.merge
        posts = tuple(
            Post("finding", {"values": found.values, "count": len(found.rows)}, cites=found.cites[:1],
                 links=tuple(("derives-from", id) for id in found.rows), flags={"rank": rank})
            for rank, found in enumerate(merge_rows(rows, self.spec.answer, merge))
        )  # fmt: skip
        return Done(posts, outcome=merge)


def create(spec: JobSpec) -> Rolling:
    """Builds the protocol for a job.

    Raises:
        SpecError: an option is unknown or wrong, or the job asks for statements.
    """
    if spec.answer.statements:
        raise SpecError("gives rows, not statements", "protocol rolling", "name columns, or use map_reduce")
    try:
        options = Options.model_validate(spec.protocol.options)
    except ValidationError as error:
        raise SpecError(*explain(error, Options, "protocol.options")) from None
    return Rolling(spec, options)
