"""Of what people say while a job is being taken up, the later word counts, and a signal means the process that got it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swarm.errors import BusyError, StoreError, SwarmError
from swarm.events import Event, PhaseChanged
from swarm.runtime.caretaker import Caretaker
from swarm.runtime.driver import Launch, is_starting, last_event, start_again, start_lock
from swarm.runtime.launch import Interrupts, Options, run_again
from swarm.runtime.people import attend, pause
from swarm.runtime.session import LEFT, PASSING, Session
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import Runs
from tests.commands import swarm
from tests.jobs import events_of, job, state_of, write_sources
from tests.test_runtime_local import crash
from tests.test_supervise import wait_for


def pauses(run: RunFolder) -> list[Event]:
    return [event for event in events_of(run) if isinstance(event.body, PhaseChanged)]


@pytest.fixture
def crashed(tmp_path: Path) -> RunFolder:
    """A run whose driver was killed."""
    run = RunFolder(tmp_path, "one")
    assert crash(job(write_sources(tmp_path, 2)), run, 6)
    return run


def interrupted(run: RunFolder, new: bool, *steps: Callable[[Interrupts], None], after: int) -> bool:
    """Whether a driver that gets a signal after so many of these steps ends at once."""

    async def driver() -> None:
        with Interrupts(run, new) as interrupts:
            for step in steps[:after]:
                step(interrupts)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(3):  # in which the signal arrives
                await asyncio.sleep(0)
            for step in steps[after:]:
                step(interrupts)

    try:
        asyncio.run(driver())
    except asyncio.CancelledError:
        return True
    return False


def test_a_signal_pauses_the_job_of_the_process_that_got_it_and_no_others(crashed: RunFolder) -> None:
    taken, rests, left = Interrupts.taken, Interrupts.rests, Interrupts.left
    assert interrupted(crashed, False, taken, after=0) and crashed.messages() == []
    assert interrupted(RunFolder(crashed.root, "not-yet"), True, taken, after=0)
    for new, after in ((False, 1), (True, 1), (True, 0)):
        assert not interrupted(crashed, new, taken, left, after=after)
        (message,) = crashed.messages()
        assert (message.kind, message.text) == ("signal", "Ctrl-C"), "of a job that is just being made, once it is"
        crashed.heard(message.id)
    assert not interrupted(crashed, False, taken, left, after=2) and crashed.messages() == [], "it may be another's by now"
    for after in (1, 2):
        assert not interrupted(crashed, False, taken, rests, after=after) and crashed.messages() == []


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


def test_who_only_hears_an_answer_pauses_nothing_anew(crashed: RunFolder) -> None:
    pause(crashed, "lunch")
    Caretaker.take(crashed).store.close()
    seen = last_event(crashed)
    attend(crashed, lambda run: {})
    assert last_event(crashed) > seen and state_of(crashed).phase == "paused"
    Session.resume(crashed, since=seen).store.close()


@pytest.mark.parametrize("reason", ["", "lunch"])
@pytest.mark.parametrize("before", ["", "breakfast", LEFT])
def test_a_pause_counts_that_is_heard_with_an_answer(crashed: RunFolder, before: str, reason: str) -> None:
    """Whether the job was at work before, paused by a person, or left."""
    if before == LEFT:
        Session.resume(crashed).close()
    elif before:
        pause(crashed, before)
    seen = last_event(crashed)
    crashed.post("pause", reason)
    attend(crashed, lambda run: {})
    assert crashed.messages() == []
    with pytest.raises(BusyError, match="was paused by a person while it was being taken up"):
        Session.resume(crashed, since=seen)
    Session.resume(crashed, since=last_event(crashed)).store.close()


def test_a_job_that_is_paused_already_can_be_while_a_driver_is_started_for_it(crashed: RunFolder) -> None:
    pause(crashed)
    with pytest.raises(StoreError, match=r"nobody works on this run \(it is paused\), so it can't be paused"):
        pause(crashed)
    here, go = crashed.root / "here", crashed.root / "go"
    script = f'touch {here}; while [ ! -e {go} ]; do sleep 0.05; done; exec {sys.executable} -m swarm "$@"'

    async def starting() -> None:
        how = Launch(str(crashed.root), local=True, program=("sh", "-c", script, "sh"))
        task = asyncio.create_task(start_again(crashed, how))
        while not here.exists():
            await asyncio.sleep(0.01)
        assert is_starting(crashed)
        said = await asyncio.to_thread(swarm, "pause", "one", "--runs", crashed.root)
        assert said.code == 0 and said.err.startswith("paused one"), said.err
        assert len(pauses(crashed)) == before + 1
        go.touch()
        await task

    before = len(pauses(crashed))
    with pytest.raises(BusyError, match="one: was paused by a person while it was being taken up"):
        asyncio.run(starting())
    assert not is_starting(crashed) and state_of(crashed).phase == "paused"
    said = swarm("resume", "one", "--local", "--runs", crashed.root)
    assert said.code == 0 and read_status(crashed).status == "done", said.err


def test_a_pause_counts_that_somebody_got_who_only_held_the_job_for_a_moment(crashed: RunFolder) -> None:
    pause(crashed)
    lock, keeper = start_lock(crashed), Caretaker.take(crashed)
    with ThreadPoolExecutor(1) as aside:
        pausing = aside.submit(swarm, "pause", "one", "--runs", crashed.root)
        wait_for(lambda: crashed.messages() != [])
        seen = last_event(crashed)
        keeper.store.close()
        said = pausing.result()
    assert said.code == 0 and said.err.startswith("paused one"), said.err
    lock.release()
    with pytest.raises(BusyError, match="was paused by a person"):
        Session.resume(crashed, since=seen)


def test_whoever_resumes_a_job_is_starting_it_until_it_is_theirs(crashed: RunFolder) -> None:
    again, started = Options(Runs(crashed.root), "local"), list[bool]()
    lock = start_lock(crashed)
    with pytest.raises(BusyError, match="in use by process"):
        asyncio.run(run_again(crashed, again, lambda run: {}, lambda opened: None))
    lock.release()
    asyncio.run(run_again(crashed, again, lambda run: {}, lambda opened: started.append(is_starting(opened.run))))
    assert started == [False] and read_status(crashed).status == "done"


def test_a_job_that_somebody_works_on_is_not_waited_for(crashed: RunFolder) -> None:
    """Its pause, when it leaves, would be the later word."""
    session = Session.resume(crashed)
    with pytest.raises(BusyError, match="in use by process"):
        asyncio.run(run_again(crashed, Options(Runs(crashed.root)), lambda run: {}, lambda opened: None))
    session.close()


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
