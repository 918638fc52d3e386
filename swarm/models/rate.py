"""How much may go to an endpoint: its limits where they are known, and what its refusals teach where they are not.

Owns the bucket, which is pure (whoever holds it tells it the time), and the gate, through which a host's calls reach it in
few messages. Who shares a bucket is the shell's choice: the jobs of a cluster through the fleet, or those of one process.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from swarm.errors import ModelError
from swarm.spec import Rate

PATIENCE_SECONDS = 60.0
"""How long a call waits at the gate. Where it would be longer its task goes back, so that a pause need not wait for it."""
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

    def enter(self, now: float, tokens: int, again: bool = False) -> float:
        """Seconds after which a call of at most `tokens` tokens may go out, and takes its place; where they are more than
        PATIENCE_SECONDS it has taken none. Whoever has waited comes `again`: the gate may have been shut meanwhile."""
        if again and now >= self.shut:
            return 0.0
        requests = self._allowed()
        wait = max(
            0.0,
            self.shut - now,
            self._requests.wait(now, requests),
            self._tokens.wait(now, self.rate.tokens_per_minute),
        )
        if wait <= PATIENCE_SECONDS:
            self._requests.add(now, requests, 1.0)
            self._tokens.add(now, self.rate.tokens_per_minute, tokens)
            self._out.append(now)
            self._lately(now)
        return wait

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
    """What a host tells the bucket at one time: (tokens, whether again) of each call that wants to go out, how many calls
    were answered, and the seconds that each refusal asked for."""

    calls: Sequence[tuple[int, bool]] = ()
    answered: int = 0
    refused: Sequence[float] = ()


def ask(bucket: Bucket, now: float, asked: Asked) -> list[float]:
    """Tells a bucket what a host has to say; returns the wait of each call."""
    for _ in range(asked.answered):
        bucket.answered()
    for after in asked.refused:
        bucket.refused(now, after)
    return [bucket.enter(now, tokens, again) for tokens, again in asked.calls]


class Gate:
    """The way of a host's calls to one endpoint. `send` brings what there is to say to the bucket and returns the waits."""

    def __init__(self, send: Callable[[Asked], Awaitable[list[float]]]) -> None:
        self._send = send
        self._answered = 0
        self._waiting: list[tuple[int, bool, asyncio.Future[float]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def enter(self, tokens: int) -> None:
        """Returns when a call of at most `tokens` tokens may go out.

        Raises:
            ModelError: it would have to wait for long (`overloaded`; `after` says how long).
        """
        again = False
        while wait := await self._wait(tokens, again):
            if wait > PATIENCE_SECONDS:
                raise ModelError(
                    f"the endpoint is full: {wait:.0f} s until this call's turn", "model.rate",
                    "lower model.concurrency, or use a key that is allowed more", kind="overloaded", after=wait,
                )  # fmt: skip
            await asyncio.sleep(wait)
            again = True

    def answered(self) -> None:
        self._answered += 1  # goes along with whatever is asked next

    async def refused(self, after: float) -> None:
        """Tells of a refusal at once, for others would run into it."""
        await self._send(Asked((), self._take(), (after,)))

    async def _wait(self, tokens: int, again: bool) -> float:
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, again, future))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await future

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # whoever is ready in this round of the loop comes along
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                asked = Asked([(tokens, again) for tokens, again, _ in waiting], self._take())
                waits = await self._send(asked)
            except Exception as error:  # noqa: BLE001  whatever went wrong, each call must hear of it
                for _, _, future in waiting:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, _, future), wait in zip(waiting, waits, strict=True):
                if not future.done():
                    future.set_result(wait)

    def _take(self) -> int:
        answered, self._answered = self._answered, 0
        return answered


def own_gate(rate: Rate, ticks: Callable[[], float]) -> Gate:
    """A gate with a bucket of its own. `ticks` gives monotonic seconds."""
    bucket = Bucket(rate)

    async def send(asked: Asked) -> list[float]:
        return ask(bucket, ticks(), asked)

    return Gate(send)
