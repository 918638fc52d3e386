"""Drivers: what runs a job, as whoever started it sees it from outside.

Owns the driver that is a process of this machine, with what it prints in `driver.log` and the note of its starts in
`driver.json`, both in the run's folder, and what a driver's last words mean. How a job stands is in its log; a driver only
says why there is none, or why it left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from swarm import errors
from swarm.errors import AwayError, BusyError, SwarmError
from swarm.events import CARETAKER, DESK, JobOpened
from swarm.spec import JobSpec
from swarm.store.blobs import write_durably
from swarm.store.connection import naming
from swarm.store.folder import RunFolder, read_status
from swarm.store.lock import FolderLock, holder

LOOK_SECONDS = 0.25
"""How often it is looked whether a driver has begun."""
TAKE_SECONDS = 180.0
"""How long a driver may take until a job is its own: inputs are read and Ray is started before. One that hangs is ended."""
STARTING = "starting"
"""The file in a run's folder that is locked while a driver is started for it."""
REMEMBERED = 50
"""Starts that `driver.json` remembers."""
NO_DRIVERS = (CARETAKER, DESK)
"""How masters open a job that only hear or say something."""
SWARM = (sys.executable, "-P", "-m", "swarm")


class Start(NamedTuple):
    """A start of a driver: when, in seconds since 1970, and the number of the log's last event then."""

    time: float
    after: int


@dataclass(frozen=True, slots=True)
class Launch:
    """How drivers are started."""

    runs: str = ""
    """Where runs lie, as `--runs` says it; empty for what the environment says."""
    local: bool = False
    """Without Ray."""
    address: str = ""
    """A Ray cluster to join; empty starts one."""
    agents: int = 64
    """Tasks that one host works on at once."""
    pinned: bool = False
    """On a resume: go on with the run's own copy of inputs that have changed."""
    budget: tuple[str, ...] = ()
    """On a resume: changes of the budget, such as `tokens=+200000`."""
    program: tuple[str, ...] = SWARM
    """What stands before `run` or `resume`."""

    def options(self) -> list[str]:
        runs = ["--runs", self.runs] if self.runs and not self._secret else []
        where = ["--local"] if self.local else ["--address", self.address] if self.address else []
        changes = [word for change in self.budget for word in ("--budget", change)]
        return ["--json", *runs, *where, "--agents", str(self.agents), *(["--pinned"] if self.pinned else []), *changes]

    def environment(self) -> dict[str, str]:
        """That of whoever starts the driver, so that the commands which it names to people work there."""
        return {**os.environ, **({"SWARM_RUNS": self.runs} if self._secret else {})}

    @property
    def _secret(self) -> bool:
        """Whether where runs lie may hold a password, and is no argument therefore."""
        return "://" in self.runs


class Driver(Protocol):
    """What runs a job."""

    async def ended(self) -> bool:
        """Whether it has left the job."""
        ...

    async def error(self) -> SwarmError | None:
        """What a driver that has ended could not do; None if it did what it should, or the log says why not."""
        ...


class DriverProcess:
    """A driver on this machine, in a session of its own: it outlives whoever started it, and this view of it."""

    def __init__(self, command: Sequence[str], how: Launch, log: Path, spec: JobSpec | None = None) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the driver
        with naming(log), log.open("ab") as printed, tempfile.TemporaryFile() as given:  # no pipe: it may never be read
            if spec is not None:
                given.write(json.dumps(spec.model_dump(mode="json")).encode())
                given.seek(0)
            self._process = subprocess.Popen(
                [*how.program, *command, *how.options()],
                stdin=given,
                stdout=self._said,
                stderr=printed,
                start_new_session=True,
                env=how.environment(),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """Ends it, with what it has started in its session, if it has not ended by itself."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)  # until somebody waits for it, nobody else has its number
            self._process.wait()

    async def error(self) -> SwarmError | None:
        if not self._process.poll():
            return None
        self._said.seek(0)
        document = last_document(self._said.read().decode(errors="replace"))
        if document is None:
            return SwarmError(f"the driver ended with exit code {self._process.returncode}", "swarm run")
        return error_in(document)


def last_document(said: str) -> dict[str, Any] | None:
    """The JSON document that a driver prints last, among whatever else it has said; None if it came to none."""
    start = said.rfind("\n{\n") + 1 if not said.startswith("{\n") else 0
    if not said.startswith("{\n", start):
        return None
    try:
        document, _ = json.JSONDecoder().raw_decode(said, start)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def error_in(document: dict[str, Any]) -> SwarmError | None:
    """The error that a driver's document tells of, as it was raised there."""
    said = document.get("error")
    if said is None:
        return None
    kind = getattr(errors, said["kind"], SwarmError)
    found: SwarmError = kind(said["message"], said["where"], said["cure"])
    return found


async def start_new(spec: JobSpec, run: RunFolder, how: Launch, patience: float = TAKE_SECONDS) -> DriverProcess:
    """Starts a new job in a driver of its own, and returns once its log has begun. A driver that has not begun it within
    `patience` seconds is ended, as is one whose caller is cancelled before.

    Raises:
        StoreError: there is such a run, or somebody else is starting it just now.
        SwarmError: what kept the job from starting.
    """
    early = run.root / f".{run.id}.{uuid.uuid4().hex}.driver.log"
    with naming(run.root):
        run.root.mkdir(parents=True, exist_ok=True)
        starting = FolderLock.take(run.root / f".{run.id}.starting")  # what begins now can be nobody else's then
    try:
        await asyncio.to_thread(run.check_free)
        driver = DriverProcess(["run", "-", "--id", run.id], how, early, spec)
        await _until(lambda: begun(run), driver, patience, run.id, "without --detach it shows where it hangs")
        with naming(run.driver_log):
            os.replace(early, run.driver_log)  # the driver's end of it stays open
        _remember(run, how, 0)
    finally:
        early.unlink(missing_ok=True)
        starting.path.unlink(missing_ok=True)
        starting.release()
    return driver


async def start_again(
    run: RunFolder, how: Launch, at: int | None = None, patience: float = TAKE_SECONDS
) -> DriverProcess:
    """Goes on with a job in a driver of its own, and returns once the driver has taken it. With `at` it takes the job only
    if the log still ends there; without, unless a person pauses it before. A driver that has not taken it within `patience`
    seconds is ended, as is one whose caller is cancelled before.

    Raises:
        BusyError: someone else works on the job, or is about to.
        SwarmError: what kept the driver from taking it.
    """
    starting = start_lock(run)
    try:
        if (other := await asyncio.to_thread(run.holder)) is not None:
            raise BusyError(f"is worked on by {other}", run.id, f"`swarm watch {run.id}{run.option}` follows it")
        over = (await asyncio.to_thread(read_status, run)).ended  # what ends it from now on is no driver that has taken it
        before, last = await asyncio.to_thread(opened, run, over), await asyncio.to_thread(last_event, run)
        earlier = _remember(run, how, last)  # taken back where its cluster was away: that is no fault of the job's
        command = ["resume", run.id, *(["--since", str(last)] if at is None else ["--at", str(at)])]
        driver = DriverProcess(command, how, run.driver_log)
        try:
            await _until(lambda: opened(run, over) != before, driver, patience, run.id, f"see {run.driver_log}")
        except AwayError:
            _note(run, *earlier)
            raise
        except SwarmError as error:
            _note(run, *starts(run), str(error))
            raise
        return driver
    finally:
        starting.release()


async def _until(taken: Callable[[], bool], driver: DriverProcess, patience: float, id: str, cure: str) -> None:
    """Waits until a driver has its job. It is ended if it comes to nothing, whatever the cause: nobody would know of it.

    Raises:
        SwarmError: it hangs, or what it could not do.
    """
    end = time.monotonic() + patience
    try:
        while not await asyncio.to_thread(taken):
            if await driver.ended():
                raise await driver.error() or SwarmError("the driver ended before it took the job", id, cure)
            if time.monotonic() > end:
                problem = f"the driver hung: it did not take the job within {patience:g} s, and was ended"
                raise SwarmError(problem, id, cure)
            await asyncio.sleep(LOOK_SECONDS)
    except BaseException:  # of a caller who is interrupted too
        await asyncio.to_thread(driver.kill)
        raise


def begun(run: RunFolder) -> bool:
    """Whether the job's first event is durable: from then on whoever finds the run can go on with it."""
    return last_event(run) > 0


def last_event(run: RunFolder) -> int:
    """The number of the last event that is durable, 0 if none is."""
    if not run.exists():
        return 0
    with run.reader() as reader:
        return reader.last()


def start_lock(run: RunFolder) -> FolderLock:
    """What is held while a driver is started for a run, so that no other is.

    Raises:
        BusyError: somebody starts one just now.
    """
    run.make_folder()
    with naming(run.path):
        return FolderLock.take(run.path / STARTING)


def is_starting(run: RunFolder) -> bool:
    """Whether somebody starts a driver for a run just now."""
    with naming(run.path):
        return holder(run.path / STARTING) is not None


def opened(run: RunFolder, over: bool) -> int:
    """The number of the event with which a driver last took the job, 0 if none did. Whoever held it only to hear or say
    something was none; of a job that is `over`, whoever writes its report is one."""
    with run.reader() as reader:
        took = [event for event in reader.life() if isinstance(event.body, JobOpened)]
    return max((event.seq for event in took if over or event.body.shell not in NO_DRIVERS), default=0)


def starts(run: RunFolder) -> tuple[list[Start], dict[str, Any]]:
    """The starts of this run's drivers that are remembered, and with which settings the last one was started."""
    noted = _noted(run)
    try:
        # once only times were noted: these starts count no more, the settings do
        return [Start(float(one[0]), int(one[1])) for one in noted["starts"] if isinstance(one, list)], dict(noted["last"])
    except (ValueError, LookupError, TypeError, OverflowError):
        return [], {}  # a note for comfort: without it a supervisor begins to count anew


def failure(run: RunFolder) -> str:
    """Why the driver that was started last did not take the job, as far as it is known; empty if it did."""
    noted = _noted(run)
    return str(noted.get("error") or "") if isinstance(noted, dict) else ""


def _noted(run: RunFolder) -> Any:
    try:
        return json.loads((run.path / "driver.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _remember(run: RunFolder, how: Launch, after: int) -> tuple[list[Start], dict[str, Any]]:
    """Notes a start; returns what was noted before it."""
    before = starts(run)
    last = {"local": how.local, "address": how.address, "agents": how.agents, "pinned": how.pinned}
    _note(run, [*before[0], Start(time.time(), after)], last)
    return before


def _note(run: RunFolder, begun: Sequence[Start], last: dict[str, Any], error: str = "") -> None:
    note = {"starts": begun[-REMEMBERED:], "last": last, **({"error": error} if error else {})}
    with naming(run.path):
        write_durably(run.path / "driver.json", json.dumps(note).encode())
