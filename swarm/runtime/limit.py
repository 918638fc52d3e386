"""One limit of time for many calls.

Owns the breaking off of what takes too long. All calls of a host have the same limit, so the oldest is the first to reach it, and
one timer serves for all of them: one for each, which nearly always is set in vain, costs more than all the rest of a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Limit:
    """Breaks off whatever takes longer than `seconds`. It belongs to the event loop on which it is first used."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[asyncio.Task[object], float] = {}
        """Task → the loop's time at which it is broken off, the earliest first."""
        self._late: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def hold(self, awaitable: Awaitable[T]) -> T:
        """What the awaitable answers. A task holds one thing at a time.

        Raises:
            TimeoutError: it took too long. Whoever else cancels the task goes first.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None and task not in self._ends
        before = task.cancelling()
        self._ends[task] = end = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(end, self._look, loop)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if task in self._late and task.cancelling() <= before + 1:
                raise TimeoutError from None
            raise
        finally:
            del self._ends[task]
            if task in self._late:  # however it ended, nobody wants it cancelled any more
                self._late.remove(task)
                task.uncancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Breaks off what has reached its end, and comes back for what is the next."""
        self._timer = None
        for task, end in self._ends.items():
            if end > loop.time():
                self._timer = loop.call_at(end, self._look, loop)
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()
