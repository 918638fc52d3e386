"""The ledger by stepping the coordinator: intents, doubts, answers that come too late, and what a budget makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from swarm import events as ev
from swarm.coordinator import Grant, Phase, Report
from swarm.coordinator.ledger import Doubt
from swarm.events import Body
from swarm.payload import decode, encode
from tests.desk import FAULT, ROLES, Desk, Plain, called, done, failed, readers

MOST = 100 + 50
"""Tokens that a call of `intent` may take: its prompt's and its output's."""


def intent(grant: Grant, turn: int = 0, sample: int = 0) -> ev.CallStarted:
    began, _ = called(grant, turn=turn, sample=sample)
    assert isinstance(began, ev.CallStarted)
    return began.model_copy(update={"key": f"{grant.task}{turn}{sample}", "sampling": {"max_tokens": 50}})


def answer(grant: Grant, turn: int = 0, sample: int = 0) -> ev.CallFinished:
    _, ended = called(grant, turn=turn, sample=sample, out=10)
    assert isinstance(ended, ev.CallFinished)
    return ended


def lost(grant: Grant, kind: str = "timeout", doubt: bool = True) -> ev.CallFailed:
    return ev.CallFailed(task=grant.task, turn=0, sample=0, kind=kind, error=FAULT, doubt=doubt)


def intended(desk: Desk, grant: Grant, *before: Body, **which: int) -> bool:
    """Brings an intent; whether the call may be made."""
    desk.pull(Report(grant.task, grant.token, (*before, intent(grant, **which))), want=0)
    return grant.token not in desk.core.refused


def doubt(desk: Desk) -> Doubt:
    return desk.state.ledger.doubt()


def test_an_intent_that_is_answered_leaves_no_doubt() -> None:
    desk = Desk(Plain(readers(1)))
    grant = desk.one()
    assert intended(desk, grant)
    desk.pull(done(grant, answer(grant)), want=0)
    assert doubt(desk) == Doubt() and desk.state.total().calls == 1 and desk.state.status == "done"


def test_an_intent_without_a_result_is_in_doubt_after_a_crash() -> None:
    desk = Desk(Plain(readers(3)))
    one, two, _ = desk.pull(want=3)
    assert intended(desk, one) and intended(desk, two)
    desk.pull(Report(one.task, one.token, (answer(one),)), want=0)
    assert doubt(desk) == Doubt(), "nobody has crashed yet"
    desk.resumed()
    assert doubt(desk) == Doubt(1, MOST), "one is answered, one was never let out"
    assert desk.state.ledger.doubts["reader"].calls == 1


def test_a_lost_hosts_open_calls_are_in_doubt() -> None:
    desk = Desk(Plain(readers(2)))
    grants = desk.pull(want=2)
    intended(desk, grants[0])
    desk.keep(desk.core.lost(desk.now, "h", "gone"))
    assert doubt(desk) == Doubt(1, MOST)
    again = desk.pull(want=2, host="i")
    assert [grant.task for grant in again] == [grant.task for grant in grants], "by default they are made again"
    assert intended(desk, again[0])
    desk.pull(*(done(grant, answer(grant)) for grant in again), want=0)
    assert doubt(desk) == Doubt(1, MOST), "what may have been paid twice stays on the account"


@pytest.mark.parametrize(("body", "calls"), [(True, 1), (False, 0)], ids=["in doubt", "surely not carried out"])
def test_a_call_that_fails_is_in_doubt_only_if_it_may_have_been_carried_out(body: bool, calls: int) -> None:
    desk = Desk(Plain(readers(1)))
    grant = desk.one()
    intended(desk, grant)
    desk.pull(failed(grant, lost(grant, doubt=body), kind="timeout"), want=0)
    assert doubt(desk).calls == calls


def test_a_fault_of_the_program_leaves_its_call_in_doubt() -> None:
    desk = Desk(Plain(readers(1)))
    grant = desk.one()
    intended(desk, grant)
    desk.pull(failed(grant, kind="crashed"), want=0)
    assert doubt(desk) == Doubt(1, MOST)


def test_the_intent_of_a_lease_that_has_ended_is_refused() -> None:
    desk = Desk(Plain(readers(1)))
    grant = desk.one()
    desk.keep(desk.core.lost(desk.now, "h", "silent"))
    assert not intended(desk, grant) and doubt(desk) == Doubt()
    desk.keep(desk.core.end(desk.now, "cancelled", "enough"))
    assert not intended(desk, desk.pull(want=1, host="i")[0] if desk.state.phase is Phase.WORKING else grant)


def test_an_answer_that_comes_too_late_is_in_the_spend_and_in_doubt_no_more() -> None:
    desk = Desk(Plain(readers(1)))
    old = desk.one()
    intended(desk, old)
    desk.keep(desk.core.lost(desk.now, "h", "silent"))
    new = desk.one(host="i")
    intended(desk, new)
    late = done(old, answer(old))
    desk.pull(late, want=0)
    assert doubt(desk) == Doubt() and desk.state.ledger.strayed == Doubt(1, 110)
    desk.pull(late, want=0)
    assert desk.state.total().calls == 1, "a report that comes twice is paid for once"
    desk.pull(done(new, answer(new)), want=0)
    assert desk.state.total().calls == 2 and desk.state.finished["reader"] == 1
    desk.pull(done(new, answer(new)), want=0)
    assert desk.state.total().calls == 2, "its answer is on record"


def test_late_answers_of_models_that_nobody_bills_are_counted_as_well() -> None:
    desk = Desk(Plain(readers(1)), {**ROLES, "reader": ROLES["reader"].model_copy(update={"turns": 5})})
    old = desk.one()
    desk.pull(Report(old.task, old.token, called(old)), want=0)
    desk.keep(desk.core.lost(desk.now, "h", "silent"))
    desk.pull(Report(old.task, old.token, called(old)), Report(old.task, old.token, called(old, turn=1)), want=0)
    assert desk.state.ledger.strayed.calls == 1 and desk.state.total().calls == 2, "the first was recorded in time"


def test_what_runs_when_a_job_ends_is_on_its_account() -> None:
    desk = Desk(Plain(readers(2)))
    one, two = desk.pull(want=2)
    intended(desk, one), intended(desk, two)
    desk.keep(desk.core.end(desk.now, "cancelled", "enough"))
    assert doubt(desk) == Doubt(2, 2 * MOST)
    desk.pull(done(one, answer(one)), want=0)
    assert doubt(desk) == Doubt(1, MOST) and desk.state.total().calls == 1 and desk.state.finished["reader"] == 0


def asking() -> tuple[Desk, list[Grant]]:
    """A desk whose person wants to be asked, with two of four tasks in doubt."""
    model = {"engine": "scripted", "name": "raises", "in_doubt": "ask"}
    desk = Desk(Plain(readers(4)), model=model)
    grants = desk.pull(want=4)
    intended(desk, grants[0]), intended(desk, grants[1])
    desk.resumed()
    return desk, grants


def test_whoever_wants_to_be_asked_is_asked_once_and_the_other_tasks_go_on() -> None:
    desk, grants = asking()
    others = desk.pull(want=4)
    assert [grant.task for grant in others] == [grant.task for grant in grants[2:]]
    (question,) = desk.state.questions.values()
    assert question.tasks == tuple(grant.task for grant in grants[:2])
    desk.pull(*(done(grant, *called(grant)) for grant in others), want=4)
    assert desk.state.phase is Phase.WAITING and not desk.state.failed
    desk.resumed()
    assert desk.pull(want=4) == [] and len(desk.state.questions) == 1, "asked once"


def test_with_a_yes_the_calls_are_made_again() -> None:
    desk, grants = asking()
    others = desk.pull(want=4)
    (question,) = desk.state.questions
    desk.keep(desk.core.answered(desk.now, ev.ApprovalAnswered(question=question, verdict="approved")))
    again = desk.pull(*(done(grant, *called(grant)) for grant in others), want=4)
    assert {grant.task for grant in again} == {grant.task for grant in grants[:2]} and not desk.protocol.seen[2:]
    desk.pull(*(done(grant, *called(grant)) for grant in again))
    assert desk.state.status == "done" and doubt(desk).calls == 2


def test_with_a_no_the_tasks_are_given_up_and_reported() -> None:
    desk, grants = asking()
    others = desk.pull(want=4)
    desk.pull(*(done(grant, *called(grant)) for grant in others), want=4)
    (question,) = desk.state.questions
    desk.keep(desk.core.answered(desk.now, ev.ApprovalAnswered(question=question, verdict="rejected")))
    assert [(row[0], row[3]) for row in desk.state.failed] == [(grant.task, "in-doubt") for grant in grants[:2]]
    assert desk.state.status == "done"


def test_calls_in_doubt_are_counted_into_the_budget() -> None:
    def granted(doubtful: bool) -> int:
        desk = Desk(Plain(readers()), budget={"tokens": 3 * 642, "reserve": 0.0})
        grant = desk.one()
        if doubtful:
            intended(desk, grant)
        desk.resumed()
        return len(desk.pull(want=8))

    assert (granted(False), granted(True)) == (3, 2)


def test_an_answer_from_the_cache_costs_nothing() -> None:
    desk = Desk(Plain(readers(1)))
    grant = desk.one()
    desk.pull(done(grant, answer(grant).model_copy(update={"cached": True})), want=0)
    assert desk.state.total().calls == 0 and desk.state.ledger.cached == 1


@pytest.mark.parametrize(
    ("kind", "gained"), [(ev.CallStarted, "key"), (ev.CallFinished, "cached"), (ev.CallFailed, "doubt")]
)
def test_events_of_the_first_version_are_read(kind: type[Body], gained: str) -> None:
    desk = Desk(Plain(readers(1)))
    grant = desk.one()
    bodies: dict[Any, Body] = {type(body): body for body in (*called(grant), lost(grant, doubt=False))}
    old = bodies[kind].model_copy()
    fields = dict(old.__dict__)
    del fields[gained]
    object.__setattr__(old, "__dict__", fields)
    assert decode(kind.__name__, 1, encode(old)) == bodies[kind]


@pytest.mark.parametrize("limits", [{"tokens": 3 * 642}, {"roles": {"reader": {"tokens": 3 * 642}}}], ids=["job", "role"])
def test_what_a_silent_host_may_still_spend_stays_set_aside(limits: dict[str, Any]) -> None:
    """Nobody is billed and nobody asks before a call: a budget holds only if the whole lease is reckoned with."""
    desk = Desk(Plain(readers()), budget={**limits, "reserve": 0.0})
    old = desk.one()
    desk.keep(desk.core.lost(desk.now, "h", "silent"))
    assert len(desk.pull(want=8, host="i")) == 2
    desk.pull(Report(old.task, old.token, called(old)), want=0)
    assert desk.state.ledger.unsettled().tokens == 642 - 100, "what it has spent is in the spend now"
    assert desk.state.ledger.unsettled("reader") == desk.state.ledger.unsettled() != desk.state.ledger.unsettled("writer")
    desk.resumed()
    assert desk.state.ledger.unsettled() == Doubt(), "hosts die with their master"


def test_what_a_silent_host_held_is_free_after_its_last_word() -> None:
    desk = Desk(Plain(readers()), budget={"tokens": 3 * 642, "reserve": 0.0})
    old = desk.one()
    desk.keep(desk.core.lost(desk.now, "h", "silent"))
    assert len(desk.pull(want=8, host="i")) == 2
    for _ in range(2):
        desk.pull(done(old, *called(old), *called(old, sample=1)), want=0)
        assert desk.state.ledger.unsettled() == Doubt() and desk.state.total().tokens == 200
    assert len(desk.pull(want=8, host="i")) == 0
    desk.pull(Report(old.task, old.token, called(old, turn=1)), want=0)
    assert desk.state.ledger.unsettled() == Doubt() and desk.state.total().calls == 3, "what is spent all the same is counted"
