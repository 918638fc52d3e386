"""Of what people say while a job is being taken up, the later word counts, and a signal means the process that got it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from swarm.errors import BusyError, StoreError, SwarmError
from swarm.runtime.driver import Launch, is_starting, last_event, start_again
from swarm.runtime.launch import Interrupts, Options, run_again
from swarm.runtime.people import pause
from swarm.runtime.session import PASSING, Session
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import Runs
from tests.commands import swarm
from tests.jobs import events_of, job, state_of, write_sources
from tests.test_runtime_local import crash


@pytest.fixture
def crashed(tmp_path: Path) -> RunFolder:
    """A run whose driver was killed."""
    run = RunFolder(tmp_path, "one")
    assert crash(job(write_sources(tmp_path, 2)), run, 6)
    return run


def interrupted(run: RunFolder, ours: bool) -> bool:
    """Whether a driver that gets a signal ends at once."""

    async def driver() -> None:
        with Interrupts(run) as interrupts:
            interrupts.ours = ours
            os.kill(os.getpid(), signal.SIGINT)
            while not run.messages():
                await asyncio.sleep(0)

    try:
        asyncio.run(driver())
    except asyncio.CancelledError:
        return True
    return False


def test_a_signal_pauses_the_job_of_the_process_that_got_it_and_no_others(crashed: RunFolder) -> None:
    assert interrupted(crashed, ours=False) and crashed.messages() == []
    assert not interrupted(crashed, ours=True)
    assert [(message.kind, message.text) for message in crashed.messages()] == [("signal", "Ctrl-C")]


def test_a_pause_counts_that_was_acknowledged_while_the_job_was_being_taken_up(crashed: RunFolder) -> None:
    seen = last_event(crashed)
    pause(crashed, "lunch")
    before = events_of(crashed)
    with pytest.raises(BusyError, match="one: was paused by a person while it was being taken up"):
        Session.resume(crashed, since=seen)
    assert events_of(crashed) == before and crashed.holder() is None
    session = Session.resume(crashed, since=last_event(crashed))
    session.master.open("test")
    session.close()  # which is no person's pause
    assert state_of(crashed).reason in PASSING
    Session.resume(crashed, since=last_event(crashed) - 2).store.close()


def test_a_job_that_is_paused_already_can_be_while_a_driver_is_started_for_it(crashed: RunFolder) -> None:
    pause(crashed)
    with pytest.raises(StoreError, match=r"nobody works on this run \(it is paused\), so it can't be paused"):
        pause(crashed)
    seen = last_event(crashed)
    (crashed.path / "told").mkdir()
    program = ("sh", "-c", f'echo "$@" > {crashed.path / "told" / "now"}; sleep 300', "sh")

    async def starting() -> None:
        task = asyncio.create_task(start_again(crashed, Launch(str(crashed.root), local=True, program=program)))
        while not list((crashed.path / "told").iterdir()) or not (crashed.path / "told" / "now").read_text():
            await asyncio.sleep(0.01)
        assert is_starting(crashed)
        pause(crashed, "after all")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(starting())
    assert not is_starting(crashed) and state_of(crashed).phase == "paused"
    started = (crashed.path / "told" / "now").read_text().split()
    assert started[:4] == ["resume", "one", "--since", str(seen)]
    said = swarm("resume", "one", "--since", seen, "--local", "--runs", crashed.root)
    assert said.code == 1 and "was paused by a person while it was being taken up\n  `swarm resume one --runs " in said.err
    said = swarm("resume", "one", "--local", "--runs", crashed.root)
    assert said.code == 0 and read_status(crashed).status == "done", said.err


def test_a_pause_that_nobody_has_heard_goes_only_when_the_job_goes_on(crashed: RunFolder, tmp_path: Path) -> None:
    crashed.post("pause", "of before")
    source = next(tmp_path.glob("**/*.py"))
    away = source.rename(tmp_path / "away")
    again = Options(Runs(crashed.root), "local")
    with pytest.raises(SwarmError, match=source.name):
        asyncio.run(run_again(crashed, again, lambda run: {}, lambda opened: None))
    assert [message.text for message in crashed.messages()] == ["of before"]
    away.rename(source)
    asyncio.run(run_again(crashed, again, lambda run: {}, lambda opened: None))
    assert crashed.messages() == [] and read_status(crashed).status == "done"
