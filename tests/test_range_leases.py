"""Ranges of passages: a task enters the table when it is leased, and many are leased in one event."""

from __future__ import annotations

from swarm import events as ev
from swarm.names import range_task
from swarm.protocol import AddRange
from swarm.testing.invariants import LogWatch
from tests.desk import Desk, Plain, done, readers


def leased(desk: Desk) -> list[int]:
    """How many tasks each RangeLeased leased."""
    return [event.body.count for event in desk.log if isinstance(event.body, ev.RangeLeased)]


def test_what_a_host_gets_of_a_range_at_a_time_is_one_event_for_each_range() -> None:
    desk = Desk(Plain(AddRange("reader", 0, 3), AddRange("reader", 3, 8)))
    assert len(desk.pull(want=5)) == 5 and leased(desk) == [3, 2]


def test_where_the_budget_has_no_room_for_all_half_as_many_are_leased_at_a_time() -> None:
    desk = Desk(Plain(readers(8)), budget={"calls": 23, "reserve": 0.0})  # a reader may take three
    assert len(desk.pull(want=8)) == 7 and leased(desk) == [4, 2, 1]


def test_a_range_that_an_older_version_had_half_leased_goes_on() -> None:
    """It leased each of the tasks by a TaskLeased of its own."""
    desk, watch = Desk(Plain(readers(6))), LogWatch()
    (source,) = desk.state.ranges
    older = [
        ev.TaskLeased(task=range_task(source, at), host="h", token=at + 1, until=1e9, attempt=1, reserved=200, range=source,
                      index=at, calls=3)
        for at in range(3)
    ]  # fmt: skip
    desk.keep(desk.core.record(desk.now, *older))
    desk.resumed()
    grants = desk.pull(want=9)
    assert {grant.spans: grant.attempt for grant in grants} == {(at,): 2 if at < 3 else 1 for at in range(6)}
    assert leased(desk) == [3] and len({grant.token for grant in grants}) == 6
    desk.pull(*map(done, grants), want=0)
    for event in desk.log:
        watch.see(event)
    assert not desk.state.open.total() and not desk.state.reserved and not watch.held


def test_a_range_is_admitted_as_it_is_asked_for() -> None:
    desk = Desk(Plain(AddRange("reader", 2, 7, goal="read"), AddRange("reader", 5, 5)))
    assert not desk.state.tasks and desk.state.open["reader"] == 5 and desk.kinds().count("RangeAdded") == 1
    grants = desk.pull(want=3)
    assert [(grant.spans, grant.goal) for grant in grants] == [((2,), "read"), ((3,), "read"), ((4,), "read")]
    assert len(desk.state.tasks) == 3 and [source.next for source in desk.state.ranges.values()] == [5]
    desk.pull(*map(done, grants), want=0)
    assert not desk.state.tasks and desk.state.open["reader"] == 2
    assert len(desk.pull(want=9)) == 2 and not desk.state.ranges
