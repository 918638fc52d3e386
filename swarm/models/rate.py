"""How much may go to an endpoint: its limits where they are known, and what its refusals teach where they are not.

Owns the bucket, which says when a call may go, the turnstile, which says whose (both pure: whoever holds them tells the
time), and the gate, through which a host's calls reach it in few messages. Who shares a turnstile is the shell's choice: the
jobs of a cluster through the fleet, or one job alone.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from swarm.errors import ModelError
from swarm.models.fair import Account, FairOrder, Turn
from swarm.spec import Rate

PATIENCE_SECONDS = 60.0
"""How long a call waits at the gate. Where it would be longer its task goes back, so that a pause need not wait for it."""
LEAST_SECONDS, ASK_SECONDS = 0.5, 1.0
"""How often a host asks anew while calls of its wait: within what a bucket lets go ahead of its rate, so that no place is lost
while nobody asks."""
SILENT_SECONDS = 15.0
"""How long the calls of a host that asks no more keep their turns: longer than a busy machine takes over a message."""
BURST_SECONDS = 5.0
"""How far ahead of its rate a bucket lets calls go, when it was not used for a while."""
FIRST_HOLD, LONGEST_HOLD = 1.0, 60.0
"""Seconds of silence after a refusal that names none; doubled with each refusal in a row."""
NAMED_SECONDS = 240.0
"""How long after the last call that it waits for a job may still be there, though its bucket hears nothing of it."""
SLOWEST = 6.0
"""Requests a minute that are always tried, whatever was refused."""
CREEP = 1.0
"""Requests a minute by which the pace rises with each answer, after refusals have halved it."""


@dataclass(slots=True)
class _Line:
    """Arrivals at an even rate: `due` is the time at which the next one would be exactly on time."""

    due: float = 0.0

    def wait(self, now: float, per_minute: float | None) -> float:
        return 0.0 if per_minute is None else max(0.0, self.due - BURST_SECONDS - now)

    def add(self, now: float, per_minute: float | None, amount: float) -> None:
        if per_minute is not None:
            self.due = max(self.due, now) + 60.0 * amount / per_minute


@dataclass
class Bucket:
    """What goes to one endpoint. All times are seconds of one monotonic clock; waits are seconds from `now`.

    A refusal halves the pace, which begins at what went out in the last minute, and closes the gate for as long as the
    endpoint asks, or else for a while that doubles and is drawn at random within a factor of two. An answer lets the pace
    creep up again.
    """

    rate: Rate
    chance: random.Random = field(default_factory=random.Random)
    pace: float | None = None
    """Requests a minute that refusals have left; None while there was none."""
    shut: float = 0.0
    """Time until which nothing goes out."""
    _requests: _Line = field(default_factory=_Line)
    _tokens: _Line = field(default_factory=_Line)
    _out: deque[float] = field(default_factory=deque)
    _strikes: int = 0
    _named: dict[Rate, float] = field(default_factory=dict)
    """What jobs take to be the endpoint's limits, and until when they are taken to be there."""

    def name(self, now: float, rate: Rate, until: float) -> None:
        """Several jobs may name limits of one endpoint: the lowest hold, of those that are to hold still."""
        self._named[rate] = max(until, self._named.get(rate, until))
        for one in [one for one, end in self._named.items() if now >= end]:
            del self._named[one]
        requests = min((one.requests_per_minute for one in self._named if one.requests_per_minute is not None), default=None)
        tokens = min((one.tokens_per_minute for one in self._named if one.tokens_per_minute is not None), default=None)
        self.rate = Rate(requests_per_minute=requests, tokens_per_minute=tokens)

    def wait(self, now: float) -> float:
        """Seconds until the next call may go out."""
        return max(
            0.0,
            self.shut - now,
            self._requests.wait(now, self._allowed()),
            self._tokens.wait(now, self.rate.tokens_per_minute),
        )

    def take(self, now: float, tokens: int) -> None:
        """A call of at most `tokens` tokens goes out."""
        self._requests.add(now, self._allowed(), 1.0)
        self._tokens.add(now, self.rate.tokens_per_minute, tokens)
        self._out.append(now)
        self._lately(now)

    def answered(self) -> None:
        """A call was answered."""
        self._strikes = 0
        if self.pace is not None:
            self.pace += CREEP

    def refused(self, now: float, after: float) -> None:
        """A call was refused; `after` is how long the endpoint asks to wait, 0 where it does not say."""
        if now >= self.shut:  # calls that were out already when the gate was shut are of the same storm
            known, lately = self._allowed(), self._lately(now)
            self.pace = max(SLOWEST, (min(known, lately) if known is not None else lately) / 2)
            hold = min(LONGEST_HOLD, FIRST_HOLD * 2.0**self._strikes) * (0.5 + self.chance.random())
            self._strikes = min(self._strikes + 1, 16)
            self._shut(now + (after or hold))
        elif after:
            self._shut(max(self.shut, now + after))

    def _shut(self, until: float) -> None:
        """Nothing goes out until then, and what comes first after it does not come in a burst."""
        self.shut = until
        self._requests.due = max(self._requests.due, until + BURST_SECONDS)

    def _lately(self, now: float) -> float:
        """Requests a minute that went out in the last minute, or since the first one if that is less."""
        while self._out and self._out[0] < now - 60.0:
            self._out.popleft()
        return 60.0 * len(self._out) / max(1.0, now - self._out[0]) if self._out else 0.0

    def _allowed(self) -> float | None:
        limits = [one for one in (self.rate.requests_per_minute, self.pace) if one is not None]
        return min(limits, default=None)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a host has to say: who it is and for which job, every call of its that waits to go out (its number, and the most
    tokens that it may take), how many calls were answered, and the seconds that each refusal asked for."""

    host: str
    job: str
    weight: float
    calls: Sequence[tuple[int, int]] = ()
    answered: int = 0
    refused: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Let:
    """What a host hears: which of its calls go out now, and the seconds until the next one of anybody's may."""

    calls: Sequence[int]
    wait: float


@dataclass(slots=True)
class _Host:
    """What waits for a host, by its numbers, what was let in since it asked last, and when that was."""

    waiting: dict[int, Turn] = field(default_factory=dict)
    let: list[int] = field(default_factory=list)
    heard: float = 0.0


class Turnstile:
    """Lets the calls of all jobs out to one endpoint: as many as its bucket allows, in the fair order of their jobs' weights.

    A host names all its calls that wait, whenever it asks. So an answer that is lost costs the places that it gave and no call,
    a turnstile may begin anew, and a call that gave up is one that is not named again. Pure, as the bucket is.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._order = FairOrder()
        self._hosts: dict[str, _Host] = {}
        self._turns: dict[Turn, tuple[str, int, float]] = {}
        """Turn → host and number of the call that waits for it, and since when."""

    def ask(self, now: float, asked: Asked) -> Let:
        """Hears a host, and tells it which of its calls may go."""
        for _ in range(asked.answered):
            self.bucket.answered()
        for after in asked.refused:
            self.bucket.refused(now, after)
        self._hear(now, asked)
        while not (wait := self.bucket.wait(now)) and (turn := self._order.next()) is not None:
            self.bucket.take(now, turn.tokens)
            name, number, came = self._turns.pop(turn)
            self._order.waited(turn, now - came)
            del self._hosts[name].waiting[number]
            self._hosts[name].let.append(number)
        host, let = self._hosts[asked.host], list[int]()
        if now >= self.bucket.shut:  # it may have been shut since they were let in
            let, host.let = host.let, let
        if not host.waiting and not host.let:
            del self._hosts[asked.host]
        return Let(let, wait)

    def accounts(self) -> dict[str, Account]:
        """What each job of late has had here."""
        return self._order.accounts()

    def _hear(self, now: float, asked: Asked) -> None:
        """What waits is what is named now; what was let in since the host asked last is let in."""
        for name in [name for name, host in self._hosts.items() if now - host.heard > SILENT_SECONDS]:
            self._forget(now, self._hosts.pop(name), frozenset())  # it has died, or nothing of it waits any more
        host = self._hosts.setdefault(asked.host, _Host())
        host.heard = now
        let = frozenset(host.let)
        self._forget(now, host, frozenset(number for number, _ in asked.calls))
        for number, tokens in asked.calls:
            if number not in host.waiting and number not in let:
                turn = host.waiting[number] = self._order.add(asked.job, asked.weight, tokens)
                self._turns[turn] = (asked.host, number, now)

    def _forget(self, now: float, host: _Host, kept: frozenset[int]) -> None:
        for number in [number for number in host.waiting if number not in kept]:
            turn = host.waiting.pop(number)
            _, _, came = self._turns.pop(turn)
            self._order.remove(turn)
            self._order.waited(turn, now - came)


@dataclass(frozen=True, slots=True)
class _Call:
    """A call at the gate: the most tokens that it may take, when it came (the loop's time), and how it hears that it may go."""

    tokens: int
    came: float
    let: asyncio.Future[None]


class Gate:
    """The way of a host's calls to one endpoint. `send` brings what there is to say to the turnstile."""

    def __init__(self, job: str, weight: float, send: Callable[[Asked], Awaitable[Let]]) -> None:
        self._host, self._job, self._weight, self._send = f"{job}:{secrets.token_hex(4)}", job, weight, send
        self._answered = 0
        self._refused: list[float] = []
        self._numbers = count()
        self._waiting: dict[int, _Call] = {}
        self._news = asyncio.Event()
        """There is something to say that the turnstile has not heard."""
        self._asking: asyncio.Task[None] | None = None

    async def enter(self, tokens: int) -> None:
        """Returns when a call of at most `tokens` tokens may go out.

        Raises:
            ModelError: it has waited for PATIENCE_SECONDS, or it is known that it would have to (`overloaded`; `after` says for
                how long it need not come again, and is 0 where it has).
        """
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        call = self._waiting[number] = _Call(tokens, loop.time(), loop.create_future())
        self._tell()
        try:
            await call.let
        finally:
            if self._waiting.pop(number, None) is not None:
                self._news.set()  # it gives up: its turn is another's

    def answered(self) -> None:
        self._answered += 1  # goes along with whatever is asked next

    def refused(self, after: float) -> None:
        """Tells of a refusal at once, for others would run into it."""
        self._refused.append(after)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        """Asks for as long as calls wait: again when the next one may go, and whenever there is news."""
        while self._waiting or self._news.is_set():
            await asyncio.sleep(0)  # whoever is ready in this round of the loop comes along
            self._news.clear()
            asked = self._asked()
            try:
                let = await self._send(asked)
            except Exception as error:  # noqa: BLE001  whatever went wrong, each call must hear of it
                self._answered += asked.answered
                self._refused[:0] = asked.refused
                for number, _ in asked.calls:
                    self._end(number, error)
                continue
            self._hear(asked, let)
            if self._waiting:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(ASK_SECONDS, max(LEAST_SECONDS, let.wait))):
                        await self._news.wait()

    def _asked(self) -> Asked:
        answered, self._answered = self._answered, 0
        refused, self._refused = self._refused, []
        calls = [(number, call.tokens) for number, call in self._waiting.items()]
        return Asked(self._host, self._job, self._weight, calls, answered, refused)

    def _hear(self, asked: Asked, let: Let) -> None:
        """Lets calls go, and sends back those that have waited for long. No timer is set for each: it would nearly always be in
        vain, and who asks comes by every second."""
        for number in let.calls:
            if not self._end(number):  # it has given up meanwhile, and leaves its place to the next
                self._end(next((other for other, call in self._waiting.items() if not call.let.done()), number))
        late = asyncio.get_running_loop().time() - PATIENCE_SECONDS
        for number, _ in asked.calls:
            call = self._waiting.get(number)
            if call is not None and (let.wait > PATIENCE_SECONDS or call.came <= late):
                self._end(number, _full(let.wait))
                self._news.set()

    def _end(self, number: int, error: Exception | None = None) -> bool:
        """Says to a call how its wait ended. False where it has given up."""
        call = self._waiting.get(number)
        if call is None or call.let.done():
            return False
        del self._waiting[number]
        if error is None:
            call.let.set_result(None)
        else:
            call.let.set_exception(error)
        return True


def _full(wait: float) -> ModelError:
    """Nothing goes out for so long, or else this call had no turn. Who is sent away for long comes back some time before the
    next one may go: then all stand in line again, and it goes to whose turn it is, and not to who comes first."""
    far = wait > PATIENCE_SECONDS
    until = f"{wait:.0f} s until the next call may go" if far else f"no turn for this call within {PATIENCE_SECONDS:.0f} s"
    return ModelError(
        f"the endpoint is full: {until}", "model.rate", "lower model.concurrency, or use a key that is allowed more",
        kind="overloaded", after=wait - PATIENCE_SECONDS / 2 if far else 0.0,
    )  # fmt: skip


def own_gate(rate: Rate, ticks: Callable[[], float]) -> Gate:
    """The gate of a job that has a turnstile of its own. `ticks` gives monotonic seconds."""
    turnstile = Turnstile(Bucket(rate))

    async def send(asked: Asked) -> Let:
        return turnstile.ask(ticks(), asked)

    return Gate("", 1.0, send)
