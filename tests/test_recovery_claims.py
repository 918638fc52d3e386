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
from swarm.runtime.session import Session
from swarm.runtime.supervise import GRACE_SECONDS, Supervisor, give_up
from swarm.store.folder import RunFolder, read_status
from swarm.store.lock import FolderLock
from tests.jobs import events_of, job, state_of, write_sources
from tests.test_runtime_local import crash


def test_a_job_that_has_moved_on_is_not_given_up(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "one")
    assert crash(job(write_sources(tmp_path, 2)), run, 6)
    listed = read_status(run).events
    session = Session.resume(run)
    session.master.open("test")  # somebody else has it for a moment
    session.close()
    before = events_of(run)
    with pytest.raises(StoreError, match="has moved on since it was looked at"):
        give_up(run, listed, "crash loop")
    assert events_of(run) == before and state_of(run).reason != "crash loop" and run.holder() is None


@pytest.mark.parametrize("way", ["told", "started"])
def test_a_run_that_somebody_takes_while_it_is_looked_at_is_no_error(tmp_path: Path, way: str) -> None:
    orphan, said, taken = RunFolder(tmp_path / "runs", "one"), tmp_path / "said", list[FolderLock]()
    orphan.root.mkdir()
    assert crash(job(write_sources(tmp_path, 2)), orphan, 6)

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
