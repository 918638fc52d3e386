"""What people say to a job that nobody works on, and that perhaps nobody could: its protocol or its inputs may be gone."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from swarm.coordinator import Phase
from swarm.events import PersonSaid, ReportWritten
from swarm.runtime.driver import SWARM
from swarm.runtime.launch import Options, run_new
from swarm.runtime.session import Session, check
from swarm.runtime.supervise import STARTS, WITHIN_SECONDS, Supervisor, quiet_before
from swarm.shipped import shipped
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import Runs
from tests.commands import Said, job_file, swarm
from tests.jobs import ROWS, events_of, job, state_of, write_sources
from tests.test_supervise import wait_for

ASKING: dict[str, Any] = {"name": "map_reduce", "options": {"span_tokens": 160, "approve_plan": True}}
ROLLING = (shipped("protocols") / "rolling.py").read_text()
START = "        size = self.options.passages\n"
REACT = "        ended = view.ended\n        if isinstance(event.body, Stuck):\n"
ENDING = ROLLING.replace(
    START, f"        from swarm.protocol import Ask\n        return Decision({{}}, [Ask('Enough?')])\n{START}"
).replace(
    REACT,
    "        if event.kind == 'ApprovalAnswered':\n"
    "            return Decision({}, [Finish('done' if event.body.verdict == 'approved' else 'failed')])\n" + REACT,
)  # fmt: skip
"""A protocol that asks one question, and ends with its answer."""


def over(place: Path, verb: str, *arguments: object) -> Said:
    return swarm(verb, *arguments, "--runs", place / "runs")


def begun(place: Path, protocol: str | dict[str, Any]) -> Said:
    """Starts a job called `one`, with a protocol by its setting, or with this source of one."""
    if isinstance(protocol, str):
        (place / "mine.py").write_text(protocol)
        protocol = {"name": str(place / "mine.py"), "options": {"span_tokens": 64}}
    path = job_file(place, write_sources(place), protocol=protocol)
    return over(place, "run", path, "--local", "--id", "one")


def run_of(place: Path) -> RunFolder:
    return RunFolder(place / "runs", "one")


def cancelled(place: Path) -> None:
    said = over(place, "cancel", "one", "--reason", "not needed")
    assert said.code == 0 and "cancelled one; report: " in said.err, said.err
    document = over(place, "status", "one", "--json").document
    assert (document["status"], document["detail"]) == ("cancelled", "not needed") and "report.html" in document["files"]


# ---- cancel ----


@pytest.mark.parametrize("left", [None, "def start(:\n"], ids=["gone", "broken"])
def test_a_job_whose_protocol_is_gone_or_broken_is_cancelled(tmp_path: Path, left: str | None) -> None:
    said = begun(tmp_path, ROLLING.replace(START, f"        raise KeyError('left')\n{START}"))
    assert said.code == 2 and "KeyError" in said.err, said.err
    reason = "  reason    protocol rolling: failed at event 6 (Decided): KeyError: 'left'. Mend it and resume the job\n"
    assert reason in over(tmp_path, "status", "one").out
    if left is None:
        (tmp_path / "mine.py").unlink()
    else:
        (tmp_path / "mine.py").write_text(left)
    cancelled(tmp_path)
    said = over(tmp_path, "cancel", "one")
    assert said.code == 1 and "has ended (cancelled)" in said.err


def test_a_job_whose_inputs_went_before_they_were_pinned_is_cancelled(tmp_path: Path) -> None:
    source = write_sources(tmp_path)
    Session.create(*check(job(source)), run_of(tmp_path)).store.close()
    shutil.rmtree(source)
    cancelled(tmp_path)
    assert state_of(run_of(tmp_path)).phase is Phase.ENDED and not state_of(run_of(tmp_path)).pinned


@pytest.mark.parametrize("gone", [False, True], ids=["there", "gone"])
def test_what_was_said_to_a_job_is_in_its_log_when_it_is_cancelled(tmp_path: Path, gone: bool) -> None:
    if gone:
        begun(tmp_path, ROLLING.replace(START, f"        raise KeyError('left')\n{START}"))
        (tmp_path / "mine.py").unlink()
    else:
        begun(tmp_path, ASKING)
    said = over(tmp_path, "tell", "one", "Only the queue.")
    assert said.code == 0 and "heard when somebody works on the job" in said.err
    cancelled(tmp_path)
    assert sum(isinstance(event.body, PersonSaid) for event in events_of(run_of(tmp_path))) == 1
    report = over(tmp_path, "report", "one", "--json").document
    (word,) = report["words"]
    assert word["text"] == "Only the queue." and word["by"] and not word["windows"]
    assert "resumed" not in [moment["what"] for moment in report["timeline"]["moments"]], "nobody went on with it"
    assert "Only the queue." in run_of(tmp_path).report_markdown.read_text()
    assert not run_of(tmp_path).messages()
    if not gone:
        said = over(tmp_path, "replay", "one", "--verify")
        assert said.code == 0, said.err


# ---- a report that was not written ----


class KilledError(Exception):
    """What stands for a driver's end just before it writes the report."""


def killed_before_its_report(place: Path) -> RunFolder:
    def killed(run: RunFolder) -> dict[str, str]:
        raise KilledError

    with pytest.raises(KilledError):
        asyncio.run(run_new(job(write_sources(place)), Options(Runs(place / "runs"), "local", id="one"), killed, lambda _: None))
    run = run_of(place)
    assert read_status(run).status == "done" and not run.report_html.exists()
    return run


def test_a_resume_writes_the_report_that_a_killed_driver_did_not_come_to(tmp_path: Path) -> None:
    run = killed_before_its_report(tmp_path)
    said = over(tmp_path, "pause", "one")
    assert said.code == 1 and "it is done" in said.err, said.err
    said = over(tmp_path, "resume", "one", "--local", "--json")
    assert said.code == 0 and len(said.document["rows"]) == len(ROWS), said.err
    assert f"report: {run.report_html}" in said.err and run.report_html.exists()
    assert isinstance(events_of(run)[-1].body, ReportWritten)
    said = over(tmp_path, "resume", "one", "--local")
    assert said.code == 1 and "has ended (done)" in said.err
    said = over(tmp_path, "replay", "one", "--verify")
    assert said.code == 0, said.err


def test_a_supervisor_has_the_report_written_and_never_pauses_what_has_ended(tmp_path: Path) -> None:
    run, later, seen = killed_before_its_report(tmp_path), 0.0, list[str]()

    def look(*program: str) -> None:
        one = Supervisor([str(run.root)], clock=lambda: time.time() + later, program=program)
        seen.extend(found.what for found in asyncio.run(one.look()))

    for vain in range(STARTS + 1):
        later = quiet_before(vain)
        look("/bin/false")
    assert seen == ["error"] * (STARTS + 1) and read_status(run).status == "done"
    later += WITHIN_SECONDS  # what was in vain is forgotten by now
    look(*SWARM)
    assert seen[-1] == "resumed"
    wait_for(lambda: not read_status(run).unreported and run.holder() is None)
    assert run.report_html.exists() and read_status(run).status == "done"
    look(*SWARM)
    assert len(seen) == STARTS + 2, "nothing is left to do"


# ---- answers ----


def test_a_job_that_waits_is_called_so_wherever_it_is_shown(tmp_path: Path) -> None:
    assert begun(tmp_path, ASKING).code == 5
    assert "waiting | waiting" in over(tmp_path, "diff", "one", "one").out
    assert "reason" not in over(tmp_path, "status", "one").out, "what it waits for is shown as its question"
    assert over(tmp_path, "report", "one", "--json").document["status"] == "waiting"
    assert "The job is waiting for an answer to question 1." in run_of(tmp_path).report_markdown.read_text()


def test_a_job_whose_driver_was_killed_is_called_so_where_it_is_compared(tmp_path: Path) -> None:
    session = Session.create(*check(job(write_sources(tmp_path))), run_of(tmp_path))
    session.master.open("local")
    session.store.close()
    stands = over(tmp_path, "list", "--json").document[0]["status"]
    assert stands == "interrupted" and f"status: {stands} | {stands}" in over(tmp_path, "diff", "one", "one").out


@pytest.mark.parametrize(("verb", "status"), [("approve", "done"), ("reject", "failed")])
def test_a_job_that_ends_by_an_answer_has_its_report_and_that_is_said(tmp_path: Path, verb: str, status: str) -> None:
    assert begun(tmp_path, ENDING).code == 5
    said = over(tmp_path, verb, "one", *(["--why", "no"] if verb == "reject" else []))
    assert said.code == 0 and f"ended ({status}); report: {run_of(tmp_path).report_html}" in said.err, said.err
    assert "swarm resume" not in said.err
    assert over(tmp_path, "status", "one", "--json").document["files"].keys() >= {"answer.json", "report.html"}
    assert run_of(tmp_path).report_html.exists()


@pytest.mark.parametrize("source", ["def start(:\n", ENDING.replace("Finish(", "broken(")], ids=["no code", "fails"])
def test_an_answer_that_was_refused_is_never_heard_later(tmp_path: Path, source: str) -> None:
    assert begun(tmp_path, ENDING).code == 5
    (tmp_path / "mine.py").write_text(source)
    assert over(tmp_path, "approve", "one").code != 0 and not run_of(tmp_path).messages()
    (tmp_path / "mine.py").write_text(ENDING)
    said = over(tmp_path, "reject", "one", "--why", "no")
    assert said.code == 0 and "rejected one:1; ended (failed)" in said.err, said.err
