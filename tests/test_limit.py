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


@pytest.mark.parametrize("fault", [None, ValueError])
def test_a_call_that_ends_in_another_way_when_it_is_late_leaves_no_request_behind(fault: type[Exception] | None) -> None:
    """Engines may make something else of being cancelled; the task then goes on, and nobody wants it cancelled."""

    async def stubborn() -> str:
        try:
            await never()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # cleans up, while the limit looks again
            if fault is not None:
                raise fault from None
        return "in the end"

    async def main() -> None:
        limit, task = Limit(0.01), asyncio.current_task()
        other = asyncio.create_task(limit.hold(never()))
        try:
            assert await limit.hold(stubborn()) == "in the end" and fault is None
        except ValueError:
            assert fault is ValueError
        assert task is not None and not task.cancelling()
        with pytest.raises(TimeoutError):
            await other
        with pytest.raises(TimeoutError):
            await limit.hold(never())

    asyncio.run(main())


def test_who_is_slow_to_go_is_told_once() -> None:
    told = 0

    async def slow(others: asyncio.Event) -> None:
        nonlocal told
        while not others.is_set():
            try:
                await others.wait()
            except asyncio.CancelledError:
                told += 1

    async def main() -> None:
        limit, others = Limit(0.01), asyncio.Event()
        first = asyncio.create_task(limit.hold(slow(others)))
        await asyncio.sleep(0)
        for _ in range(2):  # each time the limit looks at all that are under way
            with pytest.raises(TimeoutError):
                await limit.hold(never())
        others.set()
        await first

    asyncio.run(main())
    assert told == 1


def test_who_is_cancelled_by_others_as_well_stays_cancelled() -> None:
    async def main() -> None:
        limit = Limit(0.0)
        task = asyncio.create_task(limit.hold(never()))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0, task.cancel)  # in the same round as the limit, and after it
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
