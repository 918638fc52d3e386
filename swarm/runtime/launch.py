"""Running a job from here: the one road that the command line and Python share.

Owns the choice of the shell and the order check → run folder → work → report. What a report is, it does not know: the
caller passes the function that writes one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from swarm.coordinator import Phase
from swarm.coordinator.budget import limits_reached
from swarm.coordinator.state import OVER_BUDGET
from swarm.corpus import Pinned
from swarm.errors import BudgetError, ModelError, ProtocolError, StoreError, SwarmError
from swarm.events import ReportWritten
from swarm.runtime.caretaker import Caretaker
from swarm.runtime.driver import start_lock
from swarm.runtime.environment import settle
from swarm.runtime.master import persons_reason
from swarm.runtime.opening import open_state
from swarm.runtime.prepare import Prepared
from swarm.runtime.session import SIGNALS, Session, check, check_open
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder, new_id, read_sound_status, read_status
from swarm.store.runs import Runs

Shell = Literal["ray", "local"]
Render = Callable[[RunFolder], Mapping[str, str]]
"""Writes the report of a run from its log; returns the digest of each file."""


@dataclass(frozen=True, slots=True)
class Options:
    """Where and how a job runs; nothing here changes what it answers."""

    runs: Runs
    """Where runs lie."""
    shell: Shell = "ray"
    address: str = ""
    """A Ray cluster to join; empty starts one."""
    agents: int = 64
    """Tasks that one host works on at once."""
    id: str = ""
    """The run's id; empty makes one from the job's name and the date."""
    pinned: bool = False
    """On a resume: go on with the run's own copy of inputs that have changed."""
    wait: bool = False
    """Stay while the job waits for a person, instead of leaving it to be resumed."""
    budget: tuple[str, ...] = ()
    """On a resume: changes of the budget, such as `tokens=+200000`, `money=5` or `seconds=none`."""
    at: int | None = None
    """On a resume: only if the log still ends with the event of this number."""
    since: int | None = None
    """On a resume without `at`: only if no person has paused the job after the event of this number."""

    def check_id(self) -> None:
        """Looks at the id that was asked for, before any input is read.

        Raises:
            SpecError: it cannot name a run.
            StoreError: a run of that name exists.
        """
        if self.id:
            self.runs.run(self.id).check_free()


@dataclass(frozen=True, slots=True)
class Opened:
    """Told to whoever watches once a run's log can be read."""

    run: RunFolder
    dashboard: str


async def run_new(
    spec: JobSpec,
    options: Options,
    render: Render,
    opened: Callable[[Opened], None],
    checked: tuple[Prepared, Pinned] | None = None,
) -> RunFolder:
    """Runs a new job until it ends or pauses, and writes its report.

    `checked` is what `check(spec)` gave, from a caller that has looked already.

    Raises:
        SwarmError: what is wrong with the job, or made it impossible to go on.
    """
    options.check_id()
    job, corpus = checked or check(spec)
    run = options.runs.run(options.id or new_id(spec.name, datetime.now().astimezone(), options.runs.ids()))
    await _run(run, (job, corpus), options, render, opened)
    return run


async def run_again(run: RunFolder, options: Options, render: Render, opened: Callable[[Opened], None]) -> RunFolder:
    """Goes on with a job where its log stops. Of one that came to its end without its report, the report is written.

    Raises:
        BudgetError: its budget is spent, and no more was given.
        SwarmError: it has ended, someone else holds it, an input changed, or it was impossible to go on.
    """
    known = read_sound_status(run)
    if known.unreported:
        files = dict(render(run))  # first: where it cannot be made, nothing is added to the log
        with Caretaker.take(run, options.at) as keeper:
            keeper.append([ReportWritten(files=files)], {})
        return run
    if not options.budget and (spent := over_budget(run)) is not None:
        raise spent
    stale: list[str] = []
    with ExitStack() as start:
        if options.at is None:  # a person wants it to go on, whatever pause nobody has heard, and unless somebody pauses it now
            if options.since is None:
                start.callback(start_lock(run).release)
                known = read_sound_status(run)
            if known.holder is not None:
                run.writer().close()  # which says who has it, and for how long yet; or it has just been left
                known = read_sound_status(run)
            options = replace(options, since=known.events if options.since is None else options.since)
            stale = [message.id for message in run.messages() if message.kind in ("pause", "signal")]

        def taken(told: Opened) -> None:
            for message in stale:
                run.heard(message)
            start.close()
            opened(told)

        await _run(run, None, options, render, taken)
    return run


def cancel_resting(run: RunFolder, reason: str, render: Render) -> None:
    """Ends a job that nobody works on, and writes the report of what was found until then. Its protocol, model and inputs
    may be gone: it may rest because of that.

    Raises:
        StoreError: it has ended already, or somebody has taken it up.
    """
    with Caretaker.take(run) as keeper:
        check_open(run, keeper.state)
        keeper.end("cancelled", *persons_reason(reason, "cancelled by a person"))
        keeper.append([ReportWritten(files=dict(render(run)))], {})


def hear_cancel(run: RunFolder, render: Render) -> None:
    """Does what was asked of a driver that was just leaving: nobody else would hear it, perhaps for days."""
    with suppress(SwarmError, OSError):  # it stays in the inbox: whoever has taken the job up hears it
        asked = [message for message in run.messages() if message.kind == "cancel"]
        if asked and not read_status(run).ended:
            cancel_resting(run, asked[0].text, render)
        for message in asked:
            run.heard(message.id)


async def _run(
    run: RunFolder,
    new: tuple[Prepared, Pinned] | None,
    options: Options,
    render: Render,
    opened: Callable[[Opened], None],
) -> None:
    with Interrupts(run, new is not None) as interrupts:

        def taken(told: Opened) -> None:
            interrupts.taken()
            opened(told)

        try:
            if options.shell == "local":
                await _run_locally(run, new, options, render, taken, interrupts)
            else:
                await _run_on_ray(run, new, options, render, taken, interrupts)
        except asyncio.CancelledError:
            if not interrupts.stopped:
                raise  # by whoever awaits the job, who knows why
            raise stopped(run if run.path.is_dir() else None) from None
        except (ModelError, ProtocolError):
            await asyncio.to_thread(hear_cancel, run, render)
            raise
        await asyncio.to_thread(hear_cancel, run, render)


def stopped(run: RunFolder | None) -> SwarmError:
    """What to say of a job that a signal stopped at once; None: there is no run yet."""
    if run is None:
        return SwarmError("stopped before the run began: nothing was written and nothing was spent")
    return SwarmError("stopped at once; its log is safe", f"run {run.id}", f"go on with: swarm resume {run.id}{run.option}")


async def _run_locally(
    run: RunFolder,
    new: tuple[Prepared, Pinned] | None,
    options: Options,
    render: Render,
    opened: Callable[[Opened], None],
    interrupts: Interrupts,
) -> None:
    from swarm.runtime.local import work_locally

    if new:
        session = Session.create(*new, run)
    else:
        session = Session.resume(run, options.pinned, options.budget, options.at, options.since)
    try:
        opened(Opened(run, ""))
        await work_locally(session, options.agents, patient=options.wait)
        if session.master.state.settled:
            session.reported(render(run))
        await session.told()
        interrupts.rests()
    except (ModelError, ProtocolError) as error:
        session.left(error)
        await session.told()
        raise
    finally:
        session.close()
        interrupts.left()


async def _run_on_ray(
    run: RunFolder,
    new: tuple[Prepared, Pinned] | None,
    options: Options,
    render: Render,
    opened: Callable[[Opened], None],
    interrupts: Interrupts,
) -> None:
    settle()
    from swarm.runtime import cluster
    from swarm.runtime.actors import RayJob
    from swarm.runtime.fleet import fleet

    joined = await asyncio.to_thread(cluster.connect, options.address)
    try:
        job = RayJob(run, options.agents)
        if new:
            await job.create(new[0].spec, new[1])
        else:
            await job.resume(options.pinned, options.budget, options.at, options.since)
        opened(Opened(run, joined.dashboard))
        try:
            await job.work(options.wait)
            if settled(run):
                await job.reported(render(run))
            await job.told()
            interrupts.rests()
        except (ModelError, ProtocolError) as error:
            await job.left(error)
            await job.told()
            raise
        finally:
            await job.close()
            interrupts.left()
            if joined.ours:
                with suppress(SwarmError, TimeoutError):
                    await asyncio.wait_for(cluster.answer(fleet().close.remote()), 45)
    finally:
        await asyncio.to_thread(cluster.disconnect)


def settled(run: RunFolder) -> bool:
    """Whether the job has come to its end, or to the end of its budget."""
    with run.reader() as reader:
        return open_state(reader).state.settled


def over_budget(run: RunFolder) -> BudgetError | None:
    """What to say of a job that rests until it gets more budget; None of any other."""
    with run.reader() as reader:
        state = open_state(reader).state
    if state.status != "budget" or state.phase is Phase.ENDED:
        return None
    more = "".join(f" --budget {name}=+MORE" for name in limits_reached(state))
    cure = f"go on with: swarm resume {run.id}{more}{run.option}"
    return BudgetError(state.reason.removeprefix(OVER_BUDGET), f"run {run.id}", cure)


class Interrupts:
    """While it holds, the first Ctrl-C or SIGTERM asks the job to pause, and a second one ends the driver at once. So does the
    first, as long as the job is not `taken`: it may be somebody else's, who works on it. That of a new job, which is just
    being made, waits until then. Once the job is `left` the first means nothing, as the driver ends already."""

    def __init__(self, run: RunFolder, new: bool) -> None:
        self._run, self._new = run, new
        self._ours, self._left, self._asked, self._message = False, False, "", ""
        self.stopped = False
        """Whether a signal has ended the driver."""

    def __enter__(self) -> Interrupts:
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError, ValueError, RuntimeError):  # not the main thread: signals are the caller's
            for number, name in SIGNALS.items():
                loop.add_signal_handler(number, self._ask, loop, name)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(NotImplementedError, ValueError, RuntimeError):
            for number in SIGNALS:
                asyncio.get_running_loop().remove_signal_handler(number)

    def _ask(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        signal.alarm(0)  # Ray's own handler goes first, takes SIGTERM for a crash, and has the process abort three seconds later
        if not self._asked and (self._ours or (self._new and self._run.path.is_dir())):
            self._asked = name
            if self._left or not self._ours or self._posted():
                return
        self.stopped = True
        for task in asyncio.all_tasks(loop):
            task.cancel()

    def taken(self) -> None:
        """The job is ours from now on."""
        self._ours = True
        if self._asked:
            self._posted()

    def rests(self) -> None:
        """The job has come to rest by itself. A signal that it did not come to hear is no word to whoever takes it next."""
        self.left()
        if self._message:
            with suppress(StoreError):  # it stays, as a person's word
                self._run.heard(self._message)

    def left(self) -> None:
        """The job is ours no more."""
        self._left = True

    def _posted(self) -> bool:
        with suppress(StoreError):  # nothing can be left for the job, as its disk is full
            self._message = self._run.post("signal", self._asked)
            return True
        return False
