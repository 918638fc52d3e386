"""The start of a job in a driver of its own: one that hangs is not waited for, and outlives nobody who asked for it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from swarm.errors import StoreError, SwarmError
from swarm.report import render
from swarm.runtime.driver import LOOK_SECONDS, STARTING, Launch, is_starting, start_again, start_new
from swarm.runtime.people import cancel
from swarm.store.folder import RunFolder
from tests.commands import job_file, start
from tests.jobs import job, write_sources
from tests.test_runtime_local import crash


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[IO[bytes]]:
    """A pipe into which a driver says that it is there; at its end once the driver, and all that it started, is gone."""
    os.mkfifo(tmp_path / "alive")
    with os.fdopen(os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
        yield pipe


def heard(pipe: IO[bytes]) -> bytes:
    """What comes next, nothing if that is the end."""
    assert select.select([pipe], [], [], 60)[0], "nobody says anything, and somebody is there"
    return os.read(pipe.fileno(), 100)


def hanging(tmp_path: Path) -> Launch:
    script = f"exec 3> {tmp_path / 'alive'}; echo here >&3; sleep 300; true"
    return Launch(str(tmp_path / "runs"), local=True, program=("sh", "-c", script))


def test_a_driver_that_hangs_before_it_begins_its_job_is_ended(tmp_path: Path, alive: IO[bytes]) -> None:
    spec, run = job(write_sources(tmp_path)), RunFolder(tmp_path / "runs", "one")
    with pytest.raises(SwarmError, match="hung: it did not take the job within 2 s, and was ended"):
        asyncio.run(start_new(spec, run, hanging(tmp_path), patience=2))
    assert heard(alive) == b"here\n" and heard(alive) == b""
    assert list(run.root.iterdir()) == [], "nothing is left behind"


def test_a_start_that_is_cancelled_leaves_no_driver_behind(tmp_path: Path, alive: IO[bytes]) -> None:
    spec, run = job(write_sources(tmp_path)), RunFolder(tmp_path / "runs", "one")

    async def cancelled() -> None:
        starting = asyncio.create_task(start_new(spec, run, hanging(tmp_path)))
        await asyncio.get_running_loop().run_in_executor(None, select.select, [alive], [], [], 60)
        starting.cancel()
        await starting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert heard(alive) == b"here\n" and heard(alive) == b""
    assert list(run.root.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_stopped_while_its_driver_hangs_takes_it_along(
    tmp_path: Path, alive: IO[bytes], number: signal.Signals
) -> None:
    protocol = tmp_path / "hangs.py"
    protocol.write_text(f"import time\nsaid = open({str(tmp_path / 'alive')!r}, 'w')\nprint('here', file=said, flush=True)\n"
                        "time.sleep(300)\n")  # fmt: skip
    path = job_file(tmp_path, write_sources(tmp_path), protocol={"name": str(protocol)})
    detaching = start("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one", "--detach")
    assert heard(alive) == b"here\n"
    detaching.send_signal(number)
    assert heard(alive) == b""
    detaching.communicate(timeout=30)
    assert detaching.returncode in (-number, 128 + number) and list((tmp_path / "runs").iterdir()) == []


def test_a_start_that_cannot_be_looked_at_is_no_fault_of_the_program(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "one")
    run.path.mkdir()
    (run.path / STARTING).symlink_to(STARTING)
    with pytest.raises(StoreError, match="starting: input/output error"):
        is_starting(run)


def test_a_job_that_is_cancelled_while_a_driver_is_started_is_not_taken(tmp_path: Path) -> None:
    run, here, go = RunFolder(tmp_path, "one"), tmp_path / "here", tmp_path / "go"
    assert crash(job(write_sources(tmp_path)), run, 6)
    script = f'touch {here}; while [ ! -e {go} ]; do sleep 0.05; done; exec {sys.executable} -m swarm "$@"'

    async def starting() -> None:
        how = Launch(str(run.root), local=True, program=("sh", "-c", script, "sh"))
        task = asyncio.create_task(start_again(run, how))
        while not here.exists():
            await asyncio.sleep(0.01)
        await asyncio.to_thread(cancel, run, "", render)
        await asyncio.wait([task], timeout=2 * LOOK_SECONDS)  # a look in between, which must not take the end for a start
        go.touch()
        await task

    with pytest.raises(StoreError, match=r"job one has ended \(cancelled\)"):
        asyncio.run(starting())
