"""Jobs that stop before their end, and how they go on: Ctrl-C, pause, cancel, changed inputs, a damaged log."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from swarm import events as ev
from swarm.coordinator import Report
from swarm.events import body_hash
from swarm.runtime.master import PAUSE_SECONDS
from swarm.runtime.supervise import Supervisor
from swarm.runtime.wire import Batch, Order, Pull
from swarm.store.inbox import post
from tests.commands import job_file, start, swarm
from tests.jobs import ROWS, write_sources
from tests.simulated import spec
from tests.test_intents import PAID
from tests.test_master import started

COPIES = 4


@contextmanager
def working(folder: Path, script: str = "raises+slow:0.3", said: str = "working…") -> Iterator[subprocess.Popen[str]]:
    """A slow job called `one` in a process of its own, once it has said that it is at work."""
    path = job_file(folder, write_sources(folder, COPIES), model={"engine": "scripted", "name": script})
    process = start("run", path, "--local", "--agents", 1, "--runs", folder / "runs", "--id", "one")
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if said in line:
                break
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def paused(tmp_path: Path) -> Path:
    """A folder with a job called `one` that Ctrl-C has paused."""
    with working(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "paused" in err and "resume with: swarm resume one" in err
    assert "Traceback" not in err
    return tmp_path


def resume(folder: Path, *options: object) -> tuple[int, str, str]:
    said = swarm("resume", "one", "--local", "--runs", folder / "runs", "--json", *options)
    return said.code, said.out, said.err


def test_ctrl_c_pauses_and_resume_finishes(paused: Path) -> None:
    status = swarm("status", "one", "--runs", paused / "runs", "--json").document
    assert status["status"] == "paused" and status["holder"] is None
    calls = status["calls"]
    code, out, err = resume(paused)
    assert code == 0, err
    document = json.loads(out)
    assert len(document["rows"]) == len(ROWS) and document["calls"] > calls
    assert all(len(row["cites"]) == COPIES for row in document["rows"])
    coverage = document["coverage"]
    assert coverage["spans_read"] == coverage["spans"] and not document["unread"]
    code, out, err = resume(paused)
    assert code == 1 and "has ended" in err


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with working(tmp_path, "raises+slow:60") as process:
        process.send_signal(signal.SIGINT)
        while swarm("status", "one", "--runs", tmp_path / "runs", "--json").document["status"] != "paused":
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1 and "stopped at once" in err and "Traceback" not in err
    assert "go on with: swarm resume one" in err
    assert swarm("replay", "one", "--verify", "--runs", tmp_path / "runs").code == 0


def test_ctrl_c_stops_at_once_where_it_cannot_be_passed_on(tmp_path: Path) -> None:
    """As on a disk that is full: nothing can be left in the inbox."""
    with working(tmp_path, "raises+slow:60") as process:
        (tmp_path / "runs" / "one" / "inbox").write_text("no folder")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1 and "stopped at once; its log is safe" in err
    assert "Traceback" not in err and "Exception" not in err


def test_ctrl_c_before_the_run_says_that_nothing_was_begun(tmp_path: Path) -> None:
    """The input is long enough that its reading lasts until the signal."""
    source = write_sources(tmp_path) / "big.py"
    source.write_text("x = 1\n" * 400_000)
    process = start("run", job_file(tmp_path, source.parent), "--local", "--runs", tmp_path / "runs")
    assert process.stderr is not None
    while "reading the inputs" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "nothing was written" in err and "resume" not in err, err
    assert "Traceback" not in err and not (tmp_path / "runs").exists()


def test_sigterm_pauses_under_its_own_name(tmp_path: Path) -> None:
    with working(tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "paused (SIGTERM)" in err and "Ctrl-C" not in err


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]], ids=["one", "two"])
def test_a_model_that_still_loads_keeps_no_process_that_was_told_to_stop(tmp_path: Path, signals: list[int]) -> None:
    """Its thread cannot be ended, and would last for an hour."""
    with working(tmp_path, "raises+load:3600", "starting the agents…") as process:
        for number in signals:
            process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "swarm resume one" in err and "Traceback" not in err, err
    status = swarm("status", "one", "--runs", tmp_path / "runs", "--json").document
    assert status["status"] == "paused" and status["holder"] is None


def test_words_from_before_do_not_stop_a_resume(paused: Path) -> None:
    inbox = paused / "runs" / "one" / "inbox"
    post(paused / "runs" / "one", "pause", "too late")
    (inbox / "torn.json").write_text("{")
    code, out, err = resume(paused)
    assert code == 0 and json.loads(out)["status"] == "done", err
    assert not list(inbox.iterdir())


def test_pause_and_cancel_from_another_terminal(tmp_path: Path) -> None:
    with working(tmp_path) as process:
        assert swarm("pause", "one", "--runs", tmp_path / "runs", "--reason", "lunch").code == 0
        process.communicate(timeout=60)
    assert process.returncode == 1
    assert "lunch" in swarm("logs", "one", "--runs", tmp_path / "runs").out
    again = start("resume", "one", "--local", "--agents", 1, "--runs", tmp_path / "runs", "--json")
    assert again.stderr is not None
    while "working…" not in again.stderr.readline():
        pass
    assert swarm("cancel", "one", "--runs", tmp_path / "runs").code == 0
    out, err = again.communicate(timeout=60)
    assert again.returncode == 4, err
    assert json.loads(out)["status"] == "cancelled" and (tmp_path / "runs" / "one" / "report.html").exists()


def test_a_paused_job_is_cancelled_and_has_its_report(paused: Path) -> None:
    said = swarm("cancel", "one", "--reason", "not needed", "--runs", paused / "runs")
    assert said.code == 0 and "cancelled one" in said.err, said.err
    document = swarm("status", "one", "--runs", paused / "runs", "--json").document
    assert document["status"] == "cancelled" and document["detail"] == "not needed" and "report.html" in document["files"]
    assert json.loads((paused / "runs" / "one" / "answer.json").read_text())["status"] == "cancelled"
    assert swarm("replay", "one", "--verify", "--runs", paused / "runs").code == 0
    said = swarm("cancel", "one", "--runs", paused / "runs")
    assert said.code == 1 and "has ended (cancelled)" in said.err


@pytest.mark.parametrize(("verb", "status"), [("pause", "paused"), ("cancel", "cancelled")])
def test_what_a_driver_dies_before_hearing_is_done_all_the_same(tmp_path: Path, verb: str, status: str) -> None:
    with working(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        asking = start(verb, "one", "--reason", "enough", "--runs", tmp_path / "runs")
        while not list((tmp_path / "runs" / "one").glob("inbox/[!.]*.json")):
            assert asking.poll() is None
            subprocess.run(["sleep", "0.05"], check=True)
        process.kill()
        _, err = asking.communicate(timeout=60)
        assert asking.returncode == 0 and f"{status} one" in err, err
    known = swarm("status", "one", "--runs", tmp_path / "runs", "--json").document
    assert (known["status"], known["detail"]) == (status, "enough")
    assert asyncio.run(Supervisor([str(tmp_path / "runs")], clock=lambda: time.time() + 60).look()) == []
    assert swarm("replay", "one", "--verify", "--runs", tmp_path / "runs").code == 0


def test_a_cancel_that_nobody_heard_ends_the_job_that_is_taken_up_again(paused: Path) -> None:
    post(paused / "runs" / "one", "cancel", "enough")
    code, out, err = resume(paused)
    assert code == 4 and json.loads(out)["status"] == "cancelled", err


def test_two_at_once(tmp_path: Path) -> None:
    with working(tmp_path) as process:
        code, _, err = resume(tmp_path)
        assert code == 1 and f"process {process.pid}" in err
        said = swarm("run", tmp_path / "job.yaml", "--local", "--runs", tmp_path / "runs", "--id", "one")
        assert said.code == 1 and "exists already" in said.err
        said = swarm("rm", "one", "--runs", tmp_path / "runs")
        assert said.code == 1 and (tmp_path / "runs" / "one").is_dir()
        said = swarm("status", "one", "--runs", tmp_path / "runs")
        assert said.code == 0 and f"worked on by process {process.pid}" in said.out
        assert swarm("report", "one", "--runs", tmp_path / "runs", "--json").document["draft"]


def test_a_killed_driver_is_seen_and_its_job_goes_on(tmp_path: Path) -> None:
    with working(tmp_path) as process:
        process.kill()
        process.communicate()
    assert swarm("status", "one", "--runs", tmp_path / "runs", "--json").document["status"] == "interrupted"
    code, out, err = resume(tmp_path)
    assert code == 0 and len(json.loads(out)["rows"]) == len(ROWS), err


@pytest.mark.parametrize("gone", [False, True], ids=["changed", "gone"])
def test_an_input_that_is_not_what_it_was_stops_a_resume(paused: Path, gone: bool) -> None:
    file = paused / "code" / "module_002.py"
    if gone:
        file.unlink()
    else:
        file.write_text("nothing = 1\n")
    code, out, err = resume(paused)
    assert code == 2 and "module_002.py" in err and "--pinned" in err
    assert json.loads(out)["error"]["kind"] == "CorpusError"
    code, out, err = resume(paused, "--pinned")
    assert code == 0, err
    assert all(len(row["cites"]) == COPIES for row in json.loads(out)["rows"])


def test_a_damaged_tail_is_named_and_cut_only_on_demand(paused: Path) -> None:
    log = paused / "runs" / "one" / "log.sqlite"
    with closing(apsw.Connection(str(log))) as connection:
        connection.execute("UPDATE events SET payload = x'00' WHERE seq = (SELECT max(seq) FROM events)")
    code, _, err = resume(paused)
    assert code == 1 and "damaged" in err and "swarm doctor --repair one" in err
    said = swarm("doctor", "--runs", paused / "runs")
    assert said.code in (0, 1)
    said = swarm("doctor", "--repair", "one", "--runs", paused / "runs")
    assert said.code == 1 and "--apply" in said.out
    said = swarm("doctor", "--repair", "one", "--apply", "--runs", paused / "runs")
    assert said.code == 0 and "a copy is in" in said.out
    code, out, err = resume(paused)
    assert code == 0 and len(json.loads(out)["rows"]) == len(ROWS), err


def test_a_budget_stops_the_reading_and_the_report_is_written(tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path, COPIES), budget={"tokens": 3000})
    said = swarm("run", path, "--local", "--agents", 1, "--runs", tmp_path / "runs", "--json")
    assert said.code == 3, said.err
    document = said.document
    assert document["status"] == "budget" and document["unread"] and document["tokens"] <= 3000
    assert "is not enough" in said.err


# ---- what a pause waits for ----


def test_a_pause_gives_back_what_waits_for_its_turn_and_waits_for_what_was_let_out() -> None:
    async def scene() -> None:
        master, store, clocks = started(spec(answer={"columns": {"name": "its name"}, "merge": "set"}, model=PAID))
        out, waits = (await master.pull(Pull("h", 2))).work
        intent = ev.CallStarted(task=out.brief.id, turn=0, sample=0, channel="", prompt="", tokens=9, manifest=(),
                                sampling={"max_tokens": 9}, key="k")  # fmt: skip
        await master.pull(Pull("h", 0, (Report(out.brief.id, out.token, (intent,)),)))
        master.expire()
        assert master.state.leased == 2, "a job at work waits for its turns"
        master.pause("lunch")
        master.expire()
        assert [task.id for task in master.state.tasks.values() if task.token] == [out.brief.id] and not master.resting
        late = intent.model_copy(update={"task": waits.brief.id})
        batch = await master.pull(Pull("h", 1, (Report(waits.brief.id, waits.token, (late,)),)))
        assert batch.refused == batch.dropped == (waits.token,), "it is let out no more"
        clocks.pass_by(PAUSE_SECONDS - 1)
        done = ev.CallFinished(task=out.brief.id, turn=0, sample=0, output=body_hash(b"{"), tokens_in=9, tokens_out=2,
                               finish="stop", weights="w", seconds=1.0)  # fmt: skip
        again = intent.model_copy(update={"sample": 1, "key": "l"})
        report = Report(out.brief.id, out.token, (done, again))
        batch = await master.pull(Pull("h", 0, (report,), {body_hash(b"{"): b"{"}))
        assert batch.refused == (out.token,) and master.resting, "the answer is on record, and the next draw is not let out"
        assert master.state.total().calls == 1 and not master.state.ledger.doubt().calls
        assert [event.body.reason for event in store.events if isinstance(event.body, ev.LeaseEnded)] == ["paused"] * 2

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_a_pause_waits_for_a_call_that_hangs_only_so_long() -> None:
    async def scene() -> None:
        master, store, clocks = started(spec(answer={"columns": {"name": "its name"}, "merge": "set"}))
        (work,) = (await master.pull(Pull("h", 1))).work
        clocks.pass_by(PAUSE_SECONDS)
        master.expire()
        master.pause("lunch")
        master.expire()
        for _ in range(2):
            clocks.pass_by(PAUSE_SECONDS / 2 - 1)
            master.expire()
            assert not master.resting and (await master.pull(Pull("h", 1))) == Batch(Order.WORK)
        clocks.pass_by(2)
        master.expire()
        assert master.resting and store.events[-1].body == ev.LeaseEnded(task=work.brief.id, token=work.token, reason="paused")
        assert (await master.pull(Pull("h", 1))) == Batch(Order.STOP, (), (), (work.token,))

    asyncio.run(asyncio.wait_for(scene(), 30))
