"""People and a job through the command line: words, questions, answers, and wrong times for them."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from swarm.errors import StoreError
from swarm.events import ApprovalAnswered, BudgetChanged, CallStarted, PersonSaid
from swarm.runtime.people import pause
from swarm.runtime.session import Session, check
from swarm.runtime.supervise import Supervisor
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import open_runs
from tests.commands import Said, job_file, start, swarm
from tests.jobs import ROWS, events_of, job, write_sources
from tests.stores import Store

ASKING = {"name": "map_reduce", "options": {"span_tokens": 160, "approve_plan": True}}


def over(place: Path, verb: str, *arguments: object) -> Said:
    return swarm(verb, *arguments, "--runs", place / "runs")


@pytest.fixture
def asking(tmp_path: Path) -> Path:
    """A folder with a job called `one` that waits for the approval of its plan."""
    path = job_file(tmp_path, write_sources(tmp_path), protocol=ASKING)
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one", "--json")
    assert said.code == 5, said.err
    assert "swarm approve one:1 [--answer set|count|group|top-k]" in said.err and "swarm reject one:1" in said.err
    document = said.document
    assert document["status"] == "waiting" and "5 passages" in document["questions"][0]["text"]
    return tmp_path


@contextmanager
def working(folder: Path, *options: object, **changes: object) -> Iterator[subprocess.Popen[str]]:
    """A slow job called `one`, at work in a process of its own."""
    slow = {"engine": "scripted", "name": "raises+slow:0.3"}
    path = job_file(folder, write_sources(folder, 4), **{"model": slow, **changes})
    process = start("run", path, "--local", "--agents", 1, "--runs", folder / "runs", "--id", "one", "--json", *options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def seen(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended and never said {text!r}")


# ---- questions ----


def test_a_job_waits_and_goes_on_once_it_is_approved(asking: Path) -> None:
    assert over(asking, "status", "one", "--json").document["status"] == "waiting"
    (question,) = over(asking, "inbox", "--json").document
    assert question["run"] == "one" and question["options"] == ["set", "count", "group", "top-k"]
    assert "swarm approve one:1" in over(asking, "inbox", "one").out
    again = over(asking, "resume", "one", "--local")
    assert again.code == 5 and "swarm approve one:1" in again.err, "nothing has changed"
    said = over(asking, "approve", "one")
    assert said.code == 0 and "swarm resume one" in said.err, said.err
    assert over(asking, "status", "one", "--json").document["status"] == "answered"
    assert "one is answered: nobody works on it; go on with: swarm resume one" in over(asking, "watch", "one").out
    assert over(asking, "inbox").out == "nothing is asked\n"
    said = over(asking, "resume", "one", "--local", "--json")
    assert said.code == 0, said.err
    assert [tuple(row["values"].values()) for row in said.document["rows"]] == ROWS
    (told,) = said.document["questions"]
    assert told["verdict"] == "approved" and told["by"] and "5 passages" in told["question"]
    assert "approved" in (asking / "runs" / "one" / "report.md").read_text()
    assert over(asking, "replay", "one", "--verify").code == 0


def test_an_answer_changes_the_plan(asking: Path) -> None:
    said = over(asking, "approve", "one:1", "--answer", "sum")
    assert said.code == 2 and "set, count, group, top-k" in said.err
    assert over(asking, "approve", "one:1", "--answer", "count").code == 0
    said = over(asking, "resume", "one", "--local", "--json")
    assert said.code == 0 and said.document["merge"] == "count", said.err
    assert {row["values"]["count"] for row in said.document["rows"]} == {"1", "2"}


def test_a_plan_that_is_rejected_ends_the_job_with_the_reason(asking: Path) -> None:
    assert over(asking, "reject", "one", "--why", " ").code == 2
    assert over(asking, "reject", "one", "--why", "too dear by far").code == 0
    status = over(asking, "status", "one", "--json").document
    assert status["status"] == "cancelled" and status["detail"] == "too dear by far"
    report = over(asking, "report", "one", "--json").document
    assert report["reason"] == "too dear by far" and report["questions"][0]["why"] == "too dear by far"
    said = over(asking, "resume", "one", "--local")
    assert said.code == 1 and "has ended" in said.err


def test_wrong_answers_are_told(asking: Path) -> None:
    for name, code, words in (
        ("one:7", 2, "no question 7"), ("one:x", 2, "no number"), ("two", 1, "there is no run"), (":1", 1, "empty name"),
    ):  # fmt: skip
        said = over(asking, "approve", name)
        assert said.code == code and words in said.err, said.err
    assert over(asking, "approve", "one").code == 0
    for name in ("one", "one:1"):
        said = over(asking, "approve", name)
        assert said.code == 1 and "answered already: approved by" in said.err, said.err
    said = over(asking, "reject", "one", "--why", "no")
    assert said.code == 1 and "answered already" in said.err
    assert over(asking, "resume", "one", "--local").code == 0
    said = over(asking, "approve", "one", "--json")
    assert said.code == 1 and "has ended (done)" in said.document["error"]["message"]
    assert sum(isinstance(event.body, ApprovalAnswered) for event in events_of(RunFolder(asking / "runs", "one"))) == 1


def test_a_job_that_asks_nothing_says_so(tmp_path: Path) -> None:
    with working(tmp_path) as process:
        seen(process, "working…")
        said = over(tmp_path, "approve", "one")
        assert said.code == 2 and "asks no question" in said.err
        assert over(tmp_path, "inbox", "one").out == "nothing is asked\n"


def test_a_driver_that_waits_goes_on_by_itself(tmp_path: Path) -> None:
    with working(tmp_path, "--wait", protocol=ASKING) as process:
        seen(process, "swarm approve one:1")
        assert over(tmp_path, "approve", "one", "--answer", "group").code == 0
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["merge"] == "group"


def test_a_job_that_waits_is_killed_and_cancelled(tmp_path: Path) -> None:
    with working(tmp_path, "--wait", protocol=ASKING) as process:
        seen(process, "swarm approve one:1")
        process.kill()
        process.communicate()
    assert over(tmp_path, "status", "one", "--json").document["status"] == "waiting"
    assert over(tmp_path, "cancel", "one").code == 0
    assert over(tmp_path, "status", "one", "--json").document["status"] == "cancelled"
    said = over(tmp_path, "cancel", "one")
    assert said.code == 1 and "has ended (cancelled)" in said.err


# ---- words ----


def test_a_word_is_shown_to_the_agents_from_then_on(tmp_path: Path) -> None:
    with working(tmp_path) as process:
        seen(process, "working…")
        said = over(tmp_path, "tell", "one", "Leave out the tests.", "--json")
        assert said.code == 0 and said.document["event"], said.err
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (word,) = json.loads(out)["words"]
    assert word["text"] == "Leave out the tests." and word["windows"] > 0 and word["by"]
    events = events_of(RunFolder(tmp_path / "runs", "one"))
    heard = next(event.seq for event in events if isinstance(event.body, PersonSaid))
    shown = [
        (event.seq, row) for event in events if isinstance(event.body, CallStarted) for row in event.body.manifest
        if row[1] == "word"
    ]  # fmt: skip
    assert len(shown) == word["windows"] and all(seq > heard for seq, _ in shown)
    assert {(row[3], row[4]) for _, row in shown} == {("person", False)}
    task = next(event.body.task for event in events if event.seq == shown[0][0])
    assert "A person says: Leave out the tests." in over(tmp_path, "show", task).out
    assert "Leave out the tests." in (tmp_path / "runs" / "one" / "report.md").read_text()
    assert "Leave out the tests." in (tmp_path / "runs" / "one" / "report.html").read_text()
    assert over(tmp_path, "replay", "one", "--verify").code == 0
    assert [tuple(row["values"].values()) for row in json.loads(out)["rows"]] == ROWS
    said = over(tmp_path, "tell", "one", "Too late.")
    assert said.code == 1 and "has ended" in said.err


def test_a_word_to_a_job_that_rests_is_heard_when_it_goes_on(asking: Path) -> None:
    said = over(asking, "tell", "one", "Only the queue.")
    assert said.code == 0 and "heard when somebody works on the job" in said.err
    assert over(asking, "approve", "one").code == 0
    said = over(asking, "resume", "one", "--local", "--json")
    assert said.code == 0, said.err
    (word,) = said.document["words"]
    assert word["text"] == "Only the queue." and word["windows"] >= 3
    assert not list((asking / "runs" / "one" / "inbox").iterdir())


def test_a_word_must_say_something_short(asking: Path) -> None:
    for text in ("  ", "x" * 1001):
        assert over(asking, "tell", "one", text).code == 2
    assert over(asking, "tell", "one", "y" * 1000).code == 0


def test_a_word_that_fits_into_no_window_is_left_out_and_that_is_told(asking: Path) -> None:
    assert over(asking, "tell", "one", "word " * 200).code == 0
    assert over(asking, "approve", "one").code == 0
    said = over(asking, "resume", "one", "--local", "--json")
    assert said.code == 0, said.err
    assert [tuple(row["values"].values()) for row in said.document["rows"]] == ROWS


# ---- pauses ----


@pytest.mark.parametrize("gone", ["killed", "left"])
def test_a_job_that_has_lost_its_driver_can_be_paused(store: Store, tmp_path: Path, gone: str) -> None:
    run = RunFolder(tmp_path / "runs", "one", open_runs(store.place, {}).place)
    session = Session.create(*check(job(write_sources(tmp_path))), run)
    session.master.open("local")
    if gone == "left":
        session.close()
    session.store.close()
    status = read_status(run)
    assert (status.status, status.detail) == (("interrupted", "") if gone == "killed" else ("paused", "the driver left"))
    pause(run, "lunch")
    status = read_status(run)
    assert (status.status, status.detail) == ("paused", "lunch") and run.messages() == []
    with pytest.raises(StoreError, match=r"nobody works on this run \(it is paused\)(.|\n)*swarm resume one"):
        pause(run, "supper")
    assert read_status(run) == status, "a second pause changes nothing"


def test_a_job_that_was_answered_can_be_paused_and_no_supervisor_starts_it(asking: Path) -> None:
    said = over(asking, "pause", "one")
    assert said.code == 1 and "nobody works on this run (it is waiting)" in said.err
    assert over(asking, "approve", "one").code == 0
    said = over(asking, "pause", "one", "--reason", "lunch")
    assert said.code == 0 and "paused one; go on with: swarm resume one" in said.err, said.err
    assert asyncio.run(Supervisor([str(asking / "runs")], clock=lambda: time.time() + 60).look()) == []
    assert over(asking, "replay", "one", "--verify").code == 0
    said = over(asking, "resume", "one", "--local", "--json")
    assert said.code == 0 and [tuple(row["values"].values()) for row in said.document["rows"]] == ROWS, said.err


@pytest.mark.parametrize("detached", [False, True])
def test_to_resume_a_job_that_waits_tells_what_it_waits_for(asking: Path, detached: bool) -> None:
    for _ in range(6):  # in vain, but it is not counted as a driver that failed
        said = over(asking, "resume", "one", "--local", *(["--detach"] if detached else []))
        assert said.code == 5 and "swarm approve one:1" in said.err + said.out
    assert not list((asking / "runs" / "one").glob("driver*"))
    assert over(asking, "approve", "one").code == 0
    assert over(asking, "resume", "one", "--local").code == 0


def test_a_job_that_waits_can_be_given_more_budget(asking: Path) -> None:
    said = over(asking, "resume", "one", "--local", "--budget", "tokens=777000")
    assert said.code == 5 and "swarm approve one:1" in said.err + said.out
    (changed,) = [event.body for event in events_of(RunFolder(asking / "runs", "one")) if isinstance(event.body, BudgetChanged)]
    assert changed.new["tokens"] == 777_000


def test_a_damaged_run_hides_no_other_ones_question(asking: Path) -> None:
    shutil.copytree(asking / "runs" / "one", asking / "runs" / "other")
    connection = apsw.Connection(str(asking / "runs" / "other" / "log.sqlite"))
    connection.execute("UPDATE events SET payload = x'00' WHERE kind = 'ApprovalAsked'")
    connection.close()
    said = over(asking, "inbox")
    assert said.code == 1 and "swarm approve one:1" in said.out and "is damaged" in said.err
    assert [row["run"] for row in over(asking, "inbox", "--json").document] == ["one"]
    assert over(asking, "inbox", "other").code == 1


@pytest.mark.parametrize("number", ["\u00b2", "x", "-1", "1.0", pytest.param("9" * 5000, id="long")])
def test_what_is_no_number_of_a_question_is_refused(asking: Path, number: str) -> None:
    said = over(asking, "approve", f"one:{number}")
    assert said.code == 2 and "is no number of a question" in said.err


def test_a_file_that_nobody_can_parse_ends_no_job(asking: Path) -> None:
    (asking / "runs" / "one" / "inbox").mkdir(exist_ok=True)
    (asking / "runs" / "one" / "inbox" / "00.json").write_text("[" * 200_000)
    (asking / "runs" / "one" / "inbox" / "01.json").write_text(json.dumps({"kind": "tell", "text": "[" * 200_000}))
    assert over(asking, "cancel", "one").code == 0
    assert read_status(RunFolder(asking / "runs", "one")).status == "cancelled"


# ---- time ----


def test_cancelling_a_busy_job_leaves_nothing_within_ten_seconds(tmp_path: Path) -> None:
    slow = {"engine": "scripted", "name": "raises+slow:600"}
    with working(tmp_path, model=slow) as process:
        seen(process, "working…")
        began = time.monotonic()
        said = over(tmp_path, "cancel", "one", "--reason", "enough")
        took = time.monotonic() - began
        _, err = process.communicate(timeout=10)
    assert said.code == 0 and process.returncode == 4, said.err + err
    assert took < 10, f"{took:.1f} s"
    status = over(tmp_path, "status", "one", "--json").document
    assert status["status"] == "cancelled" and status["holder"] is None and status["detail"] == "enough"


def test_a_job_that_waits_pauses_on_ctrl_c(tmp_path: Path) -> None:
    with working(tmp_path, "--wait", protocol=ASKING) as process:
        seen(process, "swarm approve one:1")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 1
    assert over(tmp_path, "status", "one", "--json").document["status"] == "paused"
    assert over(tmp_path, "approve", "one").code == 0, "a paused job hears answers too"
    assert over(tmp_path, "status", "one", "--json").document["status"] == "paused", "and stays paused"
    assert over(tmp_path, "resume", "one", "--local").code == 0
