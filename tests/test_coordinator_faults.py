"""A model that does not answer: whether the job waits, pauses, or gives a task up; by stepping the coordinator."""

from __future__ import annotations

import pytest

from swarm import events as ev
from swarm.coordinator import Grant, Phase, Report
from swarm.coordinator.faults import FIRST_ANSWER_SECONDS, FIRST_WAIT_SECONDS, MANY_TASKS, SILENT_SECONDS
from swarm.protocol import AddTask
from tests.desk import FAULT, SPANS, Desk, Plain, called, done, failed, readers


def test_a_refusal_pauses_the_job_and_every_task_stays_to_be_done() -> None:
    desk = Desk(Plain(readers(4), AddTask("writer", priority=-5), AddTask("reader", priority=-9)))
    first = desk.one()
    desk.pull(done(first, *called(first)), want=0)  # a key may also be withdrawn in the middle of a job
    desk.protocol.seen.clear()
    writer, *others = desk.pull(want=5)
    desk.pull(failed(others[0], kind="refused", retryable=False), want=5)
    assert (desk.state.phase, desk.state.reason) == (Phase.PAUSED, f"model:{FAULT}")
    desk.pull(*(failed(grant, kind="refused", retryable=False) for grant in (writer, *others[1:])))
    assert not desk.state.failed and not desk.protocol.seen
    assert desk.kinds().count("PhaseChanged") == 1
    desk.now += 200
    again = desk.resumed().pull(want=9)
    assert {grant.task for grant in again} == {grant.task for grant in (writer, *others)}
    assert again[0].role == "writer", "its priority stays as well"
    desk.pull(*(done(grant, *called(grant)) for grant in again))
    assert desk.state.status == "done" and not desk.state.failed


def test_a_model_that_never_answered_pauses_instead_of_giving_up() -> None:
    desk = Desk(Plain(AddTask("reader")))
    desk.pull(failed(desk.one(), kind="unreachable", retryable=False))
    assert desk.state.phase is Phase.PAUSED and not desk.state.failed


def test_one_call_that_fails_for_good_among_answers_costs_one_task() -> None:
    desk = Desk(Plain(readers(2)))
    one, two = desk.pull(want=2)
    desk.pull(done(one, *called(one)), failed(two, kind="broken", retryable=False))
    assert desk.state.status == "done" and len(desk.state.failed) == 1


def test_a_request_that_is_rejected_costs_its_task_and_no_other() -> None:
    desk = Desk(Plain(readers(3)))
    first, bad, last = desk.pull(want=3)
    desk.pull(done(first, *called(first)), failed(bad, kind="rejected", retryable=False), want=0)
    assert desk.state.phase is Phase.WORKING and [row[3] for row in desk.state.failed] == ["rejected"]
    desk.pull(done(last, *called(last)), want=0)
    assert desk.state.status == "done"


@pytest.mark.parametrize("answered", [0, 1])
def test_a_model_that_rejects_whatever_it_is_asked_pauses_the_job(answered: int) -> None:
    """Else a setting that it never takes, or a bill that is not paid, would cost every passage that is left."""
    tasks = 3 * MANY_TASKS
    desk = Desk(Plain(*[AddTask("reader") for _ in range(tasks)]))
    for _ in range(answered):
        grant = desk.one()
        desk.pull(done(grant, *called(grant)), want=0)
    grants = desk.pull(want=tasks)
    for grant in grants:
        desk.pull(failed(grant, kind="rejected", retryable=False), want=0)
    lost = MANY_TASKS if answered else 0
    assert desk.state.phase is Phase.PAUSED and desk.state.reason == f"model:{FAULT}"
    assert len(desk.state.failed) == lost and len(desk.state.tasks) == len(grants) - lost
    desk.resumed().now += 100
    for grant in desk.pull(want=tasks):
        desk.pull(done(grant, *called(grant)), want=0)
    assert desk.state.status == "done" and len(desk.state.failed) == lost


def test_a_model_that_answers_nothing_for_a_while_pauses_the_job_and_costs_no_task() -> None:
    """However many hosts it had: what counts is the time, not how many calls fail in it."""
    desk = Desk(Plain(readers(SPANS), AddTask("reader")))
    first, *grants = desk.pull(want=9)
    desk.pull(done(first, *called(first)), want=0)
    began, faults = desk.now, 0
    while desk.state.phase is Phase.WORKING:
        faults += len(grants)
        desk.pull(*(failed(grant, kind="unreachable") for grant in grants), want=0)
        desk.now += 100
        grants = desk.pull(want=9)
    assert desk.now - began >= SILENT_SECONDS and faults > 8 * desk.roles["reader"].attempts
    assert not desk.state.failed and desk.state.reason == f"model:{FAULT}"


def test_a_model_that_is_full_from_the_first_call_on_pauses_the_job_soon() -> None:
    desk = Desk(Plain(readers(2)))
    began, grants = desk.now, desk.pull(want=2)
    while desk.state.phase is Phase.WORKING:
        desk.pull(*(failed(grant, kind="overloaded") for grant in grants), want=0)
        desk.now += 7
        grants = desk.pull(want=2)
    assert FIRST_ANSWER_SECONDS <= desk.now - began < SILENT_SECONDS
    assert not desk.state.failed and desk.state.reason == f"model:{FAULT}"


def test_a_task_that_fails_alone_is_given_up_after_a_while() -> None:
    """When nobody else is left to be answered, only time can tell that the fault is its own."""
    desk = Desk(Plain(readers(2)))
    good, bad = desk.pull(want=2)
    desk.pull(done(good, *called(good)), want=0)
    failures = 0
    while not desk.state.failed:
        desk.pull(failed(bad, kind="broken"), want=0)
        failures, desk.now = failures + 1, desk.now + 5.5
        bad = next(iter(desk.pull(want=1)), bad)
    assert failures > desk.roles["reader"].attempts and desk.state.status == "done"


def test_a_storm_of_refusals_costs_no_task_its_attempts() -> None:
    desk = Desk(Plain(readers(2)))
    grant = desk.one()
    desk.pull(done(grant, *called(grant)), want=0)
    for _ in range(5):
        grant = desk.one()
        desk.pull(failed(grant, kind="overloaded"), want=0)
        desk.now += 100
    assert not desk.state.failed and desk.state.tasks[grant.task].failures == 0


def full(grant: Grant, after: float = 3600.0) -> Report:
    """The endpoint is full, and says when to come back."""
    end = ev.TaskFailed(task=grant.task, token=grant.token, error=FAULT, kind="overloaded", retry_at=None)
    return Report(grant.task, grant.token, (end,), after=after)


def test_an_endpoint_that_says_when_to_come_back_is_obeyed() -> None:
    desk = Desk(Plain(readers(1)))
    desk.pull(full(desk.one(), 300.0), want=0)
    assert desk.last(ev.TaskFailed).retry_at == desk.now + 300.0


def test_a_model_that_never_answered_gets_no_hour_to_wait_and_is_asked_at_once_by_the_next_master() -> None:
    """Nothing fails while all wait, so that time alone must say it: but never of calls that are still out, or may go out."""
    desk = Desk(Plain(readers(2)))
    one, _ = desk.pull(want=2)
    desk.pull(full(one), want=0)
    desk.now += FIRST_ANSWER_SECONDS
    desk.keep(desk.core.look(desk.now)[0])
    assert desk.state.phase is Phase.WORKING, "a call is out"
    desk = Desk(Plain(readers(3)))
    one, two = desk.pull(want=2)
    desk.pull(full(one), full(two), want=0)
    desk.now += FIRST_ANSWER_SECONDS
    desk.keep(desk.core.look(desk.now)[0])
    assert desk.state.phase is Phase.WORKING, "a task has not asked it yet"
    desk.now -= 1
    desk.pull(full(desk.one()), want=0)
    desk.keep(desk.core.look(desk.now)[0])
    assert desk.state.phase is Phase.WORKING, "it is early"
    desk.now += 1
    desk.keep(desk.core.look(desk.now)[0])
    assert (desk.state.phase, desk.state.reason) == (Phase.PAUSED, f"model:{FAULT}")
    assert desk.keep(desk.core.look(desk.now)[0]) == [], "it is said once"
    grants = desk.resumed().pull(want=4)
    assert len(grants) == 3
    desk.keep(desk.core.lost(desk.now, "h", "gone"))
    assert len(desk.pull(want=4)) == 3, "nor does the old wait come back with a lost host"


def test_a_model_that_never_answered_gets_the_minutes_that_it_asks_for() -> None:
    """A quota of calls a minute, perhaps used up by another job."""
    desk = Desk(Plain(readers(1)))
    desk.pull(full(desk.one(), FIRST_WAIT_SECONDS), want=0)
    desk.now += FIRST_WAIT_SECONDS - 1
    desk.keep(desk.core.look(desk.now)[0])
    assert desk.state.phase is Phase.WORKING and desk.pull(want=1) == []
    desk.now += 1
    grant = desk.one()
    desk.pull(done(grant, *called(grant)), want=0)
    assert desk.state.status == "done"


def test_a_model_that_has_answered_may_ask_for_an_hour() -> None:
    desk = Desk(Plain(readers(2)))
    grant = desk.one()
    desk.pull(done(grant, *called(grant)), want=0)
    desk.pull(full(desk.one()), want=0)
    desk.now += 3599
    desk.keep(desk.core.look(desk.now)[0])
    assert desk.state.phase is Phase.WORKING and desk.pull(want=1) == []
    desk.now += 2
    assert desk.pull(want=1)


def test_a_task_that_fails_while_others_are_answered_is_given_up_and_they_go_on() -> None:
    desk = Desk(Plain(readers(6)))
    bad, *good = desk.pull(want=6)
    for grant in good[:3]:
        desk.pull(done(grant, *called(grant)), failed(bad, kind="timeout"), want=0)
        desk.now += 100
        if bad.task in desk.state.tasks:
            bad = desk.one()
    assert [row[0] for row in desk.state.failed] == [bad.task] and desk.state.phase is Phase.WORKING
    desk.pull(*(done(grant, *called(grant)) for grant in good[3:]), want=0)
    assert desk.state.status == "done"
