"""Where a command's words go when nobody takes them: people's words may be lost, a result may not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import apsw
import pytest

from swarm.events import ReportWritten
from swarm.runtime.session import Session, check
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import Runs
from tests.commands import ROOT, Said, job_file, swarm
from tests.jobs import job, write_sources
from tests.test_supervise import wait_for

FULL = Path("/dev/full")


@contextmanager
def leading(where: str) -> Iterator[int]:
    """A descriptor of a full disk, or of a pipe whose reader is gone."""
    if where == "full" and not FULL.exists():
        pytest.skip("no /dev/full here")
    if where == "full":
        given = os.open(FULL, os.O_WRONLY)
    else:
        taken, given = os.pipe()
        os.close(taken)
    yield given
    os.close(given)


def started(arguments: tuple[object, ...], stdout: int, stderr: int, closed: str) -> subprocess.Popen[str]:
    """A command as a process of its own. `closed` is a redirection for the shell, such as `>&-`."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "swarm", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL, text=True)


def ended(arguments: tuple[object, ...], stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, closed: str = "") -> Said:
    """How a command came to its end."""
    with started(arguments, stdout, stderr, closed) as process:
        out, err = process.communicate(timeout=120)
    return Said(process.returncode, out or "", err or "")


@pytest.mark.parametrize("where", ["gone", "full", "closed"])
def test_a_job_goes_on_when_nobody_can_be_told_how(tmp_path: Path, where: str) -> None:
    """Whoever read its stderr has left, the disk of its log is full, or there never was one: the job is done and reported."""
    path = job_file(tmp_path, write_sources(tmp_path))
    command = ("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one", "--json")
    if where == "closed":
        said = ended(command, closed="2>&-")
    else:
        with leading(where) as stderr:
            said = ended(command, stderr=stderr)
    run = Runs(tmp_path / "runs").run("one")
    assert (said.code, read_status(run).status) == (0, "done") and run.report_html.is_file()
    assert said.document["status"] == "done", "nothing else is on stdout"


def test_a_job_goes_on_when_whoever_followed_it_leaves(tmp_path: Path) -> None:
    path, runs = job_file(tmp_path, write_sources(tmp_path)), tmp_path / "runs"
    said = ended(("run", path, "--local", "--runs", runs, "--id", "one"), closed="2>&1 | head -2")
    run = Runs(runs).run("one")
    assert read_status(run).status == "done" and run.report_html.is_file()
    assert len(said.out.splitlines()) == 2 and said.err == ""


@pytest.mark.parametrize("where", ["gone", "full", "closed"])
def test_a_result_that_cannot_be_written_is_an_error_of_a_line(tmp_path: Path, where: str) -> None:
    """But for a reader who has seen enough: that is none."""
    path, runs = job_file(tmp_path, write_sources(tmp_path, 8)), ("--runs", tmp_path / "runs")
    for command in (
        ("run", path, "--local", "--id", "one", "--json"),
        ("inbox", "--json"),
        ("steps", "one", "--json"),
        ("supervise", "--once", "--json"),
        ("artifacts", "one", "--get", "report.html"),
        ("status", "nosuch", "--json"),
    ):
        if where == "closed":
            said = ended((*command, *runs), closed=">&-")
        else:
            with leading(where) as stdout:
                said = ended((*command, *runs), stdout=stdout)
        errors = [line for line in said.err.splitlines() if line.startswith(("error: ", "Traceback", "Exception"))]
        if command[1] == "nosuch":
            assert said.code == 1 and len(errors) == 1 and "there is no run 'nosuch'" in errors[0], said.err
        elif where == "gone":
            assert said.code == 0 and not errors, said.err
        else:
            assert said.code == 1 and len(errors) == 1, said.err
            assert errors[0].startswith("error: stdout: the result cannot be written: "), said.err
    assert read_status(Runs(tmp_path / "runs").run("one")).status == "done"


@pytest.mark.parametrize("where", ["gone", "full", "closed"])
def test_jobs_are_looked_after_when_nobody_reads_of_it(tmp_path: Path, where: str) -> None:
    """A notice is delivered after the first words were lost, and the supervisor lives on until it is stopped."""
    told, run, empty = tmp_path / "told", RunFolder(tmp_path / "runs", "one"), tmp_path / "empty"
    empty.mkdir()
    notify = {"command": ["cp", "/dev/null", str(told)]}
    session = Session.create(*check(job(write_sources(tmp_path), notify=notify)), run)
    session.master.open("local")
    session.master.end("failed", "no luck")
    session.master.append([ReportWritten(files={})], {})
    session.store.close()
    leads: Any = nullcontext(subprocess.PIPE) if where == "closed" else leading(where)
    closed = ">&-" if where == "closed" else ""
    with leads as stdout:
        with started(("supervise", "--runs", empty, "--runs", run.root), stdout, subprocess.PIPE, closed) as supervising:
            wait_for(lambda: supervising.poll() is not None or told.exists())
            supervising.terminate()
            _, said = supervising.communicate(timeout=60)
        assert (supervising.returncode, said) == (-signal.SIGTERM, "") and told.exists()
        once = ended(("supervise", "--once", "--runs", empty), stdout=stdout, closed=closed)
        assert (once.code, once.err) == (0, ""), "all was looked after"


def test_a_log_that_is_damaged_in_the_middle_leaves_one_document(tmp_path: Path) -> None:
    """Steps before the damage were read already: they are no part of what is printed."""
    path = job_file(tmp_path, write_sources(tmp_path, 2))
    assert swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one").code == 0
    found = swarm("steps", "one", "--runs", tmp_path / "runs", "--json").document
    with apsw.Connection(str(tmp_path / "runs" / "one" / "log.sqlite")) as connection:
        connection.execute("UPDATE events SET payload = x'00' WHERE seq = ?", (found[-3]["seq"],))
    said = swarm("steps", "one", "--runs", tmp_path / "runs", "--json")
    assert said.code == 1 and said.document["error"]["kind"] == "DamageError"
    assert len(swarm("steps", "one", "--runs", tmp_path / "runs").out.splitlines()) == len(found) - 2, "people see them"
