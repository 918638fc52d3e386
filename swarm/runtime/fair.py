"""Fair shares of a model server: whose call is let in next when there are more than it takes at once.

Owns the order: start-time fair queueing (Goyal, Vin and Cheng 1996). Each job that has calls waiting gets tokens in the
proportion of its weight, whatever the number of its calls; a job that comes late is not behind those that came before, and
one that was idle has saved nothing up. A call is charged when it is let in: one that gives up before costs its job nothing.
It knows no model and no Ray; every wait here ends with the caller's own time limit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

REMEMBERED = 256
"""Jobs whose accounts are kept while they have no call here."""


@dataclass(slots=True)
class Account:
    """One job at the queue. `finish` is the virtual time at which the calls that were let in would be served: the start of the
    next one, while it has any waiting."""

    finish: float = 0.0
    waiting: int = 0
    calls: int = 0
    """Calls that were let in."""
    tokens: int = 0
    longest: float = 0.0
    """Seconds that the most patient of them waited."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A call that waits: when it came, how far it takes its job's account, and how it hears that it is let in."""

    number: int
    share: float
    given: asyncio.Future[None]


class FairQueue:
    """Lets `slots` calls in at once. `ticks` gives monotonic seconds."""

    def __init__(self, slots: int, ticks: Callable[[], float] = time.monotonic) -> None:
        self._free, self._ticks = slots, ticks
        self._virtual = 0.0
        self._accounts: dict[str, Account] = {}
        self._waiting: dict[str, deque[Turn]] = {}
        """Job → its calls that wait, in the order in which they came."""
        self._numbers = count()

    @asynccontextmanager
    async def turn(self, job: str, weight: float, tokens: int) -> AsyncIterator[None]:
        """Waits for the job's turn, and holds a slot for as long as the block takes. `tokens` is what the call may take."""
        await self._enter(job, weight, tokens)
        try:
            yield
        finally:
            self._leave()

    def accounts(self) -> dict[str, Account]:
        """What each job of late has had."""
        return dict(self._accounts)

    async def _enter(self, job: str, weight: float, tokens: int) -> None:
        account = self._account(job)
        if not account.waiting:
            account.finish = max(self._virtual, account.finish)
        if self._free:  # then nobody waits
            self._free -= 1
            self._charge(account, tokens / weight)
        else:
            await self._wait(job, account, tokens / weight)
        account.calls += 1
        account.tokens += tokens

    async def _wait(self, job: str, account: Account, share: float) -> None:
        turn = Turn(next(self._numbers), share, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(job, deque()).append(turn)
        began = self._ticks()
        account.waiting += 1
        try:
            await turn.given
        except asyncio.CancelledError:
            if turn.given.cancelled():
                self._forget(job, turn)
            else:  # the slot had been given already: the next one gets it
                account.finish -= share
                self._leave()
            raise
        finally:
            account.waiting -= 1
            account.longest = max(account.longest, self._ticks() - began)

    def _leave(self) -> None:
        """A slot is free: for the job with the least start, or for whoever comes."""
        while self._waiting:
            job = min(self._waiting, key=lambda job: (self._accounts[job].finish, self._waiting[job][0].number))
            turn = self._waiting[job][0]
            self._forget(job, turn)
            if not turn.given.done():
                self._charge(self._accounts[job], turn.share)
                turn.given.set_result(None)
                return
        self._free += 1

    def _charge(self, account: Account, share: float) -> None:
        self._virtual = max(self._virtual, account.finish)
        account.finish += share

    def _forget(self, job: str, turn: Turn) -> None:
        """Takes a call out of the queue, if it is there still."""
        turns = self._waiting.get(job, deque())
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(job, None)

    def _account(self, job: str) -> Account:
        account = self._accounts.pop(job, None) or Account()
        self._accounts[job] = account  # those that were here last stand last
        if len(self._accounts) > REMEMBERED:
            idle = next((name for name, one in self._accounts.items() if not one.waiting and one is not account), None)
            if idle is not None:
                del self._accounts[idle]
        return account
