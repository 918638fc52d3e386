"""Jobs without a terminal: starting a driver of its own, and the verb `supervise`, which starts it again when it is gone.

Owns what they say. How a driver is started and when it is started again is the runtime's business.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from swarm.cli.door import Json, emit, err, only_remarks, people, runs_of, verb

if TYPE_CHECKING:
    from swarm.api import JobHandle
    from swarm.runtime.launch import Options
    from swarm.runtime.supervise import Seen
    from swarm.spec import JobSpec

T = TypeVar("T")


def submit_detached(spec: JobSpec, runs: str | None, options: Options, as_json: bool) -> None:
    """Starts a new job in a driver of its own and says how to reach it."""
    from swarm.api import submit

    local = options.shell == "local"
    started = submit(spec, runs=runs, local=local, address=options.address, id=options.id, agents=options.agents)
    _say(_run(started), runs, as_json)


def resume_detached(id: str, runs: str | None, options: Options, as_json: bool) -> None:
    """Goes on with a job in a driver of its own and says how to reach it."""
    from swarm.api import resume

    local = options.shell == "local"
    taken = resume(
        id, runs=runs, local=local, address=options.address, agents=options.agents, pinned=options.pinned,
        budget=options.budget,
    )  # fmt: skip
    _say(_run(taken), runs, as_json)


def _say(handle: JobHandle, runs: str | None, as_json: bool) -> None:
    from swarm.runtime.driver import DriverProcess

    pid = handle.driver.pid if isinstance(handle.driver, DriverProcess) else 0
    where, named = people(as_json), handle.id + runs_of(runs).run(handle.id).option
    where.print(f"run {handle.id} in {handle.folder}, driven by process {pid}", markup=False)
    for verb_, what in (("watch", "follow it"), ("pause", "let it rest"), ("cancel", "end it"), ("report", "see a draft")):
        where.print(f"  swarm {verb_} {named:<28} {what}", markup=False)
    where.print(f"what the driver prints: {handle.folder / 'driver.log'}", markup=False)
    if as_json:
        emit({"id": handle.id, "run": str(handle.folder), "pid": pid, "log": str(handle.folder / "driver.log")})


@verb
def supervise(
    once: Annotated[bool, typer.Option("--once", help="Look once and return, instead of for ever.")] = False,
    runs: Annotated[
        list[str] | None,
        typer.Option("--runs", metavar="DIR", help="Folder of the runs, or postgresql://…; may be given several times."),
    ] = None,
    address: Annotated[
        str,
        typer.Option("--address", metavar="HOST:PORT", help="Join this Ray cluster, whichever a job ran on before."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Start the drivers of live jobs again that have lost theirs: killed, or gone with their machine or cluster.

    Jobs that are paused or ended are left alone, and those that wait for a person until there is an answer, or the time for
    it is over. A job that comes up five times within 20 minutes without a finished step, each time after twice the wait, is
    paused, with the reason; while its cluster is away, it is tried again every 30 seconds. With --once the exit code is 1 if a
    run, or a place of runs, could not be looked after.
    """
    from swarm.runtime.supervise import Supervisor

    if not (once and as_json):
        # Jobs are looked after, today or for days, whether or not anybody reads of it. The result of one look is its exit code,
        # and with --json the document, which a program waits for.
        only_remarks()
    supervisor = Supervisor(runs or [""], address, lambda seen: _told(seen, as_json and once))
    if not once:
        _run(supervisor.watch())
        return
    found = _run(supervisor.look())
    if as_json:
        emit([asdict(one) for one in found])
    raise typer.Exit(int(any(one.what in ("error", "away") for one in found)))


def _run(work: Coroutine[None, None, T]) -> T:
    """Runs it. A SIGTERM, or a terminal that is closed, stops it as Ctrl-C does, so that nothing outlives it that it has started
    and not done with, and ends the process after that; a second one does so at once."""
    ends: list[int] = []

    async def stoppable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            loop.remove_signal_handler(number)
            ends.append(number)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` has the second one ignored
                loop.add_signal_handler(number, stop, number)
        return await work

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        for number in ends:
            signal.raise_signal(number)
        raise


def _told(seen: Seen, quiet: bool) -> None:
    where = err() if quiet or seen.what in ("error", "away") else people(False)
    where.print(f"{seen.id}: {seen.what}: {seen.detail}" if seen.detail else f"{seen.id}: {seen.what}", markup=False)
