"""Bytes as a limit, and a disk that is full: the job stops cleanly, keeps what it has, and goes on when there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.coordinator import Phase
from swarm.coordinator.notices import NO_SPACE
from swarm.errors import NoSpaceError
from swarm.events import Event, JobEnded, NoticeDue, body_hash
from swarm.store.blobs import BLOB_BYTES
from swarm.store.damage import verify
from swarm.store.folder import RunFolder
from tests.jobs import answered, contents, events_of, finished, job, resume, run, state_of, write_sources
from tests.test_store_full import SmallDisk

UNMOUNTED = "the room that is kept for the last words is a file, so this needs the right to mount a small disk"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk")
    yield small
    small.close()


def test_a_full_disk_pauses_the_job_and_with_room_it_goes_on_where_it_was(disk: SmallDisk, tmp_path: Path) -> None:
    if not disk.mounted:
        pytest.skip(UNMOUNTED)
    source = write_sources(tmp_path, 120)
    whole = run(job(source), tmp_path / "whole", id="one")
    folder = RunFolder(disk.path / "runs", "one")
    with pytest.raises(NoSpaceError, match=r"no space left on the device\n.*free some space and resume"):
        run(job(source, notify={"command": ["true"]}), folder.root, id=folder.id)
    assert verify(folder.path) is None, "what was acknowledged is sound"
    before, state = events_of(folder), state_of(folder)
    assert state.phase is Phase.PAUSED and state.reason == NO_SPACE and state.finished["reader"] > 0
    assert [event.body.occasion for event in before if isinstance(event.body, NoticeDue)] == ["waiting"]
    disk.free()
    resume(folder)
    events = events_of(folder)
    assert state_of(folder).status == "done" and events[: len(before)] == before
    assert len(set(finished(events))) == len(finished(events)) and len(set(answered(events))) == len(answered(events))
    assert contents(folder, "finding") == contents(whole, "finding")


def test_wherever_a_disk_is_full_there_is_room_for_the_last_words(tmp_path: Path) -> None:
    """The commits of a job need several pages each: which of them is refused, and what room it leaves, differs with each."""
    source = write_sources(tmp_path, 120)
    for more in range(0, 24, 3):
        small = SmallDisk(tmp_path / str(more), more)
        try:
            if not small.mounted:
                pytest.skip(UNMOUNTED)
            folder = RunFolder(small.path / "runs", "one")
            with pytest.raises(NoSpaceError):
                run(job(source), folder.root, id=folder.id)
            assert state_of(folder).reason == NO_SPACE, more
        finally:
            small.close()


def test_a_job_rests_before_its_run_takes_more_bytes_than_it_may(tmp_path: Path) -> None:
    limit = 400_000
    folder = run(job(write_sources(tmp_path, 120), budget={"disk": limit}), tmp_path / "runs")
    state = state_of(folder)
    assert (state.status, state.limits[0].limit) == ("budget", "disk") and state.finished["reader"] > 0
    assert 0.7 * limit < state.limits[0].spent < limit, "it does not stop long before"
    assert 0.7 * limit < folder.size() <= limit, "and what is said afterwards agrees with why it stopped"


def test_a_page_that_was_written_many_times_counts_once(tmp_path: Path) -> None:
    """The write-ahead log of a run at work holds it as often, and it goes into the log in the end."""
    folder = RunFolder(tmp_path, "one")
    with folder.writer() as writer:
        for seq in range(1, 201):
            writer.append([Event(seq, 1.0, writer.epoch, 0, "", JobEnded(status="done"))], {})
        large = b"l" * (BLOB_BYTES + 1)
        writer.append([], {body_hash(large): large})
        assert folder.log.with_name("log.sqlite-wal").stat().st_size > 200 * 4096
        at_work = folder.size()
    assert at_work == folder.size() == folder.log.stat().st_size + len(large)
