"""What people say to a job that is over its budget: it is heard at once and once, and acted on when the job gets more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swarm import events as ev
from swarm.coordinator import Grant, Phase, Report
from swarm.coordinator.snapshot import pack, unpack
from swarm.errors import ProtocolError
from swarm.events import Event, body_hash
from swarm.protocol import WORD, AddNote, AddRange, AddTask, Ask, Decision, Finish, View
from swarm.report import render
from swarm.runtime.people import attend
from swarm.store.folder import read_status
from swarm.testing.invariants import state_digest
from swarm.testing.simulator import STORM
from tests.desk import Desk, Plain, called, done
from tests.jobs import events_of, resume, run, state_of
from tests.peopled import SAID, Peopled
from tests.simulated import simulate
from tests.test_protocol_fails import MENDED, REACT, broken, spec as protocol_spec

ASKING = {"engine": "scripted", "name": "raises", "in_doubt": "ask"}


def then(view: View, event: Event) -> Decision:
    """The end has two steps, so that something can happen between them. Whatever a person says is two passages more."""
    body = event.body
    if isinstance(body, ev.BudgetReached):
        return Decision({"phase": "write"}, [AddTask("writer", calls=1)])
    if isinstance(body, ev.PersonSaid):
        return Decision({"told": True}, [AddRange("reader", 6, 8), AddNote(WORD, body.body)])
    if isinstance(body, ev.ApprovalAnswered):
        return Decision({"verdict": body.verdict, "answer": body.answer}, [AddRange("reader", 6, 8)])
    if view.ended and view.ended.role == "writer":
        return Decision({}, [AddTask("clerk", calls=0)])
    if view.ended and view.ended.role == "clerk":
        return Decision({}, [Finish()])
    return Decision() if any(view.open.values()) else Decision({}, [Finish()])


def desk_of(*commands: Any, calls: int = 8, reserve: float = 0.3, **changes: Any) -> Desk:
    first = commands or (AddRange("reader", 0, 6),)
    return Desk(Plain(*first, then=then), budget={"calls": calls, "reserve": reserve}, **changes)


def worked(desk: Desk, until: str = "") -> Grant | None:
    """Works until nothing is left to do, or until a task of a role is held: that one, with its call on the way."""
    while grants := desk.pull():
        (grant,) = grants
        began, ended = called(grant)
        began = began.model_copy(update={"key": f"k{grant.task}", "sampling": {"max_tokens": 50}})
        if grant.role == "clerk":
            desk.pull(done(grant), want=0)
            continue
        desk.pull(Report(grant.task, grant.token, (began,)), want=0)
        if grant.role == until:
            assert desk.state.closing is not None
            return grant
        desk.pull(done(grant, ended), want=0)
    return None


def finish(desk: Desk, grant: Grant) -> None:
    desk.pull(done(grant, called(grant)[1]), want=0)
    worked(desk)
    assert (desk.state.phase, desk.state.status) == (Phase.PAUSED, "budget")


def more(desk: Desk) -> Desk:
    """The job is taken up with as much as it needs, from a state that went through a snapshot."""
    held = unpack(*pack(desk.state))
    assert state_digest(held) == state_digest(desk.state)
    desk.resumed()
    desk.keep(desk.core.change_budget(desk.now, "ada", {"calls": None}))
    assert desk.state.phase is Phase.WORKING and desk.state.closing is None
    return desk


def say(desk: Desk) -> list[Event]:
    return desk.keep(desk.core.told(desk.now, body_hash(SAID), "ann", "m1"))


def reply(desk: Desk, verdict: str = "approved", **given: str) -> list[Event]:
    (question,) = desk.state.questions
    return desk.keep(desk.core.answered(desk.now, ev.ApprovalAnswered(question=question, verdict=verdict, by="ann", **given)))


@pytest.mark.parametrize("resting", [False, True], ids=["while the end is written", "while it rests"])
def test_a_word_is_heard_once_and_acted_on_when_there_is_more(resting: bool) -> None:
    desk = desk_of()
    writer = worked(desk, until="writer")
    assert writer is not None
    if resting:
        finish(desk, writer)
    assert [event.kind for event in say(desk)] == ["PersonSaid"] and not say(desk)
    if not resting:
        finish(desk, writer)
    assert "told" not in desk.state.memory and not say(desk)
    more(desk)
    assert desk.state.memory == {"started": True, "phase": "work", "told": True} and desk.state.board.count(WORD) == 1
    assert desk.protocol.seen.count(("PersonSaid", "")) == 1 and not say(desk)
    caused = next(event for event in desk.log if isinstance(event.body, ev.NotePosted)).cause
    assert isinstance(desk.log[caused - 1].body, ev.PersonSaid)
    worked(desk)
    assert desk.state.status == "done" and desk.state.readings == 8


@pytest.mark.parametrize("resting", [False, True], ids=["while the end is written", "while it rests"])
@pytest.mark.parametrize("verdict", ["approved", "rejected", "lapsed"])
def test_an_answer_is_heard_once_and_acted_on_when_there_is_more(verdict: str, resting: bool) -> None:
    desk = desk_of(Ask("Two more?", ("yes", "no"), default="no", seconds=60), AddRange("reader", 0, 6))
    writer = worked(desk, until="writer")
    assert writer is not None
    if resting:
        finish(desk, writer)
    if verdict == "lapsed":
        desk.keep(desk.core.lapse(desk.now + 60))
    else:
        reply(desk, verdict, answer="no", message="m1")
    assert desk.kinds()[-1] == "ApprovalAnswered" and not desk.state.questions, "nobody is asked again"
    if not resting:
        finish(desk, writer)
    assert "verdict" not in desk.state.memory
    more(desk)
    assert (desk.state.memory["verdict"], desk.state.memory["answer"]) == (verdict, "no")
    worked(desk)
    assert desk.state.status == "done" and desk.state.readings == 8


def test_what_people_said_is_acted_on_in_its_order_and_not_after_the_end() -> None:
    def ends(view: View, event: Event) -> Decision:
        return Decision({}, [Finish("cancelled")]) if isinstance(event.body, ev.ApprovalAnswered) else then(view, event)

    desk = desk_of(Ask("Go on?"), AddRange("reader", 0, 6))
    desk.protocol.then = ends
    worked(desk)
    reply(desk)
    say(desk)
    desk.resumed()
    desk.keep(desk.core.change_budget(desk.now, "ada", {"calls": None}))
    assert desk.state.status == "cancelled" and ("PersonSaid", "") not in desk.protocol.seen


def test_a_question_that_nobody_answers_while_the_job_rests_is_still_open_with_more() -> None:
    desk = desk_of(Ask("Two more?"), AddRange("reader", 0, 6))
    worked(desk)
    more(desk)
    assert len(desk.state.questions) == 1
    reply(desk)
    assert desk.state.memory["verdict"] == "approved", "and is answered at once then"


def test_a_job_that_rests_with_words_ends_by_order() -> None:
    desk = desk_of()
    worked(desk)
    say(desk)
    desk.resumed()
    desk.keep(desk.core.end(desk.now, "cancelled", "enough"))
    assert desk.state.status == "cancelled" and ("PersonSaid", "") not in desk.protocol.seen


def test_a_protocol_that_fails_over_what_was_said_leaves_the_job_as_it_was() -> None:
    desk = desk_of()
    worked(desk)
    say(desk)

    def broken(view: View, event: Event) -> Decision:
        raise ValueError("no")

    desk.protocol.then = broken
    desk.resumed()
    with pytest.raises(ProtocolError, match="PersonSaid"):
        desk.core.change_budget(desk.now, "ada", {"calls": None})
    desk.protocol.then = then
    assert more(desk).state.memory["told"], "none of it was durable, and a mended one hears of it"


def test_a_budget_that_was_changed_without_the_protocol_has_it_hear_what_was_said_at_the_start() -> None:
    """As in a fork that has another budget."""
    desk = desk_of()
    worked(desk)
    say(desk)
    desk.keep(desk.core.record(desk.now, ev.BudgetChanged(who="ada", old={"calls": 8}, new={"calls": None})))
    for _ in range(2):
        desk.resumed()
        desk.keep(desk.core.start(desk.now))
    assert desk.state.memory["told"] and desk.state.board.count(WORD) == 1 and not desk.state.kept


# ---- questions about calls in doubt ----


def doubtful() -> tuple[Desk, Grant, Grant]:
    """A desk over its budget whose first reader's call is in doubt; that reader, and the writer of the end."""
    first = AddTask("reader", spans=(0,), priority=-1, calls=1)
    desk = desk_of(first, AddRange("reader", 1, 6), calls=14, reserve=0.5, model=ASKING)
    reader = desk.one()
    began = called(reader)[0].model_copy(update={"key": "k", "sampling": {"max_tokens": 50}})
    desk.pull(Report(reader.task, reader.token, (began,)), want=0)
    desk.keep(desk.core.lost(desk.now, "h", "gone"))
    writer = worked(desk, until="writer")
    assert writer is not None and [row.tasks for row in desk.state.questions.values()] == [(reader.task,)]
    return desk, reader, writer


def test_with_a_yes_over_the_budget_the_task_is_done_with_more() -> None:
    desk, reader, writer = doubtful()
    reply(desk)
    finish(desk, writer)
    assert not desk.state.failed and reader.task in desk.state.tasks
    worked(more(desk))
    assert desk.state.status == "done" and desk.state.readings == 6


def test_with_a_no_over_the_budget_the_task_is_given_up_with_more() -> None:
    desk, reader, writer = doubtful()
    reply(desk, "rejected")
    finish(desk, writer)
    assert not desk.state.failed
    worked(more(desk))
    assert [(row[0], row[3]) for row in desk.state.failed] == [(reader.task, "in-doubt")]
    assert desk.state.status == "done" and desk.state.readings == 5


def lost_in_the_draft() -> Desk:
    """A desk whose end over the budget waits for an answer: the writer's call is in doubt."""
    desk = desk_of(calls=14, reserve=0.5, model=ASKING)
    assert worked(desk, until="writer")
    desk.resumed()
    assert desk.pull() == [] and desk.state.status == "budget" and len(desk.state.questions) == 1
    return desk


def test_a_question_of_the_draft_is_withdrawn_with_it() -> None:
    desk = more(lost_in_the_draft())
    assert not desk.state.questions and desk.last(ev.ApprovalAnswered).verdict == "withdrawn"
    worked(desk)
    assert desk.state.status == "done" and desk.state.readings == 6


def test_a_question_of_the_draft_is_answered_within_it() -> None:
    def two(view: View, event: Event) -> Decision:
        both = [AddTask("writer", calls=1), AddTask("clerk", priority=5, calls=0)]
        return Decision({}, both) if isinstance(event.body, ev.BudgetReached) else then(view, event)

    desk = desk_of(calls=14, reserve=0.5, model=ASKING)
    desk.protocol.then = two
    writer = worked(desk, until="writer")
    assert writer is not None
    desk.resumed()
    assert desk.one().role == "clerk" and len(desk.state.questions) == 1
    reply(desk)
    assert desk.one().task == writer.task


def test_a_question_about_the_draft_asks_about_no_other_task() -> None:
    desk, _, writer = doubtful()
    reply(desk, "rejected")
    desk.resumed()
    desk.pull()
    assert [row.tasks for row in desk.state.questions.values()] == [(writer.task,)]


@pytest.mark.parametrize("verdict", ["approved", "rejected"])
def test_a_question_that_an_earlier_version_left_of_a_draft_is_answered_without_effect(verdict: str) -> None:
    desk = lost_in_the_draft()
    desk.resumed()
    desk.keep(desk.core.record(desk.now, ev.BudgetChanged(who="ada", old={"calls": 14}, new={"calls": None})))
    desk.resumed()
    reply(desk, verdict)
    assert not desk.state.questions and not desk.state.failed
    desk.core.budget = desk.core.needs.budget = desk.resumed().core.budget
    worked(desk)
    assert desk.state.status == "done" and desk.state.readings == 6


# ---- in a run ----


def test_a_run_acts_on_a_word_that_it_heard_while_it_rested_under_a_mended_protocol(tmp_path: Path) -> None:
    made = protocol_spec(tmp_path, broken(REACT, "event.kind == 'PersonSaid'"), budget={"calls": 5, "reserve": 0.2})
    folder = run(made, tmp_path / "runs", id="one")
    assert read_status(folder).status == "budget"
    folder.post("tell", json.dumps({"text": "skip the tests", "by": "ann"}))
    attend(folder, render)
    assert not folder.messages() and read_status(folder).status == "budget", "it is heard, and the job rests"
    with pytest.raises(ProtocolError, match="PersonSaid"):
        resume(folder, budget=("calls=none",))
    assert read_status(folder).status == "budget" and state_of(folder).raised == {}
    (tmp_path / "mine.py").write_text(MENDED)
    resume(folder, budget=("calls=none",))
    state = state_of(folder)
    assert state.status == "done" and state.board.count(WORD) == 1
    assert sum(isinstance(event.body, ev.PersonSaid) for event in events_of(folder)) == 1


# ---- under faults ----


def say_more(one: Peopled) -> None:
    one.bodies[body_hash(SAID)] = SAID
    one.deliver(lambda: one.core.told(one.now, body_hash(SAID), "ann", f"r{one.steps}"), "said")


def test_words_over_a_budget_are_acted_on_once_whatever_befalls_the_job() -> None:
    rests = 0
    for seed in range(12):
        one = simulate(seed, STORM, changes={"budget": {"calls": 9, "reserve": 0.2}}, make=Peopled)
        for calls in (12, 30, None, None):
            one.run_live(one.steps + 1500)
            if one.state.status != "budget":
                break
            rests += 1
            assert isinstance(one, Peopled)
            say_more(one)
            one.faults = STORM
            one.give({"calls": calls})
        assert one.state.status == "done", f"seed {seed} ends {one.state.status}: {one.state.reason}"
        said = [event.body.message for event in one.log if isinstance(event.body, ev.PersonSaid)]
        assert len(set(said)) == len(said) == one.state.board.count(WORD), f"seed {seed}"
    assert rests >= 6
