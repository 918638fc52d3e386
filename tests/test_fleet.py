"""The fleet's rules without a cluster: who holds a server, when it is needed no more, and whose error a job ends with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from swarm.errors import ClusterError
from swarm.runtime.actors import together
from swarm.runtime.holds import IDLE_SECONDS, LAPSE_SECONDS, Holds


def test_a_server_that_someone_holds_is_needed() -> None:
    holds = Holds()
    holds.hold("one", "server", 0)
    holds.hold("two", "server", 0)
    holds.release("one", 10)
    for now in range(0, 5000, 60):
        holds.hold("two", "server", now)
        assert holds.needless(now) == []


def test_a_server_that_nobody_holds_ends_after_a_while() -> None:
    holds = Holds()
    holds.hold("one", "server", 0)
    holds.hold("one", "other", 0)
    holds.hold("two", "other", 10)
    holds.release("one", 10)
    assert holds.needless(10 + IDLE_SECONDS - 1) == []
    holds.hold("two", "other", 10 + IDLE_SECONDS)
    assert holds.needless(10 + IDLE_SECONDS) == ["server"]
    holds.forget("server")
    assert holds.needless(10 + IDLE_SECONDS) == []


def test_a_server_that_is_held_again_in_time_stays() -> None:
    holds = Holds()
    holds.hold("one", "server", 0)
    holds.release("one", 10)
    holds.hold("two", "server", IDLE_SECONDS)
    assert holds.needless(10 + IDLE_SECONDS) == []


def test_the_hold_of_a_job_that_was_killed_lapses() -> None:
    holds = Holds()
    holds.hold("killed", "server", 0)
    assert holds.needless(LAPSE_SECONDS + IDLE_SECONDS - 1) == []
    assert holds.needless(LAPSE_SECONDS + IDLE_SECONDS) == ["server"], "idle since the hold lapsed, not since someone looked"


def test_releasing_twice_does_not_begin_the_wait_anew() -> None:
    holds = Holds()
    holds.hold("one", "server", 0)
    holds.release("one", 10)
    holds.release("one", 500)
    assert holds.needless(10 + IDLE_SECONDS) == ["server"]


async def _fails(error: Exception) -> None:
    raise error


async def _fails_in_a_group(error: Exception) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fails(error))


async def _waits(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("ended")


@pytest.mark.parametrize("fails", [_fails, _fails_in_a_group])
def test_what_ends_a_job_is_raised_as_itself_and_the_other_parts_end(
    fails: Callable[[Exception], Coroutine[Any, Any, None]],
) -> None:
    ended: list[str] = []
    with pytest.raises(ZeroDivisionError, match="by nought"):
        asyncio.run(together(_waits(ended), fails(ZeroDivisionError("by nought"))))
    assert ended == ["ended"]


def test_of_several_errors_ours_is_raised() -> None:
    with pytest.raises(ClusterError, match="gone"):
        asyncio.run(together(_fails(ValueError("odd")), _fails(ClusterError("gone"))))
