"""Looking after the jobs of a store: those that have lost their master get another one.

Owns the decision which run is an orphan and when it has come up in vain too often. It holds no truth of its own: what it
knows is in the logs and in the note of starts beside each, so that it may be killed at any moment, and two of them at once
do no harm. Who works on a job is decided by the store's lock alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swarm.errors import SwarmError
from swarm.events import CARETAKER, DESK, ApprovalAnswered, ApprovalAsked, Event, JobOpened, PhaseChanged, TaskFinished
from swarm.runtime.caretaker import Caretaker
from swarm.runtime.driver import SWARM, TAKE_SECONDS, Launch, start_again, starts
from swarm.runtime.launch import SIGNALS
from swarm.runtime.outbox import Outbox, undelivered
from swarm.runtime.session import LEFT
from swarm.store.folder import RunFolder, RunStatus
from swarm.store.runs import open_runs

LOOK_SECONDS = 5.0
"""How often all runs are looked at."""
GRACE_SECONDS = 10.0
"""A run that somebody did something to so recently may be being started: it is left alone."""
STARTS, WITHIN_SECONDS = 5, 1200.0
"""So many starts within so many seconds, without a step finished between them, are a crash loop."""
AT_ONCE = 4
"""Drivers that are started at the same time."""
REPEAT_SECONDS = 60.0
"""How often the same trouble with a run is told again."""
PASSING = (LEFT, SIGNALS[signal.SIGTERM])
"""Reasons of pauses that no person asked for: an error ended the driver, or its machine stopped. Ctrl-C is a person's."""
CHUNK = 500


@dataclass(frozen=True, slots=True)
class Seen:
    """What was done about a run: `resumed`, `given up`, `told`, `waits` (for its grace) or `error`."""

    id: str
    what: str
    detail: str = ""


class Supervisor:
    """Looks after all runs of some places, each as `--runs` names it, empty for what the environment says.

    `say` is told what was done; `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        places: Sequence[str],
        address: str = "",
        say: Callable[[Seen], None] = lambda seen: None,
        program: tuple[str, ...] = SWARM,
        clock: Callable[[], float] = time.time,
        patience: float = TAKE_SECONDS,
    ) -> None:
        self._places, self._address, self._program, self._patience = places, address, program, patience
        self._say, self._clock = say, clock
        self._told: dict[tuple[str, str], float] = {}
        self._since: dict[Path, float] = {}
        """Since when a run has been an orphan, in monotonic seconds: for a log whose time lies ahead of this clock."""
        self._nothing_left: dict[Path, int] = {}
        """How long the log of a run was when nothing was left to tell people."""
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def watch(self) -> None:
        """Looks again and again, until cancelled. A run that something is still being done about keeps no other waiting."""
        under_way: dict[tuple[str, str], asyncio.Task[Seen | None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                under_way = {key: task for key, task in under_way.items() if not task.done()}
                for place, run, status in (await self._runs())[0]:
                    if (place, run.id) not in under_way:
                        under_way[place, run.id] = group.create_task(self._look_after(place, run, status))
                await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> list[Seen]:
        """Looks at every run once, and returns when all is done that there is to do. Trouble with one never stops others."""
        runs, found = await self._runs()
        return found + [one for one in await asyncio.gather(*(self._look_after(*one) for one in runs)) if one is not None]

    async def _runs(self) -> tuple[list[tuple[str, RunFolder, RunStatus]], list[Seen]]:
        """All runs, each with its place, and the places that could not be looked at."""
        runs: list[tuple[str, RunFolder, RunStatus]] = []
        found: list[Seen] = []
        for place in self._places:
            try:
                there = open_runs(place or None, os.environ)
                runs += [(place, there.run(one.id), one) for one in await asyncio.to_thread(there.list)]
            except Exception as error:  # noqa: BLE001  whatever it is, it is this place's trouble, and no other's
                found.append(Seen("runs", "error", _words(error)))
                self._tell(found[-1])
        return runs, found

    async def _look_after(self, place: str, run: RunFolder, status: RunStatus) -> Seen | None:
        seen = await self._tend(place, run, status)
        if seen is not None:
            self._tell(seen)
        return seen

    def _tell(self, seen: Seen) -> None:
        """Says what was done; what did not change is said again only now and then."""
        key, now = (seen.id, seen.detail), time.monotonic()
        if seen.what in ("error", "waits") and now - self._told.get(key, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return
        self._told[key] = now
        self._say(seen)

    async def _tend(self, place: str, run: RunFolder, status: RunStatus) -> Seen | None:
        try:
            if not status.legible:
                return Seen(run.id, "error", f"{status.detail}; {status.cure}")
            if not await asyncio.to_thread(orphaned, run, status, self._clock()):
                self._since.pop(run.path, None)
                return None if status.holder is not None else await self._deliver(run, status)
            async with self._slots:
                return await self._take_up(place, run, status)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this run's trouble, and no other's
            return Seen(run.id, "error", _words(error))

    async def _deliver(self, run: RunFolder, status: RunStatus) -> Seen | None:
        """Tells people what the driver of a resting job did not come to tell."""
        if self._nothing_left.get(run.path) == status.events or not status.events:
            return None
        with run.reader() as reader:
            due = undelivered(reader)
        if due is None:
            self._nothing_left[run.path] = status.events
        if due is None or due > self._clock():
            return None
        with Caretaker.take(run, status.events, self._clock) as keeper:
            before = len(keeper.state.outbox)
            await Outbox(run, keeper.spec, keeper.state, keeper.store, keeper.append, self._clock).deliver()
            return Seen(run.id, "told", f"{before - len(keeper.state.outbox)} of {before} notices")

    async def _take_up(self, place: str, run: RunFolder, status: RunStatus) -> Seen:
        begun, last = await asyncio.to_thread(starts, run)
        since = self._since.setdefault(run.path, time.monotonic())
        quiet = self._clock() - max(status.updated, begun[-1] if begun else 0.0)
        if 0 <= quiet < GRACE_SECONDS or (quiet < 0 and time.monotonic() - since < GRACE_SECONDS):
            return Seen(run.id, "waits", f"for {GRACE_SECONDS:g} s of quiet")
        vain = await asyncio.to_thread(in_vain, run, status, begun, self._clock())
        if vain >= STARTS:
            reason = f"crash loop: {vain} starts in {WITHIN_SECONDS / 60:g} minutes without a finished step"
            await asyncio.to_thread(give_up, run, status.events, reason)
            return Seen(run.id, "given up", f"{reason}; see {run.driver_log}, and then `swarm resume {run.id}{run.option}`")
        how = await asyncio.to_thread(self._how, place, run, last)
        driver = await start_again(run, how, status.events, self._patience)
        self._since.pop(run.path, None)
        return Seen(run.id, "resumed", f"by process {driver.pid}, {quiet:.0f} s after its last event")

    def _how(self, place: str, run: RunFolder, last: dict[str, object]) -> Launch:
        """As the job was started last, by its driver's note, else by its log. What is nonsense in the note counts as not said."""
        how = Launch(place, program=self._program)
        if last:
            agents, address = last.get("agents"), last.get("address")
            how = replace(
                how, local=last.get("local") is True, address=address if isinstance(address, str) else how.address,
                agents=agents if type(agents) is int and agents > 0 else how.agents, pinned=last.get("pinned") is True,
            )  # fmt: skip
        else:
            with run.reader() as reader:
                shells = [event.body.shell for event in reader.life() if isinstance(event.body, JobOpened)]
            how = replace(how, local=[shell for shell in shells if shell not in (CARETAKER, DESK)][-1:] == ["local"])
        return replace(how, address=self._address) if self._address and not how.local else how


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, SwarmError) else f"{type(error).__name__}: {error}"


def orphaned(run: RunFolder, status: RunStatus, now: float) -> bool:
    """Whether a job is alive, nobody works on it, and nobody wanted that. One that waits for a person is not, until it has
    no need to wait any more."""
    if status.holder is not None:
        return False
    if status.status == "waiting":
        return may_go_on(run, now)
    return status.status in ("interrupted", "answered") or (status.status == "paused" and status.detail in PASSING)


def may_go_on(run: RunFolder, now: float) -> bool:
    """Whether a job that waits for a person could do something now: an answer lies there, or the time of a question is over."""
    if any(message.kind == "answer" for message in run.messages()):
        return True
    with run.reader() as reader:
        bodies = [event.body for event in reader.keyed("question:")]
    over = {body.question for body in bodies if isinstance(body, ApprovalAnswered)}
    asked = [body for body in bodies if isinstance(body, ApprovalAsked) and body.question not in over]
    return any(body.until is not None and body.until <= now for body in asked)


def in_vain(run: RunFolder, status: RunStatus, begun: Sequence[float], now: float) -> int:
    """How often the job was started lately since it last finished a step."""
    since = now - WITHIN_SECONDS
    lately = [one for one in begun if one > since]
    if len(lately) < STARTS:
        return len(lately)
    with run.reader() as reader:
        upto = status.events
        while upto > 0:
            for event in reversed(list(reader.read(after=max(0, upto - CHUNK), upto=upto))):
                if event.time < lately[0]:
                    return len(lately)
                if _settles(event):
                    return sum(one > event.time for one in lately)
            upto -= CHUNK
    return len(lately)


def _settles(event: Event) -> bool:
    """Whether the starts before this event count no more: a step was finished, or the job given up and resumed since."""
    body = event.body
    return isinstance(body, TaskFinished) or (isinstance(body, PhaseChanged) and body.reason.startswith("crash loop"))


def give_up(run: RunFolder, at: int, reason: str) -> None:
    """Leaves a job paused, with the reason in its log, where every later supervisor finds it.

    Raises:
        StoreError: someone has taken the job, or its log cannot be written.
    """
    with Caretaker.take(run, at) as caretaker:
        caretaker.append([PhaseChanged(phase="paused", reason=reason)], {})
