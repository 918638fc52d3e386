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
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from swarm import errors
from swarm.errors import SwarmError
from swarm.events import Event, JobEnded, PhaseChanged, ReportWritten
from swarm.report import Answer, gather
from swarm.spec import JobSpec, anchored
from swarm.store.folder import RunFolder, find_run, list_runs, new_id, read_status, runs_root
from swarm.store.inbox import post
from swarm.store.sqlite import SqliteReader

LOOK_SECONDS = 0.25
"""How often the log is looked at."""


class Driver:
    """The process that runs a job, and what it says; both are gone from here when the handle is."""

    def __init__(self, command: list[str], spec: JobSpec) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the driver
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
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
        return cls(find_run(runs_root(str(runs) if runs else None, os.environ), id))

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
        with SqliteReader.open(self._run.path) as reader:
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
        with SqliteReader.open(self._run.path) as reader:
            if status:
                return await asyncio.to_thread(gather, reader)
            if self.driver is not None and (error := self.driver.error()) is not None:
                raise error
            kind, _, hash = reason.partition(":")
            why = reader.body(hash).decode(errors="replace") if kind == "model" and hash else reason
        raise SwarmError(f"stopped before its end{f': {why}' if why else ''}", self.id, f"swarm resume {self.id}")

    async def pause(self, reason: str = "") -> None:
        """Asks the job to pause. Returns when the word is left, not when it is heard."""
        await asyncio.to_thread(post, self._run.path, "pause", reason)

    async def cancel(self, reason: str = "") -> None:
        """Asks the job to end. Returns when the word is left, not when it is heard."""
        await asyncio.to_thread(post, self._run.path, "cancel", reason)

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
        runs: folder of the runs; by default $SWARM_RUNS, else `runs` in the working folder.
        local: without Ray, in the driver's process.
        address: a Ray cluster to join, as HOST:PORT or `auto`; by default the driver starts one.
        id: the run's id; made from the job's name if empty.
        agents: tasks that one host works on at once.

    Raises:
        SwarmError: what kept the job from starting.
    """
    root = runs_root(str(runs) if runs else None, os.environ)
    taken = {run.id for run in await asyncio.to_thread(list_runs, root)}
    run = RunFolder(root, id or new_id(spec.name, datetime.now().astimezone(), taken))
    if run.path.exists():
        cure = f"choose another id, or `swarm resume {run.id}`"
        raise errors.StoreError(f"a run called {run.id!r} exists already", str(run.path), cure)
    command = [
        sys.executable,
        "-P",
        "-m",
        "swarm",
        "run",
        "-",
        "--json",
        "--runs",
        str(root),
        "--id",
        run.id,
        "--agents",
        str(agents),
    ]
    command += ["--local"] if local else ["--address", address] if address else []
    driver = await asyncio.to_thread(Driver, command, anchored(spec, Path.cwd()))
    while not run.log.exists():
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


def _new(reader: SqliteReader, after: int) -> list[Event]:
    return list(reader.read(after))
