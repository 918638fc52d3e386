"""Looking back and branching off: steps, forks and their comparison, through the command line."""

from __future__ import annotations

import asyncio
import json
import shutil
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swarm import events as ev
from swarm.coordinator import JobState
from swarm.coordinator.ledger import Doubt
from swarm.errors import NoSpaceError
from swarm.events import Event
from swarm.names import range_task
from swarm.report.activity import Activity
from swarm.report.steps import steps
from swarm.runtime.fork import fork
from swarm.runtime.outbox import undelivered
from swarm.runtime.session import Session, check
from swarm.store.folder import RunFolder
from swarm.store.place import FolderPlace
from swarm.store.sqlite import SqliteWriter
from swarm.testing.endpoint import Endpoint
from swarm.testing.invariants import LogWatch, check_counters, refold
from tests.commands import Said, job_file, swarm
from tests.jobs import ROWS, answered, events_of, finished, job, write_sources

COPIES = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run called `one`."""
    folder = tmp_path_factory.mktemp("fork")
    path = job_file(folder, write_sources(folder, COPIES))
    said = swarm("run", path, "--local", "--agents", 2, "--runs", folder / "runs", "--id", "one")
    assert said.code == 0, said.err
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def copied(made: Path, place: Path) -> Path:
    """A place with a copy of the runs that were made, to fork in."""
    shutil.copytree(made / "runs", place / "runs", symlinks=True)
    return place


def over(place: Path, verb: str, *arguments: object) -> Said:
    return swarm(verb, *arguments, "--runs", place / "runs")


def forked(place: Path, at: object, *options: object, id: str = "two") -> Said:
    return over(place, "fork", "one", "--at", at, "--id", id, "--local", "--json", *options)


def log(place: Path, id: str) -> list[Event]:
    return events_of(RunFolder(place / "runs", id))


# ---- steps ----


def test_steps_are_listed_with_what_they_cost(place: Path) -> None:
    found = over(place, "steps", "one", "--json").document
    assert [step["number"] for step in found] == list(range(1, len(found) + 1))
    assert [step["task"] for step in found] == finished(log(place, "one"))
    assert found[0]["role"] == "planner" and found[-1]["role"] == "writer"
    assert sum(step["calls"] for step in found) == len(answered(log(place, "one")))
    answer = json.loads((place / "runs" / "one" / "answer.json").read_text())
    assert sum(step["tokens_in"] for step in found) == answer["tokens_in"]
    lines = over(place, "steps", "one", "--role", "reader").out.splitlines()
    assert len(lines) == 1 + answer["coverage"]["spans"] and all(" reader " in line for line in lines[1:])
    assert f"@{found[0]['seq']}" in over(place, "steps", "one").out
    assert over(place, "steps", "one", "--failed", "--json").document == []
    assert over(place, "steps", "one", "--role", "reader", "--failed", "--json").document == [], "a role that it has"
    for form in ((), ("--json",)):
        said = over(place, "steps", "one", "--role", "raeder", *form)
        words = "--role: 'raeder' is no role of this job\n  its roles: planner, reader, verifier, reducer, writer\n"
        assert said.code == 2 and words in said.err


class Many:
    """The log of a job with very many steps, made as it is read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def read(self, after: int = 0, upto: int | None = None) -> object:
        yield Event(1, 0.0, 1, 0, "", ev.RangeAdded(range="r" * 16, role="reader", first=0, stop=self.count))
        for at in range(self.count):
            task, seq = range_task("r" * 16, at), 2 + 2 * at
            yield Event(seq, at, 1, 0, "", ev.RangeLeased(range="r" * 16, host="h", first=at, count=1, token=at, until=0,
                                                          reserved=0, calls=1))  # fmt: skip
            yield Event(seq + 1, at + 0.5, 1, 0, "", ev.TaskFinished(task=task, token=at, outcome="none", notes=0))


def test_a_hundred_thousand_steps_take_no_memory() -> None:
    tracemalloc.start()
    reader: Any = Many(100_000)
    count = Counter(step.seconds for step in steps(reader))[0.5]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_000 and most < 1 << 20


# ---- fork ----


def test_a_fork_keeps_what_stood_and_goes_on_under_the_changed_spec(place: Path) -> None:
    said = forked(place, 1, "--set", "answer.top=1", "--set", "protocol.options.headlines=0")
    assert said.code == 0, said.err
    assert "one up to step 1" in said.err and "protocol.options.headlines" in said.err
    old, new = log(place, "one"), log(place, "two")
    mark = next(at for at, event in enumerate(new) if isinstance(event.body, ev.Forked))
    assert new[:mark] == old[:mark], "what stood is kept as it stood, epochs and times included"
    assert new[mark].body == ev.Forked(
        origin="one", at=mark, step=1, changes=("answer.top", "protocol.options.headlines")
    )
    assert old[mark].cause != new[mark - 1].cause, "the step's whole decision is kept"
    document = said.document
    assert document["id"] == "two" and document["status"] == "done" and not document["headlines"]
    assert [tuple(row["values"].values()) for row in document["rows"]] == ROWS
    assert set(answered(old[:mark])) < set(answered(new)), "recorded outputs are there"
    watch = LogWatch()
    for event in new:
        watch.see(event)
    check_counters(refold(new))
    assert over(place, "replay", "two", "--verify").code == 0
    assert over(place, "replay", "one", "--verify").code == 0


def test_recorded_calls_are_never_made_again(place: Path) -> None:
    steps_of_one = over(place, "steps", "one", "--json").document
    middle = len(steps_of_one) // 2
    assert forked(place, middle).code == 0
    old, new = log(place, "one"), log(place, "two")
    mark = next(event.seq for event in new if isinstance(event.body, ev.Forked))
    before = answered(old[: mark - 1])
    assert answered(new[: mark - 1]) == before and len(set(answered(new))) == len(answered(new))
    assert over(place, "steps", "two", "--json").document[:middle] == steps_of_one[:middle]
    assert over(place, "diff", "one", "two").code == 0, "the same spec, the same answer"


def test_a_fork_outlives_what_it_came_from(place: Path) -> None:
    assert over(place, "steps", "one", "--json").document
    assert forked(place, 5).code == 0
    assert over(place, "rm", "one").code == 0
    for verb in (("replay", "two", "--verify"), ("report", "two"), ("export", "two")):
        assert over(place, *verb).code == 0
    assert all(cite["quote"].startswith("raise") for row in over(place, "report", "two", "--json").document["rows"]
               for cite in row["cites"])  # fmt: skip


def test_the_time_between_a_job_and_its_fork_is_nobodys(place: Path) -> None:
    assert forked(place, 5).code == 0
    old, new = log(place, "one"), log(place, "two")
    mark = next(at for at, event in enumerate(new) if isinstance(event.body, ev.Forked))
    assert new[mark].time > old[mark - 1].time
    held = refold(old[:mark]).seconds(old[mark - 1].time)
    assert refold(new[: mark + 2]).seconds(new[mark + 1].time) == held
    opened = refold(new[: mark + 3])
    assert opened.seconds(opened.time) == held, "the clock begins when a master takes the fork"
    state, activity = JobState(), Activity()
    for event in new[: mark + 2]:
        state.apply(event)
        activity.follow(event, state)
    assert activity.seconds == pytest.approx(held), "and the report says so too"


def step_with_calls_out(events: list[Event]) -> int:
    """The number of the first step at whose end other agents' calls were out."""
    state, step = JobState(), 0
    for event in events:
        state.apply(event)
        if isinstance(event.body, ev.TaskFinished):
            step += 1
            if any(row.intent for row in state.tasks.values()):
                return step
    raise AssertionError("no call was out at the end of any step")


def test_calls_that_were_out_at_the_cut_are_the_other_jobs_to_account_for(tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        model = {"engine": "openai", "name": "m", "url": endpoint.url}
        path = job_file(tmp_path, write_sources(tmp_path, COPIES), model=model)
        said = swarm("run", path, "--local", "--agents", 4, "--runs", tmp_path / "runs", "--id", "one")
        assert said.code == 0, said.err
        step = step_with_calls_out(log(tmp_path, "one"))
        assert forked(tmp_path, step).code == 0
    assert [refold(log(tmp_path, id)).ledger.doubt() for id in ("one", "two")] == [Doubt(), Doubt()]


def begun(folder: Path) -> RunFolder:
    """A run called `one` with a notice that nobody has delivered, whose inputs are pinned, and that nobody works on."""
    session = Session.create(*check(job(write_sources(folder))), RunFolder(folder / "runs", "one"))
    session.master.append([ev.NoticeDue(notice="early", occasion="waiting", reason="why?", ways=("webhook",))], {})
    session.open("local")
    asyncio.run(session.begin())
    session.close()
    return session.run


def test_what_the_other_job_has_to_tell_is_not_told_by_the_fork(tmp_path: Path) -> None:
    source, target = begun(tmp_path), RunFolder(tmp_path / "runs", "two")
    fork(source, target, "0", {})
    told: list[tuple[bool, int, set[str]]] = []
    for run in (source, target):
        with run.reader() as reader:
            state = refold(reader.read())
            told.append((undelivered(reader) is not None, len(state.outbox), state.told))
    assert told == [(True, 1, {"early"}), (False, 0, {"early"})]


@dataclass(frozen=True, slots=True)
class Full(FolderPlace):
    """A place without room for anything but a run's folder."""

    def writer(self, folder: Path) -> SqliteWriter:
        raise NoSpaceError("no space is left", str(folder))


def test_a_fork_that_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    source = begun(tmp_path)
    with pytest.raises(NoSpaceError):
        fork(source, RunFolder(tmp_path / "runs", "two", Full()), "0", {})
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.name != "latest"] == ["one"]
    fork(source, RunFolder(tmp_path / "runs", "two"), "0", {})


def test_a_fork_of_a_fork(place: Path) -> None:
    assert forked(place, 6).code == 0
    said = over(place, "fork", "two", "--at", 3, "--id", "three", "--local", "--set", "answer.merge=count", "--json")
    assert said.code == 0, said.err
    assert [event.body.origin for event in log(place, "three") if isinstance(event.body, ev.Forked)] == ["two"]
    assert over(place, "replay", "three", "--verify").code == 0


def test_before_the_first_step_the_plan_is_made_anew_over_the_same_passages(place: Path) -> None:
    said = forked(place, 0, "--set", "answer.merge=count")
    assert said.code == 0, said.err
    assert said.document["merge"] == "count" and said.document["provenance"]["sessions"] == 2
    old, new = log(place, "one"), log(place, "two")
    mark = next(at for at, event in enumerate(new) if isinstance(event.body, ev.Forked))
    assert isinstance(new[mark - 1].body, ev.CorpusPinned) and new[:mark] == old[:mark]


def test_only_before_the_first_step_may_inputs_change(place: Path) -> None:
    other = write_sources(place, 1)
    change = ("--set", f"inputs=[{other}]")
    said = forked(place, 1, *change)
    assert said.code == 2 and "inputs: cannot change once the inputs are pinned" in said.err and "--at 0" in said.err
    assert not (place / "runs" / "two").exists()
    said = forked(place, 0, *change)
    assert said.code == 0, said.err
    assert said.document["coverage"]["documents"] == 1
    assert [type(event.body) for event in log(place, "two")[:2]] == [ev.Forked, ev.JobCreated]


@pytest.mark.parametrize(
    ("at", "change", "code", "words"),
    [
        (1, "protocol.options.span_tokens=100", 2, "once the inputs are cut"),
        (1, "answer.columns.0.name=method", 2, "notes of that form"),
        (1, "protocol.name=rolling", 2, ""),
        (1, "answer.nothing=1", 2, "is no setting"),
        (1, "budget.tokens=-5", 2, "budget.tokens"),
        (1, "model.name=nobody", 1, "there is no script"),
        (999, "seed=1", 2, "it has 21 steps, the last one ended by event @"),
        ("@3", "seed=1", 2, "there is no step @3"),
        ("x", "seed=1", 2, "is no step"),
        ("²", "seed=1", 2, "is no step"),
        pytest.param("9" * 5000, "seed=1", 2, "is no step", id="long"),
        (0, "inputs.².source=x", 2, "names no setting"),
        pytest.param(0, f"inputs.{'9' * 5000}.source=x", 2, "names no setting", id="long-0"),
        (1, "budget.agent.tokens=1", 2, "--set budget.agent.tokens: 1 may not do"),
        (1, "notify.command=[/nosuch]", 2, "notify.command: '/nosuch' is no program"),
        (1, "notify.webhook=env:NO_SUCH_HOOK", 2, "notify.webhook: "),
        (1, "answer.gold=/nosuch.jsonl", 2, "answer.gold: "),
        (0, "answer.columns.0.description=' '", 2, "answer.columns.function: is blank"),
        (0, "budget.tokens=10", 2, "budget.tokens: 10 may not do for the first task of role reader"),
        (-1, "seed=1", 2, ""),
    ],
)
def test_a_fork_that_cannot_be_is_refused(place: Path, at: object, change: str, code: int, words: str) -> None:
    said = forked(place, at, "--set", change)
    assert said.code == code and words in said.err, said.err
    assert not (place / "runs" / "two").exists()


def test_what_a_fork_inherits_may_be_gone(tmp_path: Path) -> None:
    """The program that tells people, and the gold: what the job needs for its work is there."""
    program, gold = tmp_path / "tell", tmp_path / "gold.jsonl"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    gold.write_text(json.dumps(dict(zip(("function", "exception"), ROWS[0], strict=True))))
    answer = job(tmp_path).model_dump(mode="json")["answer"] | {"gold": str(gold)}
    path = job_file(tmp_path, write_sources(tmp_path), notify={"command": [str(program)]}, answer=answer)
    assert swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one").code == 0
    program.unlink()
    gold.unlink()
    said = forked(tmp_path, 1, "--set", "seed=1", "--set", "answer.merge=count")
    assert said.code == 0 and said.document["status"] == "done", said.err


def test_the_number_of_an_event_is_no_step_without_its_sign(place: Path) -> None:
    last = over(place, "steps", "one", "--json").document[-2]
    said = forked(place, last["seq"])
    assert said.code == 2 and f"there is no step {last['seq']}" in said.err and not (place / "runs" / "two").exists()


def test_the_last_step_leaves_nothing_to_go_on_with(place: Path) -> None:
    found = over(place, "steps", "one", "--json").document
    said = forked(place, len(found))
    assert said.code == 1 and "ended the job (done)" in said.err and not (place / "runs" / "two").exists()
    said = forked(place, f"@{found[-2]['seq']}")
    assert said.code == 0, said.err
    assert said.document["status"] == "done"


def test_a_taken_name_is_refused(place: Path) -> None:
    said = forked(place, 1, id="one")
    assert said.code == 1 and "exists already" in said.err
    assert over(place, "steps", "one").code == 0


# ---- fork: budgets ----


@pytest.fixture(scope="module")
def given_more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run called `one`, whose limit of calls was reached, and then taken away."""
    folder = tmp_path_factory.mktemp("more")
    path = job_file(folder, write_sources(folder, COPIES), budget={"calls": 20, "reserve": 0.2})
    where = ("--local", "--agents", 1, "--runs", folder / "runs")
    said = swarm("run", path, *where, "--id", "one")
    assert said.code == 3, said.err
    said = swarm("resume", "one", *where, "--budget", "calls=none")
    assert said.code == 0, said.err
    return folder


@pytest.fixture
def later(given_more: Path, tmp_path: Path) -> Path:
    return copied(given_more, tmp_path)


def after_the_change(place: Path) -> int:
    """The number of the first step that ended after the budget was changed."""
    step, changed = 0, False
    for event in log(place, "one"):
        changed = changed or isinstance(event.body, ev.BudgetChanged)
        if isinstance(event.body, ev.TaskFinished):
            step += 1
            if changed:
                return step
    raise AssertionError("no step ended after the change")


def calls_at(place: Path, step: int) -> int:
    return sum(one["calls"] for one in over(place, "steps", "one", "--json").document[:step])


def changes_of(place: Path, id: str) -> list[ev.BudgetChanged]:
    return [event.body for event in log(place, id) if isinstance(event.body, ev.BudgetChanged)]


def test_a_limit_that_is_spent_is_refused_before_there_is_a_fork(later: Path) -> None:
    step = after_the_change(later)
    spent = calls_at(later, step)
    said = forked(later, step, "--set", f"budget.calls={spent}")
    assert said.code == 2 and f"--set budget.calls: {spent} are spent already" in said.err, said.err
    assert not (later / "runs" / "two").exists()


def test_inputs_that_are_not_there_are_refused_before_there_is_a_fork(place: Path) -> None:
    said = forked(place, 0, "--set", "inputs.0.source=/nowhere")
    assert said.code != 0 and "/nowhere: cannot be read" in said.err and "resume" not in said.err, said.err
    assert not (place / "runs" / "two").exists()


def test_a_price_that_a_limit_needs_is_missed_before_there_is_a_fork(place: Path) -> None:
    said = forked(place, 1, "--set", "budget.money=5")
    assert said.code == 2 and "--set budget.money: the price of model 'raises' is not known" in said.err, said.err
    assert not (place / "runs" / "two").exists()


def test_a_fork_that_lost_its_driver_at_once_has_its_limits(later: Path) -> None:
    step = after_the_change(later)
    limit = calls_at(later, step) + 2
    one, two = (RunFolder(later / "runs", id) for id in ("one", "two"))
    fork(one, two, str(step), {"budget.calls": limit})
    events = log(later, "two")
    assert [type(event.body) for event in events[-3:]] == [ev.Forked, ev.JobCreated, ev.BudgetChanged]
    assert (changes_of(later, "two")[-1].old, changes_of(later, "two")[-1].new) == ({"calls": None}, {"calls": limit})
    said = over(later, "resume", "two", "--local", "--agents", 1)
    assert said.code == 3 and f"the budget of {limit} calls" in said.err, said.err
    assert over(later, "replay", "two", "--verify").code == 0
    check_counters(refold(log(later, "two")))


def test_a_fork_where_the_job_rested_goes_on_with_what_it_was_given(later: Path) -> None:
    old, paused = log(later, "one"), 0
    for event in old:
        paused += isinstance(event.body, ev.TaskFinished)
        if isinstance(event.body, ev.PhaseChanged) and event.body.phase == "paused":
            break
    one, two = (RunFolder(later / "runs", id) for id in ("one", "two"))
    fork(one, two, str(paused), {"budget.calls": 400})
    state = refold(log(later, "two"))
    assert not state.limits and state.closing is None and not state.status, "the draft of the end is taken back"
    said = over(later, "resume", "two", "--local", "--agents", 1)
    assert said.code == 0, said.err
    assert len(set(answered(log(later, "two")))) == len(answered(log(later, "two")))
    assert over(later, "replay", "two", "--verify").code == 0
    assert over(later, "diff", "one", "two", "--json").document["same"] == len(ROWS)


def test_a_limit_as_the_job_began_with_it_holds_again(later: Path) -> None:
    step = after_the_change(later)
    said = forked(later, step, "--set", "budget.calls=20", "--set", "budget.reserve=0")
    assert calls_at(later, step) < 20 and said.code == 3 and "the budget of 20 calls" in said.err, said.err
    assert "with budget.calls, budget.reserve changed" in said.err
    assert changes_of(later, "two")[-1].new == {"calls": 20}
    assert over(later, "replay", "two", "--verify").code == 0


def test_a_role_gets_its_first_limit_after_the_budget_was_changed(later: Path) -> None:
    said = forked(later, after_the_change(later), "--set", "budget.roles.reader.calls=500")
    assert said.code == 0, said.err
    assert "with budget.roles.reader.calls changed" in said.err
    assert changes_of(later, "two")[-1].new == {"roles.reader.calls": 500}
    said = over(later, "fork", "two", "--at", after_the_change(later), "--id", "three", "--local", "--set", "budget.roles={}")
    assert said.code == 0, said.err
    assert changes_of(later, "three")[-1].new == {"roles.reader.calls": None}
    assert over(later, "replay", "two", "--verify").code == over(later, "replay", "three", "--verify").code == 0


def test_a_fork_of_a_fork_has_the_limits_that_stood_there(later: Path) -> None:
    step = after_the_change(later)
    limit = calls_at(later, step) + 100
    assert forked(later, step, "--set", f"budget.calls={limit}").code == 0
    assert over(later, "fork", "two", "--at", step + 1, "--id", "three", "--local").code == 0
    three = RunFolder(later / "runs", "three")
    assert changes_of(later, "three")[-1].new == {"calls": limit} and refold(log(later, "three")).raised == {"calls": limit}
    said = over(later, "fork", "three", "--at", step + 2, "--id", "four", "--local", "--set", "budget={}")
    assert said.code == 0 and three.exists(), said.err
    assert changes_of(later, "four")[-1].new == {"calls": None}
    assert over(later, "replay", "four", "--verify").code == 0


def test_a_fork_before_its_origin_was_forked_has_its_origins_limits(later: Path) -> None:
    step = after_the_change(later)
    limit = calls_at(later, step) + 2
    assert forked(later, step + 1, "--set", f"budget.calls={limit}").code == 3
    said = over(later, "fork", "two", "--at", step, "--id", "three", "--local", "--set", "answer.top=1")
    assert said.code == 3 and f"the budget of {limit} calls" in said.err, said.err


# ---- diff ----


def test_a_difference_is_told_and_is_an_exit_code(place: Path) -> None:
    assert over(place, "diff", "one", "one").code == 0
    assert forked(place, 0, "--set", "protocol.options.verify=false").code == 0
    said = over(place, "diff", "one", "two", "--json")
    assert said.code == 1, said.err
    document = said.document
    assert document["spec"] == {"protocol.options.verify": [None, False]} and not document["same"]
    assert not document["only_first"] and len(document["changed"]) == len(ROWS)
    assert {pair[1]["verdict"] for pair in document["changed"]} == {"unchecked"}
    assert document["costs"]["calls"][0] > document["costs"]["calls"][1]
    said = over(place, "diff", "one", "two")
    assert said.code == 1 and "verdict supported → unchecked" in said.out
    assert "setting protocol.options.verify: not set → false" in said.out


def test_rows_of_one_run_only_are_told(place: Path) -> None:
    small = place / "small"
    small.mkdir()
    (small / "module_000.py").write_text("def f():\n    raise KeyError(1)\n")
    assert forked(place, 0, "--set", f"inputs=[{small}]").code == 0
    document = over(place, "diff", "one", "two", "--json").document
    assert len(document["only_first"]) == len(ROWS)
    assert [claim["values"] for claim in document["only_second"]] == [{"function": "f", "exception": "KeyError"}]
    assert over(place, "diff", "one", "nobody").code == 1
