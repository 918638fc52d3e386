"""People and jobs from Python, and that nothing of a cancelled job is left running, on Ray as well."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import swarm
from swarm.api import JobHandle, resume
from swarm.events import Forked, RangeLeased, ReportWritten, TaskLeased
from swarm.report import gather, render
from swarm.runtime.people import attend
from tests.commands import job_file, start, swarm as command
from tests.jobs import ROWS, job, run, write_sources

ASKING = {"name": "map_reduce", "options": {"span_tokens": 160, "approve_plan": True}}
SECONDS = 10.0


def family(pid: int) -> set[tuple[int, str]]:
    """(process, when it began) of all descendants of a process."""
    parents, began = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        one = int(stat.parent.name)
        parents[one], began[one] = int(fields[1]), fields[19]
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return {(one, began[one]) for one in found - {pid}}


def alive(some: set[tuple[int, str]]) -> set[tuple[int, str]]:
    found = set()
    for pid, began in some:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[19] == began and fields[0] != "Z":
            found.add((pid, began))
    return found


def test_a_job_asks_is_answered_goes_on_and_is_forked(tmp_path: Path) -> None:
    async def scene() -> None:
        runs = tmp_path / "runs"
        spec = job(write_sources(tmp_path), protocol=ASKING)
        handle = await swarm.submit(spec, runs=runs, local=True, id="one")
        with pytest.raises(swarm.SwarmError, match="waits for a person: Start reading 5 passages") as caught:
            await handle.result()
        assert "swarm approve one:1" in caught.value.cure
        (question,) = await handle.questions()
        assert question.options == ("set", "count", "group", "top-k")
        assert await handle.tell("Mind the queue.") == 0, "nobody works on it"
        with pytest.raises(swarm.SpecError, match="is no answer to question 1"):
            await handle.approve(answer="sum")
        assert (await handle.approve(1, "set")).number == 1
        with pytest.raises(swarm.StoreError, match="answered already"):
            await handle.reject("too late")
        await handle.pause()
        assert handle.status() == "paused"
        with pytest.raises(swarm.StoreError, match="nobody works on this run"):
            await handle.pause()
        answer = await (await resume("one", runs=runs, local=True)).result()
        assert answer.status == "done" and [tuple(row.values.values()) for row in answer.rows or ()] == ROWS
        assert [(word.text, word.windows > 0) for word in answer.words] == [("Mind the queue.", True)]
        with pytest.raises(swarm.StoreError, match="has ended"):
            await handle.cancel()

        two = await handle.fork(3, {"answer.merge": "set", "protocol.options.headlines": 0}, id="two", local=True)
        other = await two.result()
        assert other.id == "two" and not other.headlines
        found = [[(row.values, row.cites) for row in one.rows or ()] for one in (answer, other)]
        assert found[0] == found[1]
        assert [event.body.step async for event in two.events() if isinstance(event.body, Forked)] == [3]

    asyncio.run(asyncio.wait_for(scene(), 240))


def test_a_job_that_was_given_more_is_waited_for_to_its_new_end(tmp_path: Path) -> None:
    async def scene() -> None:
        runs = tmp_path / "runs"
        spec = job(write_sources(tmp_path, 4), budget={"calls": 20, "reserve": 0.2})
        handle = await swarm.submit(spec, runs=runs, local=True, id="one", agents=1)
        draft = await handle.result()
        assert draft.status == "budget" and draft.unread
        more = await resume("one", runs=runs, local=True, budget=("calls=none",))
        answer = await more.result()
        assert answer.status == "done" and not answer.draft and not answer.unread
        reports = [event.seq async for event in JobHandle.open("one", runs).events() if isinstance(event.body, ReportWritten)]
        assert len(reports) == 2, "whoever follows it from its beginning is told of both"

    asyncio.run(asyncio.wait_for(scene(), 240))


def test_a_job_that_hears_something_while_it_rests_over_its_budget_keeps_its_answer(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 4), budget={"calls": 20, "reserve": 0.2})
    folder = run(spec, tmp_path / "runs", agents=1, id="one")
    handle = JobHandle.open("one", folder.root)
    assert asyncio.run(handle.result()).status == "budget"
    attend(folder, render)
    assert handle.status() == "budget" and asyncio.run(handle.result()).status == "budget"
    with folder.writer():  # somebody is about to take it: what was reported is there all the same
        answer = asyncio.run(asyncio.wait_for(handle.result(), 10))
    assert answer.status == "budget"


def test_a_job_that_rests_is_cancelled_with_its_report(tmp_path: Path) -> None:
    async def scene() -> swarm.Answer:
        spec = job(write_sources(tmp_path), protocol=ASKING)
        handle = await swarm.submit(spec, runs=tmp_path / "runs", local=True, id="one")
        with pytest.raises(swarm.SwarmError, match="waits for a person"):
            await handle.result()
        await handle.cancel("not needed")
        assert handle.status() == "cancelled" and (handle.folder / "report.html").exists()
        return await handle.result()

    answer = asyncio.run(asyncio.wait_for(scene(), 120))
    assert answer.status == "cancelled" and answer.reason == "not needed"


@pytest.mark.ray
def test_cancelling_a_job_on_ray_leaves_no_process_no_actor_and_no_lease(tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path, 4), model={"engine": "scripted", "name": "raises+slow:600"})
    process = start("run", path, "--runs", tmp_path / "runs", "--id", "one", "--json")
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "working…" in line:
                break
        others = family(process.pid)
        assert len(others) > 3, "a cluster of its own"
        began = time.monotonic()
        assert command("cancel", "one", "--runs", tmp_path / "runs").code == 0
        took = time.monotonic() - began
        process.communicate(timeout=60)
        assert process.returncode == 4
        deadline = time.monotonic() + 30
        while left := alive(others):
            assert time.monotonic() < deadline, f"{left} of {len(others)} are still there"
    finally:
        process.kill()
        process.communicate()
    with (swarm.JobHandle.open("one", tmp_path / "runs")._run).reader() as reader:
        answer = gather(reader)
        leased = sum(isinstance(event.body, TaskLeased | RangeLeased) for event in reader.read())
    assert answer.status == "cancelled" and leased and answer.calls == 0
    assert took < SECONDS, f"{took:.1f} s"
