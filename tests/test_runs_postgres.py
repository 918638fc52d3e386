"""A job whose log lies in PostgreSQL, from the command line: run, seen, taken up after a crash, raced for, and removed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import chdir, contextmanager
from pathlib import Path

import psycopg
import pytest

from swarm.api import JobHandle
from swarm.errors import DamageError, StoreError
from swarm.events import Event, PhaseChanged
from swarm.names import draft_name
from swarm.runtime.driver import Launch, start_again
from swarm.runtime.session import Session, check, fold
from swarm.store.folder import RunFolder, read_status
from swarm.store.lock import FolderLock
from swarm.store.runs import open_runs
from swarm.testing.postgres import EmbeddedPostgres
from tests.commands import ROOT, job_file, swarm
from tests.jobs import ROWS, finished, job, write_sources
from tests.stores import Postgres

SLOW = {"engine": "scripted", "name": "raises+slow:0.3"}
PASSWORD = "not-for-eyes"


@pytest.fixture
def store(postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """An empty database, and a working folder for the files of its runs."""
    monkeypatch.chdir(tmp_path)
    return Postgres(postgres.database().replace("postgres@", f"postgres:{PASSWORD}@"))


def the_run(store: Postgres) -> RunFolder:
    return open_runs(store.url, {}).run("one")


def driver(folder: Path, runs: str, *arguments: object) -> subprocess.Popen[str]:
    """A command in a process of its own, at work in a folder; where its runs lie, only its environment says."""
    command = [sys.executable, "-m", "swarm", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SWARM_RUNS": runs}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True)


def test_people_take_part_in_a_job_and_fork_it_in_a_database(store: Postgres, tmp_path: Path) -> None:
    asking = {"name": "map_reduce", "options": {"span_tokens": 160, "approve_plan": True}}
    path, runs = job_file(tmp_path, write_sources(tmp_path), protocol=asking), ("--runs", store.url)
    assert swarm("run", path, "--local", "--id", "one", *runs).code == 5
    assert [one["number"] for one in swarm("inbox", "--json", *runs).document] == [1]
    assert swarm("tell", "one", "Mind the queue.", *runs).code == 0
    assert swarm("approve", "one", "--answer", "set", *runs).code == 0
    again = swarm("approve", "one", *runs)
    assert again.code == 1 and "answered already" in again.err
    done = swarm("resume", "one", "--local", "--json", *runs)
    assert done.code == 0 and done.document["words"][0]["windows"], done.err
    steps = swarm("steps", "one", "--json", *runs).document
    forked = swarm("fork", "one", "--at", len(steps) // 2, "--id", "two", "--local", "--json", *runs)
    assert forked.code == 0 and swarm("diff", "one", "two", *runs).code == 0, forked.err
    assert swarm("steps", "two", "--json", *runs).document[: len(steps) // 2] == steps[: len(steps) // 2]
    for id in ("one", "two"):
        assert swarm("replay", id, "--verify", *runs).code == 0
    assert swarm("cancel", "two", *runs).code == 1


def test_a_job_runs_in_a_database_and_every_verb_finds_it(store: Postgres, tmp_path: Path) -> None:
    path, runs = job_file(tmp_path, write_sources(tmp_path)), ("--runs", store.url)
    ran = swarm("run", path, "--local", "--id", "one", "--json", *runs)
    assert ran.code == 0 and len(ran.document["rows"]) == len(ROWS), ran.err
    assert "its log: postgresql://postgres@/" in ran.err
    assert sorted(file.name for file in Path("runs/one").iterdir()) == [
        "answer.json", "report.html", "report.md", "rows.csv", "spec.yaml",
    ]  # fmt: skip
    assert [run["status"] for run in swarm("list", "--json", *runs).document] == ["done"]
    assert swarm("status", "latest", "--json", *runs).document["status"] == "done"
    assert "ReportWritten" in swarm("logs", "one", "--tail", 1, *runs).out
    assert "every checksum holds" in swarm("replay", "one", "--verify", *runs).out
    assert "nothing is wrong with its log" in swarm("doctor", "--repair", "one", *runs).out
    before = Path("runs/one/answer.json").read_bytes()
    for file in Path("runs/one").iterdir():
        file.unlink()
    Path("runs/one").rmdir()  # as on another machine
    assert swarm("report", "one", *runs).code == 0 and Path("runs/one/answer.json").read_bytes() == before
    again = swarm("run", path, "--local", "--id", "one", *runs)
    assert again.code == 1 and "a run called 'one' exists already" in again.err
    said = [ran, again, swarm("list", *runs), swarm("status", "nothing", *runs), swarm("doctor", *runs)]
    assert not [each for each in said if PASSWORD in each.out + each.err]
    store.execute("CREATE TABLE aside AS SELECT * FROM swarmloom.bodies; DELETE FROM swarmloom.bodies")
    gone = swarm("doctor", "--repair", "one", *runs)
    assert gone.code == 1 and "which event 1 (JobCreated) names, is missing, and " in gone.out
    store.execute("DELETE FROM swarmloom.bodies; INSERT INTO swarmloom.bodies SELECT * FROM aside")
    store.execute("UPDATE swarmloom.bodies SET bytes = '\\x00'")
    assert "is damaged: its content has another hash" in swarm("replay", "one", "--verify", *runs).err
    assert swarm("rm", "one", *runs).code == 0 and swarm("list", "--json", *runs).document == []


def test_records_that_are_gone_are_given_up_and_no_empty_copy_is_left(store: Postgres, tmp_path: Path) -> None:
    runs = ("--runs", store.url)
    with open_runs(store.url, {}).run("one").writer() as writer:
        events = [Event(seq, float(seq), writer.epoch, 0, "", PhaseChanged(phase="working")) for seq in range(1, 6)]
        writer.append(events, {})
    store.execute("DELETE FROM swarmloom.events WHERE seq > 3")
    with pytest.raises(DamageError, match=r"records 4 to 5 are gone(.|\n)*swarm doctor --repair one --runs"):
        open_runs(store.url, {}).run("one").writer()
    with open_runs(store.url, {}).run("one").reader() as reader:
        assert reader.last() == 3, "what is there can be read"
    said = swarm("doctor", "--repair", "one", *runs)
    assert said.code == 1 and "records 4 to 5 are gone" in said.out and "copy of them" not in said.out
    assert "gives them up, and the job goes on from record 3" in said.out
    said = swarm("doctor", "--repair", "one", "--apply", *runs)
    assert said.code == 0 and "goes on from record 3; there was nothing left" in said.out
    assert not list(Path("runs").rglob("*.jsonl"))
    assert swarm("doctor", *runs).code == 0
    with open_runs(store.url, {}).run("one").writer() as writer:
        assert writer.last() == 3


def test_a_run_in_a_database_leaves_alone_the_folder_of_another_that_has_its_name(store: Postgres, tmp_path: Path) -> None:
    path, here, there = job_file(tmp_path, write_sources(tmp_path)), tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    assert swarm("run", path, "--local", "--id", "one", "--runs", here / "runs").code == 0
    with chdir(there):
        assert swarm("run", path, "--local", "--id", "one", "--runs", store.url).code == 0
    before = {file.name: file.read_bytes() for file in (here / "runs/one").iterdir()}
    with chdir(here):
        for verb in ("rm", "report"):
            said = swarm(verb, "one", "--runs", store.url)
            assert said.code == 1 and "holds another run called 'one'" in said.err
        with pytest.raises(StoreError, match="holds another run"):
            the_run(store).writer()
        with pytest.raises(StoreError, match="holds another run"):
            asyncio.run(start_again(the_run(store), Launch(store.url)))
    assert {file.name: file.read_bytes() for file in (here / "runs/one").iterdir()} == before
    with chdir(there):
        assert swarm("rm", "one", "--runs", store.url).code == 0


def test_a_killed_job_is_held_until_its_time_is_up_and_then_goes_on(store: Postgres, tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path, 2), model=SLOW)
    arguments = (path, "--local", "--agents", 1, "--id", "one")
    process = driver(tmp_path, store.url, "run", *arguments)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "working…" in line:
                break
        with the_run(store).reader() as reader:
            while not finished(list(reader.read())):
                assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    with the_run(store).reader() as reader:
        done = finished(list(reader.read()))
    held = swarm("resume", "one", "--local", "--runs", store.url)
    assert held.code == 1 and f"in use by process {process.pid} on " in held.err and "its hold ends in" in held.err
    assert swarm("status", "one", "--runs", store.url, "--json").document["holder"]
    store.lose_hold()
    assert swarm("status", "one", "--runs", store.url, "--json").document["status"] == "interrupted"
    ended = swarm("resume", "one", "--local", "--runs", store.url, "--json")
    assert ended.code == 0 and len(json.loads(ended.out)["rows"]) == len(ROWS), ended.err
    with the_run(store).reader() as reader:
        tasks = finished(list(reader.read()))
        assert tasks[: len(done)] == done and len(set(tasks)) == len(tasks)
        assert fold(reader).epoch == 2


def test_a_handle_forks_a_job_in_the_database_that_it_was_opened_with(
    store: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWARM_RUNS", raising=False)
    assert swarm("run", job_file(tmp_path, write_sources(tmp_path)), "--local", "--id", "one", "--runs", store.url).code == 0

    async def scene() -> str:
        two = await JobHandle.open("one", store.url).fork(3, id="two", local=True)
        three = await two.fork(2, id="three", local=True)
        return (await two.result()).status + (await three.result()).status

    assert asyncio.run(asyncio.wait_for(scene(), 240)) == "donedone"
    assert sorted(run["id"] for run in swarm("list", "--json", "--runs", store.url).document) == ["one", "three", "two"]


def make_two(store: Postgres) -> str:
    """Makes a run called two, as a draft that then takes its name; what is said against it, or nothing."""
    two = open_runs(store.url, {}).run("two")
    try:
        with two.drafted() as draft:
            (draft / "spec.yaml").write_text("a: job")
            two.place.writer(draft).close()
    except StoreError as error:
        return error.message
    return ""


@contextmanager
def contested(store: Postgres, outcome: str) -> Iterator[Future[str]]:
    """Makes a run called two, which cannot take its name until the block ends: for so long it is being taken by another, whose
    transaction then has this outcome."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor() as pool, psycopg.connect(store.url) as other:
        other.execute("INSERT INTO swarmloom.jobs(id, blobs) VALUES ('two', '')")
        making = pool.submit(make_two, store)
        while store.execute(waiting) == [(0,)]:
            assert not making.done()
        yield making
        other.execute(outcome.encode())


def test_of_two_that_take_a_name_at_once_one_has_it(store: Postgres, tmp_path: Path) -> None:
    assert make_two(store) == ""
    open_runs(store.url, {}).run("two").remove()
    with contested(store, "COMMIT") as making:
        pass
    assert making.result() == "a run called 'two' exists already"
    assert store.execute("SELECT count(*) FROM swarmloom.jobs") == [(1,)] and os.listdir("runs") == []


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_what_never_began_gives_its_name_back(store: Postgres, tmp_path: Path, kind: str) -> None:
    runs = open_runs(store.url if kind == "postgres" else "runs", {})
    prepared = check(job(write_sources(tmp_path)))
    run = runs.run("one")
    run.create()
    run.writer().close()
    Session.create(*prepared, run).store.close()
    assert read_status(run).events == 1
    with pytest.raises(StoreError, match="exists already"):
        Session.create(*prepared, run)
    with pytest.raises(StoreError, match="has begun"):
        run.place.remove(run.path, begun=False)
    fork = runs.run("two")
    fork.create()
    with fork.writer(), pytest.raises(StoreError, match="in use by"), fork.drafted():
        pass
    with fork.drafted() as draft:
        (draft / "spec.yaml").write_text("a: job")
    assert sorted(runs.ids()) == ["one", "two"] and "spec.yaml" in os.listdir(fork.path)


def test_a_name_whose_folder_is_anothers_is_not_taken(store: Postgres, tmp_path: Path) -> None:
    (tmp_path / "runs/two").mkdir(parents=True)
    (tmp_path / "runs/two/thesis.txt").touch()
    assert make_two(store) == "something called 'two' exists already, and is no run"
    (tmp_path / "runs/two/log.sqlite").touch()
    assert make_two(store) == "a run called 'two' exists already", "in the folder"
    assert store.execute("SELECT count(*) FROM swarmloom.jobs") == [(0,)] and os.listdir("runs") == ["two"]


def test_a_run_that_has_its_name_is_whole_where_its_files_cannot_follow(store: Postgres, tmp_path: Path) -> None:
    """As if its process had died just then: a run needs no folder, and what lies about can go."""
    assert make_two(store) == ""
    runs = open_runs(store.url, {})
    runs.run("two").remove()
    with contested(store, "ROLLBACK") as making:
        Path("runs/two").mkdir()
        Path("runs/two/driver.log").touch()
    assert making.result() == "" and runs.ids() == ["two"]
    (draft,) = Path("runs").glob(".two.*")
    assert [path.name for path in draft.iterdir()] == ["spec.yaml"]
    with runs.run("two").writer() as writer:
        assert writer.epoch == 2 and runs.beside(remove=True) == []
    for path in (draft, draft / "spec.yaml"):
        os.utime(path, (0, 0))
    for remove in (False, True):
        assert [(left.file, left.kept) for left in runs.beside(remove)] == [(draft, "")]
    assert runs.ids() == ["two"] and os.listdir("runs") == ["two"]


def test_a_draft_in_a_folder_is_left_to_those_who_look_there(store: Postgres, tmp_path: Path) -> None:
    """Both keep their files in one place, and each knows only who holds its own."""
    draft = Path("runs") / draft_name("two")
    draft.mkdir(parents=True)
    lock = FolderLock.take(draft / "lock")
    (draft / "spec.yaml").touch()
    for path in (draft, *draft.iterdir()):
        os.utime(path, (0, 0))
    assert open_runs(store.url, {}).beside(remove=True) == []
    lock.release()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_of_two_resumes_at_once_one_wins_and_the_other_names_it(store: Postgres, tmp_path: Path, kind: str) -> None:
    runs = store.url if kind == "postgres" else str(tmp_path / "runs")
    spec = job(write_sources(tmp_path), model={"engine": "scripted", "name": "raises+slow:600"})
    Session.create(*check(spec), open_runs(runs, {}).run("one")).close()
    drivers = [driver(tmp_path, runs, "resume", "one", "--local", "--json") for _ in range(2)]
    try:
        with ThreadPoolExecutor() as pool:
            waiting = {pool.submit(one.communicate): one for one in drivers}
            ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
            ((loser, said),) = [(waiting[one], one.result()) for one in ended]
            (winner,) = [one for one in drivers if one is not loser]
            assert winner.poll() is None
            winner.kill()
    finally:
        for one in drivers:
            one.kill()
    error = json.loads(said[0])["error"]
    assert loser.returncode == 1 and error["kind"] == "BusyError"
    assert re.match(rf"this run is in use by process {winner.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:", error["message"])


def test_a_job_outlives_a_restart_of_its_server(tmp_path: Path) -> None:
    server = EmbeddedPostgres()
    try:
        store = Postgres(server.database())
        path = job_file(tmp_path, write_sources(tmp_path, 2), model=SLOW)
        process = driver(tmp_path, store.url, "run", path, "--local", "--agents", 1, "--id", "one", "--json")
        assert process.stderr is not None
        for line in process.stderr:
            if "working…" in line:
                break
        server.control("stop", "-m", "immediate")
        server.start()
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0 and len(json.loads(out)["rows"]) == len(ROWS), err
        with the_run(store).reader() as reader:
            assert {event.epoch for event in reader.read()} == {1}
            tasks = finished(list(reader.read()))
            assert len(set(tasks)) == len(tasks)
    finally:
        server.close()


@pytest.mark.ray
def test_a_job_on_ray_has_its_master_write_into_the_database(store: Postgres, tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path))
    process = driver(tmp_path, store.url, "run", path, "--id", "one", "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and len(json.loads(out)["rows"]) == len(ROWS), err
    assert PASSWORD not in out + err
    with the_run(store).reader() as reader:
        assert fold(reader).status == "done"
