"""Delivering what people are to be told: by a command, by a webhook.

Owns one delivery, its tries, what is recorded of them, and what there is to say of those that failed. What is due, the log
says, and it says so until a delivery is recorded: a driver that dies between the two leaves it to the next one, so that a notice
arrives at least once, and at most one in each way twice. Its `id` is the same each time.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from swarm import events as ev
from swarm.coordinator import JobState
from swarm.coordinator.tables import OVER_BUDGET, NoticeRow
from swarm.errors import SpecError, SwarmError
from swarm.events import Body, body_hash
from swarm.names import counted
from swarm.spec import JobSpec, NotifySpec
from swarm.store.folder import RunFolder, reason_words
from swarm.store.interface import Reader

ATTEMPTS = 10
FIRST_SECONDS, MOST_SECONDS = 2.0, 300.0
"""Wait after the first failure, which doubles with each further one, and the longest."""
WAY_SECONDS = 10.0
"""How long one delivery may take."""
LOOK_SECONDS = 0.5
"""How often it is looked for what falls due while a delivery takes its time."""
KILL_SECONDS = 2.0
"""How long a command that was killed is waited for; one that hangs in the kernel is left to it."""
SAID_BYTES = 16 << 20
"""What a command may say on its stderr at most."""
SHOWN = 300
"""Characters of a command's own words that an error repeats."""


class Outbox:
    """Delivers the notices of one job. `append` makes events and their bodies durable, and folds them into `state`."""

    def __init__(
        self,
        run: RunFolder,
        spec: JobSpec,
        state: JobState,
        reader: Reader,
        append: Callable[[list[Body], Mapping[str, bytes]], None],
        clock: Callable[[], float] = time.time,
        patience: float = WAY_SECONDS,
    ) -> None:
        self._run, self._spec, self._state, self._reader, self._append = run, spec, state, reader, append
        self._clock, self._patience = clock, patience

    async def deliver(self) -> None:
        """Delivers what is due now or falls due meanwhile, and records what came of it. Each way takes one after the other,
        and waits for no other way. Where one hangs, this returns after two patiences at most, and leaves the rest for the
        next time."""
        end = time.monotonic() + self._patience
        under_way: dict[str, asyncio.Task[None]] = {}
        tried: set[tuple[str, str, int]] = set()
        try:
            while True:
                for row in self._due() if time.monotonic() < end else ():
                    one = row.notice, row.way, row.attempts
                    if row.way not in under_way and one not in tried:  # what came of it may be in a state that replaced this one
                        tried.add(one)
                        under_way[row.way] = asyncio.create_task(self._try(row))
                if not under_way:
                    return
                await asyncio.wait(under_way.values(), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for way, task in list(under_way.items()):
                    if task.done():
                        del under_way[way]
                        task.result()
        finally:
            for task in under_way.values():
                task.cancel()
            await asyncio.gather(*under_way.values(), return_exceptions=True)

    def _due(self) -> list[NoticeRow]:
        """What may be tried now, the least tried first: one that hangs each time keeps those behind it from no try."""
        now = max(self._clock(), self._state.time)
        return sorted((row for row in self._state.outbox.values() if row.retry_at <= now), key=lambda row: row.attempts)

    async def _try(self, row: NoticeRow) -> None:
        try:
            document = self._document(row)
            async with asyncio.timeout(self._patience):
                if row.way == "command":
                    await run_command(self._spec.notify.command, document)
                else:
                    await post_webhook(self._spec.notify, document)
        except TimeoutError:
            self._failed(row, f"the {row.way} took longer than {self._patience:g} s")
        except _NotDeliveredError as error:
            self._failed(row, error.message)
        except Exception as error:  # noqa: BLE001  whatever its way, a proxy or this machine did: no notice is worth a report
            self._failed(row, f"the {row.way} failed ({type(error).__name__})")
        else:
            self._append([ev.NoticeSent(notice=row.notice, way=row.way)], {})

    def _failed(self, row: NoticeRow, why: str) -> None:
        text = why.encode("utf-8", "backslashreplace")
        wait = min(MOST_SECONDS, FIRST_SECONDS * 2**row.attempts)
        again = None if row.attempts + 1 >= ATTEMPTS else max(self._clock(), self._state.time) + wait
        failed = ev.NoticeFailed(notice=row.notice, way=row.way, error=body_hash(text), retry_at=again)
        self._append([failed], {body_hash(text): text})

    def _document(self, row: NoticeRow) -> dict[str, Any]:
        """What is sent. It holds no text of the inputs."""
        state = self._state
        job = state.created.job if state.created is not None else self._run.id
        return {
            "id": f"{job}:{row.notice}",
            "job": job,
            "name": self._spec.name,
            "occasion": row.occasion,
            "text": self._words(row.reason),
            "time": row.time,
            "status": state.status or str(state.phase),
            "run": str(self._run.path.absolute()),
        }

    def _words(self, reason: str) -> str:
        kind, _, rest = reason.partition(":")
        task, _, error = rest.partition(":")
        if reason.startswith(OVER_BUDGET):
            return reason.removeprefix(OVER_BUDGET)
        if kind != "task":
            return reason_words(self._reader, f"model:{rest}" if kind == "question" else reason)
        return f"task {task} is given up" + (f": {reason_words(self._reader, f'model:{error}')}" if error else "")


@dataclass(frozen=True, slots=True)
class Untold:
    """A notice that people have not got in one of its ways. `due` is the log time from which it is tried, None for never
    again; `error` what its last delivery failed with, empty before that."""

    occasion: str
    way: str
    due: float | None
    error: str = ""


def undelivered(reader: Reader) -> float | None:
    """The log time from which something can be delivered; None if nothing is left."""
    return min((one.due for one in _open(reader) if one.due is not None), default=None)


def untold(reader: Reader, held: bool) -> list[Untold]:
    """The notices that people have not got: those whose delivery failed, and those that were never tried, unless the job is
    `held` by a process, which may be about to."""
    return [
        replace(one, error=reason_words(reader, f"model:{one.error}") if one.error else "")
        for one in _open(reader)
        if one.error or not held
    ]


def untold_words(failed: Sequence[Untold]) -> list[str]:
    """What people were not told, and why, on a line for each cause."""
    causes: dict[tuple[str, str, bool], list[str]] = {}
    for one in failed:
        causes.setdefault((one.way, one.error, one.due is None), []).append(one.occasion)
    return [
        f"{counted(len(occasions), 'notice')} by {way} ({', '.join(dict.fromkeys(occasions))}): {error or 'not tried yet'}"
        + ("; not tried again" if over else "")
        for (way, error, over), occasions in causes.items()
    ]


def _open(reader: Reader) -> list[Untold]:
    """Read from the few events about notices; `error` is a body's hash. What stands before the job was made is of the one that it
    was forked from."""
    found: dict[tuple[str, str], Untold] = {}
    made = max((event.seq for event in reader.life() if isinstance(event.body, ev.JobCreated)), default=0)
    for event in reader.keyed("notice:"):
        if event.seq < made:
            continue
        body = event.body
        match body:
            case ev.NoticeDue():
                found |= {(body.notice, way): Untold(body.occasion, way, event.time) for way in body.ways}
            case ev.NoticeFailed() if (one := found.get((body.notice, body.way))) is not None:
                found[body.notice, body.way] = replace(one, due=body.retry_at, error=body.error)
            case ev.NoticeSent():
                found.pop((body.notice, body.way), None)
    return list(found.values())


def check_ways(notify: NotifySpec) -> None:
    """Looks whether notices can be delivered from here, before anything is spent.

    Raises:
        SpecError: the program cannot be run, or an environment variable holds nothing.
    """
    if notify.command and shutil.which(notify.command[0]) is None:
        cure = "give a program on the PATH or its path, make it executable, or leave notify.command out"
        raise SpecError(f"{notify.command[0]!r} is no program that can be run here", "notify.command", cure)
    for field, value in (("webhook", notify.webhook), ("key", notify.key)):
        try:
            _secret(value)
        except _NotDeliveredError as error:
            cure = f"set it where the driver runs, or leave notify.{field} out"
            raise SpecError(error.message, f"notify.{field}", cure) from None


class _NotDeliveredError(SwarmError):
    """A notice that did not get through; the message names no secret."""


async def run_command(command: tuple[str, ...], document: Mapping[str, Any]) -> None:
    """Runs the program with the notice on its stdin, and waits for its exit code. What it leaves in the background goes on;
    if this is cancelled, all that it has started is killed, but for what has made a session of its own.

    There are no pipes: one is open for as long as any descendant lives, and `wait` would wait for them all. What it says on its
    stderr goes into memory, of which there is no more than SAID_BYTES: to write more is an error for it, as on a full disk.
    """
    sealed = os.memfd_create("said", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(os.memfd_create("notice"), "w+b") as given, open(sealed, "w+b") as said:
        os.ftruncate(sealed, SAID_BYTES)
        fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        given.write(json.dumps(document).encode())
        given.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=given, stdout=asyncio.subprocess.DEVNULL, stderr=said, start_new_session=True
            )
        except OSError as error:
            raise _NotDeliveredError(f"{command[0]} cannot be run: {error.strerror}") from None
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), KILL_SECONDS)
        if code:
            end = said.seek(0, os.SEEK_CUR)  # its own place in the file, which is ours too
            begin = max(0, end - 4 * SHOWN)
            words = " ".join(os.pread(sealed, end - begin, begin).decode(errors="replace").split())[-SHOWN:]
            raise _NotDeliveredError(f"{command[0]} ended with exit code {code}: {words or '(it said nothing)'}")


async def post_webhook(notify: NotifySpec, document: Mapping[str, Any]) -> None:
    """Posts the notice. No error repeats the address, which may be a secret, or what the other side said."""
    import httpx

    address, key = _secret(notify.webhook), _secret(notify.key)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx.AsyncClient(timeout=WAY_SECONDS) as client:
            response = await client.post(address, json=document, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise _NotDeliveredError(f"the webhook does not answer ({type(error).__name__})") from None
    except ImportError as error:  # what a proxy of the environment needs; the words name a package
        raise _NotDeliveredError(f"the webhook cannot be called: {error}") from None
    if not response.is_success:
        raise _NotDeliveredError(f"the webhook answers {response.status_code}")


def _secret(value: str) -> str:
    if not value.startswith("env:"):
        return value
    name = value.removeprefix("env:")
    found = os.environ.get(name, "").strip()
    if not found:
        raise _NotDeliveredError(f"the environment variable {name} is not set")
    return found
