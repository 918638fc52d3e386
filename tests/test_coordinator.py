"""The coordinator by stepping: fencing, retries, pauses, priorities, admission, and jobs that can't go on."""

from __future__ import annotations

from typing import Any

import pytest

from swarm import events as ev
from swarm.agents.roles import Role
from swarm.coordinator import Grant, JobState, Phase, Report
from swarm.coordinator.ending import last_word, most_frequent
from swarm.errors import ProtocolError, StoreError
from swarm.events import Event
from swarm.protocol import AddRange, AddTask, Decision, Finish, Judge, View
from swarm.testing.invariants import refold, state_digest
from tests.desk import FAULT, ROLES, Desk, Plain, called, done, failed, readers

# ---- leases ----


def test_a_job_of_one_task() -> None:
    desk = Desk(Plain(AddTask("reader", goal="g", spans=(3,))))
    grant = desk.one()
    assert (grant.role, grant.goal, grant.spans, grant.attempt, grant.said) == ("reader", "g", (3,), 1, ())
    assert desk.pull(done(grant, *called(grant))) == []
    assert (desk.state.phase, desk.state.status) == (Phase.ENDED, "done")
    assert desk.kinds()[-4:] == ["CallStarted", "CallFinished", "TaskFinished", "JobEnded"]
    assert desk.log[-1].cause == desk.log[-2].seq
    assert desk.log[-3].key == f"{grant.task}:CallFinished:0:0"


def test_a_stale_token_is_refused_and_changes_nothing() -> None:
    desk = Desk(Plain(readers(1)))
    grant = desk.one()
    desk.keep(desk.core.lost(desk.now, "h", "silent"))
    other = desk.one(host="i")
    assert (other.task, other.attempt) == (grant.task, 2) and other.token > grant.token
    before = state_digest(desk.state)
    assert desk.pull(done(grant), failed(grant), want=0) == []
    assert desk.core.stale == 2 and state_digest(desk.state) == before
    desk.pull(done(other), want=0)
    desk.pull(done(other), want=0)
    assert desk.core.stale == 3 and desk.state.finished["reader"] == 1


def test_a_report_of_a_turn_that_is_recorded_is_refused() -> None:
    desk = Desk(Plain(AddTask("reader")), {**ROLES, "reader": ROLES["reader"].model_copy(update={"turns": 5})})
    grant = desk.one()
    first = Report(grant.task, grant.token, called(grant))
    desk.pull(first, want=0)
    desk.pull(first, want=0)
    assert desk.core.stale == 1 and desk.state.total().calls == 1
    desk.pull(Report(grant.task, grant.token, called(grant, turn=1)), want=0)
    assert desk.state.total().calls == 2


def test_a_lost_hosts_task_goes_on_at_its_first_unrecorded_call() -> None:
    desk = Desk(Plain(AddTask("reader")), {**ROLES, "reader": ROLES["reader"].model_copy(update={"turns": 5})})
    grant = desk.one()
    for turn in range(3):
        desk.pull(Report(grant.task, grant.token, called(grant, turn=turn)), want=0)
    desk.keep(desk.core.lost(desk.now, "h", "gone"))
    assert [turn for turn, *_ in desk.one(host="i").said] == [0, 1, 2]


def test_only_the_lost_hosts_leases_end() -> None:
    desk = Desk(Plain(readers()))
    desk.pull(want=3, host="a"), desk.pull(want=2, host="b")
    desk.keep(desk.core.lost(desk.now, "a", "gone"))
    assert desk.state.by_host["a"] == 0 and desk.state.by_host["b"] == 2 and desk.state.leased == 2
    assert desk.keep(desk.core.lost(desk.now, "a", "gone")) == []


def test_a_new_master_ends_every_lease_and_its_tokens_go_on_rising() -> None:
    desk = Desk(Plain(readers(3)))
    old = desk.pull(want=3)
    desk.resumed()
    assert desk.state.leased == 0 and desk.state.epoch == 2
    new = desk.pull(want=3)
    assert {grant.task for grant in new} == {grant.task for grant in old}
    assert min(grant.token for grant in new) > max(grant.token for grant in old)
    desk.pull(done(old[0]), want=0)
    assert desk.core.stale == 1


# ---- retries ----


def delays(desk: Desk, grant: Grant, count: int, kind: str = "crashed") -> list[float]:
    out = []
    for _ in range(count):
        assert desk.pull(failed(grant, kind=kind)) == [], "not before its time"
        wait = desk.last(ev.TaskFailed).retry_at - desk.now
        desk.now += wait - 0.001
        assert desk.pull() == []
        desk.now += 0.002
        grant = desk.one()
        out.append(wait)
    return out


def patient(attempts: int) -> dict[str, Role]:
    return {**ROLES, "reader": ROLES["reader"].model_copy(update={"attempts": attempts})}


def test_back_off_grows_is_capped_and_depends_on_the_seed_alone() -> None:
    def waits(seed: int) -> list[float]:
        desk = Desk(Plain(AddTask("reader")), patient(12), seed=seed)
        return delays(desk, desk.one(), 11)

    first, again, other = waits(1), waits(1), waits(2)
    assert first == pytest.approx(again) and first != pytest.approx(other)
    for number, wait in enumerate(first):
        assert 0.5 <= wait / min(60.0, 2.0**number) <= 1.5
    assert max(first) <= 90


def test_a_task_that_keeps_failing_is_given_up_and_the_protocol_hears_of_it() -> None:
    desk = Desk(Plain(AddTask("reader", spans=(2,))))
    grant = desk.one()
    delays(desk, grant, 2)
    desk.now += 100
    desk.pull(failed(Grant(grant.task, "reader", "", desk.state.token, 3, (2,), (), ()), kind="crashed"))
    assert desk.protocol.seen == [("TaskFailed", "failed")]
    assert desk.state.failed == [(grant.task, "reader", (2,), "crashed", FAULT)]
    assert (desk.state.status, desk.state.reason) == ("failed", f"unread:{FAULT}"), "nothing else was to be read"


def test_a_job_of_which_nothing_was_read_fails_for_the_most_frequent_reason() -> None:
    desk = Desk(Plain(readers(3)))
    for kind in ("_Malformed", "crashed", "crashed"):
        desk.pull(failed(desk.one(), kind=kind, retryable=False), want=0)
    assert (desk.state.status, desk.state.reason) == ("failed", f"unread:{FAULT}")
    other = FAULT[::-1]
    rows = [("t", "reader", (0,), *why) for why in (("a", other), ("b", FAULT), ("b", other), ("b", FAULT))]
    assert most_frequent(rows) == ("b", FAULT)
    one = Desk(Plain(readers(2)))
    one.pull(failed(one.one(), kind="crashed", retryable=False), want=0)
    one.pull(done(one.one()), want=0)
    assert one.state.status == "done", "one passage was read"
    clerks = Desk(Plain(AddTask("writer")))
    clerks.pull(failed(clerks.one(), kind="crashed", retryable=False), want=0)
    assert clerks.state.status == "done", "no passage was to be read"


def test_a_protocol_that_had_nothing_verified_is_told_why_by_the_log() -> None:
    end = Finish("failed", "unverified:writer")
    tasks = (AddTask("reader"), AddTask("writer"))
    desk = Desk(Plain(*tasks, then=lambda view, event: Decision({}, [] if any(view.open.values()) else [end])))
    by_role = {grant.role: grant for grant in desk.pull(want=2)}
    desk.pull(done(by_role["reader"]), want=0)
    desk.pull(failed(by_role["writer"], kind="crashed", retryable=False), want=0)
    assert (desk.state.status, desk.state.reason) == ("failed", f"unverified:{FAULT}")
    row = ("t", "writer", (0,), "in-doubt", "")
    state = JobState(failed=[("u", "reader", (0,), "crashed", FAULT), row])
    assert last_word(state, end).reason == "no row was verified: the tasks of role writer were given up (in-doubt)"
    assert last_word(JobState(), end).reason == "no row was verified"


def test_what_can_not_help_is_not_tried_again() -> None:
    desk = Desk(Plain(AddTask("reader")))
    desk.pull(failed(desk.one(), kind="malformed", retryable=False))
    assert desk.state.status == "done" and desk.state.retries == 0


def test_leases_that_were_lost_are_no_failures() -> None:
    """A task of many turns lives through many hosts and masters; only failures in a row end it."""
    desk = Desk(Plain(AddTask("reader")))
    for _ in range(9):
        desk.one()
        desk.keep(desk.core.lost(desk.now, "h", "gone"))
    desk.pull(failed(desk.one(), kind="crashed"))
    assert desk.last(ev.TaskFailed).retry_at is not None


def test_an_answer_makes_earlier_failures_forgotten() -> None:
    desk = Desk(Plain(AddTask("reader")), {**ROLES, "reader": ROLES["reader"].model_copy(update={"turns": 99})})
    for turn in range(8):
        desk.now += 100
        grant = desk.one()
        desk.pull(Report(grant.task, grant.token, called(grant, turn=turn)), want=0)
        desk.pull(failed(grant, kind="timeout"), want=0)
    assert not desk.state.failed and desk.state.retries == 8


def test_a_paused_job_grants_nothing_and_takes_what_is_brought() -> None:
    desk = Desk(Plain(readers(3)))
    grant = desk.one()
    desk.keep(desk.core.pause(desk.now, "lunch"))
    assert desk.keep(desk.core.pause(desk.now, "again")) == []
    assert desk.pull(done(grant), want=3) == [] and desk.state.finished["reader"] == 1
    assert len(desk.resumed().pull(want=3)) == 2


# ---- order and admission ----


def test_the_lower_priority_number_goes_first_and_equals_in_the_order_they_came() -> None:
    tasks = [AddTask("reader", goal=f"{p}:{n}", priority=p) for p, n in ((1, 0), (0, 0), (-1, 0), (0, 1), (-1, 1))]
    desk = Desk(Plain(*tasks))
    assert [grant.goal for grant in desk.pull(want=9)] == ["-1:0", "-1:1", "0:0", "0:1", "1:0"]


def test_what_is_urgent_overtakes_a_range_that_has_begun() -> None:
    def then(view: View, event: Event) -> Decision:
        return Decision({}, [AddTask("writer", priority=-1)] if view.ended and view.ended.role == "reader" else [])

    desk = Desk(Plain(readers(), then=then))
    grants = desk.pull(want=2)
    assert [grant.role for grant in desk.pull(done(grants[0]), want=2)] == ["writer", "reader"]


def test_ids_come_from_the_job_and_the_cause_alone() -> None:
    def ids() -> list[str]:
        return [grant.task for grant in Desk(Plain(readers(2), AddTask("writer"))).pull(want=9)]

    assert ids() == ids() and len(set(ids())) == 3


def test_a_query_is_answered_when_the_task_is_leased() -> None:
    def then(view: View, event: Event) -> Decision:
        if view.ended and view.ended.role == "reader":
            return Decision({}, [Judge(note.id, "supported", view.ended.id) for note in view.board.notes("row")])
        return Decision()

    desk = Desk(Plain(AddTask("reader", priority=-1), AddTask("writer", query=("row", "supported", 2)), then=then))
    grant = desk.one()
    notes = [
        ev.NotePosted(note=f"n{n}", kind="row", task=grant.task, body="", cites=((9 - n, 0, 1),), status=status)
        for n, status in enumerate(["", "", "rejected", ""])
    ]
    (writer,) = desk.pull(done(grant, *notes))
    assert writer.reads == ("n3", "n1"), "in the order of the text, without what was rejected, at most two"


# ---- jobs that can't go on ----


def test_a_protocol_that_leaves_no_work_fails_the_job_by_name() -> None:
    desk = Desk(Plain(readers(1), then=lambda view, event: Decision()))
    desk.pull(done(desk.one()), want=1)
    assert (desk.state.status, desk.state.reason) == ("failed", "the protocol left no work and did not finish")


def test_a_job_whose_last_task_waits_for_its_time_has_not_stalled() -> None:
    desk = Desk(Plain(readers(1)))
    desk.pull(failed(desk.one(), kind="crashed"), want=1)
    assert desk.pull(want=1) == [] and desk.state.phase is Phase.WORKING


def test_nothing_happens_after_the_end() -> None:
    desk = Desk(Plain(readers(2)))
    grant = desk.one()
    desk.keep(desk.core.end(desk.now, "cancelled", "enough"))
    assert desk.pull(done(grant), want=2) == [] and desk.core.stale == 1
    assert desk.keep(desk.core.end(desk.now, "failed", "")) == [] == desk.keep(desk.core.pause(desk.now, ""))
    assert (desk.state.status, desk.state.reason) == ("cancelled", "enough")


@pytest.mark.parametrize("command", [AddTask("cook"), AddRange("cook", 0, 1)], ids=str)
def test_a_role_that_the_protocol_does_not_list_is_named(command: Any) -> None:
    with pytest.raises(ProtocolError, match="'cook'") as caught:
        Desk(Plain(command))
    assert "reader, writer, clerk" in caught.value.cure


def test_a_protocol_that_raises_is_named() -> None:
    def then(view: View, event: Event) -> Decision:
        raise ZeroDivisionError("by zero")

    desk = Desk(Plain(readers(1), then=then))
    with pytest.raises(ProtocolError, match=r"protocol plain: .*TaskFinished.*ZeroDivisionError: by zero"):
        desk.pull(done(desk.one()))


@pytest.mark.parametrize(
    "command",
    [Decision({"phase": object()}), Decision({}, [AddTask("reader", spans="x")]), None],  # type: ignore[arg-type]
    ids=["state", "spans", "nothing"],  # an object's own name would be another in each of the processes that share the tests
)
def test_a_decision_that_no_log_can_hold_is_the_protocols(command: Any) -> None:
    desk = Desk(Plain(readers(1), then=lambda view, event: command))
    with pytest.raises(ProtocolError, match=r"protocol plain: (failed at event \d+ \(TaskFinished\)|remembers what no log)"):
        desk.pull(done(desk.one()))


def test_when_the_protocol_has_failed_calls_are_taken_and_nothing_goes_out() -> None:
    def then(view: View, event: Event) -> Decision:
        raise AssertionError("it was asked")

    desk = Desk(Plain(readers(4), then=then), notify={"command": ["true"]})
    one, two, three, four = desk.pull(want=4)
    begun, ended = called(two)
    further, _ = called(two, turn=1)
    desk.keep(desk.core.record(desk.now, begun))
    turn = Report(three.task, three.token, called(three))
    reports = [done(one, *called(one)), Report(two.task, two.token, (ended, further)), turn]
    desk.keep(desk.core.salvage(desk.now, reports, f"protocol:{FAULT}"))
    assert desk.core.refused == (two.token,), "the call that waits is not let out"
    assert {row.id for row in desk.state.tasks.values() if row.token} == {three.task, four.task}, "they are at work"
    assert all(len(desk.state.tasks[grant.task].said or ()) == 1 for grant in (one, two, three))
    assert (desk.state.phase, desk.state.reason) == (Phase.PAUSED, f"protocol:{FAULT}")
    desk.keep(desk.core.salvage(desk.now, [done(three), done(four)], "protocol:0"))
    assert not desk.state.leased and desk.state.ledger.doubt().calls == 0
    assert desk.kinds().count("PhaseChanged") == 1 == desk.kinds().count("NoticeDue")
    desk.resumed()
    assert [(grant.task, len(grant.said)) for grant in desk.pull(want=4)] == [
        (one.task, 1), (two.task, 1), (three.task, 1), (four.task, 0)
    ]  # fmt: skip


# ---- time ----


def test_time_never_goes_back() -> None:
    desk = Desk(Plain(readers(3)))
    desk.now -= 50
    grant = desk.one()
    desk.now -= 50
    desk.pull(done(grant))
    times = [event.time for event in desk.log]
    assert times == sorted(times)


def test_an_event_that_does_not_follow_is_refused() -> None:
    desk = Desk(Plain(readers(1)))
    with pytest.raises(StoreError, match="has a gap"):
        refold(desk.log[:3]).apply(desk.log[4])


def test_a_pause_stops_the_clock() -> None:
    desk = Desk(Plain(readers(1)))
    desk.now += 10
    desk.keep(desk.core.pause(desk.now, "lunch"))
    desk.now += 1000
    assert desk.state.seconds(desk.now) == pytest.approx(10)
    desk.resumed()
    desk.now += 5
    assert desk.state.seconds(desk.now) == pytest.approx(15)
