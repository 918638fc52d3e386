"""What befalls a job that runs for days: three of them in the simulator, an upgrade, and a key that is changed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from swarm import events as ev
from swarm.protocol import Passage, create_protocol
from swarm.runtime.supervise import GRACE_SECONDS, Supervisor
from swarm.store.folder import RunFolder, read_status
from swarm.testing.days import Days
from swarm.testing.endpoint import Endpoint
from swarm.testing.faults import STORM
from tests.commands import ROOT, job_file, swarm
from tests.jobs import events_of, finished, write_sources
from tests.simulated import SPAN_TOKENS, answer, passage, roles_of, spec

HOURS = 72.0
PASSAGES = 400
FAULTS = replace(STORM, jumped=0.004, crashed=0.004, lost=0.004, paused=0.002, refused=0.001)
"""Every kind of fault, each some tens of times in three days."""


def text(number: int) -> Passage:
    """Most passages hold nothing, as in real corpora."""
    if number % 10 == 0:
        return passage(number)
    return Passage(number, "d", "p", 1000 * number, f"x{number} = {number}\n", SPAN_TOKENS, "p", False)


def test_seventy_two_hours_pass_and_everything_holds() -> None:
    job = spec(seed=7)
    protocol, _ = create_protocol(job)
    texts = [text(number) for number in range(PASSAGES)]
    one = Days(job, protocol, roles_of(protocol.roles), texts, answer, 11, FAULTS)
    while not one.ended:
        one.step()
        one.check()
        assert one.steps < 20_000, "it never ends"
    assert one.state.status == "done" and one.hours >= HOURS, f"{one.hours:.1f} h"
    kinds = Counter(event.kind for event in one.log)
    assert kinds["LeaseEnded"] > 50 and kinds["JobOpened"] > 10 and one.snapshots > 5 and one.restored > 10
    assert one.seen["jumped"] > 5 and one.seen["crashed"] > 10 and not kinds["Stuck"]
    steps = Counter(event.body.task for event in one.log if isinstance(event.body, ev.TaskFinished))
    assert max(steps.values()) == 1
    times = [event.time for event in one.log]
    assert times == sorted(times)


# ---- an upgrade ----


@pytest.fixture
def crashed(tmp_path: Path) -> RunFolder:
    """A run called `one` whose driver killed itself in the middle of its work."""
    protocol = tmp_path / "own.py"
    protocol.write_text((ROOT / "protocols" / "map_reduce.py").read_text())
    path = job_file(tmp_path, write_sources(tmp_path, 4), protocol={"name": str(protocol), "options": {"span_tokens": 160}})
    command = [sys.executable, "-m", "tests.crashing_driver", str(path), str(tmp_path / "runs"), "one", "12"]
    subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    folder = RunFolder(tmp_path / "runs", "one")
    assert read_status(folder).status == "interrupted" and finished(events_of(folder))
    return folder


def test_a_job_goes_on_under_a_newer_version_of_the_program_and_of_its_protocol(crashed: RunFolder) -> None:
    before = finished(events_of(crashed))
    own = crashed.root.parent / "own.py"
    own.write_text(own.read_text() + "\n# a later version\n")
    newer = "import swarm; swarm.__version__ = '9.9.9'; from swarm.cli import main; main()"
    command = [sys.executable, "-c", newer, "resume", "one", "--local", "--runs", str(crashed.root)]
    said = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    events = events_of(crashed)
    opened = [event.body.software for event in events if isinstance(event.body, ev.JobOpened)]
    assert len(opened) == 2 and opened[0] != opened[1] == "9.9.9"
    assert max(Counter(finished(events)).values()) == 1 and set(before) <= set(finished(events))
    assert swarm("replay", "one", "--verify", "--runs", crashed.root).code == 0


# ---- a key that is changed ----


@pytest.mark.parametrize("answered", [0, 3], ids=["before the first call", "in the middle"])
def test_a_key_that_is_changed_pauses_the_job_until_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: int
) -> None:
    monkeypatch.setenv("DAYS_KEY", "old")
    with Endpoint(key="old") as endpoint:
        if answered:
            endpoint.then(*["ok"] * answered)
            endpoint.behaviour = "401"
        else:
            endpoint.key = "new"
        model = {"engine": "openai", "name": "scripted", "url": endpoint.url, "key": "env:DAYS_KEY"}
        path = job_file(tmp_path, write_sources(tmp_path, 2), model=model)
        runs = tmp_path / "runs"
        said = swarm("run", path, "--local", "--agents", 1, "--runs", runs, "--id", "one")
        assert said.code == 1 and "does not accept the key" in said.err and "DAYS_KEY" in said.err
        status = read_status(RunFolder(runs, "one"))
        assert status.status == "paused" and "does not accept the key" in status.detail
        supervisor = Supervisor([str(runs)], clock=lambda: os.stat(runs).st_mtime + 60 + GRACE_SECONDS)
        assert asyncio.run(supervisor.look()) == [], "nobody but a person can help it"
        monkeypatch.setenv("DAYS_KEY", "new")
        endpoint.key, endpoint.behaviour = "new", "ok"
        said = swarm("resume", "one", "--local", "--runs", runs, "--json")
        assert said.code == 0 and said.document["status"] == "done", said.err
    events = events_of(RunFolder(runs, "one"))
    assert max(Counter(finished(events)).values()) == 1
    stored = b"".join(file.read_bytes() for file in (runs / "one").rglob("*") if file.is_file())
    assert b"Bearer" not in stored
