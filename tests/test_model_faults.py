"""Whole jobs on a model server that fails in every way: each ends well, and every call that was charged is on the account."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
import yaml

from swarm import events as ev
from swarm.coordinator import JobState, Phase
from swarm.errors import StoreError
from swarm.report import render
from swarm.report.answer import gather
from swarm.report.markdown import render_markdown
from swarm.report.shapes import Answer
from swarm.runtime.outside import outside
from swarm.runtime.people import answer, questions
from swarm.spec import JobSpec, ProtocolSpec
from swarm.store.folder import RunFolder
from swarm.store.responses import FILE, Responses
from swarm.testing.endpoint import OK, Endpoint
from tests.commands import swarm
from tests.fired import fired
from tests.jobs import ROWS, contents, events_of, job, resume, run, state_of, write_sources

DRIVER = Path(__file__).with_name("crashing_driver.py")
NEVER = str(10**9)


def on(endpoint: Endpoint, source: Path, **settings: Any) -> JobSpec:
    model = {"engine": "openai", "name": "scripted", "url": endpoint.url, "timeout_s": 60, "concurrency": 4}
    return job(source, model={**model, **settings})


def found(folder: RunFolder) -> list[tuple[str, str]]:
    return [(note["values"]["function"], note["values"]["exception"]) for note in contents(folder, "finding")]


def report(folder: RunFolder) -> Answer:
    with folder.reader() as reader:
        return gather(reader)


def in_doubt(state: JobState) -> int:
    return state.ledger.doubt().calls


def check_account(endpoint: Endpoint, folder: RunFolder) -> None:
    """Whatever was charged is in the spend or in doubt, and nothing was sent that the log did not know of."""
    state = state_of(folder)
    assert state.total().calls <= len(endpoint.charged) <= state.total().calls + in_doubt(state)
    known = {event.body.key for event in events_of(folder) if isinstance(event.body, ev.CallStarted)}
    assert set(endpoint.keys) <= known and "" not in known


@contextmanager
def failing(endpoint: Endpoint) -> Iterator[Endpoint]:
    """An endpoint of which it is told how often it has failed."""
    with endpoint:
        yield endpoint
    for fault in endpoint.failed:
        fired(f"model server: {fault}")


@pytest.mark.parametrize(
    ("fault", "settings", "doubts"),
    [
        ("die-before", {}, 2),
        ("close", {}, 2),
        ("die-after", {}, 2),
        ("hang", {"timeout_s": 0.5}, 2),
        ("babble", {}, 0),
        ("nonsense", {}, 2),
        ("nested", {}, 2),
        ("nested-answer", {}, 0),
        ("other-model", {}, 2),
        ("500", {}, 0),
        ("502", {}, 2),
        ("429", {}, 0),
        ("429:1", {}, 0),
        ("429:date:2", {}, 0),
        ("503:1", {}, 0),
    ],
)
def test_a_job_outlives_every_fault_and_its_account_is_right(
    fault: str, settings: dict[str, Any], doubts: int, tmp_path: Path
) -> None:
    with failing(Endpoint()) as endpoint:
        endpoint.then(OK, fault, OK, fault)
        folder = run(on(endpoint, write_sources(tmp_path), **settings), tmp_path)
        state = state_of(folder)
        assert state.status == "done" and not state.failed and found(folder) == ROWS
        assert in_doubt(state) == doubts
        check_account(endpoint, folder)
        again = len(endpoint.keys) - len(set(endpoint.keys))
        assert again <= 2, "only a call that failed is made again"


def test_a_storm_costs_no_task_and_the_job_goes_on_after_it(tmp_path: Path) -> None:
    with failing(Endpoint()) as endpoint:
        endpoint.then(OK, *["429"] * 5)
        folder = run(on(endpoint, write_sources(tmp_path, 2)), tmp_path)
        state = state_of(folder)
        assert state.status == "done" and not state.failed and in_doubt(state) == 0
        assert len(endpoint.charged) == state.total().calls
        retried = [event.body for event in events_of(folder) if isinstance(event.body, ev.TaskFailed)]
        assert len(retried) == 5 and {body.kind for body in retried} == {"overloaded"}
        started = {event.body.task for event in events_of(folder) if isinstance(event.body, ev.TaskFinished)}
        assert {body.task for body in retried} <= started


@pytest.mark.parametrize(("fault", "kind"), [("500", "broken"), ("400", "rejected"), ("filtered", "rejected")])
def test_one_passage_that_always_fails_is_given_up_and_the_others_are_read(fault: str, kind: str, tmp_path: Path) -> None:
    class OneFails(Endpoint):
        def behave_for(self, body: dict[str, Any]) -> str:
            bad = any("module_001" in message["content"] and "Passage: " in message["content"] for message in body["messages"])
            return fault if bad else OK

    with failing(OneFails()) as endpoint:
        folder = run(on(endpoint, write_sources(tmp_path, 3)), tmp_path)
        state = state_of(folder)
        assert state.status == "done" and state.failed
        assert {why for _, _, _, why, _ in state.failed} == {kind}
        documents = {state.block_of(spans[0])[0] for _, role, spans, _, _ in state.failed if role == "reader"}
        assert len(documents) == 1 and state.finished["reader"] > 0
        assert {one.kind for one in report(folder).given_up} == {kind}
        check_account(endpoint, folder)


def test_a_long_task_outlives_many_outputs_that_are_mended_at_once(tmp_path: Path) -> None:
    class Stammers(Endpoint):
        """Its first answer to every third passage breaks its contract."""

        def behave_for(self, body: dict[str, Any]) -> str:
            told = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
            first = body["temperature"] == 0
            return "babble" if first and len(told) % 3 == 1 else OK

    protocol = {"name": "rolling", "options": {"span_tokens": 160, "passages": 12}}
    with failing(Stammers()) as endpoint:
        spec = on(endpoint, write_sources(tmp_path, 3)).model_copy(update={"protocol": ProtocolSpec.model_validate(protocol)})
        folder = run(spec, tmp_path)
        state = state_of(folder)
        assert state.status == "done" and not state.failed and found(folder)
        check_account(endpoint, folder)
    calls, reserved, holder = Counter[int](), dict[int, int](), dict[str, int]()
    for event in events_of(folder):
        if isinstance(event.body, ev.TaskLeased | ev.RangeLeased):
            for task, _, token in event.body.leases():
                holder[task], reserved[token] = token, event.body.calls
        elif isinstance(event.body, ev.CallStarted):
            calls[holder[event.body.task]] += 1
    assert len(endpoint.failed) > 3 and len(reserved) > 3, "one lease more than there are tasks"
    assert all(calls[token] <= most for token, most in reserved.items())


def test_a_setting_that_the_model_never_takes_costs_no_passage(tmp_path: Path) -> None:
    with failing(Endpoint(behaviour="400")) as endpoint:
        folder = run(on(endpoint, write_sources(tmp_path, 3)), tmp_path)
        state = state_of(folder)
        assert state.phase is Phase.PAUSED and state.reason.startswith("model:") and not state.failed
        assert len(endpoint.requests) <= 4, "one for each call in flight"
        endpoint.behaviour = OK
        assert state_of(resume(folder)).status == "done" and not state_of(folder).failed


def test_a_driver_that_is_killed_pays_for_no_more_than_what_was_in_flight_and_says_so(tmp_path: Path) -> None:
    flying = 4  # what crashing_driver.py has in flight at most
    with failing(Endpoint(behaviour="hang")) as endpoint:
        endpoint.then(*[OK] * 3)
        spec = on(endpoint, write_sources(tmp_path, 3), price={"input": 1.0, "output": 4.0})
        folder, file = RunFolder(tmp_path, "killed"), tmp_path / "spec.yaml"
        file.write_text(yaml.safe_dump(spec.model_dump(mode="json")), encoding="utf-8")
        driver = subprocess.Popen([sys.executable, str(DRIVER), str(file), str(tmp_path), folder.id, NEVER])
        try:
            endpoint.await_requests(3 + flying, 120)
        finally:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            fired("driver killed")
        intents = {event.body.key for event in events_of(folder) if isinstance(event.body, ev.CallStarted)}
        assert set(endpoint.keys) <= intents, "no request goes out before its intent is durable"
        assert in_doubt(state_of(folder)) == 0, "nobody has taken the job up yet"
        assert state_of(folder).doubt(held=True).calls == 0 and state_of(folder).doubt(held=False).calls == flying
        assert swarm("cost", folder.id, "--runs", tmp_path, "--json").document["in_doubt"]["calls"] == flying
        assert swarm("report", folder.id, "--runs", tmp_path, "--json").document["in_doubt"]["calls"] == flying
        endpoint.behaviour = OK
        resume(folder)
        state, told = state_of(folder), report(folder)
        assert state.status == "done" and not state.failed and len(found(folder)) == len(ROWS)
        assert in_doubt(state) == flying
        assert len(endpoint.keys) - len(set(endpoint.keys)) <= flying, "one more request for each call in flight"
        assert (told.in_doubt.calls, told.in_doubt.tokens) == (flying, state.ledger.doubt().tokens)
        assert told.in_doubt.tokens > 0 and (told.in_doubt.cost or 0) > 0
        assert f"{flying} calls of at most" in render_markdown(told)


def test_a_person_who_wants_to_be_asked_pays_nothing_twice_unasked(tmp_path: Path) -> None:
    with failing(Endpoint()) as endpoint:
        endpoint.then(OK, "die-after")
        folder = run(on(endpoint, write_sources(tmp_path), in_doubt="ask"), tmp_path)
        state = state_of(folder)
        assert len(endpoint.keys) == len(set(endpoint.keys)) and in_doubt(state) == 1
        assert state.phase in (Phase.WAITING, Phase.PAUSED) and not state.failed
        (question,) = questions(folder)
        assert "may be paid twice" in question.text
        answer(folder, question.number, "approved", render)
        assert found(resume(folder)) == ROWS and len(endpoint.keys) == len(set(endpoint.keys)) + 1


def test_a_passage_that_a_person_gives_up_is_told_as_such(tmp_path: Path) -> None:
    with failing(Endpoint()) as endpoint:
        endpoint.then(OK, "die-after")
        folder = run(on(endpoint, write_sources(tmp_path), in_doubt="ask"), tmp_path)
        (question,) = questions(folder)
        answer(folder, question.number, "rejected", render)
        resume(folder)
        why = "given up (in-doubt): a call of it may have been paid for without its answer, and a person would not have it "
        why += "made again"
        assert [one.reason for one in report(folder).unread] == [why]


def test_an_equal_call_is_answered_from_the_record_by_another_job_and_costs_nothing(tmp_path: Path) -> None:
    with failing(Endpoint()) as endpoint:
        spec = on(endpoint, write_sources(tmp_path), cache=True)
        first = run(spec, tmp_path, id="first")
        asked = len(endpoint.requests)
        second = run(spec, tmp_path, id="second")
        assert asked and len(endpoint.requests) == asked, "no request went out"
        state, told = state_of(second), report(second)
        assert state.total().calls == 0 and state.ledger.cached == asked == told.cached
        assert found(second) == found(first) == ROWS
        marked = [event.body.cached for event in events_of(second) if isinstance(event.body, ev.CallFinished)]
        assert marked and all(marked)
        assert f"{asked} calls were answered from the cache" in render_markdown(told)


@pytest.mark.parametrize("content", [b"no database, whatever the name says" * 200, b""], ids=["garbage", "empty"])
def test_a_damaged_record_of_answers_is_put_aside_and_stops_no_job(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with Endpoint() as endpoint:
        spec = on(endpoint, write_sources(tmp_path), cache=True)
        assert found(run(spec, tmp_path, id="first")) == ROWS
        asked = len(endpoint.requests)
        assert found(run(spec, tmp_path, id="second")) == ROWS and len(endpoint.requests) == asked
    assert (tmp_path / f"{FILE}.damaged").exists() == bool(content)


def test_the_database_of_another_program_is_not_taken_for_a_record_of_answers(tmp_path: Path) -> None:
    other = apsw.Connection(str(tmp_path / FILE))
    other.execute("CREATE TABLE bookmarks(url)")
    other.close()
    content = (tmp_path / FILE).read_bytes()
    with pytest.raises(StoreError, match=r"another program's database(.|\n)*move it away, or leave `cache` out"):
        Responses(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content and not (tmp_path / f"{FILE}-wal").exists()


def test_a_node_that_cannot_have_a_folder_for_runs_works_without_answers_on_record(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Endpoint() as endpoint:
        spec = on(endpoint, write_sources(tmp_path), cache=True)
    assert outside("job", spec, tmp_path / "file" / "runs").responses is None
    assert outside("job", spec, tmp_path / "runs" / "here").responses is not None, "one that it can have is made"


def test_a_further_sample_is_never_an_earlier_answer(tmp_path: Path) -> None:
    """Nothing that it says is an answer: three samples each, of which only the first may come from the record."""
    with Endpoint(behaviour="babble") as endpoint:
        spec = on(endpoint, write_sources(tmp_path), cache=True)
        run(spec, tmp_path, id="first")
        asked = len(endpoint.requests)
        state = state_of(run(spec, tmp_path, id="second"))
        firsts = sum(event.body.sample == 0 for event in events_of(RunFolder(tmp_path, "first")) if event.kind == "CallStarted")
        assert state.ledger.cached == firsts and len(endpoint.requests) == 2 * asked - firsts > asked


def test_a_silent_endpoint_pauses_the_job_with_its_reason(tmp_path: Path) -> None:
    with failing(Endpoint(behaviour="500")) as endpoint:
        folder = run(on(endpoint, write_sources(tmp_path)), tmp_path)
        state = state_of(folder)
        assert state.phase is Phase.PAUSED and state.reason.startswith("model:") and not state.failed
        endpoint.behaviour = OK
        assert found(resume(folder)) == ROWS and state_of(folder).status == "done"
