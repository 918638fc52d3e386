"""Whole jobs through the local shell, on the scripted model: what they find, and what survives when they are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from swarm import events as ev
from swarm.board import Board
from swarm.coordinator import JobState, Phase
from swarm.errors import CorpusError, StoreError
from swarm.models.loading import load
from swarm.protocol import NoteView
from swarm.runtime.launch import Opened, Options, run_new
from swarm.runtime.local import first_error, work_locally
from swarm.runtime.master import JobMaster
from swarm.runtime.session import Session, check
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder, read_status
from swarm.store.inbox import post
from swarm.store.runs import Runs
from swarm.testing.invariants import LogWatch
from swarm.testing.null import NullModel
from tests.jobs import (
    ROWS,
    answered,
    contents,
    events_of,
    finished,
    job,
    prompts,
    resume,
    run,
    state_of,
    write_sources,
)


def rows(folder: RunFolder, kind: str = "finding") -> list[tuple[str, str]]:
    return [(note["values"]["function"], note["values"]["exception"]) for note in contents(folder, kind)]


def test_a_job_finds_every_row_in_the_order_of_the_text(tmp_path: Path) -> None:
    folder = run(job(write_sources(tmp_path)), tmp_path)
    state = state_of(folder)
    assert (state.phase, state.status) == (Phase.ENDED, "done")
    assert rows(folder) == ROWS
    assert [note["text"] for note in contents(folder, "sentence")]
    assert not state.open.total() and not state.leased and not state.reserved


def test_every_lease_ends_exactly_once(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 3), model={"engine": "scripted", "name": "raises+flaky:3"})
    events = events_of(run(spec, tmp_path))
    given = [
        token for event in events if isinstance(event.body, (ev.TaskLeased, ev.RangeLeased)) for *_, token in event.body.leases()
    ]
    ended = [
        event.body.token
        for event in events
        if isinstance(event.body, (ev.TaskFinished, ev.TaskFailed, ev.LeaseEnded))
    ]
    assert sorted(given) == sorted(ended) and len(set(given)) == len(given)
    assert any(isinstance(event.body, ev.TaskFailed) for event in events)


def test_how_many_agents_work_changes_nothing_in_the_answer(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 4))
    answers = [
        contents(run(spec, tmp_path, id=f"with-{agents}", agents=agents), "finding") for agents in (1, 3, 64)
    ]
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) == len(ROWS)


class SilentBoard(Board):
    """A board that takes notes and answers no query with any."""

    def notes(self, kind: str, verdict: str | None = None, status: str | None = None) -> Iterator[NoteView]:
        return iter(())

    def by_task(self, task: str) -> list[NoteView]:
        return []


def work(spec: JobSpec, folder: RunFolder, state: JobState) -> None:
    session = Session.create(*check(spec), folder)
    state.apply(next(iter(session.store.read())))
    session.master = JobMaster(session.job, session.store, state)
    asyncio.run(work_locally(session, agents=8))
    session.close()


def test_a_build_whose_board_answers_nothing_fails(tmp_path: Path) -> None:
    """Verifiers, reducers and writers have no other way to what readers found than the board's queries."""
    spec = job(write_sources(tmp_path))
    healthy, silent = RunFolder(tmp_path, "healthy"), RunFolder(tmp_path, "silent")
    work(spec, healthy, JobState())
    work(spec, silent, JobState(board=SilentBoard()))
    assert len(rows(healthy)) == len(ROWS)
    assert len(rows(silent, "row")) == len(ROWS), "the readers did find the rows"
    assert rows(silent) == [] and contents(silent, "sentence") == []
    assert state_of(silent).finished["verifier"] == 0


class Broken(NullModel):
    """A model with a fault in it."""

    async def start(self) -> None:
        raise ZeroDivisionError("a fault of the program")


def test_a_fault_of_the_program_comes_out_as_itself(tmp_path: Path) -> None:
    prepared, corpus = check(job(write_sources(tmp_path)))
    session = Session.create(prepared, corpus, RunFolder(tmp_path, "one"))
    with pytest.raises(ZeroDivisionError, match="a fault of the program"):
        asyncio.run(work_locally(session, 8, Broken(prepared.tokenizer, prepared.template)))
    session.close()


class Loading(NullModel):
    """A model that never gets ready."""

    closed = False

    async def start(self) -> None:
        await load(threading.Event().wait)

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("order", "phase"), [("pause", Phase.PAUSED), ("cancel", Phase.ENDED)])
def test_a_job_that_is_stopped_while_its_model_loads_does_not_wait_for_it(tmp_path: Path, order: str, phase: Phase) -> None:
    prepared, corpus = check(job(write_sources(tmp_path)))
    folder = RunFolder(tmp_path, "one")
    session = Session.create(prepared, corpus, folder)
    model = Loading(prepared.tokenizer, prepared.template)
    post(folder.path, order, "enough")

    async def work() -> None:
        async with asyncio.timeout(30):
            await work_locally(session, 8, model)

    asyncio.run(work())
    session.close()
    assert state_of(folder).phase is phase and model.closed


def test_whoever_takes_sigterm_for_a_crash_does_not_abort_a_job_that_pauses(tmp_path: Path) -> None:
    """Ray's handler in a driver does, by an alarm."""
    slow = {"engine": "scripted", "name": "raises+slow:0.5"}  # so that the work is not over before anybody looks at the inbox
    spec, options = job(write_sources(tmp_path), model=slow), Options(Runs(tmp_path), "local", id="one")

    def stop(_: Opened) -> None:
        signal.alarm(600)
        os.kill(os.getpid(), signal.SIGTERM)

    asyncio.run(run_new(spec, options, lambda _: {}, stop))
    assert signal.alarm(0) == 0, "no alarm is set any more"
    state = state_of(RunFolder(tmp_path, "one"))
    assert (state.phase, state.reason) == (Phase.PAUSED, "SIGTERM")


def test_of_several_errors_the_one_that_was_meant_is_told() -> None:
    meant, deep = StoreError("meant"), ValueError("not meant")
    assert first_error(ExceptionGroup("all", [deep, ExceptionGroup("deep", [meant])])) is meant
    assert first_error(ExceptionGroup("all", [ExceptionGroup("deep", [deep])])) is deep


def test_a_run_that_cannot_be_begun_leaves_no_folder(tmp_path: Path) -> None:
    prepared, corpus = check(job(write_sources(tmp_path)))
    huge = prepared.spec.model_copy(update={"seed": 2**64})  # slips past the spec's own check
    with pytest.raises(OverflowError):
        Session.create(replace(prepared, spec=huge), corpus, RunFolder(tmp_path / "runs", "one"))
    assert not list((tmp_path / "runs").iterdir())


def test_a_folder_called_latest_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    assert state_of(run(job(write_sources(tmp_path)), tmp_path / "runs")).status == "done"
    assert not list((tmp_path / "runs" / "latest").iterdir())


# ---- kill -9 ----


def crash(spec: JobSpec, folder: RunFolder, commits: int) -> bool:
    """Runs or resumes a job in a process that kills itself at its N-th commit; whether it came to that."""
    file = folder.root / "crash.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json")), encoding="utf-8")
    driver = Path(__file__).with_name("crashing_driver.py")
    command = [sys.executable, str(driver), str(file), str(folder.root), folder.id, str(commits)]
    code = subprocess.run(command, check=False, cwd=driver.parent.parent, timeout=120).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


def go_on(folder: RunFolder, undisturbed: RunFolder) -> None:
    """Resumes a job whose driver was killed, and compares it with what it was before and with one that nothing befell."""
    before = events_of(folder)
    resume(folder)
    after = events_of(folder)
    assert after[: len(before)] == before, "what was durable stays as it was"
    assert max(Counter(finished(after)).values()) == 1, "no finished step runs twice"
    assert max(Counter(answered(after)).values()) == 1, "no recorded output is generated again"
    assert contents(folder, "finding") == contents(undisturbed, "finding")
    assert state_of(folder).epoch == 2


@pytest.mark.parametrize("commits", [4, 6, 8, 10])
def test_a_killed_job_resumes_and_repeats_nothing(tmp_path: Path, commits: int) -> None:
    spec, folder = job(write_sources(tmp_path, 2)), RunFolder(tmp_path, "killed")
    assert crash(spec, folder, commits)
    go_on(folder, run(spec, tmp_path, id="undisturbed"))


def test_a_job_survives_one_kill_after_another(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 2))
    folder = RunFolder(tmp_path, "killed")
    kills = 0
    while crash(spec, folder, 4 + kills):
        kills += 1
    assert kills >= 2
    assert rows(folder) == rows(run(spec, tmp_path, id="undisturbed"))
    assert max(Counter(finished(events_of(folder))).values()) == 1


def test_an_agent_of_200_turns_goes_on_with_identical_windows_after_a_kill(tmp_path: Path) -> None:
    spec = job(
        write_sources(tmp_path, 41),
        protocol={"name": "rolling", "options": {"span_tokens": 160, "passages": 400}},
        model={"engine": "scripted", "name": "raises+slow:0.001"},
    )
    undisturbed = run(spec, tmp_path, id="undisturbed")
    whole = prompts(events_of(undisturbed))
    assert len(whole) >= 200 and len({task for task, _, _ in whole}) == 1
    folder = RunFolder(tmp_path, "killed")
    assert crash(spec, folder, 120)
    said = len(answered(events_of(folder)))
    assert 50 < said < len(whole)
    resume(folder)
    assert {key[1:]: digest for key, digest in prompts(events_of(folder)).items()} == {
        key[1:]: digest for key, digest in whole.items()
    }
    assert max(Counter(answered(events_of(folder))).values()) == 1


def test_a_long_conversation_is_compacted_within_its_window(tmp_path: Path) -> None:
    spec = job(
        write_sources(tmp_path, 34),
        protocol={"name": "rolling", "options": {"span_tokens": 160, "passages": 400}},
        model={"engine": "scripted", "name": "raises", "window": 1024},
    )
    starts = [e.body for e in events_of(run(spec, tmp_path)) if isinstance(e.body, ev.CallStarted)]
    assert max(start.tokens for start in starts) <= 1024 - 256
    kinds = [[segment[1] for segment in start.manifest] for start in starts]
    assert "compaction" not in kinds[0] and "compaction" in kinds[-1]
    for start in starts:
        assert start.tokens > sum(segment[5] for segment in start.manifest) > 0, "the rest is the template's"


# ---- budgets, pauses, faults ----


def test_a_budget_stops_the_reading_and_leaves_enough_for_the_answer(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 12), budget={"tokens": 24_000, "reserve": 0.3})
    folder = run(spec, tmp_path, agents=2)
    state = state_of(folder)
    assert (state.status, state.limits[0].limit) == ("budget", "tokens")
    assert state.total().tokens <= 24_000
    assert state.ranges, "what was not read is still there to be listed"
    assert rows(folder) and contents(folder, "sentence")


def test_a_budget_of_calls_is_never_passed(tmp_path: Path) -> None:
    state = state_of(run(job(write_sources(tmp_path, 6), budget={"calls": 17}), tmp_path))
    assert state.status == "budget" and state.total().calls <= 17


@pytest.mark.parametrize(("seconds", "reserve"), [(2, 0.05), (3, 0.5)], ids=["reading", "its end"])
def test_a_job_whose_calls_hang_comes_to_rest_when_its_seconds_are_over(tmp_path: Path, seconds: float, reserve: float) -> None:
    """With a draft of what was found until then, though the model answers nobody any more, the report's writer included."""
    spec = job(write_sources(tmp_path), budget={"seconds": seconds, "reserve": reserve},
               model={"engine": "scripted", "name": "raises+hang:8"}, notify={"command": ["true"]})  # fmt: skip
    folder = run(spec, tmp_path / "runs", agents=4)
    state, events = state_of(folder), events_of(folder)
    assert (state.phase, state.status) == (Phase.PAUSED, "budget") and state.seconds(state.time) < seconds + 5
    assert contents(folder, "finding"), "what was found is merged"
    broken = [event.body for event in events if isinstance(event.body, ev.LeaseEnded)]
    assert broken and {one.reason for one in broken} == {"budget"}
    assert [(role, kind) for _, role, _, kind, _ in state.failed] == [("writer", "budget")]
    told = [event.body.notice for event in events if isinstance(event.body, ev.NoticeSent)]
    assert {"budget:seconds:50", "budget:seconds:100"} <= set(told)
    watch = LogWatch()
    for event in events:
        watch.see(event)


def test_a_paused_job_rests_and_goes_on(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 3), model={"engine": "scripted", "name": "raises+slow:0.02"})
    folder = RunFolder(tmp_path, "paused")
    session = Session.create(*check(spec), folder)
    post(folder.path, "pause", "lunch")
    asyncio.run(work_locally(session, agents=2))
    session.close()
    state = state_of(folder)
    assert state.phase is Phase.PAUSED and read_status(folder).detail == "lunch" and not state.leased
    assert state_of(resume(folder)).status == "done"


def test_a_cancelled_job_ends(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 3), model={"engine": "scripted", "name": "raises+slow:0.02"})
    folder = RunFolder(tmp_path, "cancelled")
    session = Session.create(*check(spec), folder)
    post(folder.path, "cancel", "not needed")
    asyncio.run(work_locally(session, agents=2))
    session.close()
    assert state_of(folder).status == "cancelled"
    with pytest.raises(StoreError, match="has ended"):
        Session.resume(folder)


def test_two_drivers_on_one_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "held")
    session = Session.create(*check(job(write_sources(tmp_path))), folder)
    with pytest.raises(StoreError, match="held"):
        Session.resume(folder)
    session.close()


def test_an_input_that_changed_stops_a_resume_and_the_pinned_copy_is_offered(tmp_path: Path) -> None:
    source = write_sources(tmp_path)
    spec = job(source)
    folder = RunFolder(tmp_path, "changed")
    assert crash(spec, folder, 5)
    (source / "module_000.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"module_000\.py") as caught:
        resume(folder)
    assert "--pinned" in caught.value.cure
    assert rows(resume(folder, pinned=True)) == ROWS


def test_an_input_that_is_gone_stops_a_resume(tmp_path: Path) -> None:
    source = write_sources(tmp_path)
    folder = RunFolder(tmp_path, "gone")
    assert crash(job(source), folder, 6)
    (source / "module_000.py").unlink()
    with pytest.raises(CorpusError) as caught:
        resume(folder)
    assert "--pinned" in caught.value.cure


def test_a_task_that_keeps_failing_is_given_up_and_reported(tmp_path: Path) -> None:
    """`echo` answers with the prompt's last line, which no reader may: three samples, then the task is given up."""
    folder = run(job(write_sources(tmp_path), model={"engine": "scripted", "name": "echo"}), tmp_path)
    state = state_of(folder)
    assert state.status == "failed", "no passage was read"
    assert {kind for _, role, _, kind, _ in state.failed if role == "reader"} == {"malformed"}
    samples = Counter(key[0] for key in answered(events_of(folder)))
    assert set(samples.values()) <= {1, 3}
