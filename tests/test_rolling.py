"""rolling: one agent that reads passage after passage, by stepping its turns and in whole runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from swarm import events as ev
from swarm.agents.roles import find_role
from swarm.board import Board
from swarm.errors import SpecError
from swarm.events import Event
from swarm.protocol import (
    WORD,
    AddNote,
    AddTask,
    CallModel,
    Done,
    Failed,
    Finish,
    Material,
    NoteText,
    Said,
    TaskBrief,
    TaskView,
    View,
    Word,
    create_protocol,
)
from tests.simulated import ROLLING, passage, simulate, spec

PASSAGES = tuple(passage(number) for number in range(3))
SAID = [
    json.dumps([["f0", "ValueError", "raise ValueError(0)"]]),
    json.dumps([["f1", "KeyError", "raise KeyError(1)"]]),
    "[]",
]


def play(transcript: Sequence[str], role: str = "notetaker") -> Any:
    said = [Said(turn, text) for turn, text in enumerate(transcript)]
    protocol, _ = create_protocol(spec(**ROLLING))
    return protocol.turn(TaskBrief("t", role, "", 1), Material(PASSAGES), said)


def test_each_turn_shows_what_was_said_before_and_the_next_passage() -> None:
    first, third = play([]), play(SAID[:2])
    assert isinstance(first, CallModel) and [part.kind for part in first.parts][-2:] == ["breadcrumb", "span"]
    turns = [part for part in third.parts if part.kind == "turn"]
    assert [(part.speaker, part.trust, part.origin) for part in turns] == [
        ("user", "corpus", "s:0"),
        ("assistant", "agent", "s:0"),
        ("user", "corpus", "s:1"),
        ("assistant", "agent", "s:1"),
    ]
    assert [part.text for part in turns if part.speaker == "assistant"] == SAID[:2]
    assert third.parts[-1].text == PASSAGES[2].text


def test_what_a_person_says_becomes_a_note_that_each_later_turn_shows() -> None:
    protocol, _ = create_protocol(spec(**ROLLING))
    word = Event(9, 0.0, 1, 0, "", ev.PersonSaid(body="b", by="ada", message="m"))
    decision = protocol.react({"phase": "read"}, word, View(spec(**ROLLING), 3, 1, Board(), {"notetaker": 1}, None, False, 0))
    assert decision.commands == [AddNote(WORD, "b")] and protocol.note_kinds[WORD] is Word
    assert find_role("notetaker", {})[0].hears
    said = NoteText("w", WORD, {"text": "skip the tests", "by": "ada"}, (), {}, "")
    for transcript in ([], SAID[:1]):
        turns = [Said(turn, text) for turn, text in enumerate(transcript)]
        asked: Any = protocol.turn(TaskBrief("t", "notetaker", "", 1), Material(PASSAGES, (), {}, (said,)), turns)
        (part,) = [part for part in asked.parts if part.kind == WORD]
        assert (part.text, part.trust, part.train) == ("A person says: skip the tests\n", "person", False)


def test_the_notes_come_at_the_end_each_with_its_own_passage() -> None:
    done = play(SAID)
    assert isinstance(done, Done) and done.outcome == "rows"
    assert [post.cites[0][0] for post in done.notes] == [0, 1]
    assert play(["[]", "[]", "[]"]) == Done((), "none")


def test_a_turn_that_breaks_its_contract_fails_the_attempt_and_no_other_turn() -> None:
    assert isinstance(play([SAID[0], "babble"]), Failed)
    assert isinstance(play(["babble", SAID[1]]), CallModel), "an earlier one was accepted when it came"


def react(body: Any, ended: TaskView | None, board: Board, open: dict[str, int]) -> Any:
    protocol, _ = create_protocol(spec(**ROLLING))
    view = View(spec(**ROLLING), 9, 1, board, open, ended, ended is None)
    return protocol.react({"phase": "read"}, Event(9, 1.0, 1, 0, "", body), view)


def test_passages_are_dealt_out_in_runs_with_a_call_for_each() -> None:
    protocol, _ = create_protocol(spec(**ROLLING))
    tasks = protocol.start(View(spec(**ROLLING), 9, 1, Board(), {}, None, False)).commands
    assert tasks == [
        AddTask("notetaker", spans=(0, 1, 2, 3), calls=4), AddTask("notetaker", spans=(4, 5, 6, 7), calls=4),
        AddTask("notetaker", spans=(8,), calls=1),
    ]  # fmt: skip


def test_rows_are_reduced_when_the_last_agent_has_ended() -> None:
    board = Board()
    for number, kind in enumerate(["row", "rejected"]):
        board.post(ev.NotePosted(note=f"n{number}", kind=kind, task="t", body="", cites=((0, 0, 1),)), number + 1)
    ended = TaskView("t", "notetaker", "", (0,), (), "rows")
    finished = ev.TaskFinished(task="t", token=1, outcome="rows", notes=2)
    assert react(finished, ended, board, {"notetaker": 1}).commands == ()
    reducer = AddTask("reducer", query=("row", "unchecked", 0), calls=0)
    assert react(finished, ended, board, {}).commands == [reducer]
    reached = ev.BudgetReached(limit="calls", allowed=1, spent=1)
    assert react(reached, None, board, {"notetaker": 2}).commands == [reducer]
    stopped = ev.BudgetReached(limit="calls", allowed=1, spent=1, role="notetaker", closing=False)
    assert react(stopped, None, board, {"notetaker": 2}).commands == ()
    assert react(finished, TaskView("t", "reducer", "", (), (), "set"), board, {}).commands == [Finish()]


def test_an_agent_that_fails_costs_its_own_passages() -> None:
    one = simulate(changes=ROLLING, hosts=1)
    scripted = one.answer
    one.answer = lambda text: "babble" if "def f5" in text else scripted(text)
    one.run(500)
    assert one.state.status == "done" and [row[2] for row in one.state.failed] == [(4, 5, 6, 7)]
    rows = [content["values"]["function"] for _, content, _, _ in one.findings()]
    assert rows == ["f0", "f1", "f2", "f2", "f8", "f8"]


@pytest.mark.parametrize("calls", [1, 5, 6, 7, 13, 30])
def test_a_budget_of_calls_is_kept_by_agents_of_many_turns(calls: int) -> None:
    one = simulate(changes={**ROLLING, "budget": {"calls": calls, "reserve": 0.0}}, hosts=2)
    one.run(500)
    assert one.ended and one.state.total().calls <= calls
    assert one.state.status == ("done" if calls >= 13 else "budget"), "what was set aside is freed in time"


def test_statements_are_refused() -> None:
    with pytest.raises(SpecError, match="not statements"):
        create_protocol(spec(answer={"statements": True}, protocol="rolling"))


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(SpecError, match="passages"):
        create_protocol(spec(protocol={"name": "rolling", "options": {"passages": 0}}))
