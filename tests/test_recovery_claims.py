"""Recovery acts on what it has claimed, not on what it saw: a job that moved on since it was listed is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.errors import StoreError
from swarm.runtime.session import Session
from swarm.runtime.supervise import give_up
from swarm.store.folder import RunFolder, read_status
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
