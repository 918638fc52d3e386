"""Commands that are named to people: typed as they stand, where they were read, they find the run."""

from __future__ import annotations

import asyncio
import re
import shlex
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from swarm.cli.windows import last_calls
from swarm.events import CallStarted
from swarm.runtime.driver import Launch
from swarm.store.folder import RunFolder
from swarm.store.runs import open_runs
from tests.commands import job_file, swarm
from tests.jobs import write_sources
from tests.sample_run import HandDriven

ASKING = {"name": "map_reduce", "options": {"span_tokens": 160, "approve_plan": True}}
HINT = re.compile(r"swarm ((?:resume|logs|approve|reject|watch|status|doctor|show) [^\n`;,]+)")


def hinted(text: str) -> list[list[str]]:
    """The words of each command that a text names, without what people are to fill in."""
    found = [re.sub(r"\[--answer [^]]*]", "", hint).replace("+MORE", "+100000") for hint in HINT.findall(text)]
    assert found, text
    return [shlex.split(hint) for hint in found]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs that nothing leads to but its name, which a shell would take apart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWARM_RUNS", raising=False)
    return tmp_path / "else where"


def test_a_job_over_its_budget_is_resumed_by_the_command_that_is_printed(tmp_path: Path, elsewhere: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path, 4), budget={"calls": 20, "reserve": 0.2})
    run = swarm("run", path, "--local", "--runs", elsewhere, "--id", "b2")
    refused = swarm("resume", "b2", "--local", "--runs", elsewhere)
    status = swarm("status", "b2", "--runs", elsewhere)
    assert re.search(r"^  reason    [^:]*(?:calls|tasks)", status.out, re.MULTILINE), status.out
    watched = swarm("watch", "b2", "--runs", elsewhere)
    for said in (run.err, refused.err, status.out, watched.out):
        (command,) = {tuple(words) for words in hinted(said)}
        assert command == ("resume", "b2", "--budget", "calls=+100000", "--runs", str(elsewhere)), said
    assert swarm(*command, "--local").code == 0


def test_tasks_that_were_given_up_are_found_by_the_command_that_is_printed(tmp_path: Path, elsewhere: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path), model={"engine": "scripted", "name": "echo"})
    ended = swarm("run", path, "--local", "--runs", elsewhere, "--id", "one")
    assert hinted(ended.err) == hinted(swarm("status", "one", "--runs", elsewhere).out)
    (command,) = hinted(swarm("status", "one", "--runs", elsewhere).out)
    said = swarm(*command)
    assert said.code == 0 and "TaskFailed" in said.out
    taken = swarm("run", path, "--local", "--runs", elsewhere, "--id", "one")
    assert f"`swarm resume one --runs '{elsewhere}'`" in taken.err
    calls = swarm("show", "one", "--runs", elsewhere)
    assert all(swarm(*command).code == 0 for command in hinted(calls.err))


def test_a_question_is_answered_by_the_command_that_is_printed(tmp_path: Path, elsewhere: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path), protocol=ASKING)
    asked = swarm("run", path, "--local", "--runs", elsewhere, "--id", "one")
    yes, no, onward = (list(words) for words in dict.fromkeys(tuple(words) for words in hinted(asked.err)))
    assert no[-2:] == onward[-2:] == ["--runs", str(elsewhere)]
    assert hinted(swarm("inbox", "--runs", elsewhere).out) == [yes, no]
    said = swarm(*yes)
    assert said.code == 0 and hinted(said.err) == [onward]
    assert hinted(swarm("watch", "one", "--runs", elsewhere).out) == [onward]
    assert swarm(*onward, "--local").code == 0


@pytest.mark.parametrize("seq", ["max(seq)", "1"], ids=["tail", "first"])
def test_a_damaged_log_is_looked_at_by_the_command_that_is_printed(tmp_path: Path, elsewhere: Path, seq: str) -> None:
    assert swarm("run", job_file(tmp_path, write_sources(tmp_path)), "--local", "--runs", elsewhere, "--id", "one").code == 0
    with closing(apsw.Connection(str(elsewhere / "one" / "log.sqlite"))) as connection:
        connection.execute(f"UPDATE events SET payload = x'00' WHERE seq = (SELECT {seq} FROM events)")
    (command,) = hinted(swarm("logs", "one", "--runs", elsewhere).err)
    assert command == ["doctor", "--repair", "one", "--runs", str(elsewhere)]
    assert "damaged" in swarm(*command).out


class Restarted:
    """A client of a head that was started anew: it knows no driver of before."""

    def get_job_info(self, id: str) -> Any:
        raise RuntimeError(f"404: {id}")


def test_a_job_whose_cluster_is_gone_is_resumed_by_the_command_that_is_named(elsewhere: Path) -> None:
    from swarm.runtime.submission import RemoteDriver

    client: Any = Restarted()
    error = asyncio.run(RemoteDriver(client, "http://head:8265", "swarm-one", RunFolder(elsewhere, "one")).error())
    assert error is not None and f"`swarm resume one --runs '{elsewhere}' --address" in error.cure


def test_only_what_is_needed_to_find_a_run_is_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = elsewhere.parent
    assert RunFolder(Path("runs"), "one").option == RunFolder(here / "runs", "one").option == "", "the default"
    assert RunFolder(Path("other"), "one").option == " --runs other"
    monkeypatch.setenv("SWARM_RUNS", str(elsewhere))
    assert RunFolder(elsewhere, "one").option == RunFolder(Path("else where"), "one").option == ""
    assert RunFolder(Path("runs"), "one").option == " --runs runs", "the default leads elsewhere now"


def test_the_url_of_a_database_is_never_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWARM_RUNS", raising=False)
    url = "postgresql://me:not-shown@127.0.0.1:1/swarm"
    run = open_runs(url, {}).run("one")
    assert run.option == " --runs URL"
    monkeypatch.setenv("SWARM_RUNS", url)
    assert run.option == ""
    monkeypatch.setenv("SWARM_RUNS", "postgresql://me:not-shown@127.0.0.1:1/other")
    assert run.option == " --runs URL"


def test_a_driver_is_told_of_a_folder_in_words_that_leave_its_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what it names to people would only work in an environment like its own."""
    monkeypatch.setenv("SWARM_RUNS", "mine")
    folder, database = Launch("else"), Launch("postgresql://me:not-shown@127.0.0.1:1/swarm")
    assert folder.options()[:3] == ["--json", "--runs", "else"] and folder.environment()["SWARM_RUNS"] == "mine"
    assert "--runs" not in database.options() and database.environment()["SWARM_RUNS"] == database.runs
    assert "--runs" not in Launch().options() and Launch().environment()["SWARM_RUNS"] == "mine"


def test_a_call_that_was_made_again_is_offered_once(tmp_path: Path) -> None:
    driven = HandDriven.create(tmp_path)
    events, (one,) = driven.core.pulled(driven.now, "h", (), 1)
    began = CallStarted(task=one.task, turn=0, sample=0, channel="", prompt="", tokens=1, manifest=(), sampling={})
    later = began.model_copy(update={"sample": 1})
    driven.append([*events, *driven.core.record(driven.now, began, later, began)])
    assert last_calls(driven.store, 3) == [f"{one.task}:0:1", f"{one.task}:0:0"]
    assert last_calls(driven.store, 1) == [f"{one.task}:0:0"]
    driven.store.close()


def test_the_extra_that_peers_need_is_named_whole() -> None:
    assert "pip install 'swarmloom[peers]'" in re.sub(r"[\s│]+", " ", swarm("bench", "overhead", "--help").out)
