"""A whole Ray cluster is lost under a job: its driver ends by itself, and the job goes on on a new, empty cluster."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from swarm.store.folder import RunFolder
from tests.commands import job_file, start
from tests.fired import fired
from tests.jobs import answered, contents, events_of, finished, job, run, state_of, write_sources
from tests.ray_head import RayHead

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SLOW = {"engine": "scripted", "name": "raises+slow:0.2"}
DRIVER_SECONDS = 180
"""Within which a driver has found out that its cluster is gone."""


def driven(head: RayHead, *arguments: object) -> subprocess.Popen[str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SWARM_"))}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token_file.read_text(encoding="ascii")}  # not the head's own file:
    return start(*arguments, "--address", head.address, env=keep | token)  # the driver is to outlive it


def test_a_job_whose_cluster_lost_its_power_goes_on_on_an_empty_one(tmp_path: Path) -> None:
    file, folder = job_file(tmp_path, write_sources(tmp_path, 12), model=SLOW), RunFolder(tmp_path / "runs", "one")
    head = RayHead()
    try:
        driver = driven(head, "run", file, "--id", "one", "--agents", 2, "--runs", folder.root)
        end = time.monotonic() + DRIVER_SECONDS
        while not (folder.log.exists() and len(answered(events_of(folder))) >= 6):
            assert driver.poll() is None and time.monotonic() < end, driver.communicate()
            subprocess.run(["sleep", "0.1"], check=True)
        head.kill()
        fired("cluster lost")
        _, said = driver.communicate(timeout=DRIVER_SECONDS)
        assert driver.returncode == 1, (driver.returncode, said)
    finally:
        head.stop()
    before = events_of(folder)
    assert state_of(folder).status == "" and folder.holder() is None
    head = RayHead()
    try:
        again = driven(head, "resume", "one", "--runs", folder.root, "--json")
        out, said = again.communicate(timeout=2 * DRIVER_SECONDS)
        assert again.returncode == 0, said
    finally:
        head.stop()
    events = events_of(folder)
    assert json.loads(out)["status"] == "done" and events[: len(before)] == before
    assert max(Counter(finished(events)).values()) == 1 and max(Counter(answered(events)).values()) == 1
    undisturbed = run(job(write_sources(tmp_path, 12), model={**SLOW, "name": "raises"}), tmp_path, id="undisturbed")
    assert contents(folder, "finding") == contents(undisturbed, "finding")
