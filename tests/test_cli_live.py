"""The view of a job at work, fed with a real log, event by event."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from swarm.cli.live import LINE_SECONDS, PlainLines, Progress, Screen, budget_used, face, follow, summary
from swarm.cli.runs import _status_lines
from swarm.coordinator import Phase
from swarm.errors import ModelError
from swarm.events import Event, body_hash
from swarm.runtime.session import Session, check
from swarm.runtime.wire import Pull
from swarm.spec import BudgetSpec, JobSpec
from swarm.store.folder import RunFolder, RunStatus
from tests.jobs import events_of, job, run, write_sources


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, JobSpec, list[Event]]:
    folder = tmp_path_factory.mktemp("live")
    spec = job(write_sources(folder, 2))
    done = run(spec, folder / "runs")
    return done, spec, events_of(done)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return [line[10:] for line in console.file.getvalue().splitlines()]


def plain() -> Console:
    return Console(file=io.StringIO(), width=500)


def test_work_has_begun_with_the_first_lease_of_either_kind(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    _, spec, events = ran
    for kind in ("TaskLeased", "RangeLeased"):
        progress = Progress(spec)
        for event in events:
            progress.begun = False  # whatever came before
            progress.apply(event)
            if event.kind == kind:
                break
        assert progress.begun, kind


def test_progress_counts_what_the_log_says(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    _, spec, events = ran
    progress = Progress(spec)
    stages = []
    for event in events:
        progress.apply(event)
        stages.append(progress.stage())
        assert all(done <= known for _, done, known in progress.roles())
    assert list(dict.fromkeys(stages)) == ["cutting and pinning the inputs", "starting the agents", "working", "done"]
    reading = {name: (done, known) for name, done, known in progress.roles()}["reader"]
    assert reading[0] == reading[1] == progress.state.spans
    assert progress.notes().startswith("8 rows, 8 supported")
    assert "tokens/s" in summary(progress) and "no limit" in summary(progress)


def test_rates_and_the_time_left_come_from_the_last_half_minute(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    _, spec, events = ran
    progress = Progress(spec)
    for event in events[: len(events) // 2]:
        progress.apply(event)
    now = progress.state.time
    assert progress.state.phase is Phase.WORKING
    assert progress.tokens_a_second(now) > 0 and (progress.left(now) or 0) > 0
    assert progress.tokens_a_second(now + 60) == 0 and progress.left(now + 60) is None


def test_the_scarcest_limit_is_shown(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    _, spec, events = ran
    limited = spec.model_copy(update={"budget": BudgetSpec(tokens=1_000_000, calls=25)})
    progress = Progress(limited)
    for event in events:
        progress.apply(event)
    used = budget_used(limited, progress.state, progress.state.time)
    assert set(used) == {"tokens", "calls"} and used["calls"] > used["tokens"]
    assert progress.budget_left(progress.state.time).endswith("of calls left")


def test_plain_lines_come_with_stages_and_every_few_seconds(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    _, spec, events = ran
    clock, console = Clock(), plain()
    view, progress = PlainLines(console, clock), Progress(spec)
    view.stage("starting Ray")
    for event in events:
        progress.apply(event)
        view.show(progress)
    assert lines(console)[0] == "starting Ray…"
    assert lines(console)[-1] == "working…"
    before = len(lines(console))
    halfway = Progress(spec)
    for event in events[: len(events) * 3 // 4]:
        halfway.apply(event)
    for _ in range(4):
        clock.now += LINE_SECONDS / 2
        view.show(halfway)
    assert len(lines(console)) == before + 2 and "reader" in lines(console)[-1]


def test_a_long_stage_says_how_long_it_takes(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    _, spec, events = ran
    clock, console = Clock(), plain()
    view, progress = PlainLines(console, clock), Progress(spec)
    for event in events[:3]:
        progress.apply(event)
    view.show(progress)
    clock.now += 12
    view.show(progress)
    assert lines(console) == [
        "cutting and pinning the inputs…",
        "cutting and pinning the inputs… 12 s: 0 documents, 5 passages, 286 tokens so far",
    ]


def test_a_terminal_gets_a_table(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    _, spec, events = ran
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    view = face(console)
    assert isinstance(view, Screen)
    progress = Progress(spec)
    for event in events:
        progress.apply(event)
    view.stage("starting Ray")
    view.show(progress)
    view.say("a line that stays")
    view.close()
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "reader" in text and "a line that stays" in text
    assert isinstance(face(plain()), PlainLines)


def test_a_terminal_says_how_much_is_pinned(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    _, spec, events = ran
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    view, progress = Screen(console), Progress(spec)
    for event in events[:3]:
        progress.apply(event)
    view.show(progress)
    view.close()
    assert isinstance(console.file, io.StringIO)
    assert "0 documents, 5 passages, 286 tokens so far" in console.file.getvalue()


def test_following_ends_when_the_job_rests(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    done, spec, events = ran
    console = plain()
    ended = asyncio.run(follow(done, spec, PlainLines(console), lambda progress: progress.state.phase is Phase.ENDED))
    assert ended.state.seq == events[-1].seq


def test_a_view_lives_while_nothing_is_added_to_the_log(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    done, spec, _ = ran
    clock, console, rests = Clock(), plain(), iter([False, False, True, True])
    view = PlainLines(console, clock)
    view.stage("starting in this process")
    clock.now += LINE_SECONDS
    asyncio.run(follow(done, spec, view, lambda progress: next(rests)))
    assert lines(console) == ["starting in this process…", "starting in this process… 5 s"]


def test_a_view_that_reads_a_long_log_remembers_only_its_last_half_minute(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    _, spec, events = ran
    progress, calls = Progress(spec), 0
    for event in events:
        calls += event.kind == "CallFinished"
        progress.apply(replace(event, time=event.time + 60.0 * event.seq))
    assert calls > 3 and len(progress.recent) <= 1, "nobody has asked for a rate yet"


def test_a_view_says_why_a_job_pauses_as_long_as_calls_are_under_way(tmp_path: Path) -> None:
    spec, place, console = job(write_sources(tmp_path)), RunFolder(tmp_path / "runs", "one"), plain()
    session = Session.create(*check(spec), place)

    async def scene() -> Progress:
        session.open("local")
        await session.begin()
        await session.master.pull(Pull("h", 1))
        session.left(ModelError("it answers 429", "model", "wait a while", kind="refused"))
        looks = iter([False, False, True, True])
        return await follow(place, spec, PlainLines(console), lambda progress: next(looks))

    try:
        progress = asyncio.run(scene())
    finally:
        session.store.close()
    assert progress.stage() == "pausing"
    assert lines(console) == ["pausing: model: it answers 429. Wait a while", "pausing…"], "it is said once"
    left = asyncio.run(follow(place, spec, PlainLines(console), lambda progress: True))
    assert left.stage() == "paused", "nobody works on it any more"


def test_a_view_tells_of_a_model_that_fails_until_it_answers(ran: tuple[RunFolder, JobSpec, list[Event]]) -> None:
    done, spec, events = ran
    progress = Progress(spec)
    at = next(at for at, event in enumerate(events) if event.kind == "CallStarted")
    for event in events[:at]:
        progress.apply(event)
    said = b"it answers 429\n  wait a while"
    with done.writer() as writer:
        writer.append([], {body_hash(said): said})
    progress.state.faults.fault("overloaded", "one", 1.0, body_hash(b"it answers 500"))
    progress.state.faults.fault("overloaded", "two", 1.0, body_hash(said))
    assert "the model has failed 2 tasks since it last answered" in summary(progress)
    lines = _status_lines(done, RunStatus(done.id, "working"), progress, [])
    assert "  model     has failed 2 tasks since it last answered: it answers 429. Wait a while" in lines
    for event in events[at:]:
        progress.apply(event)
    assert "has failed" not in summary(progress)
