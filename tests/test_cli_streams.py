"""Where a command's words go when nobody takes them: people's words may be lost, a result may not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import apsw
import pytest

from swarm.store.folder import read_status
from swarm.store.runs import Runs
from tests.commands import ROOT, job_file, swarm
from tests.jobs import write_sources

FULL = Path("/dev/full")


def ended(*arguments: object, stdout: int | IO[Any] = subprocess.PIPE, stderr: int | IO[Any] = subprocess.PIPE) -> Any:
    """A command that has come to its end as a process of its own."""
    command = [sys.executable, "-m", "swarm", *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL, text=True, timeout=120)


@pytest.mark.parametrize("reader", ["gone", "full"])
def test_a_job_goes_on_when_nobody_can_be_told_how(tmp_path: Path, reader: str) -> None:
    """Whoever read its stderr has closed it, or the disk of its log is full: the job is done, with its report."""
    if reader == "full" and not FULL.exists():
        pytest.skip("no /dev/full here")
    path = job_file(tmp_path, write_sources(tmp_path))
    options = ("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one", "--json")
    if reader == "gone":
        taken, given = os.pipe()
        os.close(taken)
        with open(given, "wb") as stderr:
            ran = ended(*options, stderr=stderr)
    else:
        with FULL.open("wb") as stderr:
            ran = ended(*options, stderr=stderr)
    run = Runs(tmp_path / "runs").run("one")
    assert (ran.returncode, read_status(run).status) == (0, "done") and run.report_html.is_file()
    assert ran.stdout.startswith("{")


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
