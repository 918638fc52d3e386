"""Fair shares of a model: whose call is let in next when there are more than it takes at once.

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


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A call that waits: of which job, what it takes, when it came, and how far it takes its job's account."""

    job: str
    tokens: int
    number: int
    share: float


class FairOrder:
    """Which of the calls that wait is the next one. Pure: it tells nobody, and asks no clock."""

    def __init__(self) -> None:
        self._virtual = 0.0
        self._accounts: dict[str, Account] = {}
        self._waiting: dict[str, deque[Turn]] = {}
        """Job → its calls that wait, in the order in which they came."""
        self._numbers = count()

    def add(self, job: str, weight: float, tokens: int) -> Turn:
        """A call comes. `tokens` is what it may take."""
        account = self._account(job)
        if not account.waiting:
            account.finish = max(self._virtual, account.finish)
        account.waiting += 1
        turn = Turn(job, tokens, next(self._numbers), tokens / weight)
        self._waiting.setdefault(job, deque()).append(turn)
        return turn

    def next(self) -> Turn | None:
        """Lets the call in that has the least start, and charges its job."""
        if not self._waiting:
            return None
        job = min(self._waiting, key=lambda job: (self._accounts[job].finish, self._waiting[job][0].number))
        turn, account = self._waiting[job][0], self._accounts[job]
        self.remove(turn)
        self._virtual = max(self._virtual, account.finish)
        account.finish += turn.share
        account.calls += 1
        account.tokens += turn.tokens
        return turn

    def remove(self, turn: Turn) -> None:
        """A call that waits gives up."""
        turns = self._waiting[turn.job]
        turns.remove(turn)
        if not turns:
            del self._waiting[turn.job]
        self._accounts[turn.job].waiting -= 1

    def take_back(self, turn: Turn) -> None:
        """A call that was let in gave up before it knew."""
        account = self._accounts.get(turn.job)
        if account is not None:
            account.finish -= turn.share
            account.calls -= 1
            account.tokens -= turn.tokens

    def accounts(self) -> dict[str, Account]:
        """What each job of late has had."""
        return dict(self._accounts)

    def waited(self, turn: Turn, seconds: float) -> None:
        account = self._accounts.get(turn.job)
        if account is not None:
            account.longest = max(account.longest, seconds)

    def _account(self, job: str) -> Account:
        account = self._accounts.pop(job, None) or Account()
        self._accounts[job] = account  # those that were here last stand last
        if len(self._accounts) > REMEMBERED:
            idle = next((name for name, one in self._accounts.items() if not one.waiting and one is not account), None)
            if idle is not None:
                del self._accounts[idle]
        return account


class FairQueue:
    """Lets `slots` calls in at once. `ticks` gives monotonic seconds."""

    def __init__(self, slots: int, ticks: Callable[[], float] = time.monotonic) -> None:
        self._free, self._ticks = slots, ticks
        self._order = FairOrder()
        self._given: dict[Turn, asyncio.Future[None]] = {}
        """How each call that waits hears that it is let in."""

    @asynccontextmanager
    async def turn(self, job: str, weight: float, tokens: int) -> AsyncIterator[None]:
        """Waits for the job's turn, and holds a slot for as long as the block takes. `tokens` is what the call may take."""
        turn = self._order.add(job, weight, tokens)
        if self._free:  # then nobody waits
            self._free -= 1
            self._order.next()
        else:
            await self._wait(turn)
        try:
            yield
        finally:
            self._leave()

    def accounts(self) -> dict[str, Account]:
        """What each job of late has had."""
        return self._order.accounts()

    async def _wait(self, turn: Turn) -> None:
        given = self._given[turn] = asyncio.get_running_loop().create_future()
        began = self._ticks()
        try:
            await given
        except asyncio.CancelledError:
            if not given.cancelled():  # the slot had been given already: the next one gets it
                self._order.take_back(turn)
                self._leave()
            elif self._given.pop(turn, None) is not None:
                self._order.remove(turn)
            raise
        finally:
            self._order.waited(turn, self._ticks() - began)

    def _leave(self) -> None:
        """A slot is free: for the job whose turn it is, or for whoever comes."""
        while (turn := self._order.next()) is not None:
            given = self._given.pop(turn)
            if not given.done():
                given.set_result(None)
                return
            self._order.take_back(turn)  # it has just given up
        self._free += 1
