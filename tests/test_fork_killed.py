"""A fork whose process is killed while it copies: it is no run, and what it left can go. As a program, the process that dies:
`python -m tests.test_fork_killed RUNS`, where `one` lies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from swarm import events as ev
from swarm.errors import StoreError
from swarm.events import Event
from swarm.names import draft_name
from swarm.runtime.fork import fork
from swarm.store.database import Address
from swarm.store.folder import RunFolder
from swarm.store.lock import FolderLock
from swarm.store.mark import MARK
from swarm.store.place import FolderPlace
from swarm.store.postgres import PostgresWriter
from swarm.store.postgres_place import PostgresPlace
from swarm.store.runs import Runs, open_runs
from swarm.store.sqlite import LOG, SqliteWriter
from swarm.testing.postgres import EmbeddedPostgres
from tests.commands import ROOT, job_file, swarm
from tests.jobs import events_of, write_sources
from tests.stores import Postgres
from tests.test_fork import begun


def die_at_its_own(events: Sequence[Event]) -> None:
    """All is copied, and the first event that is the fork's own is to be written."""
    if any(isinstance(event.body, ev.Forked) for event in events):
        os.kill(os.getpid(), signal.SIGKILL)


class KilledInFolder(SqliteWriter):
    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        die_at_its_own(events)
        super().append(events, bodies)


class KilledInDatabase(PostgresWriter):
    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        die_at_its_own(events)
        super().append(events, bodies)


@dataclass(frozen=True, slots=True)
class DeadlyFolders(FolderPlace):
    def writer(self, folder: Path) -> SqliteWriter:
        return KilledInFolder.open(folder)


class DeadlyDatabase(PostgresPlace):
    def writer(self, folder: Path) -> PostgresWriter:
        self.make_folder(folder)
        return KilledInDatabase.open(self.address, folder.name)


def killed(runs: str, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.test_fork_killed", runs]
    died = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert died.returncode == -signal.SIGKILL


def age(draft: Path, seconds: int = 2 * 3600) -> None:
    """Nobody has written to it for so long."""
    for path in (draft, *draft.rglob("*")):
        os.utime(path, (time.time() - seconds,) * 2, follow_symlinks=False)


def test_in_a_folder(tmp_path: Path) -> None:
    """It would have gone on as if it were the job that it was copied from."""
    source, runs = begun(tmp_path), Runs(tmp_path / "runs")
    killed(str(runs.root), tmp_path)
    assert runs.ids() == ["one"] and [status.id for status in runs.list()] == ["one"]
    (draft,) = runs.root.glob(".two.*")
    assert runs.beside(remove=True) == [], "for all one can see, somebody is at it"
    age(draft)
    (left,) = swarm("gc", "--runs", runs.root, "--json").document["rows"]
    assert left["what"] == "a run that was never finished" and left["bytes"] > 0 and left["file"] == str(draft)
    fork(source, runs.run("two"), "0", {})
    lock = FolderLock.take(draft / "lock")
    age(draft)
    assert runs.beside(remove=True) == [], "somebody is at it"
    lock.release()
    age(draft)
    assert swarm("gc", "--runs", runs.root, "--yes").code == 0
    assert sorted(path.name for path in runs.root.iterdir()) == ["latest", "one", "two"]
    assert any(isinstance(event.body, ev.Forked) for event in events_of(runs.run("two")))


def test_in_a_database(postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Postgres(postgres.database())
    path, runs = job_file(tmp_path, write_sources(tmp_path)), open_runs(store.url, {})
    assert swarm("run", path, "--local", "--id", "one", "--runs", store.url).code == 0
    killed(store.url, tmp_path)
    assert runs.ids() == ["one"] and runs.find("latest").id == "one"
    age(next(Path("runs").glob(".two.*")))
    store.lose_hold()
    assert runs.beside(remove=True) == [], "its hold has just ended"
    store.age()
    with runs.place.writer(next(Path("runs").glob(".two.*"))):
        assert runs.beside(remove=True) == [], "somebody is at it"
    assert runs.beside(remove=True) == [], "somebody was, just now"
    store.age()
    (left,) = swarm("gc", "--json", "--runs", store.url).document["rows"]
    assert left["what"] == "a run that was never finished" and left["bytes"] > 0
    assert swarm("fork", "one", "--at", 3, "--id", "two", "--local", "--runs", store.url).code == 0
    assert swarm("gc", "--yes", "--runs", store.url).code == 0 and not Path(left["file"]).exists()
    assert store.execute("SELECT count(*) FROM swarmloom.jobs") == [(2,)]
    assert swarm("replay", "two", "--verify", "--runs", store.url).code == 0
    with pytest.raises(StoreError, match="exists already"), runs.run("two").drafted():
        pass
    assert store.execute("SELECT count(*) FROM swarmloom.jobs") == [(2,)]


@pytest.mark.parametrize("kind", ["folder", "postgres"])
def test_a_run_is_not_taken_away_while_it_is_made(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Between two epochs, and before it is published, nobody holds it."""
    monkeypatch.chdir(tmp_path)
    runs = open_runs(postgres.database() if kind == "postgres" else "runs", {})
    two = runs.run("two")
    with two.drafted() as draft:
        for epoch in (1, 2):
            assert runs.beside(remove=True) == []
            with two.place.writer(draft) as writer:
                assert writer.epoch == epoch and runs.beside(remove=True) == []
        assert runs.beside(remove=True) == []
    with two.reader() as reader:
        assert reader.last() == 0


@pytest.mark.parametrize("left", ["lock", LOG, MARK, "spec.yaml"])
def test_what_is_left_of_one_that_was_half_removed_is_found(tmp_path: Path, left: str) -> None:
    runs = Runs(tmp_path / "runs")
    draft = runs.root / draft_name("two")
    draft.mkdir(parents=True)
    (draft / left).touch()
    age(runs.root)
    assert [one.file for one in runs.beside(remove=False)] == [draft]


def test_a_folder_that_was_made_and_no_more_is_found(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    draft, other = runs.root / draft_name("two"), runs.root / draft_name("photos")
    draft.mkdir(parents=True)
    other.mkdir()
    (other / "beach.jpg").touch()
    age(runs.root, 2 * 3600)
    age(draft, 3500)
    assert runs.beside(remove=True) == []
    age(draft, 3700)
    assert [left.file for left in runs.beside(remove=False)] == [draft]
    assert [left.file for left in runs.beside(remove=True)] == [draft]
    assert list(runs.root.iterdir()) == [other]


def test_what_cannot_go_is_told_and_keeps_no_other(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    strange, tied, plain = drafts = [runs.root / draft_name(name) for name in ("a", "b", "c")]
    for draft in drafts:
        draft.mkdir(parents=True)
        (draft / "spec.yaml").touch()
    apsw.Connection(str(strange / LOG)).pragma("user_version", 7)
    age(runs.root)
    (tied / "lock").symlink_to("lock")
    os.utime(tied, (0, 0))
    os.utime(tied / "lock", (0, 0), follow_symlinks=False)
    said = swarm("gc", "--yes", "--runs", runs.root)
    assert said.code == 0 and f"a run that was never finished: {plain}\n" in said.out and not plain.exists()
    assert f"{strange}: left alone: this is another program's database" in said.out and strange.exists()
    assert f"{tied}: left alone: input/output error: Too many levels of symbolic links" in said.out and tied.exists()


def test_what_a_crash_left_of_a_run_keeps_no_fork_from_its_name(tmp_path: Path) -> None:
    source, target = begun(tmp_path), RunFolder(tmp_path / "runs", "two")
    target.path.mkdir()
    target.lock.touch()
    fork(source, target, "0", {})
    with pytest.raises(StoreError, match="exists already"), target.drafted():
        pass
    assert sorted(path.name for path in target.root.iterdir()) == ["latest", "one", "two"]


if __name__ == "__main__":
    runs = open_runs(sys.argv[1], {})
    place = DeadlyDatabase(Address(sys.argv[1])) if "://" in sys.argv[1] else DeadlyFolders()
    fork(runs.run("one"), RunFolder(runs.root, "two", place), "0", {})
