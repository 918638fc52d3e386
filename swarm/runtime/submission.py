"""Jobs on a cluster that runs already: their drivers are started on its head, through Ray Jobs.

Owns what is sent to the head (the spec and where the run is kept as files, the command, what the dashboard shows of it) and how
the driver stands. Ray Jobs only starts the driver and knows when it ended: what the job does is in its log, and outlives
the cluster. So a driver finds there whether it begins the job, goes on with it, or only says how it stands.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import logging
import os
import re
import shlex
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from swarm.coordinator.commands import ENDS
from swarm.errors import ClusterError, SpecError, SwarmError
from swarm.events import identity
from swarm.runtime.driver import error_in, last_document
from swarm.runtime.supervise import orphaned
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import Runs, open_runs

ANSWER_SECONDS = 10.0
"""How long a head may take to answer at all."""
GONE_SECONDS = 30.0
"""How long a head may be silent before its cluster counts as gone."""
PENDING_SECONDS = 180.0
"""How long a driver may take to be started: Ray can leave one pending for ever."""
LOOK_SECONDS = 1.0
"""How often the head is asked how a driver stands."""
OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client takes before any address it is given."""
TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Loggers that tell people of every upload and connection."""
SPEC_FILE, SETTINGS_FILE = "job.json", "settings"
"""What is sent to the head: the job, and where its run and large bodies are kept, which may hold a password."""
_LACKING = re.compile(r"No module named '?([\w.]+)|(python3): (?:command )?not found")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the cluster keeps runs: a folder of its file system, or a database whose URL may hold a password. `blobs` is the
    URL for large bodies, as $SWARM_BLOBS gives it, or empty."""

    value: str
    runs: Runs
    blobs: str = ""

    @classmethod
    def of(cls, value: str, blobs: str = "") -> Place:
        """A relative folder is one of this machine's working folder: the cluster looks under the same path."""
        open_runs(value, {})  # as it stands: what is no URL, and was meant as one, is no folder either
        value = value if "://" in value else os.path.abspath(os.path.expanduser(value))
        return cls(value, open_runs(value, {}), blobs)

    @property
    def secret(self) -> bool:
        """Whether `value` may hold a password. A folder is told to the driver as an option, and so stands in the commands that
        the driver names to people: they are typed where $SWARM_RUNS says something else."""
        return "://" in self.value


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as it is sent to a head."""

    spec: JobSpec
    place: Place
    run_id: str
    agents: int
    key: str = ""
    """The request's own name, if the id comes from one."""

    def __post_init__(self) -> None:
        self.place.runs.run(self.run_id)  # says what is wrong with the id

    @property
    def id(self) -> str:
        """Ray starts one driver for each of these."""
        return f"swarm-{self.run_id}"

    @property
    def command(self) -> str:
        """What the head runs, in the home folder of its user: the one that holds what was sent ends with the job."""
        where = "" if self.place.secret else f" --runs {shlex.quote(self.place.value)}"
        run = f"python3 -P -m swarm run - --once --id {self.run_id}{where} --agents {self.agents} --json --address auto"
        return f'cd "${{HOME:-.}}" && . "$OLDPWD/{SETTINGS_FILE}" && {run} < "$OLDPWD/{SPEC_FILE}"'

    def write(self, folder: Path) -> None:
        """Writes the files that are sent; Ray keeps their modes. Command, metadata and variables are shown by its dashboard
        to whoever it lets in."""
        (folder / SPEC_FILE).write_text(json.dumps(self.spec.model_dump(mode="json")), encoding="utf-8")
        settings = {"SWARM_RUNS": self.place.value if self.place.secret else "", "SWARM_BLOBS": self.place.blobs}
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in settings.items() if value]
        (folder / SETTINGS_FILE).touch(mode=0o600)
        (folder / SETTINGS_FILE).write_text("".join(lines), encoding="utf-8")

    @property
    def metadata(self) -> dict[str, str]:
        """What the dashboard shows beside the driver."""
        return {
            "job_name": self.spec.name,  # Ray's own key: the column "Name"
            "name": self.spec.name, "owner": _owner(), "protocol": self.spec.protocol.name, "job": self.run_id,
            "runs": str(self.place.runs), "report": str(self.place.runs.run(self.run_id).report_html),
            "spec": self.spec.request(),
        }  # fmt: skip


def keyed_id(spec: JobSpec, key: str) -> str:
    """The id of the run that a request key stands for. All digits of its digest are there: of two orders that met in one id, the
    second would pass for the first."""
    return f"{spec.name[:32]}-{identity('request', key)}"


def _owner() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


class RemoteDriver:
    """A driver on the head of a cluster. Make one with `send`."""

    def __init__(self, client: JobSubmissionClient, address: str, id: str, run: RunFolder) -> None:
        self._client, self.address, self.id, self.run = client, address, id, run
        self.found = False
        """Whether an earlier request had started it."""
        self._details: JobDetails | None = None
        self._asked = 0.0

    @classmethod
    async def send(cls, client: JobSubmissionClient, address: str, submission: Submission) -> RemoteDriver:
        """Has the head start a driver, unless the last one that it started for this submission is at work, or has left the
        job as it still stands.

        Raises:
            ClusterError: the head doesn't answer, lets nobody in, or refuses the job.
            SpecError: the submission's key or id stands for another job already.
        """
        run = submission.place.runs.run(submission.run_id)
        for attempt in count(await _attempts(client, address, submission)):
            driver = cls(client, address, submission.id if attempt == 1 else f"{submission.id}-{attempt}", run)
            known = await driver._start(submission)
            if driver.found and (known.get("job") != run.id or await driver._never_began()):
                continue
            told = submission.metadata
            for kind, name in (("job", "spec"), ("folder of runs", "runs")):
                if known.get(name) != told[name]:
                    raise SpecError(
                        f"{(submission.key or submission.run_id)!r} stands for another {kind} on this cluster",
                        "--key" if submission.key else "--id", "choose another one, or submit just what was submitted before",
                    )  # fmt: skip
            if not driver.found or await driver._holds():
                return driver
        raise AssertionError("there is always a further attempt")

    async def _start(self, submission: Submission) -> dict[str, str]:
        """The metadata of the driver under this id, which is started if there is none. Ray starts one for an id, whoever
        asks at the same time."""
        with tempfile.TemporaryDirectory(prefix="swarm-submit-") as folder:
            await asyncio.to_thread(submission.write, Path(folder))
            try:
                await asyncio.to_thread(
                    self._client.submit_job, entrypoint=submission.command, submission_id=self.id,
                    metadata=submission.metadata, runtime_env={"working_dir": folder},
                )  # fmt: skip
            except (RuntimeError, ValueError, OSError) as error:
                # It was there before, or came to be although the answer was lost; or the head refuses it.
                details = await self.details(missing_ok=True)
                if details is None:
                    raise _refused(self.address, error) from error
                self.found = True
                return dict(details.metadata or {})
        return submission.metadata

    async def _never_began(self) -> bool:
        """Whether it ended before it had the run: its inputs were missing, say, or the run is another job's."""
        if not (await self.details()).status.is_terminal():
            return False
        said = await self.said()
        return not _opening(self.run.id).search(said) and "status" not in (last_document(said) or {})

    async def _holds(self) -> bool:
        """Whether it is at work, or what it said of the job at its end still holds. Another driver would change nothing then;
        where the log can't be seen from here, another one looks."""
        details = await self.details()
        if not details.status.is_terminal():
            return True
        status = (await self.document() or {}).get("status")
        if status in ENDS:
            return True
        known = await asyncio.to_thread(read_status, self.run)
        if known.status != status or 1000 * known.updated > (details.end_time or 0):
            return False
        return not await asyncio.to_thread(orphaned, self.run, known, time.time())

    async def details(self, missing_ok: bool = False) -> Any:
        """What the head knows of the driver; None where it knows none and `missing_ok` says that this may be.

        Raises:
            ClusterError: the head has been silent for too long, or knows no such driver.
        """
        since = time.monotonic()
        while True:
            try:
                self._details = await asyncio.to_thread(self._client.get_job_info, self.id)
                self._asked = time.monotonic()
                return self._details
            except OSError as error:
                if time.monotonic() - since > GONE_SECONDS:
                    raise self._gone() from error
            except AuthenticationError as error:
                raise _not_let_in(self.address) from error
            except RuntimeError as error:
                if "404" in str(error):
                    if missing_ok:
                        return None
                    raise ClusterError(
                        f"knows no driver {self.id!r}", f"Ray at {self.address}",
                        f"the cluster was started anew; `{self._resume} --address …` goes on with the job",
                    ) from error  # fmt: skip
                if time.monotonic() - since > GONE_SECONDS:
                    raise _refused(self.address, error) from error
            await asyncio.sleep(LOOK_SECONDS)

    async def ended(self) -> bool:
        """Whether the driver has left the job; with its cluster, if that is gone."""
        if self._details is None or (
            not self._details.status.is_terminal() and time.monotonic() - self._asked > LOOK_SECONDS
        ):
            try:
                await self.details()
            except ClusterError:
                return True
        assert self._details is not None, "it has just been asked for"
        return bool(self._details.status.is_terminal())

    async def exit_code(self) -> int:
        """The driver's own exit code, once it has ended; 1 where it was stopped or never began."""
        details = await self.details()
        return 1 if details.driver_exit_code is None else int(details.driver_exit_code)

    async def said(self) -> str:
        """All that the driver has said so far."""
        try:
            return await asyncio.to_thread(self._client.get_job_logs, self.id)
        except (AuthenticationError, RuntimeError, OSError) as error:
            raise self._gone() from error

    async def document(self) -> dict[str, Any] | None:
        """The one document that the driver prints at its end."""
        return last_document(await self.said())

    async def error(self) -> SwarmError | None:
        try:
            details, said = await self.details(), await self.said()
        except ClusterError as error:
            return error
        where = f"driver {self.id} on {self.address}"
        if details.status is JobStatus.STOPPED:
            return ClusterError("was stopped from outside", where, f"the log is safe: `{self._resume}` goes on")
        if not details.driver_exit_code and details.status is JobStatus.SUCCEEDED:
            return None
        if (document := last_document(said)) is not None:
            return error_in(document)
        if (lacking := _LACKING.search(said)) is not None:
            name = lacking[1] or lacking[2]
            return ClusterError(
                f"the head has no {'swarmloom' if name == 'swarm' else name}", f"Ray at {self.address}",
                "install swarmloom on every node, and run `ray start` with that environment's python3 first on the PATH",
            )  # fmt: skip
        why = f"ended with exit code {details.driver_exit_code}" if details.driver_exit_code is not None else details.message
        last = said.strip().splitlines()[-1:] or [""]
        cure = f"`ray job logs {self.id}` says more; submitted again under its key or id, the job goes on"
        return ClusterError(f"{why}: {last[0][:300]}", where, cure)

    @property
    def _resume(self) -> str:
        return f"swarm resume {self.run.id}{self.run.option}"

    def _gone(self) -> ClusterError:
        return ClusterError(
            "does not answer any more", f"Ray at {self.address}",
            f"the log is safe: `{self._resume}`, with --address of a cluster that lives, goes on",
        )  # fmt: skip

    async def opened(self) -> None:
        """Waits until the driver has the run, or has ended well without our seeing it.

        Raises:
            SwarmError: what kept it from that.
        """
        since = time.monotonic()
        while True:
            details = await self.details()
            if details.status.is_terminal():
                if (error := await self.error()) is not None:
                    raise error
                return
            if details.status is JobStatus.RUNNING:
                if _opening(self.run.id).search(await self.said()):
                    return
            elif time.monotonic() - since > PENDING_SECONDS:
                raise ClusterError(
                    f"has not started the driver within {PENDING_SECONDS:g} s: {details.message}", f"Ray at {self.address}",
                    f"look at the head (`ray status`); `ray job stop {self.id}` takes the job back",
                )  # fmt: skip
            await asyncio.sleep(LOOK_SECONDS)

    async def words(self) -> AsyncIterator[str]:
        """What the driver says, as it says it, from its first word until it has ended.

        Raises:
            ClusterError: the cluster is gone.
        """
        seen = 0
        while True:
            passed = 0
            try:
                async for text in self._client.tail_job_logs(self.id):  # begins at the first word each time, and may end early
                    new = text[max(0, seen - passed) :]
                    passed += len(text)
                    seen = max(seen, passed)
                    if new:
                        yield new
            except (RuntimeError, OSError):  # a connection that broke: the head says below whether it still lives
                pass
            if (await self.details()).status.is_terminal():
                yield (await self.said())[seen:]
                return
            await asyncio.sleep(LOOK_SECONDS)


def _opening(id: str) -> re.Pattern[str]:
    """The line in which a driver says that it has the run, or who has it."""
    return re.compile(rf"^\S+\s+run {re.escape(id)} in ", re.MULTILINE)


async def _attempts(client: JobSubmissionClient, address: str, submission: Submission) -> int:
    """The number of the last driver that was started for a submission, 1 if none was: those before it gave it their place."""
    try:
        known = await asyncio.to_thread(client.list_jobs)
    except AuthenticationError as error:
        raise _not_let_in(address) from error
    except (RuntimeError, OSError) as error:
        raise _refused(address, error) from error
    ours = [one.submission_id or "" for one in known if (one.metadata or {}).get("job") == submission.run_id]
    found = [re.fullmatch(rf"{re.escape(submission.id)}(?:-(\d+))?", id) for id in ours]
    return max((int(one[1] or 1) for one in found if one), default=1)


async def connect(address: str) -> JobSubmissionClient:
    """A client of the head at `address`, the URL of its dashboard.

    Raises:
        SpecError: the address is no URL, or Ray would take another one.
        ClusterError: nothing answers there, it isn't Ray, or it doesn't let us in.
    """
    if not _is_address(address):
        raise SpecError(f"{address!r} is no address of a head", "--address", "write the dashboard's, as http://HEAD:8265")
    for name in OVERRIDES:
        if os.environ.get(name, address).rstrip("/") != address.rstrip("/"):
            raise SpecError(
                f"is set to {os.environ[name]}, which Ray takes in place of {address}", f"${name}", f"unset {name}"
            )
    await _check_answers(address)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return await asyncio.to_thread(JobSubmissionClient, address)
    except AuthenticationError as error:
        raise _not_let_in(address) from error
    except (RuntimeError, ValueError, OSError) as error:
        raise _refused(address, error) from error


def _is_address(address: str) -> bool:
    try:
        parts, _ = urlsplit(address), httpx.URL(address).host  # each knows of faults that the other lets through
        host = (parts.hostname or "").encode("idna")  # so does this: of empty and long parts
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        return False


async def _check_answers(address: str) -> None:
    """Looks at the head with a limit of time, which Ray's client has not."""
    where = f"Ray at {address}"
    try:
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS) as client:
            answer = await client.get(f"{address.rstrip('/')}/api/version")
    except httpx.HTTPError as error:
        raise ClusterError(
            f"does not answer: {error or type(error).__name__}", where,
            "give the dashboard's address, as http://HEAD:8265, of a head that runs with --dashboard-host",
        ) from error  # fmt: skip
    if answer.status_code == httpx.codes.NOT_FOUND or (answer.is_success and "ray_version" not in answer.text):
        raise ClusterError("is no head of a Ray cluster", where, "give the dashboard's address, as http://HEAD:8265")



def _not_let_in(address: str) -> ClusterError:
    given = next((name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)), "")
    problem = f"refuses the token of ${given}" if given else "wants a token that we do not have, or refuses it"
    return ClusterError(
        problem, f"Ray at {address}", "set RAY_AUTH_TOKEN_PATH to a copy of the head's token (`ray get-auth-token` there)"
    )


def _refused(address: str, error: Exception) -> ClusterError:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return ClusterError(f"refused the job: {lines[-1][:300]}", f"Ray at {address}", "its dashboard_agent.log says more")
