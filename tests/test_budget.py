"""Budgets by stepping the coordinator: hard stops, the reserve, what waits, and what is never refused."""

from __future__ import annotations

from typing import Any

import pytest

from swarm import events as ev
from swarm.coordinator import Grant, Phase, Report
from swarm.events import Body, Event
from swarm.protocol import AddTask, Decision, Finish, View
from tests.desk import ROLES, SPANS, Desk, Plain, called, done, readers

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


def test_seconds_are_counted_over_all_masters() -> None:
    desk = Desk(Plain(readers(), AddTask("writer", priority=9)), budget={"seconds": 100, "reserve": 0.2})
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


def test_after_a_budget_only_the_roles_of_the_report_go_on_from_the_reserve() -> None:
    def then(view: View, event: Event) -> Decision:
        if isinstance(event.body, ev.BudgetReached):
            return Decision({}, [AddTask("writer")])
        return Decision({}, [Finish()]) if view.ended and view.ended.role == "writer" else Decision()

    desk = Desk(Plain(readers(), then=then), budget={"calls": 4, "reserve": 0.25})
    grant = desk.one()
    assert desk.pull(want=5) == []
    (writer,) = desk.pull(done(grant, *called(grant)), want=5)
    assert writer.role == "writer" and desk.last(ev.BudgetReached).still == ("clerk", "writer")
    desk.pull(done(writer, *called(writer)))
    assert desk.state.status == "budget" and desk.state.ranges, "what was not read is still listed"


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
        (AddTask("reader", spans=(0,), reads=("a", "b")), 3 * (214 + 2 * 96)),
        (AddTask("reader", spans=tuple(range(8))), 3 * 1000),
        (AddTask("reader", query=("row", "", 2)), 3 * (50 + 2 * 96)),
        (AddTask("reader", query=("row", "", 0)), 3 * 1000),
        (AddTask("reader", calls=0), 0),
        (AddTask("clerk", spans=(0,)), 0),
    ],
    ids=str,
)
def test_what_is_set_aside_for_a_task(task: AddTask, tokens: int) -> None:
    desk = Desk(Plain(task))
    desk.one()
    assert desk.last(ev.TaskLeased).reserved == tokens == desk.state.reserved
