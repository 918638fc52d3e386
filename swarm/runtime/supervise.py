"""Looking after the jobs of a store: those that have lost their master get another one.

Owns the decision which run is an orphan and when it has come up in vain too often. It holds no truth of its own: what it
knows is in the logs and in the note of starts beside each, so that it may be killed at any moment, and two of them at once
do no harm. Who works on a job is decided by the store's lock alone.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from swarm.errors import AwayError, BusyError, FencedError, StoreError, SwarmError, on_a_line
from swarm.events import ApprovalAnswered, ApprovalAsked, Event, JobOpened, PhaseChanged, TaskFinished
from swarm.names import body_hash, counted
from swarm.runtime.caretaker import Caretaker
from swarm.runtime.driver import NO_DRIVERS, SWARM, TAKE_SECONDS, Launch, Start, failure, start_again, starts
from swarm.runtime.outbox import Outbox, undelivered
from swarm.runtime.session import PASSING
from swarm.store.folder import RunFolder, RunStatus, read_status
from swarm.store.place import FolderPlace
from swarm.store.runs import open_runs

LOOK_SECONDS = 5.0
"""How often all runs are looked at."""
GRACE_SECONDS = 10.0
"""A run that somebody did something to so recently may be being started: it is left alone."""
STARTS, WITHIN_SECONDS = 5, 1200.0
"""So many starts within so many seconds, without a step finished between them, are a crash loop. The wait between them doubles,
so that they span some minutes, in which a disk or a database may come back."""
AT_ONCE, SLOT_SECONDS = 4, 10.0
"""So many drivers are started at the same time, and a start counts as one of them for so many seconds at most: the machine is
spared hundreds at once, and a few that hang keep no other run waiting."""
FIRST_SECONDS, MOST_SECONDS = 5.0, 30.0
"""How long a start waits that found the cluster away, which doubles each time, and the longest."""
NEVER = (-math.inf, 0.0)
REPEAT_SECONDS = 60.0
"""How often the same trouble with a run is told again."""
STILL_SECONDS = 1800.0
"""A job that somebody works on and whose log has not moved for so long is told of: a model that is silent pauses it sooner. So
often that is told again, or that a cluster is away."""
CHUNK = 500
T = TypeVar("T")
MISSING = "check --runs and $SWARM_RUNS; a disk that is mounted later is found then"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was done about a run: `resumed`, `given up`, `told`, or nothing: it `waits` for its grace, its cluster is `away`, it
    is `still` though somebody works on it, or an `error`. A place, which stands under its own name, is `looked after`."""

    id: str
    what: str
    detail: str = ""


class Supervisor:
    """Looks after all runs of some places, each as `--runs` names it, empty for what the environment says.

    `say` is told which places are there, once each, and what was done; `clock` gives seconds since 1970, and `ticks` those
    that truly pass.
    """

    def __init__(
        self,
        places: Sequence[str],
        address: str = "",
        say: Callable[[Seen], None] = lambda seen: None,
        program: tuple[str, ...] = SWARM,
        clock: Callable[[], float] = time.time,
        patience: float = TAKE_SECONDS,
        ticks: Callable[[], float] = time.monotonic,
        slot: float = SLOT_SECONDS,
    ) -> None:
        self._places, self._address = tuple(dict.fromkeys(places)), address
        self._program, self._patience, self._slot = program, patience, slot
        self._say, self._clock, self._ticks = say, clock, ticks
        self._told: dict[tuple[str, str], float] = {}
        self._there: set[str] = set()
        """Places that were there when they were last looked at."""
        self._seen: dict[Path, tuple[float, float]] = {}
        """The time of a log's last event, and the tick at which it was first seen so."""
        self._away: dict[Path, tuple[float, float]] = {}
        """Until which tick a run waits that found its cluster away, and for how long that is."""
        self._nothing_left: dict[Path, int] = {}
        """How long the log of a run was when nothing was left to tell people."""
        self._tried: set[Path] = set()
        """Runs whose people this process has tried to tell."""
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._threads = {place: ThreadPoolExecutor(AT_ONCE) for place in self._places}
        """Who reads logs: a place that is silent in the middle of that holds up its own."""

    async def watch(self) -> None:
        """Looks again and again, until cancelled. A run that something is still being done about keeps no other waiting, nor
        does a place that does not answer."""
        async with asyncio.TaskGroup() as group:
            for place in self._places:
                group.create_task(self._watch(place, group))

    async def _watch(self, place: str, group: asyncio.TaskGroup) -> None:
        under_way: dict[str, asyncio.Task[Seen | None]] = {}
        while True:
            under_way = {id: task for id, task in under_way.items() if not task.done()}
            for run, status in (await self._runs(place))[0]:
                if run.id not in under_way:
                    under_way[run.id] = group.create_task(self._look_after(place, run, status))
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> list[Seen]:
        """Looks at every run once, and returns when all is done that there is to do. Trouble with one never stops others."""
        return [seen for found in await asyncio.gather(*map(self._look, self._places)) for seen in found]

    async def _look(self, place: str) -> list[Seen]:
        runs, trouble = await self._runs(place)
        found = await asyncio.gather(*(self._look_after(place, run, status) for run, status in runs))
        return trouble + [seen for seen in found if seen is not None]

    async def _runs(self, place: str) -> tuple[list[tuple[RunFolder, RunStatus]], list[Seen]]:
        """All runs of a place, and what is wrong with it if it could not be looked at."""
        try:
            there = open_runs(place or None, os.environ)
            if isinstance(there.place, FolderPlace) and not there.root.is_dir():
                raise StoreError("there is no such folder, and no job in it is looked after", str(there.root), MISSING)
            listed = await self._aside(place, there.list)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this place's trouble, and no other's
            self._there.discard(place)
            trouble = Seen("runs", "error", _words(error))
            self._tell(trouble)
            return [], [trouble]
        if place not in self._there:
            self._there.add(place)
            self._say(Seen(str(there), "looked after", counted(len(listed), "run")))
        return [(there.run(one.id), one) for one in listed], []

    async def _aside(self, place: str, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads[place], work, *arguments)

    async def _look_after(self, place: str, run: RunFolder, status: RunStatus) -> Seen | None:
        seen = await self._tend(place, run, status)
        if seen is not None:
            self._tell(seen)
        return seen

    def _tell(self, seen: Seen) -> None:
        """Says what was done; what did not change is said again only now and then."""
        key, now = (seen.id, seen.detail), self._ticks()
        often, seldom = REPEAT_SECONDS, STILL_SECONDS
        again = {"error": often, "waits": often, "away": seldom, "still": seldom}.get(seen.what, 0.0)
        if now - self._told.get(key, -math.inf) < again:
            return
        if seen.what == "resumed":  # what was told before it is over
            self._told = {key: at for key, at in self._told.items() if key[0] != seen.id}
        self._told[key] = now
        self._say(seen)

    async def _tend(self, place: str, run: RunFolder, status: RunStatus) -> Seen | None:
        try:
            if not status.legible:
                return Seen(run.id, "error", f"{status.detail}; {status.cure}")
            now = self._now(run, status)
            if not await self._aside(place, orphaned, run, status, now):
                if status.holder is None:
                    return await self._deliver(place, run, status, now)
                still = status.status == "working" and now - status.updated > STILL_SECONDS
                return Seen(run.id, "still", f"{status.holder} holds it, and its log does not move") if still else None
            if self._ticks() < self._away.get(run.path, NEVER)[0]:
                return None
            async with self._starting():
                return await self._take_up(place, run)
        except (BusyError, FencedError):  # somebody else was quicker, and looks after it
            return None
        except Exception as error:  # noqa: BLE001  whatever it is, it is this run's trouble, and no other's
            return Seen(run.id, "error", _words(error))

    @asynccontextmanager
    async def _starting(self) -> AsyncIterator[None]:
        """Waits for one of the slots, and gives it back at the end, or before that when its time is over."""
        await self._slots.acquire()
        with ExitStack() as slot:
            slot.callback(self._slots.release)
            over = asyncio.get_running_loop().call_later(self._slot, slot.close)
            slot.callback(over.cancel)
            yield

    def _now(self, run: RunFolder, status: RunStatus) -> float:
        """What time it is for a log. One that is ahead of the clock, which was set since, goes on from its last event, as it
        does with a new master."""
        seen = self._seen.get(run.path)
        if seen is None or seen[0] != status.updated:
            seen = self._seen[run.path] = status.updated, self._ticks()
        return max(self._clock(), status.updated + self._ticks() - seen[1])

    async def _deliver(self, place: str, run: RunFolder, status: RunStatus, now: float) -> Seen | None:
        """Tells people what the driver of a resting job did not come to tell."""
        if self._nothing_left.get(run.path) == status.events or not status.events:
            return None
        due = await self._aside(place, _due, run)
        if due is None:
            self._nothing_left[run.path] = status.events
            return None
        if status.updated > self._clock() and run.path not in self._tried:
            now = max(now, due)  # for how long it has rested before, nobody can say
        self._tried.add(run.path)
        if due > now:
            return None

        def clock() -> float:
            return max(self._clock(), now)

        with Caretaker.take(run, status.events, clock) as keeper:
            before = len(keeper.state.outbox)
            await Outbox(run, keeper.spec, keeper.state, keeper.store, keeper.append, clock).deliver()
            return Seen(run.id, "told", f"{before - len(keeper.state.outbox)} of {before} notices")

    async def _take_up(self, place: str, run: RunFolder) -> Seen | None:
        status = await self._aside(place, read_status, run)  # as it is now, after the wait for others
        now = self._now(run, status)
        if not await self._aside(place, orphaned, run, status, now):
            return None
        begun, last = await self._aside(place, starts, run)
        quiet = min([now - status.updated, *(abs(self._clock() - one.time) for one in begun[-1:])])
        vain = await self._aside(place, in_vain, run, status, begun, self._clock())
        if quiet < (wanted := quiet_before(vain)):
            after = f", after {counted(vain, 'start')} in vain" if vain else ""
            return Seen(run.id, "waits", f"for {wanted:g} s of quiet{after}")
        if vain >= STARTS:
            reason = f"crash loop: {vain} starts in {WITHIN_SECONDS / 60:g} minutes without a finished step"
            if said := await self._aside(place, failure, run):
                reason += f"; the last one: {on_a_line(said)}"
            if status.ended:  # what has ended is not paused: only its report is missing
                return Seen(run.id, "error", f"{reason}\n  see {run.driver_log}")
            await self._aside(place, give_up, run, status.events, reason)
            return Seen(run.id, "given up", f"{reason}\n  see {run.driver_log}, and then `swarm resume {run.id}{run.option}`")
        how, at = await self._aside(place, self._how, place, run, last), status.events
        if status.status == "waiting" and not await self._aside(place, may_go_on, run, max(self._clock(), status.updated)):
            with Caretaker.take(run, at, lambda: now) as keeper:  # or the driver's clock begins before a question's time is over
                at = keeper.state.seq
        try:
            driver = await start_again(run, how, at, self._patience)
        except AwayError as error:
            wait = min(MOST_SECONDS, 2 * self._away.get(run.path, NEVER)[1] or FIRST_SECONDS)
            self._away[run.path] = self._ticks() + wait, wait
            return Seen(run.id, "away", _words(error))
        self._away.pop(run.path, None)
        return Seen(run.id, "resumed", f"by process {driver.pid}, {now - status.updated:.0f} s after its last event")

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
            how = replace(how, local=[shell for shell in shells if shell not in NO_DRIVERS][-1:] == ["local"])
        return replace(how, address=self._address) if self._address and not how.local else how


def _due(run: RunFolder) -> float | None:
    with run.reader() as reader:
        return undelivered(reader)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, SwarmError) else f"{type(error).__name__}: {error}"


def orphaned(run: RunFolder, status: RunStatus, now: float) -> bool:
    """Whether a job is alive, or over without its report, nobody works on it, and nobody wanted that. One that waits for a
    person is not, until it has no need to wait any more. `now` is the time for its log."""
    if status.holder is not None:
        return False
    if status.status == "waiting":
        return may_go_on(run, now)
    left = status.status == "paused" and status.code in PASSING
    return left or status.unreported or status.status in ("interrupted", "answered")


def may_go_on(run: RunFolder, now: float) -> bool:
    """Whether a job that waits for a person could do something now: an answer lies there, or the time of a question is over."""
    if any(message.kind == "answer" for message in run.messages()):
        return True
    with run.reader() as reader:
        bodies = [event.body for event in reader.keyed("question:")]
    over = {body.question for body in bodies if isinstance(body, ApprovalAnswered)}
    asked = [body for body in bodies if isinstance(body, ApprovalAsked) and body.question not in over]
    return any(body.until is not None and body.until <= now for body in asked)


def quiet_before(vain: int) -> float:
    """Seconds for which a run must have been left alone before it is started again, or given up, after so many starts in vain."""
    return GRACE_SECONDS * 2**vain if vain < STARTS else GRACE_SECONDS


def in_vain(run: RunFolder, status: RunStatus, begun: Sequence[Start], now: float) -> int:
    """How often the job was started lately since it last finished a step. Times are compared among starts alone: the log's
    may be those of a clock that was set since."""
    lately = [one.after for one in begun if abs(now - one.time) < WITHIN_SECONDS]
    if not lately:
        return 0
    with run.reader() as reader:
        upto = status.events
        while upto > lately[0]:
            for event in reversed(list(reader.read(after=max(lately[0], upto - CHUNK), upto=upto))):
                if _settles(event):
                    return sum(one >= event.seq for one in lately)
            upto -= CHUNK
    return len(lately)


def _settles(event: Event) -> bool:
    """Whether the starts before this event count no more: a step was finished, or the job given up and resumed since."""
    body = event.body
    return isinstance(body, TaskFinished) or (isinstance(body, PhaseChanged) and body.reason.startswith("crash loop"))


def give_up(run: RunFolder, at: int, words: str) -> None:
    """Leaves a job paused, with the reason in its log, where every later supervisor finds it.

    Raises:
        StoreError: someone has taken the job, or its log cannot be written.
    """
    data = words.encode(errors="replace")
    with Caretaker.take(run, at) as caretaker:
        caretaker.append([PhaseChanged(phase="paused", reason=f"crash loop:{body_hash(data)}")], {body_hash(data): data})
