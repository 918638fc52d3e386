"""Jobs from Python, through the driver that `submit` starts."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import swarm
from swarm.api import JobHandle, resume
from swarm.events import CallFinished, JobEnded, JobOpened, PhaseChanged, ReportWritten
from swarm.runtime.driver import DriverProcess
from swarm.spec import ModelSpec
from swarm.store.folder import RunFolder
from tests.commands import job_file
from tests.jobs import ROWS, job, write_sources

SLOW = ModelSpec(engine="scripted", name="raises+slow:0.3")


def test_run_gives_the_answer(tmp_path: Path) -> None:
    answer = swarm.run(job(write_sources(tmp_path)), runs=tmp_path / "runs", local=True)
    assert answer.status == "done" and not answer.draft
    assert [tuple(row.values.values()) for row in answer.rows or ()] == ROWS
    again = JobHandle.open("latest", tmp_path / "runs")
    assert again.id == answer.id and again.status() == "done"
    assert asyncio.run(again.result()) == answer


def test_a_job_may_be_given_by_the_path_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sources(tmp_path)
    path = job_file(tmp_path, tmp_path, inputs=["code"])
    monkeypatch.chdir(tmp_path)
    for given, elsewhere in (("job.yaml", "here"), (path, "there")):
        answer = swarm.run(given, runs=tmp_path / elsewhere, local=True)
        assert [tuple(row.values.values()) for row in answer.rows or ()] == ROWS
        monkeypatch.chdir("/")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "one"}, "is no job: dict.*\n.*swarm.JobSpec, or the path of a job file"),
        (None, "is no job: NoneType"),
        ("nowhere.yaml", "nowhere.yaml: there is no such job file"),
        ("x" * 5000, "cannot be read: File name too long"),
    ],
)
def test_what_is_no_job_is_named(given: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(swarm.SpecError, match=words):
        swarm.run(given, runs=tmp_path / "runs", local=True)
    assert not (tmp_path / "runs").exists()


def test_no_agents_are_refused_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(swarm.SpecError, match="agents: must be 1 or more, got 0"):
        swarm.run(job(write_sources(tmp_path)), runs=tmp_path / "runs", local=True, agents=0)
    with pytest.raises(swarm.SpecError, match="agents: must be 1 or more, got -1"):
        asyncio.run(resume("any", runs=tmp_path / "runs", agents=-1))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", ["", " \t"])
@pytest.mark.parametrize("address", ["", "http://127.0.0.1:1"])
def test_a_key_that_is_blank_is_not_taken_for_no_key(key: str, address: str, tmp_path: Path) -> None:
    words = "key: is blank\n.*leave the key out" if address else "key: is only known to a cluster's head"
    with pytest.raises(swarm.SpecError, match=words):
        swarm.run(job(write_sources(tmp_path)), runs=tmp_path / "runs", local=True, address=address, key=key)
    assert not (tmp_path / "runs").exists()


def test_in_a_running_loop_run_says_what_to_write_and_that_works(tmp_path: Path) -> None:
    async def notebook() -> swarm.Answer:
        spec, runs = job(write_sources(tmp_path)), tmp_path / "runs"
        with pytest.raises(swarm.SwarmError, match=r"notebook\n.*await \(await swarm\.submit\(\.\.\.\)\)\.result\(\)"):
            swarm.run(spec, runs=runs, local=True)
        return await (await swarm.submit(spec, runs=runs, local=True)).result()

    assert asyncio.run(notebook()).status == "done"


def test_events_come_once_each_in_order_until_the_report(tmp_path: Path) -> None:
    async def follow() -> list[swarm.Event]:
        handle = await swarm.submit(job(write_sources(tmp_path)), runs=tmp_path / "runs", local=True, id="one")
        events: list[swarm.Event] = []
        async for event in handle.events(after=2):
            events.append(event)
            if event.seq != 2 + len(events):
                break  # a stream that repeats itself may never end
        return events

    events = asyncio.run(follow())
    assert [event.seq for event in events] == list(range(3, 3 + len(events)))
    assert isinstance(events[-1].body, ReportWritten)


def test_cancel_ends_a_job_with_what_it_has(tmp_path: Path) -> None:
    async def cancelled() -> swarm.Answer:
        slow = {"engine": "scripted", "name": "raises+slow:0.5"}
        spec = job(write_sources(tmp_path, 64), model=slow)  # five rounds of 64 agents; the word comes in the first
        handle = await swarm.submit(spec, runs=tmp_path / "runs", local=True)
        async for event in handle.events():
            if isinstance(event.body, CallFinished):
                await handle.cancel("enough")
                break
        return await handle.result()

    answer = asyncio.run(cancelled())
    assert answer.status == "cancelled" and answer.reason == "enough" and answer.unread


def test_pause_leaves_a_job_that_has_no_answer_yet(tmp_path: Path) -> None:
    async def paused() -> JobHandle:
        spec = job(write_sources(tmp_path, 6), model=SLOW.model_dump())
        handle = await swarm.submit(spec, runs=tmp_path / "runs", local=True)
        await handle.pause("lunch")
        kinds = [type(event.body) async for event in handle.events()]
        assert PhaseChanged in kinds and JobEnded not in kinds
        with pytest.raises(swarm.SwarmError, match=r"lunch.*\n.*swarm resume"):
            await handle.result()
        return handle

    assert asyncio.run(paused()).status() == "paused"


def test_a_driver_that_is_killed_is_noticed(tmp_path: Path) -> None:
    async def killed() -> str:
        spec = job(write_sources(tmp_path, 6), model=SLOW.model_dump())
        handle = await swarm.submit(spec, runs=tmp_path / "runs", local=True)
        assert isinstance(handle.driver, DriverProcess)
        os.kill(handle.driver.pid, signal.SIGKILL)
        with pytest.raises(swarm.SwarmError, match="exit code -9"):
            await handle.result()
        return handle.status()

    assert asyncio.run(killed()) == "interrupted"


def test_what_keeps_a_job_from_starting_is_raised_here(tmp_path: Path) -> None:
    async def submit(id: str = "") -> JobHandle:
        return await swarm.submit(job(tmp_path / "nowhere.txt"), runs=tmp_path / "runs", local=True, id=id)

    with pytest.raises(swarm.CorpusError, match=r"nowhere\.txt"):
        asyncio.run(submit())
    with pytest.raises(swarm.SpecError, match="cannot name a run"):
        asyncio.run(submit(id="../up"))
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "letters.txt").write_text("somebody else's")
    with pytest.raises(swarm.StoreError, match="exists already"):
        asyncio.run(submit(id="taken"))
    with pytest.raises(swarm.StoreError, match="there is no run"):
        JobHandle.open("none", tmp_path / "runs")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The working folder, and another one to change to."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("SWARM_RUNS", raising=False)
    return here, there


@pytest.mark.parametrize("runs", [None, "mine"])
def test_a_handle_still_works_where_the_program_has_changed_its_working_folder(
    folders: tuple[Path, Path], runs: str | None
) -> None:
    here, there = folders
    asking = {"name": "map_reduce", "options": {"span_tokens": 160, "approve_plan": True}}

    async def wander() -> None:
        submitting = asyncio.create_task(swarm.submit(job(write_sources(here), protocol=asking), runs=runs, local=True, id="one"))
        await asyncio.sleep(0)  # it is on its way, and its driver not yet started
        os.chdir(there)
        submitted = await submitting
        with pytest.raises(swarm.SwarmError) as waits:
            await submitted.result()
        assert waits.value.cure.endswith(f"swarm resume one --runs {here / (runs or 'runs')}")
        os.chdir(here)
        opened = JobHandle.open("one", runs)
        os.chdir(there)
        assert submitted.status() == opened.status() == "waiting"
        await opened.approve()
        os.chdir(here)
        resuming = asyncio.create_task(resume("one", runs=runs, local=True))
        await asyncio.sleep(0)
        os.chdir(there)
        resumed = await resuming
        answer = await resumed.result()
        assert answer.status == "done" and answer == await submitted.result() == await opened.result()
        with pytest.raises(swarm.StoreError, match="has ended"):
            await resumed.tell("more")

    asyncio.run(wander())
    assert not list(there.iterdir())


def test_a_handle_works_in_a_folder_whose_name_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite opens nothing under its name in full."""
    place = tmp_path / os.fsdecode(b"bad\xff")
    place.mkdir()
    monkeypatch.chdir(place)

    async def done() -> None:
        handle = await swarm.submit(job(write_sources(tmp_path)), local=True, id="one")
        assert (await handle.result()).status == JobHandle.open("one").status() == "done"

    asyncio.run(done())


def test_the_default_folder_needs_no_word_while_the_working_folder_is_the_same(folders: tuple[Path, Path]) -> None:
    here, _ = folders

    async def paused() -> None:
        handle = await swarm.submit(job(write_sources(here, 6), model=SLOW.model_dump()), local=True, id="one")
        await handle.pause("lunch")
        with pytest.raises(swarm.SwarmError) as left:
            await handle.result()
        assert left.value.cure == "swarm resume one"

    asyncio.run(paused())
    assert "--runs" not in (here / "runs" / "one" / "driver.log").read_text()


class Away:
    """A driver that a cluster's head has started."""

    async def ended(self) -> bool:
        return True

    async def error(self) -> swarm.SwarmError | None:
        return None


def test_a_log_that_is_not_here_lies_on_the_cluster_only_if_a_cluster_runs_the_job(tmp_path: Path) -> None:
    async def moved() -> JobHandle:
        handle = await swarm.submit(job(write_sources(tmp_path)), runs=tmp_path / "runs", local=True, id="one")
        await handle.result()
        handle.folder.rename(tmp_path / "moved")
        return handle

    handle = asyncio.run(moved())
    with pytest.raises(swarm.StoreError, match="there is no log here"):
        asyncio.run(handle.result())
    with pytest.raises(swarm.StoreError, match="lies on the cluster"):
        asyncio.run(JobHandle(RunFolder(tmp_path / "runs", "two"), Away()).result())


def test_of_two_that_submit_a_run_of_one_name_at_once_one_gets_it_and_one_is_told(tmp_path: Path) -> None:
    async def together() -> list[JobHandle | BaseException]:
        spec, runs = job(write_sources(tmp_path), model=SLOW.model_dump()), tmp_path / "runs"
        submitted = [swarm.submit(spec, runs=runs, local=True, id="one") for _ in range(2)]
        found = await asyncio.gather(*submitted, return_exceptions=True)
        for handle in found:
            if isinstance(handle, JobHandle):
                assert (await handle.result()).status == "done", "its driver is the one that works"
                assert isinstance(handle.driver, DriverProcess)
                opened = [event.body.pid async for event in handle.events() if isinstance(event.body, JobOpened)]
                assert opened == [handle.driver.pid]
                assert "run one in" in (handle.folder / "driver.log").read_text()
        return found

    found = asyncio.run(asyncio.wait_for(together(), 120))
    (refused,) = [one for one in found if not isinstance(one, JobHandle)]
    assert isinstance(refused, swarm.StoreError) and "in use" in str(refused)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["latest", "one"], "nothing is left beside it"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        swarm.nonsense  # noqa: B018
    assert set(swarm.__all__) <= set(dir(swarm))
