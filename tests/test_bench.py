"""The benchmarks at a tiny size: what they count is what the logs say. No test here looks at a clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import pytest

from swarm.bench.agents import run_agents
from swarm.bench.bare import run_bare
from swarm.bench.board import run_board
from swarm.bench.corpus import passages, passages_job, write_passages
from swarm.bench.long_job import PAIRS, SteppedStore, _first_steps, work_long
from swarm.bench.outcome import Floor, Outcome
from swarm.bench.overhead import run_overhead, work_locally_timed
from swarm.bench.overload import amiss, run_overload
from swarm.bench.peers import named_peers, null_work
from swarm.bench.same import run_same
from swarm.bench.store import APPENDED, JOBS, _folding, _raced
from swarm.bench.table import render
from swarm.bench.timing import Mark, step_cost
from swarm.errors import SpecError
from swarm.events import Body, CallFinished, CallStarted, Event, NotePosted, RangeAdded, RangeLeased, TaskFinished
from swarm.names import range_task
from swarm.runtime.plain import plain_rates
from swarm.spec import ModelSpec
from swarm.store.folder import RunFolder
from swarm.store.sqlite import SqliteReader
from tests.memory_store import MemoryStore

STEPS = 40


def test_a_step_is_a_task_with_a_call_and_a_cited_note(tmp_path: Path) -> None:
    write_passages(tmp_path / "corpus", STEPS, seed=1)
    spec = passages_job(tmp_path / "corpus", ModelSpec(engine="scripted", name="null"))
    run = RunFolder(tmp_path / "runs", "counted")
    figures = asyncio.run(work_locally_timed(spec, run, agents=8))
    with SqliteReader.open(run.path) as reader:
        bodies = [event.body for event in reader.read()]
    reads = {body.task for body in bodies if isinstance(body, CallStarted)}
    finished = [body for body in bodies if isinstance(body, TaskFinished) and body.task in reads]
    assert figures["steps"] == len(finished) == len(reads) >= STEPS
    assert sum(isinstance(body, CallFinished) for body in bodies) == len(reads)
    notes = [body for body in bodies if isinstance(body, NotePosted) and body.kind == "row"]
    assert len(notes) == len(reads)
    assert all(note.cites for note in notes)
    assert not any(isinstance(body, NotePosted) and body.kind == "rejected" for body in bodies)


def test_overhead_prints_its_rows_and_floors() -> None:
    outcome = run_overhead(STEPS, ("local",), tokenizer="", agents=8)
    (row,) = outcome.rows
    assert row["shell"] == "local"
    assert row["steps"] >= STEPS
    assert {"steps_per_s", "p50_ms", "p99_ms", "bytes_per_step", "last_to_first", "master_mb"} <= row.keys()
    assert [floor.goal for floor in outcome.floors] == ["≥ 5000", "≤ 1.1×"]
    _is_complete(outcome)


def marked(paces: Sequence[float], grown: float, taking: float) -> list[Mark]:
    """Marks after each hundred steps of 200 us at a pace of 1 ms, at the paces that the machine had; from the middle on a step
    costs `grown` times as much. Each pace took `taking` seconds beside its own."""
    marks = [Mark(0, 0.0, 0.0, paces[0], 0.0)]
    for at, pace in enumerate(paces[1:], 1):
        a_step = 200e-6 * (marks[-1].pace + pace) / 2e-3 * (grown if 2 * at > len(paces) else 1.0)
        used = marks[-1].left + 100 * a_step
        marks.append(Mark(100 * at, 0.1 * at, used, pace, used + pace + taking))
    return marks


STEADY, SLOWING = [1e-3] * 21, [1e-3 + at * 1e-4 for at in range(21)]


@pytest.mark.parametrize("paces", [STEADY, SLOWING, SLOWING[::-1]], ids=["steady", "slowing", "speeding up"])
@pytest.mark.parametrize("grown", [1.0, 1.5])
def test_a_step_is_compared_with_an_earlier_one_at_the_same_pace(paces: list[float], grown: float) -> None:
    marks = marked(paces, grown, taking=1e-3)
    first, last = step_cost(marks, 0, 900), step_cost(marks, 1100, 2000)
    assert last / first == pytest.approx(grown)
    assert first == pytest.approx(200e-6 * median(paces) / 1e-3)


def test_the_work_of_a_batch_shows_at_its_neighbours_commit_and_the_end_of_a_job_is_no_step() -> None:
    """With two pulls under way a commit of few steps may carry the work of the next ones; the last one opens what comes then."""
    marks, used = [Mark(0, 0.0, 0.0, 1e-3, 0.0)], 0.0
    for at in range(1, 33):
        used += 100 * (300e-6 if at % 2 else 100e-6) + (0.5 if at == 32 else 0.0)
        marks.append(Mark(100 * at, 0.1 * at, used, 1e-3, used))
    first, last = step_cost(marks, 0, 1600), step_cost(marks, 1600, 3200)
    assert first == pytest.approx(200e-6) and last == pytest.approx(200e-6)


def test_overload_loses_nothing_and_tells_each_jobs_longest_wait() -> None:
    outcome = run_overload(jobs=4, passages=6)
    assert [row["weight"] for row in outcome.rows] == [1, 1, 1, 3]
    assert all(row["lost"] == 0 and row["steps"] >= 6 and row["longest_wait_s"] >= 0 for row in outcome.rows)
    assert outcome.floors[0].met
    _is_complete(outcome)


def test_a_step_that_is_lost_is_not_made_up_for_by_one_that_is_done_twice() -> None:
    def log(*read: int) -> Iterator[Event]:
        bodies: list[Body] = [RangeAdded(range="r" * 16, role="reader", first=0, stop=3)]
        for token, index in enumerate(read, 1):
            task = range_task("r" * 16, index)
            bodies += [
                RangeLeased(range="r" * 16, host="h", first=index, count=1, token=token, until=0, reserved=0, calls=1),
                TaskFinished(task=task, token=token, outcome="none", notes=0),
            ]
        return (Event(seq, 0.0, 1, 0, "", body) for seq, body in enumerate(bodies, 1))

    assert [amiss(log(*read), 3) for read in ((0, 1, 2), (0, 1), (0, 1, 1), (0, 1, 2, 2))] == [0, 1, 2, 1]


def test_overload_of_processes_loses_nothing() -> None:
    outcome = run_overload(jobs=2, passages=3, shells=("processes",))
    assert [row["lost"] for row in outcome.rows] == [0, 0]


@pytest.mark.ray
@pytest.mark.parametrize("shell", ["ray", "endpoint"])
def test_overload_on_ray_shares_one_server_or_endpoint(shell: str) -> None:
    outcome = run_overload(jobs=2, passages=6, shells=(shell,))
    assert [row["lost"] for row in outcome.rows] == [0, 0]
    assert all(row["steps"] >= 6 for row in outcome.rows)


@pytest.mark.ray
def test_overhead_on_ray_counts_the_same_steps() -> None:
    outcome = run_overhead(STEPS, ("ray", "ray+server"), tokenizer="", agents=8)
    in_host, served = (row["steps"] for row in outcome.rows)
    assert in_host == served >= STEPS
    assert [floor.name for floor in outcome.floors] == ["durable steps/s, ray", "last 1,000 steps to first, ray"]
    _is_complete(outcome)


def test_peers_that_are_not_installed_are_named_with_the_command_that_adds_them(tmp_path: Path) -> None:
    """In a process without their packages, or with them: a peer has a rate, or says what is missing."""
    for row in named_peers(tmp_path, passages(3, seed=0)):
        assert row.get("steps_per_s", 0) > 0 or "swarmloom[peers]" in row["missing"]
        assert row["shell"] in ("LangGraph", "LangGraph + SQLite", "AutoGen core")
    assert null_work("one two\nthree") == "one\tone two"


@pytest.mark.ray
def test_plain_ray_does_the_same_work() -> None:
    rates = plain_rates(null_work, passages(3, seed=0))
    assert rates.keys() == {"plain Ray actor", "plain Ray tasks"} and min(rates.values()) > 0


def test_overhead_refuses_what_makes_no_sense() -> None:
    with pytest.raises(SpecError, match="no shell 'moon'"):
        run_overhead(STEPS, ("moon",))
    with pytest.raises(SpecError, match="0 steps"):
        run_overhead(0, ("local",))


def test_the_yardstick_commits_every_step(tmp_path: Path) -> None:
    assert run_bare(tmp_path, 100) > 0
    assert (tmp_path / "bare.sqlite").stat().st_size > 0


def test_all_agents_are_alive_at_once() -> None:
    outcome = run_agents(30, tokenizer="")
    (row,) = outcome.rows
    assert row["agents_alive"] == 30
    assert row["steps_done"] >= 30
    _is_complete(outcome)


def test_a_board_has_two_links_a_note_and_answers() -> None:
    outcome = run_board(3000, queries=20)
    load, *queries = outcome.rows
    assert load["notes"] == 3000
    assert 1.8 <= load["links"] / load["notes"] <= 2.2
    assert {"note", "by_task", "provenance", "count"} <= {row["what"] for row in queries}
    assert len(outcome.floors) == len(queries)
    _is_complete(outcome)


def test_the_scripted_model_gives_the_same_rows_each_time(tmp_path: Path) -> None:
    source = "def get(items):\n    if not items:\n        raise KeyError('none')\n"
    (tmp_path / "queue.py").write_text(source, encoding="utf-8")
    outcome = run_same(("scripted",), str(tmp_path / "queue.py"))
    (row,) = outcome.rows
    assert (row["rows"], row["differ"], row["order_same"]) == (2, 0, True)  # the row and its finding
    assert [floor.met for floor in outcome.floors] == [True]
    _is_complete(outcome)


def test_the_store_is_measured_by_what_the_logs_hold(tmp_path: Path) -> None:
    rows = list(_folding(tmp_path / "fold", 3000))
    assert [row["what"] for row in rows] == ["fold", "snapshot", "open", "read and fold"]
    assert [row["events"] for row in rows] == [3000, 1500, 3000, 3000]
    with SqliteReader.open(tmp_path / "fold") as reader:
        kinds = Counter(event.kind for event in reader.read())
    assert 730 < kinds["NotePosted"] <= kinds["CallFinished"] <= kinds["CallStarted"] <= 64 * kinds["RangeLeased"]


def test_a_long_job_ends_when_it_has_enough_steps(tmp_path: Path) -> None:
    figures = asyncio.run(work_long(tmp_path, 5000))
    with SqliteReader.open(tmp_path / "job" / "runs" / "long") as reader:
        bodies = [event.body for event in reader.read()]
    notes = [body.body for body in bodies if isinstance(body, NotePosted) and body.kind == "row"]
    assert 5000 <= len(notes) < 6000 and len(set(notes)) > 0.99 * len(notes), "hardly two notes say the same"
    assert figures["steps"] == 5000 and {"last_to_first", "bytes_per_step"} <= figures.keys()


def test_the_last_steps_of_a_long_job_are_compared_with_the_first_of_new_ones() -> None:
    asked: list[int] = []

    def new_job() -> float:
        asked.append(len(timed.costs))
        return 0.5

    timed = SteppedStore(MemoryStore(), Path(), 10_000, 1000, lambda: asked.append(0), new_job)
    finished = TaskFinished(task="t", token=1, outcome="", notes=0)
    for first in range(1, 10_001, 100):
        timed.append([Event(first + at, 0.0, 1, 0, "", finished) for at in range(100)], {})
    figures = timed.figures()
    assert asked == [*range(2, 11), 0] and len(timed.costs) == 10 and timed.firsts == [0.5] * PAIRS
    assert figures["first_us"] == 500_000 and figures["last_us"] == round(median(timed.costs[-PAIRS:]) * 1e6, 1)
    assert figures["last_to_first"] == round(median(timed.costs[-PAIRS:]) / 0.5, 3)


def test_the_first_steps_of_a_new_job_are_done_in_a_process_of_their_own(tmp_path: Path) -> None:
    assert _first_steps(tmp_path / "new", 500, 5000) > 0 and not (tmp_path / "new").exists()
    (tmp_path / "new").write_text("in the way")
    with pytest.raises(SpecError, match="the job that was to be compared with failed"):
        _first_steps(tmp_path / "new", 500, 5000)


def test_writers_append_at_the_same_time(tmp_path: Path) -> None:
    assert len(_raced(str(tmp_path), 4000)) == JOBS
    with SqliteReader.open(tmp_path / "b4000-0") as reader:
        assert reader.last() == APPENDED


def test_a_floor_says_whether_it_is_met() -> None:
    assert Floor.at_least("rate", 10, 10.0).met is True
    assert Floor.at_most("memory", 10, 10.5).met is False
    assert Floor.at_most("memory", 10, None).met is None


def _is_complete(outcome: Outcome) -> None:
    """The document is plain data in the form that scripts rely on, and people see every figure and floor."""
    document = outcome.document()
    assert document.keys() == {"name", "about", "rows", "floors"}
    assert all(floor.keys() == {"name", "goal", "value", "met"} for floor in document["floors"])
    text = render(outcome)
    assert all(name.replace("_", " ") in text for row in outcome.rows for name in row)
    assert all(floor.name in text for floor in outcome.floors)
