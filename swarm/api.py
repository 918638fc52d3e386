"""Jobs from Python: submit one, follow its events, wait for its answer.

Owns the JobHandle, which is a view of a run's log and a way into its inbox: it works from any process, and losing it
loses nothing. The driver is a process of its own, so that a job outlives whoever submitted it. Async first; `run` is
the one sync door.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from swarm import errors
from swarm.coordinator.state import OVER_BUDGET
from swarm.errors import SwarmError
from swarm.events import CARETAKER, DESK, Event, JobEnded, JobOpened, PhaseChanged, ReportWritten
from swarm.names import reason_body
from swarm.report import Answer, gather, render
from swarm.runtime import people
from swarm.runtime.driver import LOOK_SECONDS, Driver, DriverProcess, Launch, start_again, start_new
from swarm.runtime.environment import settle
from swarm.runtime.fork import fork as make_fork
from swarm.runtime.people import Question
from swarm.spec import JobSpec, anchored, load_spec
from swarm.store.folder import RunFolder, new_id, read_status
from swarm.store.interface import FILES, Reader
from swarm.store.place import FolderPlace
from swarm.store.runs import Runs, open_runs

if TYPE_CHECKING:
    from swarm.runtime.submission import RemoteDriver

AT_ONCE = 2000
"""Events that are read at a time."""


class JobHandle:
    """One job, seen through its log. Make one with `submit` or `JobHandle.open`."""

    def __init__(self, run: RunFolder, driver: Driver | None = None, runs: str | Path | None = None) -> None:
        self._run, self._runs = run, str(runs or "")
        """Where it lies, as `--runs` says it: a fork lies there too."""
        self.driver = driver
        """What runs the job, where this handle started it."""

    @classmethod
    def open(cls, id: str, runs: str | Path | None = None) -> JobHandle:
        """The handle of a run that exists: its id, the start of one, or `latest`.

        Raises:
            StoreError: none, or several, fit.
        """
        place, runs = _whereabouts(runs)
        return cls(place.find(id), runs=runs)

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
        if self._remote and not await asyncio.to_thread(self._run.exists):
            cure = "submit with --runs in a folder that both can see, or in a database"
            raise errors.StoreError("lies on the cluster, and cannot be read from here", self._run.where, cure)
        reported = False
        with self._run.reader() as reader:
            while True:
                left = await self._left()  # before reading: what a driver wrote before it left is seen by then
                while events := await asyncio.to_thread(_new, reader, after):
                    for event in events:
                        after = event.seq
                        if isinstance(event.body, ReportWritten):
                            reported = True
                        elif _taken(event, reported):  # a job that rested over its budget may have been given more
                            reported = False
                        yield event
                if left or reported:
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def result(self) -> Answer:
        """Waits until the job rests, and gives its answer, whether it is done, failed, out of budget or cancelled.

        Raises:
            SwarmError: the job stopped before its end; it can be resumed.
        """
        status, reason = "", ""
        async for event in self.events():
            if _taken(event, status == "budget"):
                status, reason = "", ""
            elif isinstance(event.body, JobEnded):
                status = event.body.status
            elif isinstance(event.body, PhaseChanged):
                reason = event.body.reason
                status = "budget" if reason.startswith(OVER_BUDGET) else ""
        with self._run.reader() as reader:
            if status:
                return await asyncio.to_thread(gather, reader)
            if self.driver is not None and (error := await self.driver.error()) is not None:
                raise error
            hash = reason_body(reason)
            why = reader.body(hash).decode(errors="replace") if hash else reason
        there = self._run.option
        onward = f"swarm resume {self.id}{there}"
        if self._remote:
            onward = f"submit it again under its key or id, or: {onward}"
        if asked := await self.questions():
            cure = f"answer it with: swarm approve {asked[0].name}{there}, then: {onward}"
            raise SwarmError(f"waits for a person: {asked[0].text}", self.id, cure)
        raise SwarmError(f"stopped before its end{f': {why}' if why else ''}", self.id, onward)

    async def pause(self, reason: str = "") -> None:
        """Asks the job to pause. Returns when the word is left, not when it is heard; a job that has lost its driver, and
        that a supervisor would start again or somebody starts just now, is paused when this returns.

        Raises:
            StoreError: nobody works on the job, and nobody would by itself.
        """
        await asyncio.to_thread(people.pause, self._run, reason)

    async def cancel(self, reason: str = "") -> None:
        """Asks the job to end. Returns when the word is left, not when it is heard; a job that nobody works on has ended,
        with its report, when this returns.

        Raises:
            StoreError: it has ended already.
        """
        await asyncio.to_thread(people.cancel, self._run, reason, render)

    async def tell(self, text: str) -> int:
        """Leaves a word for the job's coordinator. Returns the number of the event that it became, or 0 if it is heard only
        when somebody works on the job again.

        Raises:
            SpecError: it is blank or too long.
            StoreError: the job has ended.
        """
        return await asyncio.to_thread(people.tell, self._run, text)

    async def questions(self) -> list[Question]:
        """What the job asks and nobody has answered."""
        return await asyncio.to_thread(people.questions, self._run)

    async def approve(self, question: int | None = None, answer: str = "") -> Question:
        """Answers a question with yes or one of its options; without a number, the only open one. Returns when the answer is
        in the log. A job whose driver has left goes on with `resume`.

        Raises:
            SpecError: there is no such question or option.
            StoreError: it is answered already, or the job has ended.
        """
        return await asyncio.to_thread(people.answer, self._run, question, "approved", render, answer)

    async def reject(self, why: str, question: int | None = None) -> Question:
        """Answers a question with no; otherwise as `approve`."""
        return await asyncio.to_thread(people.answer, self._run, question, "rejected", render, "", why)

    async def fork(
        self,
        at: int | str,
        changes: Mapping[str, Any] | None = None,
        *,
        id: str = "",
        local: bool = False,
        address: str = "",
        agents: int = 64,
    ) -> JobHandle:
        """A new job that begins with this one's steps up to `at` (a number, or `@SEQ`) and goes on, in a driver of its own,
        under a spec with `changes` by dotted name, such as `{"answer.merge": "count"}`.

        Raises:
            SpecError: there is no such step, or a change comes too late there.
            StoreError: the id is taken.
        """
        _check_agents(agents)
        name = id or new_id(self.id, datetime.now().astimezone(), ())
        target = RunFolder(self._run.root, name, self._run.place)
        await asyncio.to_thread(make_fork, self._run, target, str(at), changes or {})
        runs = str(self._run.root) if isinstance(self._run.place, FolderPlace) else self._runs
        return JobHandle(target, await start_again(target, Launch(runs, local, address, agents, True)), runs)

    @property
    def _remote(self) -> bool:
        """Whether this handle had a cluster's head start the job."""
        return self.driver is not None and not isinstance(self.driver, DriverProcess)

    async def _left(self) -> bool:
        """Whether nobody works on the job any more."""
        return (self.driver is None or await self.driver.ended()) and self._run.holder() is None


async def submit(
    spec: JobSpec | str | Path,
    *,
    runs: str | Path | None = None,
    local: bool = False,
    address: str = "",
    id: str = "",
    key: str | None = None,
    agents: int = 64,
) -> JobHandle:
    """Starts a job in a driver of its own, and returns once its log is there.

    With `address` the URL of a head's dashboard, such as http://HEAD:8265, the head of that cluster starts the driver,
    through Ray Jobs. Inputs, role files and runs are then those of the cluster's file system. A second request with the
    same `key` or `id` means the same job, however many come at once and whichever cluster they reach: one that has lost its
    driver, or was answered, goes on, and one that has ended or rests is left as it is. Events and results are read from the
    log, so that it must lie where this machine sees it too: in a shared folder, or a database.

    Args:
        spec: the job, or the path of its file.
        runs: folder of the runs, or a database as postgresql://USER@HOST/DATABASE; by default $SWARM_RUNS, else `runs` in
            the working folder.
        local: without Ray, in the driver's process.
        address: a Ray cluster to join, as HOST:PORT or `auto`, or a head's URL; by default the driver starts one.
        id: the run's id; made from the job's name, and the key if there is one, if empty.
        key: the request's own name, to submit it again safely, in place of an id; only with a head's URL. None for no key; a
            blank one is refused, for it may come from a variable that is unset.
        agents: tasks that one host works on at once.

    Raises:
        SwarmError: what kept the job from starting.
    """
    spec = _meant(spec)
    _check_agents(agents)
    if "://" in address:
        remote = await send(spec, str(runs) if runs else None, address, id, key, agents)
        await remote.opened()
        return JobHandle(remote.run, remote, runs)
    if key is not None:
        raise errors.SpecError("is only known to a cluster's head", "key", "submit to http://HEAD:8265, or give an id")
    place, runs = _whereabouts(runs)
    run = place.run(id or new_id(spec.name, datetime.now().astimezone(), await asyncio.to_thread(place.ids)))
    driver = await start_new(spec, run, Launch(runs, local, address, agents))
    return JobHandle(run, driver, runs)


async def resume(
    id: str,
    *,
    runs: str | Path | None = None,
    local: bool = False,
    address: str = "",
    agents: int = 64,
    pinned: bool = False,
    budget: tuple[str, ...] = (),
) -> JobHandle:
    """Goes on with a job in a driver of its own, and returns once the driver has taken it.

    Args:
        id: the run's id, the start of one, or `latest`.
        runs, local, address, agents: as in `submit`.
        pinned: go on with the run's own copy of inputs that have changed.
        budget: changes of the budget, such as `tokens=+200000`.

    Raises:
        SwarmError: what kept the driver from taking the job; someone else may work on it.
    """
    _check_agents(agents)
    place, runs = _whereabouts(runs)
    run = place.find(id)
    if not budget and await asyncio.to_thread(people.waits_in_vain, run):  # a driver would leave at once
        asked = people.questions(run)
        text = asked[0].text if asked else "nobody knows for what"
        raise SwarmError(f"waits for a person: {text}", run.id, f"answer it with: swarm approve {run.id}{run.option}")
    how = Launch(runs, local, address, agents, pinned, budget)
    return JobHandle(run, await start_again(run, how), runs)


async def send(spec: JobSpec, runs: str | None, address: str, id: str, key: str | None, agents: int) -> RemoteDriver:
    """Has a cluster's head start a job's driver, and returns without waiting for it."""
    if key is not None and not key.strip():  # taken for no key, each further attempt would be a job of its own, and be paid
        raise errors.SpecError("is blank", "key", "give the request a name, or leave the key out")
    if id and key:
        raise errors.SpecError("the key names the run already", "id", "leave one of the two out")
    settle()
    from swarm.runtime.submission import Place, RemoteDriver, Submission, connect, keyed_id

    place = Place.of(runs or os.environ.get("SWARM_RUNS") or FILES, os.environ.get("SWARM_BLOBS", ""))
    submission = Submission(spec, place, id or keyed_id(spec, key or uuid4().hex), agents, key or "")
    return await RemoteDriver.send(await connect(address), address, submission)


def run(
    spec: JobSpec | str | Path,
    *,
    runs: str | Path | None = None,
    local: bool = False,
    address: str = "",
    id: str = "",
    key: str | None = None,
    agents: int = 64,
) -> Answer:
    """Runs a job and waits for its answer: `submit` and `result` for code that is not async.

    Raises:
        SwarmError: as `submit` and `JobHandle.result`; or an event loop runs here, as in a notebook, and would stand still.
    """
    if _in_a_loop():
        cure = "write: answer = await (await swarm.submit(...)).result()"
        raise SwarmError("cannot wait where an event loop runs, such as in a notebook", "swarm.run", cure)

    async def both() -> Answer:
        handle = await submit(spec, runs=runs, local=local, address=address, id=id, key=key, agents=agents)
        return await handle.result()

    return asyncio.run(both())


def _meant(job: object) -> JobSpec:
    """The job that a caller gives, with all its paths in full: relative ones of a file start in its folder, others here."""
    if isinstance(job, (str, Path)):
        return load_spec(job)
    if not isinstance(job, JobSpec):
        cure = "give a swarm.JobSpec, or the path of a job file"
        raise errors.SpecError(f"is no job: {type(job).__name__}", "spec", cure)
    return anchored(job, Path.cwd())


def _whereabouts(runs: str | Path | None) -> tuple[Runs, str]:
    """Where runs lie, and how a driver is told so. A folder is named in full: a program may change its working folder later."""
    there = open_runs(str(runs) if runs else None, os.environ)
    if not isinstance(there.place, FolderPlace):
        return there, str(runs or "")
    full = str(there.root.absolute())
    try:
        return open_runs(full, {}), full
    except errors.SpecError:  # the working folder's name is no text: SQLite opens what lies there only under the short one
        return there, str(runs or "")


def _check_agents(agents: int) -> None:
    if agents < 1:
        raise errors.SpecError(f"must be 1 or more, got {agents}", "agents", "change that value, or leave it out")


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _taken(event: Event, rests: bool) -> bool:
    """Whether somebody has taken the job to go on with it. One that rests over its budget does so until it gets more,
    whatever else it hears at a desk."""
    return isinstance(event.body, JobOpened) and event.body.shell not in ((CARETAKER, DESK) if rests else (CARETAKER,))


def _new(reader: Reader, after: int) -> list[Event]:
    """The next events, a bounded number: a log may be much longer than what fits into memory as objects."""
    return list(islice(reader.read(after), AT_ONCE))
