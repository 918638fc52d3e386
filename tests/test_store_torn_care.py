"""A torn tail that somebody else than the job's next master comes upon: it is cut off, and still told when the job goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from swarm.events import Event, JobEnded
from swarm.store.damage import repair
from swarm.store.interface import Snapshot
from swarm.store.retention import free
from swarm.store.snapshots import part_name
from swarm.store.sqlite import SqliteWriter
from tests.test_store_damage import fill
from tests.test_store_tail import tear

EVENTS, TORN = 300, 3000


def harm(writer: SqliteWriter) -> None:
    with closing(apsw.Connection(str(writer.path))) as other:
        other.execute("UPDATE events SET payload = x'00' WHERE seq = ?", (EVENTS,))


def end(writer: SqliteWriter) -> None:
    writer.append([Event(EVENTS + 1, 1e6, writer.epoch, 0, "", JobEnded(status="done"))], {})
    writer.keep(Snapshot(writer.last(), "of a test", b"state", {part_name(b"part"): b"part"}))


def mended(folder: Path) -> None:
    found = repair(folder, apply=True)
    assert found is not None and (found.place, found.first, found.mended) == ("tail", EVENTS, True)


def freed(folder: Path) -> None:
    assert [one.what for one in free(folder)] == ["the snapshot of a job that has ended"]


@pytest.mark.parametrize(("before", "care"), [(harm, mended), (end, freed)], ids=["doctor", "gc"])
def test_who_cuts_it_off_leaves_word(
    tmp_path: Path, before: Callable[[SqliteWriter], None], care: Callable[[Path], None]
) -> None:
    folder = tmp_path / "run"
    with SqliteWriter.open(tmp_path / "at-work") as writer:
        fill(writer, EVENTS)
        before(writer)
        shutil.copytree(writer.path.parent, folder, ignore=shutil.ignore_patterns("*-shm"))
    tear(folder, TORN)
    care(folder)
    assert not (folder / "log.sqlite-wal").exists(), "nothing of it lies there any more"
    with SqliteWriter.open(folder) as writer:
        assert writer.torn == TORN
