"""map_reduce: each role's turn, each step of the decision, and whole runs in which one role after another fails."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from swarm import events as ev
from swarm.board import Board
from swarm.errors import SpecError
from swarm.events import Event
from swarm.protocol import (
    AddRange,
    AddTask,
    CallModel,
    Command,
    Decision,
    Done,
    Failed,
    Finish,
    Judge,
    Material,
    NoteText,
    Post,
    Said,
    SwarmProtocol,
    TaskBrief,
    TaskView,
    View,
    create_protocol,
)
from swarm.testing.simulator import STORM, Simulation
from swarm.window.tokens import ApproximateTokenizer
from tests.simulated import PROSE, answer, passage, roles_of, simulate, spec

STEPS = 1500
MAP_REDUCE: Mapping[str, Any] = {}
Answer = Callable[[str], str]


def made(**changes: Any) -> SwarmProtocol:
    return create_protocol(spec(**changes))[0]


def play(role: str, material: Material, said: str | None = None, goal: str = "", **changes: Any) -> Any:
    transcript = [] if said is None else [Said(0, said)]
    return made(**changes).turn(TaskBrief("t", role, goal, 1), material, transcript)


def text_of(action: Any) -> str:
    assert isinstance(action, CallModel)
    return "".join(part.text for part in action.parts)


def note(id: str, kind: str = "row", cite: tuple[int, int, int] = (0, 13, 31), **values: str) -> NoteText:
    return NoteText(id, kind, {"values": values, "quote": "raise ValueError(0)"}, (cite,), {}, "supported")


# ---- turns ----


def test_a_planner_sees_the_inventory_and_answers_task_and_merge() -> None:
    facts = {"documents": 2, "spans": 9, "paths": ["a.py", "b.py", "c.py", "d.py"]}
    asked = text_of(play("planner", Material(facts=facts)))
    assert asked.startswith("Question: Which function raises which exception?\nColumns: function = ")
    assert asked.endswith("Input: 2 documents, 9 passages, such as a.py, b.py, c.py\n")
    planned = play("planner", Material(facts=facts), '["aggregate","count"]')
    assert planned == Done((Post("plan", {"task": "aggregate", "merge": "count"}),), "count")


@pytest.mark.parametrize(
    "said", ["", "[]", '["search"]', '["search","join"]', '["x","set"]', '{"0":1}', "[1,2]", "null"]
)
def test_what_is_no_plan_fails(said: str) -> None:
    assert isinstance(play("planner", Material(facts={"documents": 1, "spans": 1, "paths": []}), said), Failed)


def test_a_reader_sees_one_passage_and_its_rows_are_checked() -> None:
    material = Material((passage(0),))
    asked = play("reader", material)
    assert text_of(asked).endswith("Passage: simulated.py > f0\ndef f0():\n    raise ValueError(0)\n")
    assert [part.trust for part in asked.parts] == ["operator", "operator", "corpus", "corpus"]
    rows = [["f0", "ValueError", "raise ValueError(0)"], ["f1", "ValueError", "raise ValueError(0)"]]
    found = play("reader", material, json.dumps(rows))
    assert [post.kind for post in found.notes] == ["row", "rejected"] and found.outcome == "rows"
    assert [post.verdict for post in found.notes] == ["", ""], "a verifier says it"
    assert play("reader", material, json.dumps(rows[1:])).outcome == "rejected"
    assert play("reader", material, "[]") == Done((), "none")
    assert isinstance(play("reader", material, "f0 raises"), Failed)


def test_a_verifier_sees_claim_quote_and_what_stands_around() -> None:
    material = Material((passage(0),), (note("n", function="f0", exception="ValueError"),))
    assert text_of(play("verifier", material)).splitlines()[1:] == [
        "Passage: simulated.py > f0",
        "def f0():",
        "    raise ValueError(0)",
        "",
        "Claim: function = f0; exception = ValueError",
        "Quote: raise ValueError(0)",
        "Does the passage support the claim?",
    ]
    assert play("verifier", material, '"yes"') == Done((), "yes") and play("verifier", material, '"no"') == Done(
        (), "no"
    )
    assert all(isinstance(play("verifier", material, said), Failed) for said in ("yes", '"maybe"', "", "true"))


def test_the_reduction_is_code_and_its_findings_rest_on_their_rows() -> None:
    rows = (note("a", function="f", exception="V"), note("b", function="f", exception="V"),
            note("c", function="g", exception="V", cite=(1, 5, 9)))  # fmt: skip
    merged = play("reducer", Material(notes=rows), goal="merge:set")
    assert isinstance(merged, Done) and merged.outcome == "set"
    first, second, head = merged.notes
    assert (first.content["values"], first.content["count"]) == ({"function": "f", "exception": "V"}, 2)
    assert first.links == (("derives-from", "a"), ("derives-from", "b")) and second.flags == {"rank": 1}
    assert (head.kind, head.content["values"]) == ("headline", {"exception": "V", "count": "2"})
    assert play("reducer", Material(), goal="merge:count") == Done((), "count")


def test_a_writers_sentences_stand_only_if_they_state_their_finding_and_nothing_else() -> None:
    findings = (
        note("a", "headline", exception="ValueError", count="3"),
        note("b", "headline", exception="OSError", count="1"),
    )
    material = Material(notes=findings)
    assert text_of(play("writer", material)).endswith(
        "Findings:\n[1] exception = ValueError; count = 3\n[2] exception = OSError; count = 1\n"
    )
    said = [
        ["ValueError is raised 3 times.", 1],
        ["KeyError and OSError, 1.", 2],
        ["No such number", 7],
        "no pair",
        ["x"],
    ]
    written = play("writer", material, json.dumps(said))
    assert [(post.status, post.links) for post in written.notes] == [
        ("", (("states", "a"),)),
        ("rejected", (("states", "b"),)),
    ]
    assert written.outcome == "written"
    assert play("writer", material, json.dumps(said[1:])).outcome == "none"
    assert isinstance(play("writer", material, "{}"), Failed)


def test_a_prose_reducer_keeps_the_numbers_of_what_it_merged() -> None:
    notes = tuple(note(f"n{n}", statement=f"said {n}", cite=(n, 0, 5)) for n in range(3))
    said = json.dumps([["All agree.", [3, 1, 3, 9]], ["Nothing behind it.", []], ["  ", [1]]])
    merged = play("reducer", Material(notes=notes), said, goal="level:1", **PROSE)
    (post,) = merged.notes
    assert post.kind == "statement" and post.links == (("derives-from", "n2"), ("derives-from", "n0"))
    assert post.cites == ((0, 0, 5), (2, 0, 5))
    assert play("reducer", Material(notes=notes), said, goal="final", **PROSE).notes[0].kind == "finding"
    for wrong in ("[]", "no", '["All agree."]', '[["All agree.", 1]]', json.dumps([["Nothing", []]])):
        assert isinstance(play("reducer", Material(notes=notes), wrong, goal="final", **PROSE), Failed)
    kept = play("reducer", Material(notes=notes), goal="keep", **PROSE)
    assert [post.content["values"]["statement"] for post in kept.notes] == ["said 0", "said 1", "said 2"]


@pytest.mark.parametrize("options", [{"span_tokens": 1}, {"headlines": 9}, {"no_such": 1}, {"group": 1}], ids=str)
def test_a_wrong_option_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(options))):
        made(protocol={"name": "map_reduce", "options": options})


# ---- decisions ----


def view(board: Board, ended: TaskView | None = None, open: Mapping[str, int] | None = None, **changes: Any) -> View:
    return View(spec(**changes), 9, 1, board, open or {}, ended, ended is None)


def react(
    state: dict[str, Any],
    role: str = "",
    outcome: str = "",
    board: Board | None = None,
    changes: Any = None,
    **how: Any,
) -> Decision:
    """What the protocol answers to the end of a task, or, without a role, to the end of the budget."""
    ended = TaskView("t", role, how.pop("goal", ""), (), how.pop("reads", ()), outcome) if role else None
    body: Any = ev.BudgetReached(limit="tokens", allowed=1, spent=1, closing=how.pop("closing", True))
    if role:
        body = ev.TaskFinished(task="t", token=1, outcome=outcome, notes=0)
    seen = view(board or Board(), ended, how.pop("open", None), **(changes or {}))
    return made(**(changes or {})).react(state, Event(5, 1.0, 1, 0, "", body), seen)


def posted(*verdicts: str) -> Board:
    board = Board()
    for number, verdict in enumerate(verdicts):
        id = f"n{number}"
        cites = ((number, 0, 1),)
        board.post(ev.NotePosted(note=id, kind="row", task=f"r{number}", body=id, cites=cites), number + 1)
        if verdict:
            board.judge(ev.NoteJudged(note=id, verdict=verdict, task="v"))
    return board


def only(decision: Decision) -> Command:
    (command,) = decision.commands
    return command


def test_a_job_begins_with_a_planner_unless_the_merge_is_given() -> None:
    assert only(made().start(view(Board()))) == AddTask("planner")
    answer = {"columns": {"a": "b"}, "merge": "join"}
    begun = made(answer=answer).start(view(Board(), answer=answer))
    assert only(begun) == AddRange("reader", 0, 9) and begun.state["merge"] == "join"
    assert only(made(**PROSE).start(view(Board(), **PROSE))) == AddRange("reader", 0, 9)


@pytest.mark.parametrize(("outcome", "merge"), [("count", "count"), ("group", "group"), ("failed", "set"), ("", "set")])
def test_the_planners_answer_is_used_and_without_one_rows_are_a_set(outcome: str, merge: str) -> None:
    decision = react({"phase": "plan"}, "planner", outcome)
    assert decision.state == {"phase": "read", "merge": merge} and only(decision) == AddRange("reader", 0, 9)
    reduced = react({"phase": "read", "merge": merge}, "reader", "none")
    assert only(reduced) == AddTask("reducer", goal=f"merge:{merge}", query=("row", "supported", 0), calls=0)


def test_each_row_goes_to_a_verifier_ahead_of_further_reading() -> None:
    board = Board()
    for number, kind in enumerate(["row", "rejected", "row"]):
        board.post(ev.NotePosted(note=f"n{number}", kind=kind, task="t", body="", cites=((4, number, 9),)), number + 1)
    decision = react({"phase": "read"}, "reader", "rows", board, open={"reader": 3})
    assert decision.commands == [
        AddTask("verifier", spans=(4,), reads=("n0",), priority=-1),
        AddTask("verifier", spans=(4,), reads=("n2",), priority=-1),
    ]
    unverified = {"protocol": {"name": "map_reduce", "options": {"verify": False}}}
    decision = react({"phase": "read"}, "reader", "rows", board, unverified, open={"reader": 3})
    assert not decision.commands, "nobody judges them: they were posted as unchecked"


@pytest.mark.parametrize(
    ("outcome", "verdict"), [("yes", "supported"), ("no", "unsupported"), ("failed", "unchecked"), ("", "unchecked")]
)
def test_a_verdict_is_put_on_the_row(outcome: str, verdict: str) -> None:
    decision = react({"phase": "read"}, "verifier", outcome, reads=("n7",), open={"verifier": 1})
    assert only(decision) == Judge("n7", verdict, "t")


def test_the_reduction_begins_when_nothing_is_left_to_read_or_judge() -> None:
    assert react({"phase": "read"}, "reader", "none", open={"reader": 1}).commands == []
    assert react({"phase": "read"}, "reader", "none", open={"verifier": 1}).commands == []
    judged, reduce = react({"phase": "read"}, "verifier", "yes", reads=("n0",)).commands
    assert isinstance(judged, Judge) and isinstance(reduce, AddTask) and reduce.role == "reducer"


@pytest.mark.parametrize("changes", [MAP_REDUCE, PROSE])
def test_a_job_whose_rows_nobody_could_judge_fails_and_one_judged_row_is_enough(changes: dict[str, Any]) -> None:
    board = posted("unchecked", "")
    decision = react({"phase": "read"}, "verifier", "failed", board, changes, reads=("n1",))
    assert decision.commands == [Judge("n1", "unchecked", "t"), Finish("failed", "unverified:verifier")]
    assert react({"phase": "read"}, "verifier", "no", board, changes, reads=("n1",)).commands[1] != decision.commands[1]
    others = posted("unsupported", "")
    assert react({"phase": "read"}, "verifier", "failed", others, changes, reads=("n1",)).commands[1] != decision.commands[1]
    assert only(react({"phase": "read"}, board=board, changes=changes)) != decision.commands[1], "the budget's end is no fault"


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("plan", AddTask("reducer", goal="merge:set", query=("row", "supported", 0), calls=0)),
        ("read", AddTask("reducer", goal="merge:set", query=("row", "supported", 0), calls=0)),
        ("write", Finish()),
        ("done", Finish()),
    ],
)
def test_the_end_of_the_budget_in_each_phase(phase: str, expected: Command) -> None:
    assert only(react({"phase": phase})) == expected


def test_the_end_of_the_budget_in_each_phase_of_prose() -> None:
    board = posted("supported", "unsupported", "", "supported")
    decision = react({"phase": "read"}, board=board, changes=PROSE)
    assert only(decision) == AddTask("reducer", goal="final", reads=("n0", "n3"))
    kept = only(react({"phase": "reduce"}, board=board, changes=PROSE))
    assert kept == AddTask("reducer", goal="keep", reads=("n0", "n3"), calls=0), "what no reducer can be paid for stays as it is"
    link = (("derives-from", "n0"),)
    board.post(ev.NotePosted(note="s", kind="statement", task="t", body="", cites=((0, 0, 1),), links=link), 9)
    kept = only(react({"phase": "reduce"}, board=board, changes=PROSE))
    assert isinstance(kept, AddTask) and kept.reads == ("n3", "s"), "and what was merged is not told twice"
    assert only(react({"phase": "read"}, changes=PROSE)) == Finish(), "nothing was found"


def test_a_role_that_stops_leaves_the_others_their_work() -> None:
    assert react({"phase": "read"}, closing=False) == Decision()


def test_the_last_verdict_counts_as_well_in_prose() -> None:
    """It is decided together with the reduction, so the board does not show it yet."""
    decision = react({"phase": "read"}, "verifier", "yes", posted("supported", ""), PROSE, reads=("n1",))
    assert decision.commands == [Judge("n1", "supported", "t"), AddTask("reducer", goal="final", reads=("n0", "n1"))]
    decision = react({"phase": "read"}, "verifier", "no", posted("supported", ""), PROSE, reads=("n1",))
    assert decision.commands[1] == AddTask("reducer", goal="final", reads=("n0",))


@pytest.mark.parametrize(
    ("tokens", "room", "groups"),
    [
        ((), 1000, [4, 1]),  # as in logs whose notes do not say it
        ((10,) * 5, 1000, [4, 1]),
        ((400, 400, 400, 100, 400), 1000, [2, 3]),
        ((400, 2000, 400, 400, 100), 1000, [1, 1, 3]),
        ((600,) * 5, 1000, []),  # nothing can be joined
    ],
)
def test_prose_is_merged_in_groups_that_fit_the_reducers_window(tokens: Sequence[int], room: int, groups: list[int]) -> None:
    board = Board()
    changes: dict[str, Any] = {**PROSE, "protocol": {"name": "map_reduce", "options": {"verify": False, "group": 4}}}
    for number in range(5):
        flags: dict[str, Any] = {"tokens": tokens[number]} if tokens else {}
        cites = ((number, 0, 1),)
        posted = ev.NotePosted(
            note=f"n{number}", kind="row", task="t", body=f"n{number}", cites=cites, flags=flags, verdict="unchecked"
        )
        board.post(posted, number + 1)
    ended = TaskView("t", "reader", "", (), (), "rows")
    seen = replace(view(board, ended, **changes), room={"reducer": room + 8})
    event = Event(5, 1.0, 1, 0, "", ev.TaskFinished(task="t", token=1, outcome="rows", notes=0))
    tasks = [one for one in made(**changes).react({"phase": "read"}, event, seen).commands if isinstance(one, AddTask)]
    ids = [id for task in tasks for id in task.reads]
    assert ids == [f"n{number}" for number in range(5)], "each once, in the order of the text"
    assert [len(task.reads) for task in tasks if task.goal != "keep"] == groups


def test_a_statement_says_how_much_of_a_reducers_window_it_takes() -> None:
    row = play("reader", Material(passages=(passage(0),)), json.dumps([["It raises.", "raise ValueError(0)"]]), **PROSE)
    notes = (note("n0", statement="short", cite=(0, 0, 5)), note("n1", statement="longer than that", cite=(1, 0, 5)))
    merged = play("reducer", Material(notes=notes), json.dumps([["It raises.", [1, 2]]]), goal="level:1", **PROSE)
    taken = ApproximateTokenizer().count("[12] It raises.\n")
    assert all(taken <= post.flags["tokens"] <= taken + 1 for post in (*row.notes, *merged.notes))


def test_after_the_reduction_a_writer_or_the_end() -> None:
    board = Board()
    assert only(react({"phase": "reduce"}, "reducer", "set", board)) == Finish()
    board.post(ev.NotePosted(note="h", kind="headline", task="t", body=""), 1)
    assert only(react({"phase": "reduce"}, "reducer", "set", board)) == AddTask("writer", query=("headline", "", 6))
    assert only(react({"phase": "write"}, "writer", "failed", board)) == Finish()
    lost = only(react({"phase": "reduce"}, "reducer", "failed", board))
    assert isinstance(lost, Finish) and lost.status == "failed", "an answer without its rows is no answer"


def test_what_a_step_of_prose_writes_does_not_grow_with_the_steps_before_it() -> None:
    state = {"phase": "reduce", "level": 1, "groups": 500, "left": 400}
    state |= {f"merged:{number}": ["a", "b", "c"] for number in range(100)}
    decision = react(state, "reducer", "merged", changes=PROSE, goal="level:1", reads=("x", "y"))
    assert decision.state == {"left": 399, "merged:t": ["x", "y"]} and not decision.commands


# ---- whole runs ----


def failing(role: str) -> Answer:
    """The scripted answers, but one role only babbles."""
    marks = {"planner": "\nInput: ", "verifier": "\nClaim: ", "writer": "\nFindings:\n", "reducer": "\nStatements:\n"}

    def said(text: str) -> str:
        reads = "\nPassage: " in text and "\nClaim: " not in text
        return "babble" if (reads if role == "reader" else marks[role] in text) else answer(text)

    return said


def ran(said: Answer = answer, passages: int = 9, seed: int = 0, **changes: Any) -> Simulation:
    protocol = made(**changes)
    texts = [passage(number) for number in range(passages)]
    one = Simulation(spec(**changes), protocol, roles_of(protocol.roles), texts, said, seed, hosts=2)
    one.run(STEPS)
    assert one.ended
    return one


def found(one: Simulation) -> list[Any]:
    return [content["values"] for kind, content, _, _ in one.findings() if kind == "finding"]


@pytest.mark.parametrize(
    ("role", "findings", "sentences"),
    [("planner", 10, True), ("reader", 0, False), ("verifier", 0, False), ("writer", 10, False)],
)
def test_a_role_that_only_fails_costs_what_it_does_and_no_more(role: str, findings: int, sentences: bool) -> None:
    one = ran(failing(role))
    assert one.state.status == ("failed" if role in ("reader", "verifier") else "done"), "nothing read or judged is no answer"
    assert {row[1] for row in one.state.failed} == {role}
    assert len(found(one)) == findings and bool(one.state.board.count("sentence")) == sentences
    if role == "verifier":
        assert one.state.board.count("row", "unchecked") == 10, "what could not be judged is still there, and marked"
        assert one.state.reason.startswith("unverified:") and not one.state.finished["reducer"]


def test_no_rows_at_all() -> None:
    one = ran(lambda text: "[]" if "\nPassage: " in text else answer(text))
    assert one.state.status == "done" and not one.findings() and one.state.finished["writer"] == 0
    prose = ran(lambda text: "[]", **PROSE)
    assert prose.state.status == "done" and not prose.findings() and prose.state.finished["reducer"] == 0


def test_a_verifier_that_says_no_keeps_rows_out() -> None:
    one = ran(lambda text: '"no"' if "\nClaim: " in text and "KeyError" in text else answer(text))
    assert {row["exception"] for row in found(one)} == {"ValueError", "OSError", "TypeError"}
    assert one.state.board.count("row", "unsupported") == 2


def merging(text: str) -> str:
    """A prose reducer that makes one sentence of each pair of statements."""
    if "\nStatements:\n" not in text:
        return answer(text)
    count = text.partition("\nStatements:\n")[2].count("\n")
    return json.dumps([[f"merged {count}.", [n, n + 1]] for n in range(1, count + 1, 2)])


def rests_on(one: Simulation) -> set[int]:
    """Spans that the findings go back to."""
    board = one.state.board
    return {span for finding in board.notes("finding") for span, _, _ in board.spans(finding.id)}


RAISING = {number for number in range(30) if number % 4 != 3}


def test_prose_is_merged_in_groups_as_a_tree_and_loses_no_source() -> None:
    one = ran(merging, passages=30, **PROSE)
    added = [event.body for event in one.log if isinstance(event.body, ev.TaskAdded)]
    goals = Counter(task.goal for task in added if task.role == "reducer")
    assert len(goals) >= 4 and goals["final"] == 1 and list(goals.values()) == sorted(goals.values(), reverse=True)
    assert rests_on(one) == RAISING and one.state.status == "done"
    assert not [key for key in one.state.memory if key.startswith("merged:")]


def test_a_group_that_fails_goes_up_unmerged() -> None:
    one = ran(lambda text: "babble" if "] f4\n" in text else merging(text), passages=30, **PROSE)
    assert len(one.state.failed) > 1 and rests_on(one) == RAISING


@pytest.mark.parametrize("said", [failing("reducer"), answer], ids=["fails", "merges nothing"])
def test_prose_that_no_model_merges_is_kept_word_for_word_and_ends(said: Answer) -> None:
    one = ran(said, passages=30, **PROSE)
    assert one.state.status == "done" and rests_on(one) == RAISING
    assert one.state.board.count("finding") == len(RAISING)


def test_the_last_group_is_kept_as_it_is_when_its_reducer_fails() -> None:
    one = ran(failing("reducer"), passages=4, **PROSE)
    assert [row[1] for row in one.state.failed] == ["reducer"] and one.state.status == "done"
    assert [row["statement"] for row in found(one)] == ["f0", "f1", "f2"]


def test_prose_without_money_for_merging_keeps_what_it_has() -> None:
    budget = {"calls": 40, "reserve": 0.05}
    one = ran(merging, passages=30, budget=budget, **PROSE)
    assert one.state.status == "budget" and one.state.board.count("finding")
    supported = {note.id for note in one.state.board.notes("row", "supported")}
    board = one.state.board
    under = {note.id for finding in board.notes("finding") for note in board.provenance(finding.id)}
    assert supported <= under, "every supported statement is in the answer"


@pytest.mark.parametrize("calls", range(3, 30, 3))
def test_wherever_the_budget_ends_the_answer_is_written_from_what_there_is(calls: int) -> None:
    one = ran(budget={"calls": calls, "reserve": 0.2})
    assert one.state.status in ("budget", "done") and one.state.total().calls <= calls
    assert len(found(one)) == one.state.board.count("row", "supported")


@pytest.mark.parametrize("merge", ["set", "count", "group", "top-k", "join"])
def test_merges_do_not_depend_on_who_finished_first(merge: str) -> None:
    columns = {"function": "name", "exception": {"description": "class", "found_in": "quote"}}
    changes: dict[str, Any] = {"answer": {"columns": columns, "merge": merge, "by": "exception"}}
    expected = ran(**changes).findings()
    assert expected
    for seed in range(4):
        disturbed = simulate(seed, STORM, changes=changes)
        disturbed.run(STEPS)
        assert disturbed.findings() == expected
