"""Runs have their folders: named, listed, pointed at and removed without surprises."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import apsw
import pytest

from swarm.errors import SpecError, StoreError
from swarm.events import Body, Event, JobCreated, JobEnded, JobOpened, NotePosted, PhaseChanged, body_hash
from swarm.runtime.session import Session, check
from swarm.store.blobs import BLOB_BYTES
from swarm.store.folder import RunFolder, new_id, read_status
from swarm.store.lock import FolderLock
from swarm.store.runs import Runs, open_runs
from swarm.store.sqlite import SqliteWriter
from tests.commands import job_file, swarm
from tests.jobs import job, write_sources

CREATED = JobCreated(
    job="j",
    name="a demo",
    spec="s",
    protocol="p",
    protocol_digest="d",
    roles={},
    notes="n",
    tokenizer="t",
    seed=0,
    software="1",
)
OPENED = JobOpened(epoch=1, host="h", pid=1, shell="local")
NOTE = NotePosted(note="n", kind="row", task="t", body="b")
NOW = datetime(2031, 4, 12, 15, 9)


def start(run: RunFolder, *bodies: Body, at: float = 100.0) -> SqliteWriter:
    run.create()
    writer = SqliteWriter.open(run.path)
    writer.append([Event(i + 1, at + i, writer.epoch, 0, "", body) for i, body in enumerate(bodies)], {})
    return writer


def test_the_layout_is_what_scripts_rely_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "demo-0412-a1b2")
    files = [
        run.log,
        run.blobs,
        run.lock,
        run.spec,
        run.answer,
        run.report_markdown,
        run.report_html,
        run.rows,
        run.logs,
    ]
    names = "log.sqlite blobs lock spec.yaml answer.json report.md report.html rows.csv logs"
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        f"demo-0412-a1b2/{name}" for name in names.split()
    ]


def test_ids_are_short_readable_and_free(tmp_path: Path) -> None:
    first = new_id("Demo: who raises what?", NOW, ())
    assert (
        first.startswith("demo-who-raises-what-0412-") and len(first) == len("demo-who-raises-what-0412-") + 4
    )
    assert new_id("Demo: who raises what?", NOW, ()) == first
    assert new_id("Demo: who raises what?", NOW, {first}) not in (first, "")
    assert new_id("Überblick", NOW, ()).startswith("uberblick-0412-")
    assert new_id("日本語", NOW, ()).startswith("job-0412-")
    for name in ("x" * 300, "../..", "latest", "-", "", "a\nb"):
        RunFolder(tmp_path, new_id(name, NOW, ()))  # always a name that a folder may have
    taken: set[str] = set()
    for _ in range(300):
        taken.add(new_id("demo", NOW, taken))
    assert len(taken) == 300


@pytest.mark.parametrize("id", ["", "..", ".hidden", "a/b", "/abs", "latest", "Über", "x" * 65, "a b", "a\n"])
def test_an_id_that_could_leave_the_folder_is_refused(tmp_path: Path, id: str) -> None:
    with pytest.raises(SpecError, match="cannot name a run"):
        RunFolder(tmp_path, id)


def test_an_existing_run_is_never_reused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "deep" / "runs", "demo")
    start(run, CREATED).close()
    with pytest.raises(StoreError, match=r"a run called 'demo' exists already\n.*swarm resume demo"):
        run.create()


def test_what_a_crash_leaves_before_there_is_a_log_blocks_no_name(tmp_path: Path) -> None:
    for left in ([], ["lock"], ["lock", "log.sqlite.new", "log.sqlite.new-journal"]):
        run = RunFolder(tmp_path, f"left-{len(left)}")
        run.path.mkdir()
        for name in left:
            (run.path / name).write_bytes(b"half of it")
        run.check_free()
        run.create()
        with run.writer() as writer:
            assert writer.epoch == 1 and writer.last() == 0
            with pytest.raises(StoreError, match="exists already"):
                run.check_free()
        run.check_free()
    other = RunFolder(tmp_path, "thesis")
    other.path.mkdir()
    (other.path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="exists already"):
        other.create()


def test_of_those_who_make_one_run_at_once_one_does(tmp_path: Path) -> None:
    prepared, run = check(job(write_sources(tmp_path))), RunFolder(tmp_path / "runs", "demo")

    def make(_: int) -> bool:
        with suppress(StoreError):
            Session.create(*prepared, run).store.close()
            return True
        return False

    for left in (False, True) * 10:
        if left:  # by one who was killed before its first event
            run.create()
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(make, range(8))) == 1
        assert read_status(run).events == 1
        run.remove()


def test_a_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(StoreError, match=str(tmp_path / "runs")):
        RunFolder(tmp_path / "runs", "demo").create()
    with pytest.raises(SpecError, match=r"--runs: .*runs is a file, not a folder"):
        open_runs(str(tmp_path / "runs"), {})
    os.mkfifo(tmp_path / "pipe")
    for place in ("/dev/null", tmp_path / "pipe"):
        said = swarm("list", "--runs", place)
        assert said.code == 2 and f"--runs: {place} is there, and is no folder" in said.err


def test_latest_follows_the_last_run(tmp_path: Path) -> None:
    for id in ("one", "two", "two"):
        run = RunFolder(tmp_path, id)
        run.path.mkdir(exist_ok=True)
        run.spec.touch()
        run.make_latest()
        assert run.is_latest()
        assert os.readlink(tmp_path / "latest") == id
        assert Runs(tmp_path).find("latest") == run
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]


@pytest.mark.parametrize("kind", ["folder", "postgres"])
def test_once_the_latest_run_is_removed_there_is_none_until_another_is_made(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    place = request.getfixturevalue("postgres").database() if kind == "postgres" else "runs"
    runs, prepared = open_runs(place, {}), check(job(write_sources(tmp_path)))

    def make(id: str) -> None:
        Session.create(*prepared, runs.run(id)).store.close()

    make("one")
    make("two")
    assert runs.run("two").is_latest() and not runs.run("one").is_latest()
    runs.run("half").create()  # and whoever made it came no further
    with pytest.raises(StoreError, match="exists already"):
        make("one")
    assert runs.find("latest").id == "two"
    assert swarm("rm", "latest", "--runs", place).code == 0
    again = swarm("rm", "latest", "--runs", place)
    assert again.code == 1 and "there is no latest run" in again.err and runs.ids() == ["half", "one"]
    make("three")
    assert swarm("rm", "one", "--runs", place).code == 0 and runs.find("latest").id == "three"


def test_something_else_called_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    run = RunFolder(tmp_path, "one")
    run.create()
    with pytest.raises(StoreError, match="latest: input/output error: Is a directory"):
        run.make_latest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one"]


def test_a_run_is_found_by_its_name_or_the_start_of_it(tmp_path: Path) -> None:
    for id in ("demo-0412-aaaa", "demo-0412-aaab", "other", "demo"):
        RunFolder(tmp_path, id).create()
        RunFolder(tmp_path, id).spec.touch()
    assert Runs(tmp_path).find("oth").id == "other"
    assert Runs(tmp_path).find("demo").id == "demo"
    with pytest.raises(StoreError, match="'demo-' could be demo-0412-aaaa, demo-0412-aaab"):
        Runs(tmp_path).find("demo-")
    for name in ("nothing", "latest", "../x"):
        with pytest.raises(StoreError, match=r"there is no (latest )?run"):
            Runs(tmp_path).find(name)
    with pytest.raises(StoreError, match="there is no run"):
        Runs(tmp_path / "nowhere").find("demo")


def test_only_folders_that_hold_a_run_are_found(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="there is no run 'notes'"):
        Runs(tmp_path).find("notes")
    start(RunFolder(tmp_path, "only"), CREATED).close()
    assert Runs(tmp_path).find("o").id == "only"
    with pytest.raises(StoreError, match="an empty name means no run"):
        Runs(tmp_path).find("")


def test_a_list_says_how_each_run_stands(tmp_path: Path) -> None:
    start(RunFolder(tmp_path, "done"), CREATED, OPENED, NOTE, JobEnded(status="done"), NOTE, at=1).close()
    start(RunFolder(tmp_path, "killed"), CREATED, OPENED, PhaseChanged(phase="working"), NOTE, at=2).close()
    start(
        RunFolder(tmp_path, "paused"), CREATED, OPENED, PhaseChanged(phase="paused", reason="Ctrl-C"), at=3
    ).close()
    start(RunFolder(tmp_path, "again"), CREATED, JobEnded(status="budget", reason="tokens"), at=4).close()
    reason = "budget:the budget of 20 calls is reached"
    rests = [CREATED, OPENED, PhaseChanged(phase="paused", reason=reason)]
    start(RunFolder(tmp_path, "resting"), *rests, at=0.5).close()
    start(RunFolder(tmp_path, "visited"), *rests, OPENED.model_copy(update={"shell": "desk"}), at=0.4).close()
    start(RunFolder(tmp_path, "topped-up"), *rests, OPENED, at=0.3).close()
    start(RunFolder(tmp_path, "empty")).close()
    start(RunFolder(tmp_path, "broken"), CREATED).close()
    RunFolder(tmp_path, "broken").log.write_bytes(b"x" * 5000)
    start(RunFolder(tmp_path, "led"), CREATED).close()
    RunFolder(tmp_path, "led").spec.touch()
    RunFolder(tmp_path, "led").log.unlink()
    RunFolder(tmp_path, "led").log.symlink_to("elsewhere.sqlite")
    (tmp_path / "not a run").mkdir()
    RunFolder(tmp_path, "done").make_latest()
    with start(RunFolder(tmp_path, "working"), CREATED, OPENED, PhaseChanged(phase="working"), NOTE, at=5):
        found = {status.id: status for status in Runs(tmp_path).list()}
        assert found["working"].holder and str(os.getpid()) in found["working"].holder
    assert list(found)[:5] == ["working", "again", "paused", "killed", "done"]
    assert {id: status.status for id, status in found.items()} == {
        "working": "working",
        "again": "budget",
        "paused": "paused",
        "killed": "interrupted",
        "done": "done",
        "resting": "budget",
        "visited": "budget",
        "topped-up": "interrupted",
        "empty": "new",
        "broken": "damaged",
        "led": "unreadable",
    }
    assert "a link to elsewhere.sqlite, which is not there" in found["led"].detail
    with pytest.raises(StoreError, match="a link to elsewhere"):
        RunFolder(tmp_path, "led").writer()
    assert RunFolder(tmp_path, "led").log.is_symlink()
    assert {id for id, status in found.items() if status.ended} == {"done", "again"}
    done = found["done"]
    assert (done.name, done.events, done.created, done.updated, done.holder) == ("a demo", 5, 1.0, 5.0, None)
    assert (found["paused"].detail, found["again"].detail) == ("Ctrl-C", "tokens")
    assert "damaged" in found["broken"].detail and "restore the run folder" in found["broken"].cure
    assert Runs(tmp_path / "nowhere").list() == []


def test_a_run_taken_up_again_is_no_longer_ended(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "demo")
    with start(run, CREATED, OPENED, JobEnded(status="budget"), OPENED, PhaseChanged(phase="working")):
        assert read_status(run).status == "working"
    assert read_status(run).status == "interrupted"


def test_only_a_run_at_rest_can_be_removed(tmp_path: Path) -> None:
    run, other = RunFolder(tmp_path, "demo"), RunFolder(tmp_path, "other")
    other.create()
    with start(run, CREATED):
        run.make_latest()
        with pytest.raises(StoreError, match="in use by process"):
            run.remove()
        assert run.log.exists()
    run.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    with pytest.raises(StoreError, match="there is no run 'demo'"):
        run.remove()
    RunFolder(tmp_path, "other").make_latest()
    start(run, CREATED).close()
    run.remove()
    assert os.readlink(tmp_path / "latest") == "other"


def test_a_folder_with_another_programs_database_is_not_removed(tmp_path: Path) -> None:
    other = RunFolder(tmp_path, "f1")
    other.path.mkdir()
    (other.path / "precious.txt").write_text("years of work")
    with closing(apsw.Connection(str(other.log))) as connection:
        connection.execute("CREATE TABLE bookmarks(url)").fetchall()
    files = sorted(other.path.iterdir())
    with pytest.raises(StoreError, match=rf"{other.log}: this is another program's database \(application id 0x0"):
        other.remove()
    assert sorted(other.path.iterdir()) == files
    said = swarm("rm", "f1", "--runs", tmp_path)
    assert said.code == 1 and "another program's database" in said.err and sorted(other.path.iterdir()) == files


def test_what_rm_would_not_take_is_to_be_moved_away_from_the_name_of_a_new_run(tmp_path: Path) -> None:
    path, runs = job_file(tmp_path, write_sources(tmp_path)), tmp_path / "runs"
    (runs / "folder" / "log.sqlite").mkdir(parents=True)
    (runs / "foreign").mkdir()
    with closing(apsw.Connection(str(runs / "foreign" / "log.sqlite"))) as connection:
        connection.execute("CREATE TABLE bookmarks(url)").fetchall()
    start(RunFolder(runs, "own"), CREATED).close()
    for id, words in (("folder", "and is no run"), ("foreign", "and this is another program's database"), ("own", "")):
        said, removed = swarm("run", path, "--local", "--runs", runs, "--id", id), swarm("rm", id, "--runs", runs)
        assert said.code == 1 and "exists already" in said.err and words in said.err
        assert ("move it away, or choose another id" in said.err) is (removed.code != 0) is (id != "own"), said.err
        assert ("swarm rm" in said.err) is (removed.code == 0)


@pytest.mark.parametrize("cut", [0, 1, 90, 600, 9000, None])
@pytest.mark.parametrize("junk", [b"", b"x" * 64, bytes(100)], ids=["whole", "junk", "zeros"])
def test_a_damaged_log_of_our_own_can_be_removed(tmp_path: Path, cut: int | None, junk: bytes) -> None:
    run = RunFolder(tmp_path, "demo")
    start(run, CREATED, *[NOTE] * 20).close()
    content = run.log.read_bytes()
    run.log.write_bytes((junk + content[len(junk) :])[:cut])
    run.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_log_of_a_newer_software_can_be_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "demo")
    start(run, CREATED).close()
    with closing(apsw.Connection(str(run.log))) as connection:
        connection.execute("PRAGMA user_version = 7").fetchall()
    assert read_status(run).status == "unreadable"
    run.remove()
    assert not run.path.exists()


def test_looking_at_a_run_never_takes_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "demo")
    assert run.holder() is None
    start(run, CREATED).close()
    assert run.holder() is None
    with SqliteWriter.open(run.path):
        assert run.holder() == run.holder() is not None
    assert run.holder() is None


@pytest.mark.parametrize("text", ["", "{", "[" * 4096, "[]", "7", '"me"', '{"pid": 3}'])
def test_a_lock_that_nobody_signed_is_held_by_another_process(tmp_path: Path, text: str) -> None:
    run = RunFolder(tmp_path, "demo")
    start(run, CREATED).close()
    lock = FolderLock.take(run.lock)
    run.lock.write_text(text)
    assert run.holder() == "another process" == read_status(run).holder
    with pytest.raises(StoreError, match="in use by another process"):
        run.remove()
    said = swarm("gc", "--yes", "--runs", tmp_path)
    assert said.code == 0 and said.out == "0 bytes freed\n"
    lock.release()


def test_the_root_comes_from_the_option_then_the_environment() -> None:
    assert open_runs("a", {"SWARM_RUNS": "b"}) == Runs(Path("a"))
    assert open_runs(None, {"SWARM_RUNS": "b"}) == Runs(Path("b"))
    assert open_runs(None, {"SWARM_RUNS": ""}) == open_runs("", {}) == Runs(Path("runs"))
    assert open_runs("~/x", {}) == Runs(Path.home() / "x")
    with pytest.raises(SpecError, match=r"--runs: runs cannot be kept in mysql://\n.*postgresql://"):
        open_runs("mysql://me:secret@there/runs", {})


@pytest.mark.parametrize("command", [("run", "JOB"), ("run", "JOB", "--detach"), ("list",), ("rm", "one")])
def test_a_path_that_sqlite_cannot_open_is_refused_as_such(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = job_file(tmp_path, write_sources(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    said = swarm(*(path if word == "JOB" else word for word in command), "--runs", f"{tmp_path}/caf\udce9")
    assert said.code == 2 and "--runs: " in said.err and r"caf\udce9' is not UTF-8" in said.err, said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_log_that_is_a_folder_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "demo")
    run.path.mkdir()
    run.spec.touch()
    run.log.mkdir()
    for opening in (run.reader, run.writer):
        with pytest.raises(StoreError, match=rf"{run.log}: a folder lies where the log should be"):
            opening()
    assert [(status.id, status.status) for status in Runs(tmp_path).list()] == [("demo", "unreadable")]


@pytest.mark.parametrize("kind", ["folder", "postgres"])
def test_large_bodies_of_new_runs_lie_where_the_environment_says(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    server = request.getfixturevalue("postgres") if kind == "postgres" else None
    runs, large = server.database() if server else str(tmp_path), b"l" * (BLOB_BYTES + 1)
    url = f"file://{tmp_path}/elsewhere"
    run = pickle.loads(pickle.dumps(replace(open_runs(runs, {"SWARM_BLOBS": url}), root=tmp_path))).run("demo")
    run.create()
    with run.writer() as writer:
        writer.append([], {body_hash(large): large})
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [body_hash(large)]
    with replace(open_runs(runs, {}), root=tmp_path).run("demo").reader() as reader:
        assert reader.body(body_hash(large)) == large, "the log remembers where"
    with pytest.raises(SpecError, match="SWARM_BLOBS: bodies in the memory of a process are gone with it"):
        open_runs(runs, {"SWARM_BLOBS": "memory://bucket"})
    with pytest.raises(StoreError, match="bodies cannot be kept here"):
        open_runs(str(tmp_path / "other"), {"SWARM_BLOBS": "nonsense://x"}).run("one").create()


def test_a_message_that_cannot_be_read_just_now_is_read_the_next_time_and_what_is_none_is_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "one")
    run.make_folder()
    inbox, away = run.path / "inbox", tmp_path / "away.json"
    message = run.post("cancel", "stop please")
    (inbox / f"{message}.json").rename(away)
    (inbox / f"{message}.json").symlink_to(tmp_path / "mounted.json")
    (inbox / "torn.json").write_text("{")
    assert run.messages() == [] and [path.stem for path in inbox.iterdir()] == [message]
    away.rename(tmp_path / "mounted.json")
    assert [(one.id, one.text) for one in run.messages()] == [(message, "stop please")]
