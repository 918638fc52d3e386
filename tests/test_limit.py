"""The limit of time that all calls of a host share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from swarm.runtime.limit import Limit


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def at_once() -> str:
    return "answer"


def test_what_is_ready_is_answered() -> None:
    assert asyncio.run(Limit(60).hold(at_once())) == "answer"


def test_each_of_several_is_broken_off_at_its_own_time() -> None:
    async def main() -> list[tuple[str, bool]]:
        loop, limit, order = asyncio.get_running_loop(), Limit(0.02), list[tuple[str, bool]]()

        async def one(name: str, awaitable: Awaitable[None]) -> None:
            began = loop.time()
            try:
                await limit.hold(awaitable)
            except TimeoutError:
                order.append((name, loop.time() - began >= 0.02))

        first = asyncio.create_task(one("first", never()))
        await one("answered", asyncio.sleep(0))
        second = asyncio.create_task(one("second", never()))
        await first
        third = asyncio.create_task(one("third", never()))  # the timer is set for the second by now
        await asyncio.gather(second, third)
        await one("fourth", never())  # nothing else is under way
        return order

    assert asyncio.run(main()) == [(name, True) for name in ("first", "second", "third", "fourth")]


def test_who_is_cancelled_by_others_has_not_come_too_late() -> None:
    async def main() -> None:
        limit = Limit(60)
        task = asyncio.create_task(limit.hold(never()))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_who_is_cancelled_by_others_as_well_stays_cancelled() -> None:
    async def main() -> None:
        limit = Limit(0.0)
        task = asyncio.create_task(limit.hold(never()))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0, task.cancel)  # in the same round as the limit, and after it
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
