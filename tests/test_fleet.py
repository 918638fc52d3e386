"""The fleet's rules without a cluster: who holds a server, when it is needed no more, and whose error a job ends with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from swarm.errors import ClusterError, ModelError
from swarm.models.liveness import hangs, until_it_hangs
from swarm.runtime.actors import together
from swarm.runtime.fleet import check_weights
from swarm.runtime.holds import IDLE_SECONDS, LAPSE_SECONDS, Holds


def test_a_server_that_someone_holds_is_needed() -> None:
    holds = Holds()
    holds.hold("one", "server", 0)
    holds.hold("two", "server", 0)
    holds.release("one", 10)
    for second in range(0, 5000, 60):
        holds.hold("two", "server", second)
        assert holds.needless(second) == []


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


def test_other_weights_than_a_job_began_with_are_refused() -> None:
    check_weights("reader", "abc", "abc")
    with pytest.raises(ModelError, match="began with weights abc and are now answered by abd") as caught:
        check_weights("reader", "abc", "abd")
    assert (caught.value.kind, caught.value.retryable, caught.value.where) == ("refused", False, "model.weights.reader")


class Engine:
    """An engine that answers so many calls, then none, and keeps its pulse."""

    def __init__(self, answers: int, calls: int) -> None:
        self.left, self.flying, self.answered, self.probes = answers, calls, 0, 0

    async def pulse(self) -> tuple[int, int]:
        return self.flying, self.answered

    def answer(self, count: int = 1) -> None:
        self.answered += count

    async def probe(self) -> None:
        self.probes += 1
        if self.left <= 0:
            await asyncio.Event().wait()
        self.left -= 1


def hung(engine: Engine, before: tuple[int, int], seconds: float = 0.05) -> bool:
    return asyncio.run(hangs(before, engine.pulse, engine.probe, seconds))


def test_an_engine_hangs_that_has_calls_and_answers_neither_them_nor_a_probe() -> None:
    assert hung(Engine(answers=0, calls=3), (3, 0))
    assert not hung(Engine(answers=1, calls=3), (3, 0)), "it is slow, and answers the probe"


def test_an_engine_that_has_no_calls_or_answers_some_is_not_probed() -> None:
    idle, busy = Engine(0, calls=0), Engine(0, calls=3)
    busy.answer()
    assert not hung(idle, (0, 0)) and not hung(busy, (3, 0))
    assert idle.probes == busy.probes == 0


def test_an_engine_whose_queue_is_long_lives_while_it_answers_anybody() -> None:
    class Slow(Engine):
        async def probe(self) -> None:
            self.answer()
            await asyncio.Event().wait()

    assert not hung(Slow(0, calls=3), (3, 0))


def test_an_engine_whose_probe_fails_does_not_hang() -> None:
    class Refuses(Engine):
        async def probe(self) -> None:
            raise ModelError("no", kind="refused")

    assert not hung(Refuses(0, calls=3), (3, 0))


def test_a_watch_ends_when_its_engine_hangs_and_not_before() -> None:
    async def scene() -> int:
        engine = Engine(answers=3, calls=2)
        await asyncio.wait_for(until_it_hangs(engine.pulse, engine.probe, 0.001, 0.05), 30)
        return engine.probes

    assert asyncio.run(scene()) == 4


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
