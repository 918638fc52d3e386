"""The view of a job at work: on a terminal a table that is redrawn, elsewhere plain lines with the time.

Owns reading the log as it grows and saying how the job stands. It changes nothing, and works from any process.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from swarm.cli.door import duration, number
from swarm.cli.people import lines_of
from swarm.coordinator import JobState, Phase
from swarm.coordinator.budget import effective, used
from swarm.events import CallFinished, Event, JobOpened, RangeLeased, TailCut, TaskFinished, TaskLeased
from swarm.names import counted
from swarm.runtime.opening import newest
from swarm.runtime.people import questions
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder, reason_words
from swarm.store.interface import Reader

LOOK_SECONDS = 0.5
"""How often the log is looked at."""
LINE_SECONDS = 5.0
"""How often a plain line is written while nothing else happens."""
AT_ONCE = 2000
"""Events that are read at a time."""
RATE_SECONDS = 30.0
"""Over which past a rate is taken."""


@dataclass(slots=True)
class Progress:
    """What the log says so far, and how fast it grows."""

    spec: JobSpec
    state: JobState = field(default_factory=JobState)
    begun: bool = False
    held: bool = True
    """Whether anybody works on the job."""
    cut: int = 0
    """Bytes of an unfinished commit that the master who has the job found at the end of its log, and cut off."""
    recent: deque[tuple[float, int, int]] = field(default_factory=deque)
    """(log time, tokens, tasks finished) of the last RATE_SECONDS."""

    def apply(self, event: Event) -> None:
        self.state.apply(event)
        body = event.body
        if isinstance(body, (TaskLeased, RangeLeased)):  # hosts ask for work once their model is ready
            self.begun = True
        elif isinstance(body, JobOpened):
            self.cut = 0
        elif isinstance(body, TailCut):
            self.cut = body.bytes
        elif isinstance(body, CallFinished):
            self.recent.append((event.time, body.tokens_in + body.tokens_out, 0))
        elif isinstance(body, TaskFinished):
            self.recent.append((event.time, 0, 1))
        self._forget(event.time)  # here as well: before it is first asked for a rate, a view reads a whole log

    def _forget(self, now: float) -> None:
        while self.recent and self.recent[0][0] < now - RATE_SECONDS:
            self.recent.popleft()

    def _rate(self, column: int, now: float) -> float:
        self._forget(now)
        if not self.recent:
            return 0.0
        return sum(row[column] for row in self.recent) / max(1.0, min(RATE_SECONDS, now - self.recent[0][0]))

    def tokens_a_second(self, now: float) -> float:
        return self._rate(1, now)

    def left(self, now: float) -> float | None:
        """Seconds until the open tasks are done at the rate of the last half minute; None where that says nothing."""
        rate, open_tasks = self._rate(2, now), sum(self.state.open.values())
        return open_tasks / rate if rate and self.state.phase is Phase.WORKING else None

    def stage(self) -> str:
        """What is going on, in a word."""
        state = self.state
        if state.phase is Phase.PINNING:
            return "cutting and pinning the inputs"
        if state.phase is Phase.WORKING and not self.begun:
            return "loading the model" if self.spec.model.engine in ("vllm", "transformers") else "starting the agents"
        if state.phase is Phase.WORKING:
            return "over budget: finishing from the reserve" if state.closing is not None else "working"
        if state.phase is Phase.WAITING:
            return "waiting for a person"
        return state.status or ("pausing" if state.leased and self.held else "paused")

    def pinned(self) -> str:
        """How much of the inputs is cut and durable, in the numbers that a plan gives."""
        state = self.state
        parts = (len(state.documents), "document"), (state.spans, "passage"), (state.span_tokens, "token")
        return ", ".join(counted(count, name) for count, name in parts) + " so far"

    def roles(self) -> list[tuple[str, int, int]]:
        """(role, tasks done, tasks known) in the order in which roles first had work."""
        state = self.state
        failed = {role: sum(row[1] == role for row in state.failed) for role in {row[1] for row in state.failed}}
        names = dict.fromkeys([*state.finished, *state.open, *failed])
        done = {name: state.finished[name] + failed.get(name, 0) for name in names}
        return [(name, done[name], done[name] + state.open[name]) for name in names]

    def notes(self) -> str:
        """Rows found, and what became of them."""
        board = self.state.board
        kinds = board.kinds()
        if not kinds:
            return "no notes yet"
        if "row" in kinds:
            parts = [counted(kinds["row"], "row")]
            for verdict in ("supported", "unsupported", "unchecked"):
                if count := board.count("row", verdict):
                    parts.append(f"{number(count)} {verdict}")
            if kinds.get("rejected"):
                parts.append(f"{number(kinds['rejected'])} refused by code")
            if kinds.get("finding"):
                parts.append(counted(kinds["finding"], "finding"))
            return ", ".join(parts)
        return ", ".join(counted(count, kind) for kind, count in kinds.items())

    def budget_left(self, now: float) -> str:
        """The scarcest part of the budget, or that there is no limit."""
        shares = budget_used(self.spec, self.state, now)
        if not shares:
            return "no limit"
        share, name = max((share, name) for name, share in shares.items())
        return f"{max(0.0, 1 - share):.0%} of {name} left"


def budget_used(spec: JobSpec, state: JobState, now: float, disk: int = 0) -> dict[str, float]:
    """Limit → share of it that is used, for the limits that are set; `disk` is the bytes that the run takes."""
    budget = effective(spec.budget, state.raised)
    return {name: spent / allowed for name, allowed, spent in used(budget, spec.model.price, state, now, disk)}


class Face(Protocol):
    """Where a view appears."""

    def stage(self, text: str) -> None:
        """Something begins that may take a while."""
        ...

    def tick(self) -> None:
        """The stage still lasts."""
        ...

    def show(self, progress: Progress) -> None: ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def close(self) -> None: ...


class PlainLines:
    """Lines with the time: one when the stage changes, and one every few seconds in between."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._stage, self._since, self._last = "", clock(), 0.0

    def stage(self, text: str) -> None:
        if text != self._stage:
            self._stage, self._since, self._last = text, self._clock(), self._clock()
            self.say(f"{text}…")

    def show(self, progress: Progress) -> None:
        if progress.state.phase is Phase.ENDED:
            return
        self.stage(progress.stage())
        if progress.state.phase is Phase.PINNING:
            self.tick(f": {progress.pinned()}")
        elif progress.state.phase is not Phase.WORKING or not progress.begun:
            self.tick()
        elif self._due():
            self.say(summary(progress))

    def tick(self, more: str = "") -> None:
        if self._stage and self._due():
            self.say(f"{self._stage}… {duration(self._clock() - self._since)}{more}")

    def _due(self) -> bool:
        now = self._clock()
        if now - self._last < LINE_SECONDS:
            return False
        self._last = now
        return True

    def say(self, text: str) -> None:
        self._console.print(f"{datetime.now():%H:%M:%S}  {text}", markup=False)

    def close(self) -> None:
        return None


class Screen:
    """A table that is redrawn in place; what is said scrolls by above it."""

    def __init__(self, console: Console) -> None:
        self._console, self._stage, self._since = console, "", time.monotonic()
        self._spinner = Spinner("dots")
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def stage(self, text: str) -> None:
        if text != self._stage:
            self._stage, self._since = text, time.monotonic()
        self._live.update(_Ticking(self._spinner, self._stage, self._since))

    def tick(self) -> None:
        """Nothing to do: the screen counts by itself."""

    def show(self, progress: Progress) -> None:
        stage = progress.stage()
        if stage != self._stage:
            self._stage, self._since = stage, time.monotonic()
        ticking = _Ticking(self._spinner, stage, self._since)
        if progress.state.phase is Phase.PINNING:
            self._live.update(Group(ticking, Text(progress.pinned(), style="dim")))
        else:
            self._live.update(Group(ticking, _table(progress), Text(_facts(progress), style="dim")))

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False)

    def close(self) -> None:
        self._live.stop()


class _Ticking:
    """A spinner with the stage and the seconds it has taken, counted anew at each redraw."""

    def __init__(self, spinner: Spinner, stage: str, since: float) -> None:
        self._spinner, self._stage, self._since = spinner, stage, since

    def __rich__(self) -> Spinner:
        self._spinner.update(text=Text(f"{self._stage}  {duration(time.monotonic() - self._since)}"))
        return self._spinner


def face(console: Console) -> Face:
    """The view that fits a console."""
    return Screen(console) if console.is_terminal and not console.is_dumb_terminal else PlainLines(console)


def summary(progress: Progress) -> str:
    """How a working job stands, on one line."""
    roles = ", ".join(f"{name} {number(done)}/{number(known)}" for name, done, known in progress.roles())
    return f"{roles}; {progress.notes()}; {_facts(progress)}"


def _facts(progress: Progress) -> str:
    now = time.time()
    parts = [
        counted(progress.state.total().tokens, "token"),
        f"{progress.tokens_a_second(now):,.0f} tokens/s",
        f"budget: {progress.budget_left(now)}",
    ]
    if failing := progress.state.faults.failing:  # or it would look as if nothing happened
        parts.append(f"the model has failed {counted(len(failing), 'task')} since it last answered")
    left = progress.left(now)
    if left is not None:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def _table(progress: Progress) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, done, known in progress.roles():
        bar = ProgressBar(total=max(1, known), completed=done, width=30)
        table.add_row(name, bar, f"{number(done)} / {number(known)}")
    table.add_row("board", Text(progress.notes()), "")
    return table


async def follow(run: RunFolder, spec: JobSpec, shown: Face, rests: Callable[[Progress], bool]) -> Progress:
    """Reads the log as it grows and shows it, until `rests` says that nothing more will come.

    What stood in the log before is shown once something is added to it, or if nothing ever is; until then the stage that
    led here lasts.
    """
    said, cut = set[str](), 0
    with run.reader() as reader:
        state, _ = await asyncio.to_thread(newest, reader)
        progress, old = Progress(spec, state, begun=state.seq > 0), reader.last()
        while True:
            held = run.holder() is not None  # before reading: what the last one did is there once nobody is
            while events := await asyncio.to_thread(_new, reader, progress.state.seq):
                for event in events:
                    progress.apply(event)
            if progress.cut != cut and progress.cut:
                torn = f"{counted(progress.cut, 'byte')} of an unfinished commit, as a crash or a full disk leaves it"
                shown.say(f"note: cut off the end of the log: {torn}")
            cut = progress.cut
            if not said.issuperset(progress.state.questions):
                for question in await asyncio.to_thread(questions, run):
                    for line in lines_of(question, run.option) if question.id not in said else ():
                        shown.say(line)
                    said.add(question.id)
            state, progress.held = progress.state, held
            why = state.reason if state.phase is Phase.PAUSED and state.leased and progress.held else ""
            if why and why not in said:  # what is under way may take a while
                shown.say(f"pausing: {await asyncio.to_thread(reason_words, reader, why)}")
                said.add(why)
            if progress.state.seq > old or rests(progress):
                shown.show(progress)
            else:
                shown.tick()
            if rests(progress):
                return progress
            await asyncio.sleep(LOOK_SECONDS)


async def tick(shown: Face) -> None:
    """Keeps a view alive before there is a log to look at."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        shown.tick()


def _new(reader: Reader, after: int) -> list[Event]:
    """The next events, a bounded number: a log may be much longer than what fits into memory as objects."""
    return list(islice(reader.read(after), AT_ONCE))
