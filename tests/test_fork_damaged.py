"""What is sound of a log that is damaged in the middle is carried over by a fork: in folders and in a database."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from swarm import events as ev
from swarm.events import Event
from swarm.store.folder import RunFolder
from swarm.store.runs import Runs, open_runs
from swarm.testing.postgres import EmbeddedPostgres
from tests.commands import job_file, swarm
from tests.jobs import answered, contents, events_of, write_sources
from tests.stores import Postgres


@dataclass(frozen=True)
class Made:
    """A finished run called `one`, and a way to do to its records what only faults do."""

    runs: Runs
    place: str
    execute: Callable[[str], object]

    @property
    def one(self) -> RunFolder:
        return self.runs.run("one")

    def harm(self, seq: int) -> None:
        self.execute(f"UPDATE @events SET payload = x'00' WHERE seq = {seq}")

    def advice(self) -> list[str]:
        """The command that doctor gives."""
        said = swarm("doctor", "--repair", "one", "--runs", self.place)
        assert said.code == 1
        found = re.search("`swarm (fork[^`]*)`", said.out)
        return shlex.split(found[1].replace("--runs URL", f"--runs {self.place}")) if found else []


@pytest.fixture(params=["folder", "postgres"])
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.chdir(tmp_path)  # where the files of a run in a database lie
    if request.param == "folder":
        place = str(tmp_path / "runs")

        def execute(statement: str) -> None:
            connection = apsw.Connection(str(tmp_path / "runs" / "one" / "log.sqlite"))
            connection.execute(statement.replace("@", "")).fetchall()
            connection.close()

        found = Made(open_runs(place, {}), place, execute)
    else:
        server: EmbeddedPostgres = request.getfixturevalue("postgres")
        store = Postgres(server.database())
        found = Made(
            open_runs(store.url, {}),
            store.url,
            lambda statement: store.execute(statement.replace("@", "swarmloom.").replace("x'00'", "'\\x00'")),
        )
    path = job_file(tmp_path, write_sources(tmp_path))
    assert swarm("run", path, "--local", "--id", "one", "--runs", found.place).code == 0
    return found


def ends_of(events: list[Event]) -> list[int]:
    return [event.seq for event in events if isinstance(event.body, ev.TaskFinished)]


def test_what_doctor_advises_saves_all_steps_before_the_damage(made: Made) -> None:
    old = events_of(made.one)
    middle = len(ends_of(old)) // 2
    harmed = ends_of(old)[middle] - 1  # the step after the first `middle` ends behind the damage
    made.harm(harmed)
    for verb in ("resume", "report"):
        said = swarm(verb, "one", "--runs", made.place)
        assert said.code == 1 and re.search(r"`swarm doctor --repair one[^`]*` says what", said.err)
    assert swarm("doctor", "--repair", "one", "--apply", "--runs", made.place).code == 1
    command = made.advice()
    assert command[:4] == ["fork", "one", "--at", str(middle)]
    said = swarm(*command, "--id", "two", "--local", "--json")
    assert said.code == 0 and said.document["status"] == "done", said.err
    new = events_of(made.runs.run("two"))
    mark = next(at for at, event in enumerate(new) if isinstance(event.body, ev.Forked))
    assert new[:mark] == old[:mark] and mark < harmed
    assert set(answered(old[:mark])) <= set(answered(new)) and len(set(answered(new))) == len(answered(new))
    assert swarm("replay", "two", "--verify", "--runs", made.place).code == 0
    if made.place.endswith("runs"):
        shutil.rmtree(made.one.path)  # neither needs the other
        assert contents(made.runs.run("two"), "finding")


def test_a_step_is_saved_only_with_all_that_it_caused(made: Made) -> None:
    """Whether the record behind its end belongs to it cannot be seen once that is damaged."""
    old = events_of(made.one)
    third = ends_of(old)[2]
    behind = next(event.seq for event in old[third:] if event.cause != third)
    made.harm(behind)
    assert made.advice()[3] == "2"
    said = swarm("fork", "one", "--at", 3, "--id", "two", "--local", "--runs", made.place)
    assert said.code == 1 and f"record {behind} is damaged" in said.err and not made.runs.run("two").exists()
    assert swarm("fork", "one", "--at", f"@{ends_of(old)[1]}", "--id", "two", "--local", "--runs", made.place).code == 0


def test_a_fork_needs_no_record_of_how_the_job_stood_later(made: Made) -> None:
    """These are found by an index, wherever they are."""
    made.harm(next(event.seq for event in events_of(made.one) if isinstance(event.body, ev.JobEnded)))
    assert swarm("fork", "one", "--at", 3, "--id", "two", "--local", "--runs", made.place).code == 0


def test_where_no_step_can_be_saved_doctor_says_so(made: Made) -> None:
    made.harm(1)
    assert made.advice() == []
    assert "or start the job anew" in swarm("doctor", "--repair", "one", "--runs", made.place).out
    said = swarm("fork", "one", "--at", 0, "--id", "two", "--local", "--runs", made.place)
    assert said.code == 1 and "record 1 is damaged" in said.err
