"""What people say to a driver that is leaving: its job has come to rest, and it only waits until a notice is delivered."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Literal

import pytest

from swarm.report import render
from swarm.runtime.launch import Options, run_new
from swarm.runtime.people import cancel
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import Runs
from tests.commands import job_file, start
from tests.jobs import job, write_sources
from tests.test_protocol_fails import AT_AN_END
from tests.test_supervise import wait_for

ASKING = {"name": "map_reduce", "options": {"span_tokens": 160, "approve_plan": True}}


def telling_until(go: Path) -> dict[str, list[str]]:
    """A way to tell people that takes until this file is there."""
    return {"command": ["sh", "-c", f"while [ ! -e {go} ]; do sleep 0.05; done"]}


@pytest.mark.parametrize("shell", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_cancel_counts_and_a_ctrl_c_is_no_word_to_whoever_takes_the_job_next(
    tmp_path: Path, shell: Literal["local", "ray"]
) -> None:
    go, run = tmp_path / "go", RunFolder(tmp_path / "runs", "one")
    spec = job(write_sources(tmp_path), protocol=ASKING, notify=telling_until(go))

    async def said() -> None:
        working = asyncio.create_task(run_new(spec, Options(Runs(run.root), shell, id="one"), render, lambda opened: None))
        while not run.exists() or read_status(run).phase != "waiting":
            assert not working.done()
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        while not (left := run.messages()):
            await asyncio.sleep(0.01)
        assert [message.text for message in left] == ["Ctrl-C"]
        await asyncio.to_thread(cancel, run, "enough", render)
        assert read_status(run).phase == "waiting" and len(run.messages()) == 2, "its driver still holds it"
        go.touch()
        await working

    asyncio.run(said())
    status = read_status(run)
    assert (status.status, status.detail) == ("cancelled", "enough") and run.report_html.exists()
    assert run.messages() == []


def test_a_cancel_counts_too_where_the_protocol_has_failed_and_then_nothing_is_to_be_resumed(tmp_path: Path) -> None:
    go, run, failing = tmp_path / "go", RunFolder(tmp_path / "runs", "one"), tmp_path / "failing.py"
    failing.write_text(AT_AN_END, encoding="utf-8")
    protocol = {"name": str(failing), "options": {"span_tokens": 64, "passages": 2}}
    path = job_file(tmp_path, write_sources(tmp_path), protocol=protocol, notify=telling_until(go))
    with start("run", path, "--local", "--runs", run.root, "--id", "one") as driver:
        wait_for(lambda: run.exists() and read_status(run).phase == "paused")
        cancel(run, "enough", render)
        go.touch()
        _, err = driver.communicate()
    assert driver.returncode == 2 and "KeyError: 'left'" in err and "resume with" not in err
    assert read_status(run).status == "cancelled" and run.messages() == []
