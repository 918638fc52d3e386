"""Recovery acts on what it has claimed, not on what it saw: a job that moved on since it was listed is left alone."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from swarm.cli.door import error_document
from swarm.errors import BusyError, StoreError
from swarm.events import NoticeDue
from swarm.runtime.caretaker import Caretaker
from swarm.runtime.driver import starts
from swarm.runtime.people import pause_resting
from swarm.runtime.session import Session
from swarm.runtime.supervise import GRACE_SECONDS, Supervisor, give_up
from swarm.store.folder import RunFolder, read_status
from swarm.store.lock import FolderLock
from tests.jobs import events_of, job, state_of, write_sources
from tests.test_runtime_local import crash


@pytest.fixture
def crashed(tmp_path: Path) -> RunFolder:
    """A run whose driver was killed."""
    run = RunFolder(tmp_path, "one")
    assert crash(job(write_sources(tmp_path, 2)), run, 6)
    return run


@pytest.fixture
def listed(crashed: RunFolder) -> int:
    """Where its log ended when somebody looked at it. Then somebody else had it for a moment."""
    listed = read_status(crashed).events
    session = Session.resume(crashed)
    session.master.open("test")
    session.close()
    return listed


def test_a_job_that_has_moved_on_is_not_given_up(crashed: RunFolder, listed: int) -> None:
    before = events_of(crashed)
    with pytest.raises(StoreError, match="has moved on since it was looked at"):
        give_up(crashed, listed, "crash loop")
    assert events_of(crashed) == before and state_of(crashed).reason != "crash loop" and crashed.holder() is None


def test_a_job_that_has_moved_on_is_not_paused(crashed: RunFolder, listed: int) -> None:
    before = events_of(crashed)
    with pytest.raises(StoreError, match="has moved on since it was looked at"):
        pause_resting(crashed, "lunch", listed)
    assert events_of(crashed) == before and state_of(crashed).reason != "lunch" and crashed.holder() is None


def test_a_job_that_was_brought_to_its_end_meanwhile_has_moved_on(crashed: RunFolder) -> None:
    seen = read_status(crashed).events
    with Caretaker.take(crashed) as keeper:
        keeper.end("cancelled", "enough")
    with pytest.raises(BusyError, match="has moved on"):
        Session.resume(crashed, at=seen)


def test_a_driver_is_told_where_the_log_ended_that_its_supervisor_saw(crashed: RunFolder, tmp_path: Path) -> None:
    """The driver compares it when the job is its own: between the look and that, anybody may have had it."""
    said = tmp_path / "said"
    program = ("sh", "-c", f'echo "$@" > {said}; exit 1', "driver")
    one = Supervisor([str(crashed.root)], clock=lambda: time.time() + GRACE_SECONDS, program=program)
    (seen,) = asyncio.run(one.look())
    assert seen.what == "error" and "exit code 1" in seen.detail
    command = said.read_text().split()
    assert command[:2] == ["resume", "one"]
    assert command[command.index("--at") + 1] == str(read_status(crashed).events)


@pytest.mark.parametrize("way", ["told", "started"])
def test_a_run_that_somebody_takes_while_it_is_looked_at_is_no_error(crashed: RunFolder, tmp_path: Path, way: str) -> None:
    orphan, said, taken = crashed, tmp_path / "said", list[FolderLock]()

    def clock() -> float:
        """Is asked after the list of runs is made, and before anything is done about one."""
        if way == "told" and not taken:
            taken.append(FolderLock.take(orphan.lock))
        return time.time() + GRACE_SECONDS

    if way == "told":
        with Caretaker.take(orphan) as keeper:
            keeper.append([NoticeDue(notice="x", occasion="failed", reason="x", ways=("command",))], {})
            keeper.end("failed", "no luck")
    said.write_text(json.dumps({"error": error_document(BusyError("is in use", "one"))}, indent=2))
    program = ("sh", "-c", f"cat {said}; exit 1", "swarm")
    assert asyncio.run(Supervisor([str(orphan.root)], program=program, clock=clock).look()) == []
    assert len(taken) == (way == "told") and len(starts(orphan)[0]) == (way == "started"), "it came so far"
    for lock in taken:
        lock.release()
