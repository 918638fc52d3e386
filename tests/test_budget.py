"""Budgets by stepping the coordinator: hard stops, the reserve, what waits, and what is never refused."""

from __future__ import annotations

from typing import Any

import pytest

from swarm import events as ev
from swarm.coordinator import Grant, Phase, Report
from swarm.coordinator.budget import changes, effective, limits_reached
from swarm.coordinator.ledger import Doubt
from swarm.errors import SpecError
from swarm.events import Body, Event, identity
from swarm.protocol import AddNote, AddTask, Decision, Finish, View
from swarm.spec import BudgetSpec
from tests.desk import ROLES, SPANS, Desk, Plain, called, done, failed, readers

# ---- budgets ----


READER = (100 + 64 + 50) * 3
"""Tokens set aside for a reader: its passage, breadcrumb and output, three times."""


def spent(grant: Grant) -> list[Body]:
    """All that was set aside for a reader, and the dearest kind of it."""
    return [body for sample in range(3) for body in called(grant, 0, sample=sample, out=READER // 3)]


@pytest.mark.parametrize(
    ("budget", "limit", "granted"),
    [
        ({"tokens": 3 * READER}, "tokens", 3),
        ({"tokens": 3 * READER - 1}, "tokens", 2),
        ({"tokens": 4 * READER, "reserve": 0.25}, "tokens", 3),
        ({"calls": 9}, "calls", 3),
        ({"calls": 8}, "calls", 2),
        ({"money": 3 * READER * 4e-6}, "money", 3),
        ({"money": 3 * READER * 4e-6 * 0.99}, "money", 2),
    ],
    ids=str,
)
def test_no_more_is_leased_than_a_budget_can_pay_for(budget: dict[str, Any], limit: str, granted: int) -> None:
    model = {"engine": "scripted", "name": "raises", "price": {"input": 1.0, "output": 4.0}}
    desk = Desk(Plain(readers()), budget={"reserve": 0.0, **budget}, model=model)
    grants = desk.pull(want=SPANS)
    assert len(grants) == granted and not desk.state.limits, "with work in flight a refusal waits"
    (more,) = desk.pull(done(grants[0]), want=SPANS)
    assert not desk.state.limits, "what a task did not use is free again"
    desk.pull(*(done(grant, *spent(grant)) for grant in (*grants[1:], more)), want=SPANS)
    assert desk.state.limits[0].limit == limit
    assert (desk.state.status, desk.state.phase) == ("budget", Phase.PAUSED), "this protocol leaves no work behind"


def writer_at_the_end(view: View, event: Event) -> Decision:
    """A writer sums up what was read until the budget let nothing else go on, or until everything was."""
    if isinstance(event.body, ev.BudgetReached):
        return Decision({"phase": "write"}, [AddTask("writer")]) if event.body.closing else Decision()
    if view.ended and view.ended.role == "writer":
        return Decision({"phase": "over"}, [Finish()])
    return Decision() if any(view.open.values()) else Decision({"phase": "write"}, [AddTask("writer")])


def test_seconds_are_counted_over_all_masters() -> None:
    desk = Desk(Plain(readers(), then=writer_at_the_end), budget={"seconds": 100, "reserve": 0.2})
    assert len(desk.pull(want=1)) == 1
    desk.now += 50
    desk.pull(want=1)  # the last sign of this master
    desk.now += 1000
    desk.resumed()
    assert desk.state.seconds(desk.now) == pytest.approx(50)
    desk.now += 29
    desk.pull(done(desk.one()), want=0)
    desk.now += 1
    desk.pull(want=1)
    assert [limit.limit for limit in desk.state.limits] == ["seconds"]
    assert desk.state.leased == 1 and desk.state.tasks[desk.last(ev.TaskLeased).task].role == "writer"


def looked(desk: Desk) -> dict[str, list[int]]:
    """What a master's regular look breaks off."""
    events, ended = desk.core.look(desk.now)
    desk.keep(events)
    return ended


def test_when_the_seconds_are_over_calls_under_way_are_broken_off_and_the_end_begins() -> None:
    desk = Desk(Plain(readers(), then=writer_at_the_end), budget={"seconds": 100, "reserve": 0.2})
    first, other = desk.one(), desk.one(host="other")
    desk.now += 79
    assert not looked(desk) and desk.state.leased == 2
    desk.now += 1
    assert looked(desk) == {"h": [first.token], "other": [other.token]}
    assert [event.kind for event in desk.log[-5:-2]] == ["LeaseEnded", "LeaseEnded", "BudgetReached"]
    assert desk.last(ev.LeaseEnded).reason == "budget" and desk.last(ev.BudgetReached).closing
    (writer,) = desk.pull(want=5)
    assert writer.role == "writer", "it is paid from the reserve"
    assert desk.pull(done(first, *called(first)), want=5) == [] and desk.core.stale == 1
    strayed = desk.last(ev.CallStrayed)
    assert (strayed.task, strayed.tokens_in, desk.state.total().calls) == (first.task, 100, 1), "it was paid for all the same"
    assert not looked(desk), "each is told of once"
    desk.now += 20
    assert looked(desk) == {"h": [writer.token]}
    assert [(role, kind) for _, role, _, kind, _ in desk.state.failed] == [("writer", "budget")]
    assert (desk.state.status, desk.state.phase) == ("budget", Phase.PAUSED)
    assert desk.state.reason == "budget:the budget of 100 seconds is reached"
    desk.now += 1000
    assert not looked(desk), "it rests"
    given(desk, "seconds=+100")
    again = desk.pull(want=SPANS)
    assert len(again) == SPANS and {first.task, other.task} <= {grant.task for grant in again}
    assert not desk.state.failed


def test_what_may_spend_the_reserve_goes_on_to_the_end_of_the_seconds_and_code_beyond_it() -> None:
    first = [AddTask("writer"), AddTask("clerk"), AddTask("reader", spans=(0,))]
    desk = Desk(Plain(*first, then=writer_at_the_end), budget={"seconds": 100, "reserve": 0.2})
    writer, clerk, reader = desk.pull(want=3)
    desk.now += 80
    assert looked(desk) == {"h": [reader.token]} and not desk.state.limits, "the end begins when nobody works any more"
    desk.now += 20
    assert looked(desk) == {"h": [writer.token]} and not desk.state.limits
    desk.pull(done(clerk), want=0)
    assert not looked(desk) and desk.state.closing is not None


def test_the_end_begins_though_nobody_asks_for_work() -> None:
    """Such as while all tasks wait to be tried again."""
    desk = Desk(Plain(readers(1), then=writer_at_the_end), budget={"seconds": 100})
    desk.pull(failed(desk.one(), kind="overloaded"), want=0)
    desk.now += 96
    assert not looked(desk) and desk.state.closing is not None and desk.state.open["writer"] == 1


def test_a_call_that_was_broken_off_and_may_be_billed_is_in_doubt_and_nobody_is_asked_before_there_is_more() -> None:
    model = {"engine": "scripted", "name": "raises", "in_doubt": "ask"}
    desk = Desk(Plain(readers(1), then=writer_at_the_end), budget={"seconds": 100, "reserve": 0.2}, model=model)
    grant = desk.one()
    began = called(grant)[0].model_copy(update={"key": "k", "sampling": {"max_tokens": 50}})
    desk.pull(Report(grant.task, grant.token, (began,)), want=0)
    desk.now += 80
    looked(desk)
    assert desk.state.ledger.doubt() == Doubt(1, 150) and not desk.state.questions and desk.state.closing is not None
    given(over_now(desk), "seconds=+100")
    assert desk.pull() == [] and desk.last(ev.ApprovalAsked).tasks == (grant.task,)


def over_now(desk: Desk) -> Desk:
    """Writes what is left to be written."""
    (writer,) = desk.pull()
    desk.pull(done(writer))
    assert desk.state.status == "budget"
    return desk


def test_after_a_budget_only_the_roles_of_the_report_go_on_from_the_reserve() -> None:
    desk = Desk(Plain(readers(), then=writer_at_the_end), budget={"calls": 4, "reserve": 0.25})
    grant = desk.one()
    assert desk.pull(want=5) == []
    (writer,) = desk.pull(done(grant, *called(grant)), want=5)
    assert writer.role == "writer" and desk.last(ev.BudgetReached).still == ("clerk", "writer")
    desk.pull(done(writer, *called(writer)))
    assert desk.state.status == "budget" and desk.state.ranges, "what was not read is still listed"
    assert desk.state.phase is Phase.PAUSED and desk.state.reason == "budget:the budget of 4 calls is reached"
    desk.resumed()
    assert desk.state.phase is Phase.PAUSED and desk.pull(want=5) == [], "it rests until it gets more"


def test_work_of_the_report_that_not_even_the_reserve_pays_for_is_given_up() -> None:
    def then(view: View, event: Event) -> Decision:
        if isinstance(event.body, ev.BudgetReached):
            return Decision({}, [AddTask("writer"), AddTask("clerk")])
        return Decision() if view.open["clerk"] else Decision({}, [Finish()])

    desk = Desk(Plain(readers(), then=then), budget={"tokens": 49, "reserve": 0.0})
    (clerk,) = desk.pull(want=5)
    assert clerk.role == "clerk", "what costs nothing is never refused"
    assert [(role, kind) for _, role, _, kind, _ in desk.state.failed] == [("writer", "budget")]
    desk.pull(done(clerk))
    assert desk.state.status == "budget"


def test_code_alone_is_never_refused() -> None:
    """A task that takes no call may belong to a role that has a model."""
    desk = Desk(Plain(AddTask("writer", calls=0)), budget={"seconds": 1, "tokens": 1, "calls": 1})
    desk.now += 50
    desk.pull(done(desk.one()))
    assert desk.state.status == "done" and not desk.state.limits


def test_a_task_of_many_turns_sets_aside_what_all_of_them_take() -> None:
    roles = {**ROLES, "reader": ROLES["reader"].model_copy(update={"turns": 1000})}
    desk = Desk(Plain(AddTask("reader", spans=(0,), calls=10)), roles)
    grant = desk.one()
    assert desk.last(ev.TaskLeased).calls == 12 and desk.last(ev.TaskLeased).reserved == 12 * (100 + 64 + 50)
    for turn in range(4):
        desk.pull(Report(grant.task, grant.token, called(grant, turn=turn)), want=0)
    desk.keep(desk.core.lost(desk.now, "h", "gone"))
    desk.one()
    assert desk.last(ev.TaskLeased).calls == 8, "the turns that are recorded are paid for"
    assert desk.state.reserved_calls == 8


@pytest.mark.parametrize(
    ("task", "tokens"),
    [
        (AddTask("reader", spans=(0,)), 3 * 214),
        (AddTask("reader", spans=(0,), reads=(identity("j", 5, 0), identity("j", 5, 1))), 3 * (214 + 2 * 96)),
        (AddTask("reader", spans=tuple(range(8))), 3 * 1000),
        (AddTask("reader", query=("row", "", 2)), 3 * (50 + 2 * 96)),
        (AddTask("reader", query=("row", "", 0)), 3 * 1000),
        (AddTask("reader", calls=0), 0),
        (AddTask("clerk", spans=(0,)), 0),
    ],
    ids=str,
)
def test_what_is_set_aside_for_a_task(task: AddTask, tokens: int) -> None:
    """Where it reads notes by name, these are the two that stand on the board before it."""
    desk = Desk(Plain(AddNote("row", ""), AddNote("row", ""), task))
    desk.one()
    assert desk.last(ev.TaskLeased).reserved == tokens == desk.state.reserved


# ---- more of it ----


def over(desk: Desk) -> Desk:
    """Carries a job of writer_at_the_end over its budget, until it rests."""
    grants = desk.pull(want=SPANS)
    while desk.state.phase is Phase.WORKING:
        grants = desk.pull(*(done(grant, *called(grant)) for grant in grants), want=SPANS)
    assert desk.state.status == "budget"
    return desk


def given(desk: Desk, *words: str) -> Desk:
    """The job is taken up with more budget."""
    desk.resumed()
    desk.keep(desk.core.change_budget(desk.now, "ada", changes(desk.core.budget, words)))
    return desk


def test_a_job_that_gets_more_goes_on_where_it_was_and_forgets_its_draft_of_the_end() -> None:
    desk = over(Desk(Plain(readers(), then=writer_at_the_end), budget={"calls": 6, "reserve": 0.2}))
    read, calls = desk.state.finished["reader"], desk.state.total().calls
    assert 0 < read < SPANS and desk.state.memory["phase"] == "over"
    given(desk, "calls=+100")
    changed = desk.last(ev.BudgetChanged)
    assert (changed.who, changed.old, changed.new) == ("ada", {"calls": 6}, {"calls": 106})
    assert desk.state.memory["phase"] == "work" and not desk.state.limits and desk.state.phase is Phase.WORKING
    assert desk.state.total().calls == calls, "what the draft cost stays paid"
    grants = desk.pull(want=SPANS)
    assert [grant.spans for grant in grants] == [(number,) for number in range(read, SPANS)]
    (writer,) = desk.pull(*(done(grant) for grant in grants))
    desk.pull(done(writer))
    assert desk.state.status == "done" and desk.state.finished["reader"] == SPANS


def test_notes_tasks_and_failures_of_a_draft_are_taken_back() -> None:
    def then(view: View, event: Event) -> Decision:
        if isinstance(event.body, ev.BudgetReached):
            return Decision({}, [AddTask("clerk"), AddTask("writer"), AddTask("clerk", goal="late", priority=5)])
        return Decision({}, [Finish()]) if view.stopping and view.ended and view.ended.goal == "late" else Decision()

    desk = Desk(Plain(readers(), then=then), budget={"calls": 3, "reserve": 0.0})
    reader = desk.one()
    row = ev.NotePosted(note="row", kind="row", task=reader.task, body="", cites=((0, 0, 1),))
    (clerk,) = desk.pull(done(reader, *spent(reader), row))
    told = ev.NotePosted(note="told", kind="finding", task=clerk.task, body="", links=(("derives-from", "row"),))
    more = ev.NotePosted(note="more", kind="finding", task=clerk.task, body="", links=(("derives-from", "told"),))
    (late,) = desk.pull(done(clerk, told, more), want=1)
    assert late.goal == "late" and [row[1] for row in desk.state.failed] == ["writer"]
    desk.pull(done(late))
    assert desk.state.board.kinds() == {"finding": 2, "row": 1}
    given(desk, "calls=none")
    assert desk.state.board.kinds() == {"row": 1} and not desk.state.failed
    assert {row.role for row in desk.state.tasks.values()} == set() and desk.state.open["reader"] == SPANS - 1
    assert len(desk.pull(want=SPANS)) == SPANS - 1


def test_a_draft_that_was_under_way_when_the_master_died_goes_on() -> None:
    desk = Desk(Plain(readers(), then=writer_at_the_end), budget={"calls": 4, "reserve": 0.25})
    grant = desk.one()
    (writer,) = desk.pull(done(grant, *called(grant)))
    desk.resumed()
    (again,) = desk.pull(want=5)
    assert again.task == writer.task
    given(desk, "calls=100")
    assert again.task not in desk.state.tasks, "unless there is more budget: then nobody needs it"
    desk.pull(done(again))
    assert desk.core.stale == 1


# ---- roles and agents ----


@pytest.mark.parametrize(
    "own", [{"calls": 6}, {"tokens": 2 * READER}, {"money": 2 * READER * 4e-6}], ids=["calls", "tokens", "money"]
)
def test_at_a_roles_limit_only_that_role_stops(own: dict[str, Any]) -> None:
    model = {"engine": "scripted", "name": "raises", "price": {"input": 1.0, "output": 4.0}}
    first = [readers(), *[AddTask("writer", priority=1)] * 3]
    desk = Desk(Plain(*first, then=writer_at_the_end), budget={"reserve": 0.0, "roles": {"reader": own}}, model=model)
    grants = desk.pull(want=4)
    assert [grant.role for grant in grants] == ["reader", "reader", "writer", "writer"], "siblings go on"
    assert not desk.state.limits, "what runs may cost less than was reserved for it"
    (third,) = desk.pull(*(done(grant, *spent(grant)) for grant in grants[:2]))
    assert third.role == "writer" and desk.state.stopped == ("reader",)
    reached = desk.last(ev.BudgetReached)
    assert (reached.role, reached.closing, reached.limit) == ("reader", False, next(iter(own)))
    assert reached.still == ("clerk", "writer") and desk.protocol.seen[-1][0] == "BudgetReached"


def test_when_nothing_but_a_stopped_role_is_left_the_job_ends_with_what_it_has_and_rests() -> None:
    desk = over(Desk(Plain(readers(), then=writer_at_the_end), budget={"roles": {"reader": {"calls": 6}}}))
    assert [(one.role, one.closing) for one in desk.state.limits] == [("reader", False), ("reader", True)]
    assert desk.state.finished["writer"] == 1 and 0 < desk.state.finished["reader"] < SPANS
    assert desk.state.reason == "budget:the budget of role reader of 6 calls is reached"
    assert limits_reached(desk.state) == ["roles.reader.calls"]
    given(desk, "roles.reader.calls=+100")
    grants = desk.pull(want=SPANS)
    assert desk.state.finished["reader"] + len(grants) == SPANS


def test_a_stopped_role_without_work_does_not_keep_a_job_from_its_end() -> None:
    desk = Desk(Plain(readers(2), then=writer_at_the_end), budget={"roles": {"reader": {"calls": 6}}})
    grants = desk.pull(want=2)
    (writer,) = desk.pull(*(done(grant, *spent(grant)) for grant in grants))
    desk.pull(done(writer))
    assert desk.state.status == "done"


def test_an_agent_gets_what_it_may_spend_and_is_given_up_when_that_is_spent() -> None:
    desk = Desk(Plain(readers(1)), budget={"agent": {"calls": 2, "tokens": 900}})
    grant = desk.one()
    assert grant.left == (900, 2) and (desk.last(ev.RangeLeased).calls, desk.last(ev.RangeLeased).reserved) == (2, READER)
    desk.pull(Report(grant.task, grant.token, called(grant, tokens=300)), want=0)
    desk.keep(desk.core.lost(desk.now, "h", "gone"))
    again = desk.one()
    assert again.left == (600, 1) and desk.last(ev.TaskLeased).reserved == 428
    desk.pull(Report(again.task, again.token, called(again, sample=1)), want=0)
    desk.keep(desk.core.lost(desk.now, "h", "gone"))
    assert desk.pull() == [] and list(desk.state.parked) == [grant.task] and not desk.state.failed
    assert desk.state.status == "budget" and limits_reached(desk.state) == ["agent.calls"]
    assert desk.state.reason == "budget:the budget of one agent of 2 calls is reached"
    given(desk, "tokens=1000")
    assert desk.pull() == [] and desk.state.status == "budget", "more of something else is none for it"
    given(desk, "agent.calls=+1")
    assert desk.one().task == grant.task and not desk.state.parked
    assert desk.last(ev.TaskLeased).calls == 1


def test_an_agent_whose_host_found_its_limit_waits_while_others_go_on_and_the_limit_is_told_of_once() -> None:
    desk = Desk(Plain(readers(3), then=writer_at_the_end), budget={"agent": {"tokens": 250}})
    first, second, third = desk.pull(want=3)
    desk.pull(*(failed(one, *called(one, tokens=200), kind="agent-budget", retryable=False) for one in (first, second)), want=0)
    assert list(desk.state.parked) == [first.task, second.task] and desk.state.retries == 0
    assert [(one.role, one.limit, one.closing) for one in desk.state.limits] == [("(agent)", "tokens", False)]
    (writer,) = desk.pull(done(third, *called(third)))
    assert desk.last(ev.BudgetReached).closing, "nothing else is left"
    spent = failed(writer, *called(writer, tokens=250), kind="agent-budget", retryable=False)
    desk.pull(spent)
    assert [row[3] for row in desk.state.failed] == ["agent-budget"], "what belongs to the end is given up"
    given(desk, "agent.tokens=+500")
    again = desk.pull(want=5)
    assert {one.task for one in again} == {first.task, second.task} and not desk.state.failed
    (writer,) = desk.pull(*(done(one) for one in again))
    desk.pull(done(writer))
    assert desk.state.status == "done"


def test_what_is_answered_from_the_cache_is_no_call_of_its_agent() -> None:
    desk = Desk(Plain(readers(1)), budget={"agent": {"calls": 2}})
    grant = desk.one()
    (began, ended), further = called(grant), called(grant, sample=1)
    desk.pull(Report(grant.task, grant.token, (began, ended.model_copy(update={"cached": True}), *further)), want=0)
    desk.keep(desk.core.lost(desk.now, "h", "gone"))
    left = desk.one().left
    assert left is not None and left[1] == 1 == desk.state.total().calls


def test_an_agents_calls_in_doubt_count_against_what_it_may_spend() -> None:
    desk = Desk(Plain(readers(1)), budget={"agent": {"calls": 2, "tokens": 2000}})
    for left in ((2000, 2), (1880, 1)):
        grant = desk.one()
        assert grant.left == left
        out = called(grant)[0].model_copy(update={"key": "k", "sampling": {"max_tokens": 20}})
        desk.pull(Report(grant.task, grant.token, (out,)), want=0)
        desk.keep(desk.core.lost(desk.now, "h", "gone"))
    assert desk.pull() == [] and desk.state.status == "budget" and desk.state.ledger.doubt() == Doubt(2, 240)


def test_an_answer_that_comes_too_late_is_its_agents_and_not_in_doubt() -> None:
    desk = Desk(Plain(readers(1)), budget={"agent": {"calls": 2, "tokens": 2000}})
    grant = desk.one()
    began, ended = called(grant, out=5)
    desk.pull(Report(grant.task, grant.token, (began.model_copy(update={"key": "k"}),)), want=0)
    desk.keep(desk.core.lost(desk.now, "h", "silent"))
    desk.pull(Report(grant.task, grant.token, (ended,)), want=0)
    assert desk.state.ledger.doubt() == Doubt() and desk.one().left == (1895, 1)


# ---- disk, and rest ----


def test_disk_is_a_limit_like_others() -> None:
    desk = Desk(Plain(readers(), then=writer_at_the_end), budget={"disk": 100_000, "reserve": 0.1})
    assert len(desk.pull(want=1)) == 1
    desk.core.disk = 75_000
    desk.keep(desk.core.lost(desk.now, "h", "gone"))
    (writer,) = desk.pull()
    assert writer.role == "writer" and desk.state.limits[0].limit == "disk"


def test_who_is_refused_while_others_work_is_told_once_and_costs_nothing() -> None:
    """Denied reservations never spin: pulls that are refused append nothing, whatever limit it is."""
    for limits in ({"calls": 3}, {"roles": {"reader": {"calls": 3}}}):
        desk = Desk(Plain(readers(), then=writer_at_the_end), budget={"reserve": 0.0, **limits})
        (grant,) = desk.pull(want=SPANS)
        before = len(desk.log)
        assert not any(desk.core.pulled(desk.now, host, (), SPANS)[1] for host in "hijk" * 250)
        assert len(desk.log) == before == desk.state.seq
        desk.pull(done(grant, *spent(grant)), want=SPANS)
        assert desk.kinds().count("BudgetReached") == len(desk.state.limits) <= 2


# ---- words of people ----


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("tokens", "changes nothing"),
        ("tokens=", "changes nothing"),
        ("token=5", "there is no limit 'token'"),
        ("roles.reader=5", "there is no limit"),
        ("roles.reader.seconds=5", "there is no limit"),
        ("reserve=0.5", "there is no limit"),
        ("tokens=+0", "adds nothing"),
        ("tokens=+-5", "adds nothing"),
        ("tokens=-5", "more than 0"),
        ("tokens=0", "more than 0"),
        ("tokens=1.5", "is no whole number"),
        ("tokens=many", "is no whole number"),
        ("tokens=99999999999999999999", "or less"),
        ("money=nan", "finite number"),
        ("money=inf", "finite number"),
        ("money=1e300", "or less"),
        ("seconds=-1", "more than 0"),
        ("calls=+5", "has no limit that could be raised"),
    ],
)
def test_what_cannot_be_a_limit_is_refused_by_name(word: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as raised:
        changes(BudgetSpec(tokens=1000, money=2.0), [word])
    assert "--budget" in raised.value.where and (raised.value.cure or "greater" in problem or "number" in problem)


def test_changes_add_up_in_their_order() -> None:
    before = BudgetSpec.model_validate({"tokens": 1000, "roles": {"reader": {"calls": 5}}})
    words = ["tokens=+500", "tokens=+1", "money=2.5", "roles.reader.calls=none", "agent.tokens=9", "roles.writer.tokens=7"]
    new = changes(before, words)
    assert new == {"tokens": 1501, "money": 2.5, "roles.reader.calls": None, "agent.tokens": 9, "roles.writer.tokens": 7}
    after = effective(before, new)
    assert (after.tokens, after.money, after.roles["reader"].calls, after.agent.tokens) == (1501, 2.5, None, 9)
