"""Fair shares at a model server: tokens by weight, whoever asks how often; no slot is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from swarm.models.fair import REMEMBERED, FairQueue


def ran(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 30))


class Crowd:
    """Jobs with calls at a queue whose calls end only when they are told to, one at a time."""

    def __init__(self, slots: int = 1) -> None:
        self.queue = FairQueue(slots)
        self.served: list[str] = []
        self.inside: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []

    def come(self, job: str, calls: int, weight: float = 1.0, tokens: int = 100) -> None:
        for _ in range(calls):
            self.tasks.append(asyncio.create_task(self._call(job, weight, tokens)))

    async def _call(self, job: str, weight: float, tokens: int) -> None:
        async with self.queue.turn(job, weight, tokens):
            self.served.append(job)
            end = asyncio.Event()
            self.inside.append(end)
            await end.wait()

    async def serve(self, calls: int) -> None:
        """Ends so many calls, each after all that could come in have."""
        for _ in range(calls):
            await settled()
            self.inside.pop(0).set()
        await settled()

    def leave(self) -> None:
        """Gives up every call."""
        for task in self.tasks:
            task.cancel()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("weights", "expected"), [((1, 1), 0.5), ((3, 1), 0.75), ((1, 9), 0.1)])
def test_jobs_are_served_by_their_weight_however_many_calls_they_have_waiting(
    weights: tuple[float, float], expected: float
) -> None:
    async def scene() -> None:
        crowd = Crowd()
        crowd.come("many", 400, weights[0])
        crowd.come("few", 100, weights[1])
        await crowd.serve(100)
        share = Counter(crowd.served[:100])["many"] / 100
        assert abs(share - expected) <= 0.02
        crowd.leave()

    ran(scene())


def test_long_calls_count_for_what_they_take() -> None:
    async def scene() -> None:
        crowd = Crowd()
        crowd.come("long", 100, tokens=900)
        crowd.come("short", 200, tokens=100)
        await crowd.serve(100)
        assert 8 <= Counter(crowd.served[:100])["long"] <= 12
        crowd.leave()

    ran(scene())


def test_who_comes_late_is_neither_behind_nor_owed_anything() -> None:
    async def scene() -> None:
        crowd = Crowd()
        crowd.come("early", 200)
        await crowd.serve(50)
        crowd.come("late", 100)
        await crowd.serve(40)
        assert abs(Counter(crowd.served[51:91])["late"] - 20) <= 1
        crowd.leave()

    ran(scene())


def test_no_slot_is_lost_when_callers_give_up() -> None:
    async def scene() -> None:
        crowd = Crowd(slots=2)
        crowd.come("a", 10)
        await settled()
        for task in crowd.tasks[2:9]:
            task.cancel()
        crowd.inside[0].set()  # the first to wait has its turn, and gives up before it learns of that
        await asyncio.sleep(0)
        crowd.tasks[9].cancel()
        await settled()
        crowd.inside[1].set()
        await settled()
        crowd.come("b", 2)
        await settled()
        assert crowd.served == ["a", "a", "b", "b"]
        assert crowd.queue.accounts()["a"].calls == 2
        for end in crowd.inside:
            end.set()
        await asyncio.gather(*crowd.tasks, return_exceptions=True)
        account = crowd.queue.accounts()["b"]
        assert (account.calls, account.tokens, account.waiting) == (2, 200, 0)

    ran(scene())


@pytest.mark.parametrize("which", [slice(0, 20), slice(0, 30)])
def test_calls_that_gave_up_while_they_waited_cost_their_job_nothing(which: slice) -> None:
    async def scene() -> None:
        crowd = Crowd()
        crowd.come("holder", 1, tokens=1)
        await settled()
        crowd.come("a", 30)
        await settled()
        for task in crowd.tasks[1:][which]:
            task.cancel()
        await settled()
        crowd.come("a", 20)
        crowd.come("b", 40)
        await crowd.serve(21)
        assert abs(Counter(crowd.served[1:21])["a"] - 10) <= 1
        crowd.leave()

    ran(scene())


def test_a_call_that_gives_up_as_a_slot_gets_free_costs_its_job_nothing() -> None:
    async def scene() -> None:
        crowd = Crowd()
        crowd.come("holder", 1)
        await settled()
        crowd.come("a", 5)
        await settled()
        crowd.inside[0].set()
        for task in crowd.tasks[1:]:
            task.cancel()
        await settled()
        assert crowd.served == ["holder"]
        account = crowd.queue.accounts()["a"]
        assert (account.calls, account.tokens, account.waiting, account.finish) == (0, 0, 0, 0.0)
        crowd.come("b", 1)
        await settled()
        assert crowd.served == ["holder", "b"]
        crowd.leave()

    ran(scene())


def test_accounts_are_bounded_by_the_jobs_of_late() -> None:
    async def scene() -> None:
        queue = FairQueue(1)
        for number in range(3 * REMEMBERED):
            async with queue.turn(f"job-{number}", 1.0, 10):
                pass
        assert len(queue.accounts()) == REMEMBERED

    ran(scene())
