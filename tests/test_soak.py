"""The soak test's own judgement: what counts as a finished step, what as growth, and that no data is no good news."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from swarm.bench.timing import database_bytes
from swarm.events import Event, JobEnded, TaskFinished, TaskLeased, body_hash
from swarm.runtime.driver import Launch, start_again, start_new
from swarm.store.folder import RunFolder
from swarm.testing.slopes import Slope, slope
from swarm.testing.soak import ENDING, SOAKED, WARM_UP_SECONDS, Finished, fault_at, lasting_bytes, lines_through
from swarm.testing.soaked import SAMPLES, TimedWriter
from tests.jobs import events_of, job, write_sources

MIB = 2**20
HOUR = 3600


def lives(*seconds: int) -> Iterator[tuple[int, int, int]]:
    """(pid, time, age) of samples of processes that live so long, one after the other."""
    time = 0
    for pid, life in enumerate(seconds):
        yield from ((pid, time + age, age) for age in range(0, life, 5))
        time += life


def samples(*seconds: int, leak: float = 0.0, slower: float = 0.0) -> list[Mapping[str, float]]:
    """What processes of 80 to 85 MiB write of themselves; `leak` is in bytes a second, `slower` a share an hour."""
    draw = random.Random(1)
    return [
        {
            "pid": pid, "time": time, "age": age, "files": 20,
            "rss": (80 + pid % 6) * MIB + leak * age + draw.uniform(0, MIB / 4),
            "work": 0.9 * (1 + slower * time / HOUR) * draw.uniform(0.9, 1.1), "append": 3e-3 * draw.uniform(0.9, 1.1),
        }
        for pid, time, age in lives(*seconds)
    ]  # fmt: skip


def disk(growth: float = 0.0) -> list[tuple[float, float]]:
    """Bytes a step; `growth` is a share an hour."""
    return [(time, 800 * (1 + growth * time / HOUR)) for time in range(0, HOUR, 5)]


def judged(soaked: list[Mapping[str, float]], folder: list[tuple[float, float]]) -> dict[str, Slope]:
    return {one.name.split(",")[0].split()[0] + one.name[-4:]: one for one in lines_through(soaked, folder)}


STEADY = (*[60] * 15, 45 * 60)
"""How long the drivers of an hour live: one a fault, then one for all the rest."""


def test_what_does_not_grow_is_met() -> None:
    assert all(one.met for one in lines_through(samples(*STEADY), disk())), lines_through(samples(*STEADY), disk())


def test_a_leak_is_seen_though_each_driver_takes_it_with_it_when_it_is_killed() -> None:
    leaking = judged(samples(*STEADY, leak=MIB / 30), disk())["memory MiB"]
    assert leaking.verdict == "grows" and leaking.percent > 50


def test_a_driver_that_grows_by_a_few_per_cent_an_hour_grows() -> None:
    assert judged(samples(*STEADY, leak=3 * MIB / HOUR), disk())["memory MiB"].verdict == "grows"


def test_appends_that_take_longer_and_a_folder_that_swells_are_seen() -> None:
    slow = lines_through(samples(*STEADY, slower=0.2), disk(growth=0.05))
    assert [one.name for one in slow if one.verdict == "grows"] == ["append, paces of work", "disk, bytes a step"]


@pytest.mark.parametrize("seconds", [(), (60,) * 60, (int(WARM_UP_SECONDS) + 600,)], ids=["none", "all too young", "too soon"])
def test_too_little_to_judge_by_is_not_met(seconds: tuple[int, ...]) -> None:
    memory, files, work, took, folder = lines_through(samples(*seconds), disk()[:100])
    assert not memory.met and not files.met and not folder.met and "too few" in memory.verdict + files.verdict
    assert sum(seconds) > 600 or not (work.met or took.met)


def test_a_line_that_is_lost_in_noise_is_not_met() -> None:
    draw = random.Random(2)
    noisy = slope("noise", {1: [(60.0 * minute, draw.uniform(0, 2)) for minute in range(40)]})
    assert not noisy.met and "noise" in noisy.verdict


def test_processes_of_different_sizes_are_no_growth() -> None:
    levels = {pid: [(60.0 * (30 * pid + minute), 10.0 * pid + 1) for minute in range(30)] for pid in range(5)}
    assert slope("levels", levels).percent == pytest.approx(0.0)


def test_one_driver_outlives_all_faults_of_three_quarters_of_an_hour() -> None:
    ending = [any(fault_at(60 * minute, 10 * HOUR, number) in ("kill", "pause", "terminate") for number in range(12))
              for minute in range(180)]  # fmt: skip
    assert ending == ([True] * 15 + [False] * 45) * 3
    assert {fault_at(0, HOUR, number) for number in range(4)} == set(ENDING)


def test_a_driver_under_the_stop_watch_does_its_job_and_tells_of_itself(tmp_path: Path) -> None:
    """And steps count when they are finished: not for being leased, and not for calls."""
    run = RunFolder(tmp_path / "runs", "soaked")
    how = Launch(str(run.root), local=True, program=SOAKED)

    async def go() -> None:
        spec = job(write_sources(tmp_path), model={"engine": "scripted", "name": "raises+slow:0.3"})
        driver = await start_new(spec, run, how)
        driver.kill()
        driver = await start_again(run, how)
        while not await driver.ended():
            await asyncio.sleep(0.1)
        assert await driver.error() is None

    finished = Finished(run)
    asyncio.run(go())
    events = events_of(run)
    assert finished.count() == finished.count() == sum(isinstance(event.body, TaskFinished) for event in events) > 0
    sample = json.loads((run.path / SAMPLES).read_text().splitlines()[0])
    assert sample["rss"] > 10 * MIB and sample["files"] > 3 and 0 < sample["work"] < 1000 and sample["append"] > 0


def test_only_appends_of_finished_steps_are_timed(tmp_path: Path) -> None:
    """What pins a corpus writes a thousand times as much, and would be seen as appends that grow quicker."""
    with closing(TimedWriter.open(tmp_path)) as store:
        store.append([Event(1, 1.0, store.epoch, 0, "", JobEnded(status="done"))], {})
        assert not store.took and not (tmp_path / SAMPLES).exists()
        store.append([Event(2, 2.0, store.epoch, 0, "", TaskFinished(task="t", token=1, outcome="", notes=0))], {})
        sample = json.loads((tmp_path / SAMPLES).read_text())
        assert sample["appends"] == 1


def test_the_disk_that_a_run_takes_for_good_is_the_same_before_and_after_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "written")
    with closing(run.writer()) as store:
        empty = lasting_bytes(run)
        bodies = {body_hash(data): data for data in (bytes([at]) * 5000 for at in range(100))}
        store.append([], bodies)
        (run.path / SAMPLES).write_text("x" * 100_000)
        before = lasting_bytes(run)
        assert before - empty > 400_000 and run.log.stat().st_size < 100_000  # all of it is in the write-ahead log
    assert abs(lasting_bytes(run) - before) < 1000 and run.log.stat().st_size > 400_000  # but for who holds the run


def test_how_records_happen_to_fill_the_pages_is_not_taken_for_growth(tmp_path: Path) -> None:
    """The same events, by turns and each kind for itself."""
    def size(turns: bool) -> tuple[int, int]:
        run = RunFolder(tmp_path, "by-turns" if turns else "apart")
        long, short = JobEnded(status="done", reason="r" * 2100), JobEnded(status="done", reason="r" * 1500)
        order = [long, short] * 400 if turns else [long] * 400 + [short] * 400
        with closing(run.writer()) as store:
            empty = lasting_bytes(run)
            store.append([Event(seq, 1.0, store.epoch, 0, "", body) for seq, body in enumerate(order, 1)], {})
            return lasting_bytes(run) - empty, database_bytes(run.log)

    (mixed, mixed_pages), (apart, apart_pages) = size(True), size(False)
    assert abs(mixed - apart) < 0.005 * mixed and abs(mixed_pages - apart_pages) > 0.02 * mixed_pages


def test_free_pages_are_held(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "freed")
    with closing(run.writer()) as store:
        store.append([], {body_hash(data): data for data in (bytes([at]) * 5000 for at in range(100))})
    before = lasting_bytes(run)
    connection = apsw.Connection(str(run.log))
    connection.execute("DELETE FROM bodies")
    assert connection.pragma("freelist_count") != 0
    connection.close()
    assert abs(lasting_bytes(run) - before) < 0.05 * before


def test_a_job_that_finishes_nothing_has_no_finished_step(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "idle")
    with closing(run.writer()) as store:
        finished = Finished(run)
        for seq in range(1, 41):
            lease = TaskLeased(task=f"t{seq}", host="h", token=seq, until=0, attempt=1, reserved=0)
            store.append([Event(seq, float(seq), store.epoch, 0, "", lease)], {})
        assert finished.count() == 0, "work that begins and never ends is no life"
