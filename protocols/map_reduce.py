"""Typed map-reduce: readers write rows with quotes, a verifier judges them, code merges them exactly.

Planner → a reader for each passage → a verifier for each row → reducer → writer. Readers abstain with `[]`; code checks
every quote against the passage; what is merged, counted and grouped is computed, never generated. Only prose answers
have a model for a reducer, in window-sized groups, as a tree. Everything after the readers is read from the blackboard.
Follows the typed map-reduce of LLM×MapReduce (Zhou et al. 2024, arXiv 2410.09342), with code for the reduction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from swarm.errors import SpecError
from swarm.events import ApprovalAnswered, BudgetReached, Event, PersonSaid, Stuck
from swarm.protocol import (
    WORD,
    Action,
    AddNote,
    AddRange,
    AddTask,
    Ask,
    CallModel,
    Command,
    Decision,
    Done,
    Expected,
    Failed,
    Finish,
    Judge,
    Material,
    NoteText,
    NoteView,
    Part,
    Passage,
    Post,
    Said,
    TaskBrief,
    View,
    Word,
)
from swarm.rows import (
    CLAIM_TOKENS,
    EXCERPT_ASK,
    EXCERPT_TOKENS,
    READER_OUTPUT,
    SAMPLES,
    USUAL_BREADCRUMB,
    Finding,
    Rejected,
    Row,
    claim_text,
    columns_text,
    excerpt,
    headlines,
    merge_rows,
    parsed,
    passage_parts,
    read_rows,
    rows_schema,
    stated,
    word_parts,
)
from swarm.spec import MOST, Column, Frozen, JobSpec
from swarm.window.tokens import ApproximateTokenizer
from swarm.wording import explain

TASKS = ("search", "classify", "aggregate", "summarise")
MERGES = ("set", "count", "group", "top-k")
NO_VERDICTS: Mapping[str, str] = MappingProxyType({})
NONE = (0.0, 0.0)
ROWS_A_SPAN = (0.1, 1.0)
HEADING_TOKENS = 8
"""What stands above the statements that a reducer merges."""
WIDEST = 100
"""A number as wide as those of statements are, or wider."""
KEPT_AT_ONCE = 1000
"""Statements that one task keeps as they are, where no model could merge them."""
PROSE = (Column(name="statement", description="what the passage says about the question, in one sentence", found_in="anywhere"),)


class Options(Frozen):
    """Settings of this protocol, under `protocol.options`."""

    span_tokens: int = Field(default=320, ge=32, le=100_000)
    """Tokens of one passage at most."""
    approve_plan: bool = False
    """Whether a person is asked before the reading starts; the answer may change how rows are merged."""
    verify: bool = True
    """Whether a verifier judges each row; without it rows are marked unchecked."""
    headlines: int = Field(default=6, ge=0, le=8)
    """How many of the most frequent findings the writer puts into sentences; 0 for none."""
    group: int = Field(default=12, ge=2)
    """Statements that one model reducer merges at a time at most, for prose answers; fewer where its window holds fewer."""


class Plan(Frozen):
    """What the planner decided."""

    task: str
    merge: str


class Sentence(Frozen):
    """A sentence of the writer."""

    text: str


class MapReduce:
    """The protocol for one job."""

    name = "map_reduce"
    roles = ("planner", "reader", "verifier", "reducer", "writer")
    note_kinds: Mapping[str, type[BaseModel]] = {
        "plan": Plan, "row": Row, "rejected": Rejected, "finding": Finding, "headline": Finding, "statement": Row,
        "sentence": Sentence, WORD: Word,
    }  # fmt: skip

    def __init__(self, spec: JobSpec, options: Options) -> None:
        self.spec, self.options = spec, options
        self.span_tokens = options.span_tokens
        self.columns = PROSE if spec.answer.statements else spec.answer.columns
        self._question = Part("question", f"Question: {spec.question}\n")
        self._schema = Part("schema", columns_text(self.columns))
        self._rows_schema = rows_schema(len(self.columns))

    def expects(self, spans: int, tokens: int) -> Mapping[str, Expected]:
        """One call for each span; one for each row that is judged; the rest are few."""
        answer, passage = self.spec.answer, USUAL_BREADCRUMB + tokens / max(1, spans)
        rows = (spans * ROWS_A_SPAN[0], spans * ROWS_A_SPAN[1])
        planned = answer.merge == "auto" and not answer.statements
        written = self.options.headlines and not answer.statements
        excerpt = (CLAIM_TOKENS + EXCERPT_TOKENS[0], CLAIM_TOKENS + USUAL_BREADCRUMB + EXCERPT_TOKENS[1])
        return {
            "planner": Expected(calls=(1, 1) if planned else NONE),
            "reader": Expected(self.span_tokens, (spans, spans * SAMPLES), (passage, passage), READER_OUTPUT),
            "verifier": Expected(
                CLAIM_TOKENS + min(self.span_tokens, EXCERPT_TOKENS[1]), rows if self.options.verify else NONE, excerpt, (2, 3)
            ),
            "reducer": Expected(
                calls=(rows[0] / self.options.group, rows[1] * 1.1 / self.options.group) if answer.statements else NONE
            ),
            "writer": Expected(calls=(0, 2) if written else NONE),
        }

    # ---- on the JobMaster ----

    def start(self, view: View) -> Decision:
        if self.spec.answer.statements or self.spec.answer.merge != "auto":
            return self._begin(view, "set" if self.spec.answer.statements else self.spec.answer.merge)
        return Decision({"phase": "plan"}, [AddTask("planner")])

    def react(self, state: Mapping[str, Any], event: Event, view: View) -> Decision:
        if isinstance(event.body, Stuck):
            return Decision()  # its work is finite: there is no other plan
        if isinstance(event.body, PersonSaid):
            return Decision({}, [AddNote(WORD, event.body.body)])
        if isinstance(event.body, ApprovalAnswered):
            return self._approved(state, event.body, view)
        if isinstance(event.body, BudgetReached):
            return self._close(state, view) if event.body.closing else Decision()
        ended = view.ended
        assert ended is not None, "react is called for the end of a task or of the budget"
        match ended.role:
            case "planner":
                return self._begin(view, ended.outcome if ended.outcome in MERGES else "set")
            case "reader":
                return self._after_reader(state, view)
            case "verifier":
                verdict = {"yes": "supported", "no": "unsupported"}.get(ended.outcome, "unchecked")
                return self._onwards(state, view, [Judge(ended.reads[0], verdict, ended.id)])
            case "reducer":
                return self._after_reducer(state, view)
            case _:
                return Decision({"phase": "done"}, [Finish()])

    def _begin(self, view: View, merge: str) -> Decision:
        """The plan stands: the reading starts, or a person is asked whether it may."""
        if not self.options.approve_plan:
            return self._read(view, merge)
        judged = ", and one verifier call for each row that is found" if self.options.verify else ""
        how = "statements are merged by a model" if self.spec.answer.statements else f"rows are merged as `{merge}`"
        question = (
            f"Start reading {view.spans:,} passages ({view.tokens:,} tokens) of {view.documents:,} documents? "
            f"It takes {view.spans:,} reader calls{judged}; {how}."
        )
        options = MERGES if self.spec.answer.merge == "auto" and not self.spec.answer.statements else ()
        return Decision({"phase": "approve", "merge": merge}, [Ask(question, options)])

    def _approved(self, state: Mapping[str, Any], answer: ApprovalAnswered, view: View) -> Decision:
        if answer.verdict == "rejected":
            return Decision({"phase": "done"}, [Finish("cancelled", f"person:{answer.why}")])
        return self._read(view, answer.answer or state["merge"])

    def _read(self, view: View, merge: str) -> Decision:
        return Decision({"phase": "read", "merge": merge}, [AddRange("reader", 0, view.spans)])

    def _after_reader(self, state: Mapping[str, Any], view: View) -> Decision:
        """Each row goes to a verifier at once, ahead of further reading, so that findings grow as the job runs."""
        assert view.ended is not None
        found = view.board.by_task(view.ended.id) if self.options.verify else ()
        rows = [note for note in found if note.kind == "row"]
        return self._onwards(
            state, view, [AddTask("verifier", spans=(row.cites[0][0],), reads=(row.id,), priority=-1) for row in rows]
        )

    def _onwards(self, state: Mapping[str, Any], view: View, commands: list[Command]) -> Decision:
        """Starts the reduction once nothing is left to read or to judge."""
        waiting = view.open.get("reader", 0) + view.open.get("verifier", 0)
        if waiting or any(isinstance(command, AddTask) for command in commands):
            return Decision({}, commands)
        following = self._reduce(state, view, {one.note: one.verdict for one in commands if isinstance(one, Judge)})
        return Decision(following.state, [*commands, *following.commands])

    def _reduce(self, state: Mapping[str, Any], view: View, judged: Mapping[str, str] = NO_VERDICTS) -> Decision:
        """Starts the reduction; `judged` are the verdicts of this very decision, which the board does not show yet.

        Where there are rows and no verifier could judge any, the job ends: nothing can be said, which is no empty answer.
        """
        if self.options.verify and not view.stopping and self._none_judged(view, judged):
            return Decision({"phase": "done"}, [Finish("failed", "unverified:verifier")])
        verdict = "supported" if self.options.verify else "unchecked"
        if not self.spec.answer.statements:
            goal = f"merge:{state.get('merge', 'set')}"
            return Decision({"phase": "reduce"}, [AddTask("reducer", goal=goal, query=("row", verdict, 0), calls=0)])
        kept = [note for note in view.board.notes("row") if judged.get(note.id, note.verdict) == verdict]
        return self._groups(kept, view, level=1)

    def _none_judged(self, view: View, judged: Mapping[str, str]) -> bool:
        if not view.board.count("row") or {"supported", "unsupported"} & set(judged.values()):
            return False
        return not (view.board.count("row", "supported") or view.board.count("row", "unsupported"))

    def _groups(self, notes: Sequence[NoteView], view: View, level: int, before: int = 0) -> Decision:
        """One model reducer for each group of statements that its window holds; a single group is the last level.

        A level that leaves as many groups as the one before had would never end, and in one where no two statements go into a
        window nothing can be joined: their statements stay as they are.
        """
        if not notes:
            return Decision({"phase": "done"}, [Finish()])
        groups = self._windowfuls(notes, view.room.get("reducer", MOST) - HEADING_TOKENS)
        if (before and len(groups) >= before) or 1 < len(groups) == len(notes):
            return self._keep([note.id for note in notes])
        goal = "final" if len(groups) == 1 else f"level:{level}"
        state = {"phase": "reduce", "level": level, "groups": len(groups), "left": len(groups)}
        return Decision(state, [AddTask("reducer", goal=goal, reads=group) for group in groups])

    def _windowfuls(self, notes: Sequence[NoteView], room: int) -> list[tuple[str, ...]]:
        """The ids in groups, in order, each with no more tokens than there is room. How many a statement has, its note's flags
        say; those of older logs do not, and are counted only."""
        groups: list[list[str]] = []
        left = 0
        for note in notes:
            tokens = int(note.flags.get("tokens", 0))
            if not groups or len(groups[-1]) == self.options.group or (tokens and tokens > left):
                groups.append([])
                left = room
            groups[-1].append(note.id)
            left -= tokens
        return [tuple(group) for group in groups]

    def _keep(self, ids: Sequence[str]) -> Decision:
        """Statements become findings word for word, by code: nothing that was verified is dropped."""
        groups = _cut(ids, KEPT_AT_ONCE)
        tasks = [AddTask("reducer", goal="keep", reads=group, calls=0) for group in groups]
        return Decision({"phase": "reduce", "left": len(groups)}, tasks)

    def _close(self, state: Mapping[str, Any], view: View) -> Decision:
        """The budget lets nothing else go on: an end with what there is."""
        if state.get("phase") in ("write", "done"):
            return Decision({"phase": "done"}, [Finish()])
        if state.get("phase") != "reduce" or not self.spec.answer.statements:
            return self._reduce(state, view)
        told = [*view.board.notes("row", "supported" if self.options.verify else "unchecked"), *view.board.notes("statement")]
        merged = {other for note in told if note.kind == "statement" for kind, other in note.links if kind == "derives-from"}
        kept = [note.id for note in told if note.id not in merged]
        return self._keep(kept) if kept else Decision({"phase": "done"}, [Finish()])

    def _after_reducer(self, state: Mapping[str, Any], view: View) -> Decision:
        assert view.ended is not None
        if not self.spec.answer.statements:
            if view.ended.outcome == "failed":
                return Decision({"phase": "done"}, [Finish("failed", "the rows were found and could not be merged")])
            if self.options.headlines and view.board.count("headline"):
                query = ("headline", "", self.options.headlines)
                return Decision({"phase": "write"}, [AddTask("writer", query=query)])
            return Decision({"phase": "done"}, [Finish()])
        goal, left = view.ended.goal, state["left"] - 1
        if goal == "final" and view.ended.outcome == "failed":
            return self._keep(view.ended.reads)
        if goal == "final" or (goal == "keep" and not left):
            return Decision({"phase": "done"}, [Finish()])
        if goal == "keep":
            return Decision({"left": left})
        # A group whose reducer failed goes up as it is. Each group is remembered under a key of its own, so that what
        # one step writes does not grow with the steps before it.
        merged = [note.id for note in view.board.by_task(view.ended.id)] or list(view.ended.reads)
        if left:
            return Decision({"left": left, f"merged:{view.ended.id}": merged})
        earlier = {key: ids for key, ids in state.items() if key.startswith("merged:")}
        ids = [*merged, *(id for group in earlier.values() for id in group)]
        notes = sorted((view.board.note(id) for id in ids), key=lambda note: (note.cites[:1], note.body, note.id))
        following = self._groups(notes, view, state["level"] + 1, state["groups"])
        return Decision({**dict.fromkeys(earlier), **following.state}, following.commands)

    # ---- on a host ----

    def turn(self, task: TaskBrief, material: Material, transcript: Sequence[Said]) -> Action:
        said = transcript[-1] if transcript else None
        match task.role:
            case "planner":
                return self._planned(said) if said else self._plan(material)
            case "reader":
                return self._rows(material.passages[0], said) if said else self._ask_reader(material)
            case "verifier":
                return self._verdict(said) if said else self._ask_verifier(material)
            case "reducer" if task.goal.startswith("merge:"):
                return self._merge(task.goal.removeprefix("merge:"), material.notes)
            case "reducer" if task.goal == "keep":
                return self._kept(material.notes)
            case "reducer":
                return self._merged(task, material.notes, said) if said else self._ask_reducer(material.notes)
            case _:
                return self._written(material.notes, said) if said else self._ask_writer(material)

    def _plan(self, material: Material) -> Action:
        facts = material.facts
        paths = ", ".join(facts["paths"][:3])
        inventory = f"Input: {facts['documents']} documents, {facts['spans']} passages, such as {paths}\n"
        schema = {"type": "array", "prefixItems": [{"enum": list(TASKS)}, {"enum": list(MERGES)}], "items": False,
                  "minItems": 2, "maxItems": 2}  # fmt: skip
        parts = (self._question, self._schema, *word_parts(material), Part("inventory", inventory, trust="corpus"))
        return CallModel(parts, schema)

    def _planned(self, said: Said) -> Action:
        answer = parsed(said.text)
        if not (isinstance(answer, list) and len(answer) == 2 and answer[0] in TASKS and answer[1] in MERGES):
            return Failed(f"is no plan: {said.text[:80]}")
        return Done((Post("plan", {"task": answer[0], "merge": answer[1]}),), outcome=answer[1])

    def _ask_reader(self, material: Material) -> Action:
        parts = (self._question, self._schema, *word_parts(material), *passage_parts(material.passages[0]))
        return CallModel(parts, self._rows_schema)

    def _rows(self, passage: Passage, said: Said) -> Action:
        verdict = "" if self.options.verify else "unchecked"
        answer = self.spec.answer
        notes = read_rows(
            passage, said.text, said.finish, self.columns, answer.quote_pattern, verdict, once=answer.statements
        )
        if isinstance(notes, Failed):
            return notes
        if answer.statements:
            notes = tuple(replace(note, flags={"tokens": _tokens(note.content["values"]["statement"])}) for note in notes)
        kept = sum(note.kind == "row" for note in notes)
        return Done(notes, outcome="rows" if kept else "rejected" if notes else "none")

    def _ask_verifier(self, material: Material) -> Action:
        note, passage = material.notes[0], material.passages[0]
        _, start, end = note.cites[0]
        around = excerpt(passage.text, start - passage.start, end - passage.start)
        origin = f"s:{passage.number}"
        parts = (
            self._question,
            Part("breadcrumb", f"Passage: {passage.breadcrumb}\n", "corpus", origin, passage.train),
            Part("excerpt", f"{around}\n", "corpus", origin, passage.train),
            Part("claim", f"Claim: {claim_text(note.content['values'])}\n", "agent", note.id, passage.train),
            Part("quote", f"Quote: {note.content['quote']}\n", "corpus", origin, passage.train),
            Part("ask", EXCERPT_ASK),
        )
        return CallModel(parts, {"enum": ["yes", "no"]})

    def _verdict(self, said: Said) -> Action:
        answer = parsed(said.text)
        return Done(outcome=answer) if answer in ("yes", "no") else Failed(f"is neither yes nor no: {said.text[:80]}")

    def _merge(self, merge: str, notes: Sequence[NoteText]) -> Action:
        """Code, not a model: the same rows give the same findings in whatever order they were found."""
        rows = [(note.id, dict(note.content["values"]), note.cites) for note in notes]
        findings = merge_rows(rows, self.spec.answer, merge)
        posts = [
            Post("finding", {"values": found.values, "count": len(found.rows)}, cites=found.cites[:1],
                 links=tuple(("derives-from", id) for id in found.rows), flags={"rank": rank})
            for rank, found in enumerate(findings)
        ]  # fmt: skip
        for rank, head in enumerate(headlines(rows, self.spec.answer, self.options.headlines)):
            posts.append(
                Post("headline", {"values": head.values, "count": len(head.rows)}, flags={"rank": rank},
                     links=tuple(("derives-from", id) for id in head.rows))
            )  # fmt: skip
        return Done(tuple(posts), outcome=merge)

    def _ask_reducer(self, notes: Sequence[NoteText]) -> Action:
        lines = "".join(_numbered(n, note.content["values"]["statement"]) for n, note in enumerate(notes, 1))
        item = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}],
                "items": False, "minItems": 2, "maxItems": 2}  # fmt: skip
        parts = (self._question, Part("statements", f"Statements:\n{lines}", "agent", ",".join(n.id for n in notes)))
        return CallModel(parts, {"type": "array", "items": item, "maxItems": len(notes)})

    def _merged(self, task: TaskBrief, notes: Sequence[NoteText], said: Said) -> Action:
        answer = parsed(said.text)
        posts: list[Post] = []
        for pair in answer if isinstance(answer, list) else ():
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], list)):
                return Failed(f"is no list of [sentence, numbers]: {said.text[:80]}")
            numbers = [n for n in pair[1] if isinstance(n, int) and 1 <= n <= len(notes)]
            if not numbers or not pair[0].strip():
                continue
            used = [notes[n - 1] for n in dict.fromkeys(numbers)]
            cites = tuple(sorted({cite for note in used for cite in note.cites}))
            final = task.goal == "final"
            content: dict[str, Any] = {"values": {"statement": pair[0].strip()}}
            content |= {"count": len(used)} if final else {"quote": ""}
            posts.append(Post("finding" if final else "statement", content, cites=cites,
                              links=tuple(("derives-from", note.id) for note in used),
                              flags={} if final else {"tokens": _tokens(pair[0].strip())}))  # fmt: skip
        return Done(tuple(posts), "merged") if posts else Failed("keeps no statement with a number of its source")

    def _kept(self, notes: Sequence[NoteText]) -> Action:
        posts = [
            Post("finding", {"values": dict(note.content["values"]), "count": 1}, cites=note.cites,
                 links=(("derives-from", note.id),))
            for note in notes
        ]  # fmt: skip
        return Done(tuple(posts), "kept")

    def _ask_writer(self, material: Material) -> Action:
        notes = material.notes
        lines = "".join(f"[{n}] {claim_text(note.content['values'])}\n" for n, note in enumerate(notes, 1))
        item = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False,
                "minItems": 2, "maxItems": 2}  # fmt: skip
        findings = Part("findings", f"Findings:\n{lines}", "agent", ",".join(n.id for n in notes))
        parts = (self._question, *word_parts(material), findings)
        return CallModel(parts, {"type": "array", "items": item, "maxItems": len(notes)})

    def _written(self, notes: Sequence[NoteText], said: Said) -> Action:
        """Sentences that code can vouch for: every value of the finding stands in it, and no value of any other."""
        answer = parsed(said.text)
        if not isinstance(answer, list):
            return Failed(f"is no list of [sentence, number]: {said.text[:80]}")
        posts = []
        for pair in answer:
            text, number = pair if isinstance(pair, list) and len(pair) == 2 else ("", 0)
            if isinstance(text, str) and isinstance(number, int) and 1 <= number <= len(notes):
                note = notes[number - 1]
                status = "" if stated(text, note.content["values"], self.spec.question) else "rejected"
                posts.append(Post("sentence", {"text": text.strip()}, status, links=(("states", note.id),)))
        return Done(tuple(posts), "written" if any(not post.status for post in posts) else "none")


def _numbered(number: int, statement: str) -> str:
    """A statement as a reducer is shown it."""
    return f"[{number}] {statement}\n"


def _tokens(statement: str) -> int:
    """Tokens that a statement takes of a reducer's prompt, by an estimate that is seldom too low."""
    return ApproximateTokenizer().count(_numbered(WIDEST, statement))


def _cut(ids: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(ids[at : at + size]) for at in range(0, len(ids), size)]


def create(spec: JobSpec) -> MapReduce:
    """Builds the protocol for a job.

    Raises:
        SpecError: an option is unknown or wrong.
    """
    try:
        options = Options.model_validate(spec.protocol.options)
    except ValidationError as error:
        raise SpecError(*explain(error, Options, "protocol.options")) from None
    return MapReduce(spec, options)
