"""Jobs from Python: submit one, follow its events, wait for its answer.

Owns the JobHandle, which is a view of a run's log and a way into its inbox: it works from any process, and losing it
loses nothing. The driver is a process of its own, so that a job outlives whoever submitted it. Async first; `run` is
the one sync door.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from swarm import errors
from swarm.errors import SwarmError
from swarm.events import Event, JobEnded, PhaseChanged, ReportWritten
from swarm.report import Answer, gather
from swarm.spec import JobSpec, anchored
from swarm.store.folder import RunFolder, new_id, read_status
from swarm.store.interface import Reader
from swarm.store.runs import open_runs

LOOK_SECONDS = 0.25
"""How often the log is looked at."""


class Driver:
    """The process that runs a job, and what it says; both are gone from here when the handle is."""

    def __init__(self, command: list[str], spec: JobSpec, environment: Mapping[str, str]) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the driver
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        assert self._process.stdin is not None, "stdin is a pipe"
        self._process.stdin.write(json.dumps(spec.model_dump(mode="json")).encode())
        self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> bool:
        return self._process.poll() is not None

    def error(self) -> SwarmError | None:
        """What a driver that has ended could not do; None if it did what it should."""
        if not self._process.poll():
            return None
        self._said.seek(0)
        try:
            document: dict[str, Any] = json.loads(self._said.read())
        except ValueError:
            return SwarmError(f"the driver ended with exit code {self._process.returncode}", "swarm run")
        said = document.get("error")
        if said is None:
            return None  # the job has no answer, and its log says why
        kind = getattr(errors, said["kind"], SwarmError)
        found: SwarmError = kind(said["message"], said["where"], said["cure"])
        return found


class JobHandle:
    """One job, seen through its log. Make one with `submit` or `JobHandle.open`."""

    def __init__(self, run: RunFolder, driver: Driver | None = None) -> None:
        self._run, self.driver = run, driver
        """The process that runs the job, where this handle started it."""

    @classmethod
    def open(cls, id: str, runs: str | Path | None = None) -> JobHandle:
        """The handle of a run that exists: its id, the start of one, or `latest`.

        Raises:
            StoreError: none, or several, fit.
        """
        return cls(open_runs(str(runs) if runs else None, os.environ).find(id))

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    @property
    def id(self) -> str:
        return self._run.id

    @property
    def folder(self) -> Path:
        """Where the run's files lie."""
        return self._run.path

    def status(self) -> str:
        """How the job stands: its phase, how it ended, or `interrupted`."""
        return read_status(self._run).status

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """The events after a number, as they become durable, until the job rests: ended with its report, paused, or
        left by its driver.

        Raises:
            StoreError: the log is damaged.
        """
        with self._run.reader() as reader:
            while True:
                left = self._left()  # before reading: what a driver wrote before it left is seen by then
                for event in await asyncio.to_thread(_new, reader, after):
                    after = event.seq
                    yield event
                    if isinstance(event.body, ReportWritten):
                        return
                if left:
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def result(self) -> Answer:
        """Waits until the job rests, and gives its answer, whether it is done, failed, out of budget or cancelled.

        Raises:
            SwarmError: the job stopped before its end; it can be resumed.
        """
        status, reason = "", ""
        async for event in self.events():
            if isinstance(event.body, JobEnded):
                status = event.body.status
            elif isinstance(event.body, PhaseChanged):
                reason = event.body.reason
        with self._run.reader() as reader:
            if status:
                return await asyncio.to_thread(gather, reader)
            if self.driver is not None and (error := self.driver.error()) is not None:
                raise error
            kind, _, hash = reason.partition(":")
            why = reader.body(hash).decode(errors="replace") if kind == "model" and hash else reason
        raise SwarmError(f"stopped before its end{f': {why}' if why else ''}", self.id, f"swarm resume {self.id}")

    async def pause(self, reason: str = "") -> None:
        """Asks the job to pause. Returns when the word is left, not when it is heard."""
        await asyncio.to_thread(self._run.post, "pause", reason)

    async def cancel(self, reason: str = "") -> None:
        """Asks the job to end. Returns when the word is left, not when it is heard."""
        await asyncio.to_thread(self._run.post, "cancel", reason)

    def _left(self) -> bool:
        """Whether nobody works on the job any more."""
        return (self.driver is None or self.driver.ended()) and self._run.holder() is None


async def submit(
    spec: JobSpec,
    *,
    runs: str | Path | None = None,
    local: bool = False,
    address: str = "",
    id: str = "",
    agents: int = 64,
) -> JobHandle:
    """Starts a job in a driver of its own, and returns once its log is there.

    Args:
        runs: folder of the runs, or a database as postgresql://USER@HOST/DATABASE; by default $SWARM_RUNS, else `runs` in
            the working folder.
        local: without Ray, in the driver's process.
        address: a Ray cluster to join, as HOST:PORT or `auto`; by default the driver starts one.
        id: the run's id; made from the job's name if empty.
        agents: tasks that one host works on at once.

    Raises:
        SwarmError: what kept the job from starting.
    """
    place = open_runs(str(runs) if runs else None, os.environ)
    run = place.run(id or new_id(spec.name, datetime.now().astimezone(), await asyncio.to_thread(place.ids)))
    await asyncio.to_thread(run.check_free)
    command = [
        sys.executable,
        "-P",
        "-m",
        "swarm",
        "run",
        "-",
        "--json",
        "--id",
        run.id,
        "--agents",
        str(agents),
    ]
    command += ["--local"] if local else ["--address", address] if address else []
    environment = {**os.environ, **({"SWARM_RUNS": str(runs)} if runs else {})}  # not an argument: it may hold a password
    driver = await asyncio.to_thread(Driver, command, anchored(spec, Path.cwd()), environment)
    while not await asyncio.to_thread(run.exists):
        if driver.ended():
            raise driver.error() or SwarmError("the driver ended without a run", run.id)
        await asyncio.sleep(LOOK_SECONDS)
    return JobHandle(run, driver)


def run(
    spec: JobSpec,
    *,
    runs: str | Path | None = None,
    local: bool = False,
    address: str = "",
    id: str = "",
    agents: int = 64,
) -> Answer:
    """Runs a job and waits for its answer: `submit` and `result` for code that is not async.

    Raises:
        SwarmError: as `submit` and `JobHandle.result`.
    """

    async def both() -> Answer:
        return await (await submit(spec, runs=runs, local=local, address=address, id=id, agents=agents)).result()

    return asyncio.run(both())


def _new(reader: Reader, after: int) -> list[Event]:
    return list(reader.read(after))
