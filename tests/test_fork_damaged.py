"""What is sound of a log that is damaged in the middle is carried over by a fork: in folders and in a database."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from swarm import events as ev
from swarm.events import Event
from swarm.runtime.fork import fork as make_fork
from swarm.runtime.session import read_job
from swarm.store.folder import RunFolder
from swarm.store.runs import Runs, open_runs
from swarm.testing.postgres import EmbeddedPostgres
from tests.commands import job_file, swarm
from tests.jobs import answered, contents, events_of, write_sources
from tests.stores import Postgres


@dataclass(frozen=True)
class Made:
    """Runs of which `one` is finished, and a way to do to the records of run `id` what only faults do."""

    runs: Runs
    place: str
    execute: Callable[[str, str], object]

    @property
    def one(self) -> RunFolder:
        return self.runs.run("one")

    def harm(self, seq: int, id: str = "one", how: str = "payload = x'00'") -> None:
        self.execute(id, f"UPDATE @events SET {how} WHERE seq = {seq}")

    def advice(self, id: str = "one") -> list[str]:
        """The command that doctor gives."""
        said = swarm("doctor", "--repair", id, "--runs", self.place)
        assert said.code == 1
        found = re.search("`swarm (fork[^`]*)`", said.out)
        return shlex.split(found[1].replace("--runs URL", f"--runs {self.place}")) if found else []


@pytest.fixture(params=["folder", "postgres"])
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.chdir(tmp_path)  # where the files of a run in a database lie
    if request.param == "folder":
        place = str(tmp_path / "runs")

        def execute(id: str, statement: str) -> None:
            connection = apsw.Connection(str(tmp_path / "runs" / id / "log.sqlite"))
            connection.execute(statement.replace("@", "")).fetchall()
            connection.close()

        found = Made(open_runs(place, {}), place, execute)
    else:
        server: EmbeddedPostgres = request.getfixturevalue("postgres")
        store = Postgres(server.database())
        found = Made(
            open_runs(store.url, {}),
            store.url,
            lambda id, statement: store.execute(
                statement.replace("@", "swarmloom.").replace("x'00'", "'\\x00'")
                + f" AND job = (SELECT number FROM swarmloom.jobs WHERE id = '{id}')"
            ),
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
    assert "with those of their texts that can be read" in swarm("doctor", "--repair", "one", "--runs", made.place).out
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


def zeroed(run: RunFolder, page: int, sector: int) -> None:
    """Does to a log what a bad sector does; SQLite's pages have 4096 bytes and count from 1."""
    with open(run.log, "r+b") as file:
        file.seek((page - 1) * 4096 + sector * 512)
        file.write(bytes(512))


def pages(run: RunFolder, table: str) -> list[int]:
    with closing(apsw.Connection(str(run.log))) as connection:
        found = connection.execute("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path", (table,))
        return [int(str(page)) for (page,) in found]


@pytest.mark.parametrize("made", ["folder"], indirect=True)
@pytest.mark.parametrize("table", ["events", "bodies"])
def test_what_doctor_advises_can_be_done_whatever_sector_is_gone(made: Made, table: str) -> None:
    """In the middle of the records, or of the texts of a job that has ended with them all: its last step cannot be forked."""
    original, steps, leaves = made.one.log.read_bytes(), set[str](), pages(made.one, table)
    for sector in range(8):
        made.one.log.write_bytes(original)
        zeroed(made.one, leaves[len(leaves) // 2], sector)
        if command := made.advice():
            make_fork(made.one, made.runs.run("two"), command[3], {})
            made.runs.run("two").remove()
            steps.add(command[3])
    assert steps


LIMITS = ("--set", "budget.tokens=50000", "--set", "model.timeout_s=77")


def fork_of(made: Made, source: str, id: str, at: int, *more: str) -> list[Event]:
    """The events of a new run `id`, made of the first `at` steps."""
    said = swarm("fork", source, "--at", at, *more, "--id", id, "--local", "--runs", made.place)
    assert said.code == 0, said.err
    return events_of(made.runs.run(id))


def settings(run: RunFolder) -> tuple[float | None, float]:
    with run.reader() as reader:
        spec = read_job(reader)[1]
    return spec.budget.tokens, spec.model.timeout_s


def own(events: list[Event]) -> int:
    return max(event.seq for event in events if isinstance(event.body, ev.JobCreated))


def test_a_fork_of_a_damaged_fork_has_the_settings_of_the_fork(made: Made) -> None:
    """Its own creation stands behind what it copied, and here behind damage to a record of how the job stood."""
    events = fork_of(made, "one", "two", 4, *LIMITS)
    made.harm(ends_of(events)[3] - 1, "two", "kind = 'JobOpened'")
    command = made.advice("two")
    assert command[:4] == ["fork", "two", "--at", "3"]
    assert swarm(*command, "--id", "three", "--local").code == 0
    assert settings(made.runs.run("three")) == (50_000, 77)


@pytest.mark.parametrize("how", ["payload = x'00'", "kind = 'Unknown'"])
@pytest.mark.parametrize("whose", ["two", "three"])
def test_what_may_have_lost_its_settings_is_not_forked(made: Made, whose: str, how: str) -> None:
    """Neither with an ancestor's, nor without those that the fork between them was given."""
    events = fork_of(made, "one", "two", 4, *LIMITS)
    if whose == "three":
        fork_of(made, "two", "three", 5)
    made.harm(own(events), whose, how)
    assert made.advice(whose) == []
    said = swarm("fork", whose, "--at", 2, "--id", "four", "--local", "--runs", made.place)
    assert said.code == 1 and f"record {own(events)} is damaged" in said.err and "was created" in said.err
    assert f"`swarm doctor --repair {whose}" in said.err and not made.runs.run("four").exists()


@pytest.mark.parametrize("made", ["folder"], indirect=True)
def test_a_fork_whose_folder_was_renamed_keeps_its_settings(made: Made) -> None:
    fork_of(made, "one", "two", 4, *LIMITS)
    made.runs.run("two").path.rename(made.runs.run("renamed").path)
    fork_of(made, "renamed", "three", 2)
    assert settings(made.runs.run("three")) == (50_000, 77)
