"""Fair shares of a model server: whose call is let in next when there are more than it takes at once.

Owns the order: start-time fair queueing (Goyal, Vin and Cheng 1996). Each job that has calls waiting gets tokens in the
proportion of its weight, whatever the number of its calls; a job that comes late is not behind those that came before, and
one that was idle has saved nothing up. It knows no model and no Ray; every wait here ends with the caller's own time limit.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

REMEMBERED = 256
"""Jobs whose accounts are kept while they have no call here."""


@dataclass(slots=True)
class Account:
    """One job at the queue. `finish` is the virtual time at which its last call would be served."""

    finish: float = 0.0
    waiting: int = 0
    calls: int = 0
    """Calls that were let in."""
    tokens: int = 0
    longest: float = 0.0
    """Seconds that the most patient of them waited."""


class FairQueue:
    """Lets `slots` calls in at once. `ticks` gives monotonic seconds."""

    def __init__(self, slots: int, ticks: Callable[[], float] = time.monotonic) -> None:
        self._free, self._ticks = slots, ticks
        self._virtual = 0.0
        self._accounts: dict[str, Account] = {}
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    @asynccontextmanager
    async def turn(self, job: str, weight: float, tokens: int) -> AsyncIterator[None]:
        """Waits for the job's turn, and holds a slot for as long as the block takes. `tokens` is what the call may take."""
        await self._enter(self._account(job), weight, tokens)
        try:
            yield
        finally:
            self._leave()

    def accounts(self) -> dict[str, Account]:
        """What each job of late has had."""
        return dict(self._accounts)

    async def _enter(self, account: Account, weight: float, tokens: int) -> None:
        start = max(self._virtual, account.finish)
        account.finish = start + tokens / weight
        if self._free:  # then nobody waits
            self._free -= 1
        else:
            await self._wait(account, start)
        self._virtual = max(self._virtual, start)
        account.calls += 1
        account.tokens += tokens

    async def _wait(self, account: Account, start: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (start, next(self._numbers), turn))
        began = self._ticks()
        account.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the slot had been given already: the next one gets it
            raise
        finally:
            account.waiting -= 1
            account.longest = max(account.longest, self._ticks() - began)

    def _leave(self) -> None:
        """A slot is free: for the call with the least start, or for whoever comes."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _account(self, job: str) -> Account:
        account = self._accounts.pop(job, None) or Account()
        self._accounts[job] = account  # those that were here last stand last
        if len(self._accounts) > REMEMBERED:
            idle = next((name for name, one in self._accounts.items() if not one.waiting and one is not account), None)
            if idle is not None:
                del self._accounts[idle]
        return account
