"""A run in a folder that one may only read: whatever reads works there as elsewhere, and what must write says why it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarm.events import Event, JobEnded
from swarm.store import wal
from swarm.store.folder import RunFolder
from swarm.store.interface import Writer
from swarm.store.lock import FolderLock
from swarm.store.sqlite import LOG
from tests.commands import ROOT, Said, job_file, swarm
from tests.jobs import write_sources

BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""Root writes whatever the permissions are; not so without these two capabilities."""
READING = ("list", "status one", "steps one", "cost one", "replay one", "logs one", "watch one", "export one", "diff one one",
           "doctor --repair one")  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs with one that `swarm run` has finished, as it leaves it."""
    said = swarm("run", job_file(tmp_path, write_sources(tmp_path)), "--local", "--runs", tmp_path / "runs", "--id", "one")
    assert said.code == 0
    return tmp_path / "runs"


@contextmanager
def closed(runs: Path) -> Iterator[None]:
    """While this lasts nothing in these folders may be written."""
    paths = [runs, *(path for path in runs.rglob("*") if not path.is_symlink())]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


def as_a_reader(verb: str, runs: Path) -> Said:
    """Runs a command as somebody who is bound by permissions."""
    command = [*BOUND, sys.executable, "-m", "swarm", *verb.split(), "--runs", str(runs)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return Said(done.returncode, done.stdout, done.stderr)


def later(writer: Writer) -> Event:
    return Event(writer.last() + 1, 4e9, writer.epoch, 0, "", JobEnded(status="done"))


def events(runs: Path) -> int:
    said = as_a_reader("export one --events", runs)
    assert said.code == 0, said.err
    return len(said.out.splitlines())


@pytest.mark.parametrize("left", ["as its last reader leaves it", "as its writer leaves it"])
def test_what_reads_a_finished_run_works_in_a_folder_that_one_may_only_read(runs: Path, left: str) -> None:
    log, expected = runs / "one" / LOG, swarm("export", "one", "--runs", runs).out
    beside = {wal.of(log): 0, log.with_name(f"{LOG}-shm"): 32768}
    assert {path: path.stat().st_size for path in beside} == beside
    if left == "as its writer leaves it":
        for path in beside:
            path.unlink()
    with closed(runs):
        said = {verb: as_a_reader(verb, runs) for verb in READING}
    assert {verb: one.err for verb, one in said.items() if one.code} == {}
    assert said["export one"].out == expected and "nothing is wrong" in said["doctor --repair one"].out


def test_what_must_write_says_so_and_a_report_is_shown_all_the_same(runs: Path) -> None:
    with closed(runs):
        report, fork = as_a_reader("report one", runs), as_a_reader("fork one --at 1 --local", runs)
    for said in (report, fork):
        assert said.code == 1 and "access is refused: Permission denied" in said.err
        assert "a run can be copied there" in said.err and "Traceback" not in said.err
    assert "4 rows, each with its source" in report.out


def test_a_run_at_work_is_followed_by_those_who_may_only_read(runs: Path) -> None:
    with RunFolder(runs, "one").writer() as writer, closed(runs):
        assert wal.of(runs / "one" / LOG).stat().st_size
        before = events(runs)
        writer.append([later(writer)], {})
        assert events(runs) == before + 1
        assert f"process {os.getpid()}" in as_a_reader("list --json", runs).out


def test_of_a_killed_run_all_is_read_unless_the_index_is_gone_and_then_a_copy_helps(runs: Path, tmp_path: Path) -> None:
    with RunFolder(runs, "one").writer() as writer:
        writer.append([later(writer)], {})
        last = writer.last()
        killed = shutil.copytree(runs, tmp_path / "killed", symlinks=True)
    with closed(killed):
        assert events(killed) == last
    (killed / "one" / f"{LOG}-shm").unlink()
    with closed(killed):
        said = as_a_reader("export one --events", killed)
        assert said.code == 1 and "its newest records are in log.sqlite-wal, which can only be read where one may" in said.err
        assert "copy the run's folder to where you may write" in said.err
    assert events(shutil.copytree(killed, tmp_path / "copied", symlinks=True)) == last


def test_a_run_that_somebody_has_just_taken_is_not_read_as_one_that_never_changes(runs: Path) -> None:
    for ending in ("-wal", "-shm"):
        (runs / "one" / f"{LOG}{ending}").unlink()
    lock = FolderLock.take(runs / "one" / "lock")
    try:
        with closed(runs):
            said = as_a_reader("export one", runs)
    finally:
        lock.release()
    assert said.code == 1 and f"process {os.getpid()}" in said.err and "begins to work on it" in said.err
