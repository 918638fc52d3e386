"""`swarm rm`: killed while it removes a run, it leaves the run as it was, or free its name and the rest to `gc`; what is no run
it never takes. So too where its log is in a database: there it may be left without a folder, as on another machine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import psycopg
import pytest

from swarm.errors import StoreError
from swarm.events import Event, body_hash
from swarm.names import draft_name
from swarm.runtime.session import Session, check
from swarm.store import retention
from swarm.store.blobs import BLOB_BYTES
from swarm.store.database import Address
from swarm.store.folder import RunFolder
from swarm.store.mark import MARK
from swarm.store.place import FolderPlace
from swarm.store.postgres_place import PostgresPlace
from swarm.store.runs import Runs
from swarm.testing.postgres import EmbeddedPostgres, Wire
from tests.commands import swarm
from tests.jobs import events_of, job, write_sources
from tests.stores import Postgres
from tests.test_fork_killed import age
from tests.test_store_folder import CREATED, NOTE, start
from tests.test_supervise import wait_for

CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.rmtree"}
NOT_SO_MANY = 64
NO_RUN = "something called 'demo' exists already, and is no run\n  move it away, or choose another id"
LARGE = b"l" * (BLOB_BYTES + 1)


def made(root: Path) -> RunFolder:
    run = RunFolder(root, "demo")
    with start(run, CREATED, NOTE) as writer:
        writer.append([], {body_hash(LARGE): LARGE})
    run.spec.write_text("words")
    fill(run)
    ahead = run.log.with_name(run.log.name + "-wal")
    ahead.write_bytes(b"of a killed writer")
    for file in (run.spec, run.path / MARK, ahead, run.log, run.lock):  # a memory disk lists what was made last first
        file.rename(file.with_name("moved")).rename(file)
    return run


def made_in_a_database(root: Path, url: str) -> RunFolder:
    run = Runs(root, PostgresPlace(Address(url))).run("demo")
    run.create()
    with run.writer() as writer:
        writer.append([Event(1, 1.0, writer.epoch, 0, "", CREATED)], {body_hash(LARGE): LARGE})
    fill(run)
    return run


def fill(run: RunFolder) -> None:
    """With what is not there from the beginning on."""
    for file in (run.answer, run.report_html, run.rows, run.path / "starting"):
        file.write_text("words")
    run.logs.mkdir()
    (run.logs / "host.log").write_text("words")
    run.post("tell", "words")


def contents(run: RunFolder) -> dict[Path, bytes]:
    passing = {run.lock, *(run.log.with_name(run.log.name + ending) for ending in ("-shm", "-wal"))}
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path not in passing}


def killed_at(change: int, remove: Callable[[], None]) -> bool:
    """Removes a run in a process that dies before its n-th change of the disk, or before or after a statement to a database;
    False if it did not come to so many."""
    ended = at_change(change, lambda: os.kill(os.getpid(), signal.SIGKILL), remove)
    assert ended in (-signal.SIGKILL, NOT_SO_MANY)
    return ended == -signal.SIGKILL


def at_change(change: int, act: Callable[[], object], work: Callable[[], object]) -> int:
    """Does some work in a process that acts before its n-th change of the disk and each after that, statements to a database
    included, and gives what it ended with: 0, NOT_SO_MANY, or less for a signal."""
    child = os.fork()
    if not child:
        left, acting = change, False

        def count(event: str, _: object) -> None:
            nonlocal left, acting
            if event in CHANGES and not acting:
                left, acting = left - 1, True
                if left <= 0:
                    act()
                acting = False

        def look(frame: FrameType, event: str, _: object) -> None:
            if frame.f_code is psycopg.Cursor.execute.__code__ and event in ("call", "return"):
                count("os.remove", None)

        try:
            sys.addaudithook(count)
            sys.setprofile(look)
            work()
            os._exit(NOT_SO_MANY if left > 0 else 0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_run_is_there_whole_or_its_name_is_free(tmp_path: Path) -> None:
    there, gone, change = 0, 0, 1
    while True:
        root = tmp_path / str(change)
        run, runs = made(root), Runs(root)
        run.make_latest()
        whole = contents(run)
        if not killed_at(change, run.remove):
            break
        if run.exists():
            there += 1
            assert contents(run) == whole and runs.ids() == ["demo"] and runs.find("latest") == run
            run.remove()
        else:
            gone += 1
            assert runs.ids() == [] and not run.path.exists()
            left = sorted(root.iterdir(), key=lambda path: (path.is_dir(), path.name))
            assert len(left) <= 2
            for path in left:
                age(path)
            with pytest.raises(StoreError, match="there is no latest run"):
                runs.find("latest")
            assert [one.file for one in runs.beside(remove=True)] == left
        assert list(root.iterdir()) == []
        made(root)
        change += 1
    assert there and gone >= 8 and list(root.iterdir()) == [], "killed at each of its steps"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "begun elsewhere"])
def test_in_a_database_too(postgres: EmbeddedPostgres, tmp_path: Path, elsewhere: bool) -> None:
    """Only the machine that a run begins on writes its spec."""
    store, root = Postgres(postgres.database()), tmp_path / "runs"
    there, without, gone, change = 0, 0, 0, 1
    while True:
        run, runs = made_in_a_database(root, store.url), Runs(root, PostgresPlace(Address(store.url)))
        if not elsewhere:
            run.spec.write_text("words")
        files, log, inbox = contents(run), events_of(run), run.messages()
        if not killed_at(change, lambda: seen_anew(root, store.url).remove()):
            break
        drafts = [path for path in root.iterdir() if path != run.path]
        if run.exists():
            there += 1
            assert runs.ids() == ["demo"] == [one.id for one in runs.list()]
            with run.reader() as reader:
                assert reader.body(body_hash(LARGE)) == LARGE
            assert (events_of(run), run.messages()) == (log, inbox)
            without += len(drafts)
            assert not run.path.exists() if drafts else contents(run) == files
            run.remove()
        else:
            gone += 1
            assert runs.ids() == [] and not run.path.exists()
        for draft in drafts:
            age(draft)
        assert [one.file for one in runs.beside(remove=True)] == drafts
        assert list(root.iterdir()) == [] and left_in(store) == [(0,)]
        change += 1
    assert there >= 20 and without >= 1 and gone >= 6 and list(root.iterdir()) == [] and left_in(store) == [(0,)]


def seen_anew(root: Path, url: str) -> RunFolder:
    """The run as another process sees it, which shares no connection."""
    return Runs(root, PostgresPlace(Address(url))).run("demo")


def left_in(store: Postgres) -> list[tuple[int]]:
    tables = ("jobs", "events", "bodies", "blobs", "inbox")
    return store.execute(f"SELECT {' + '.join(f'(SELECT count(*) FROM swarmloom.{table})' for table in tables)}")


@pytest.mark.parametrize("arrives", [True, False], ids=["the commit arrives", "the commit is lost"])
def test_a_removal_whose_answer_was_lost_is_looked_up(postgres: EmbeddedPostgres, tmp_path: Path, arrives: bool) -> None:
    store = Postgres(postgres.database())
    made_in_a_database(tmp_path, store.url)
    with Wire(postgres.socket) as wire:
        run = seen_anew(tmp_path, wire.url(store.url))
        assert run.exists()
        wire.lose, wire.cut_before_commit = int(arrives), int(not arrives)
        run.remove()
        assert wire.lost == int(arrives) and wire.cut_before_commit == 0
    assert list(tmp_path.iterdir()) == [] and left_in(store) == [(0,)]


def test_a_run_that_took_the_name_of_one_that_is_removed_stays(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    store = Postgres(postgres.database())
    made_in_a_database(tmp_path, store.url)
    with Wire(postgres.socket) as wire, ThreadPoolExecutor(1) as aside:
        run = seen_anew(tmp_path, wire.url(store.url))
        assert run.exists()
        wire.lose = 1
        wire.open.clear()
        removed = aside.submit(run.remove)
        wait_for(lambda: wire.lost == 1)
        other = made_in_a_database(tmp_path / "elsewhere", store.url)
        wire.open.set()
        removed.result()
    assert other.exists() and contents(other) and not run.path.exists()


def test_a_removal_that_the_database_refuses_leaves_the_run_its_files(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    store = Postgres(postgres.database())
    run = made_in_a_database(tmp_path, store.url)
    before = contents(run)
    store.execute(
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
        CREATE CONSTRAINT TRIGGER refusing AFTER DELETE ON swarmloom.jobs DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )  # which comes with the COMMIT
    with pytest.raises(StoreError, match="not now"):
        run.remove()
    assert contents(run) == before and run.exists()
    store.execute("DROP TRIGGER refusing ON swarmloom.jobs")
    run.remove()
    assert list(tmp_path.iterdir()) == [] and left_in(store) == [(0,)]


class BusyPlace(FolderPlace):
    """A place in which another run is made while somebody lists them."""

    def ids(self, root: Path) -> list[str]:
        found = super().ids(root)
        other = RunFolder(root, "other")
        if not other.path.exists():
            other.create()
            other.make_latest()
        return found


def test_there_is_a_latest_run_while_another_is_made(tmp_path: Path) -> None:
    made(tmp_path).make_latest()
    runs = Runs(tmp_path, BusyPlace())
    assert runs.find("latest").id == "demo" and runs.find("latest").id == "other"


def test_a_link_is_no_run_of_ours(tmp_path: Path) -> None:
    run = made(tmp_path)
    before = contents(run)
    link = RunFolder(tmp_path, "link")
    link.path.symlink_to(run.path)
    with pytest.raises(StoreError, match="there is no run 'link'"):
        link.remove()
    assert contents(run) == before and link.path.is_symlink()


def test_a_latest_run_that_is_gone_is_no_other_whose_name_begins_so(tmp_path: Path) -> None:
    run = made(tmp_path)
    run.make_latest()
    other = run.path.rename(tmp_path / "demo-2")
    said = swarm("rm", "latest", "--runs", tmp_path)
    assert said.code == 1 and f"error: {tmp_path}: there is no latest run\n  `swarm list` shows" in said.err
    assert swarm("gc", "--yes", "--runs", tmp_path).out.startswith(f"a link to a run that is gone: {tmp_path / 'latest'}\n")
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("times", [1, 9], ids=["once", "again and again"])
@pytest.mark.parametrize("care", [retention.drop_latest, lambda root: retention.links(root, True)], ids=["rm", "gc"])
def test_a_latest_that_is_made_while_one_is_taken_away_stays(
    tmp_path: Path, care: Callable[[Path], object], times: int
) -> None:
    run = made(tmp_path)
    makes = [run.make_latest] * times
    for change in range(1, 9):
        (tmp_path / "latest").unlink(missing_ok=True)
        (tmp_path / "latest").symlink_to("gone")
        ended = at_change(change, lambda: makes and makes.pop()(), lambda: care(tmp_path))
        assert run.is_latest() == (ended == 0) and {path.name for path in tmp_path.iterdir()} <= {"demo", "latest"}
        if ended:
            break
    assert ended == NOT_SO_MANY and change > 2


def test_a_link_that_becomes_latest_just_now_is_left_alone(tmp_path: Path) -> None:
    run, runs, draft = made(tmp_path), Runs(tmp_path), tmp_path / draft_name("latest")
    draft.symlink_to(run.id)
    assert runs.beside(remove=True) == [] and draft.is_symlink()
    os.utime(draft, (time.time() - 2 * retention.SPARED,) * 2, follow_symlinks=False)
    assert [one.file for one in runs.beside(remove=True)] == [draft] and list(tmp_path.iterdir()) == [run.path]


def test_what_somebody_else_left_under_a_name_is_said_to_be_no_run(tmp_path: Path) -> None:
    run = made(tmp_path)
    for file in (run.log, run.spec):
        file.unlink()
    path = Path(shutil.move(run.path, tmp_path / "elsewhere"))
    for left in (path, path / "report.html"):
        run.path.symlink_to(left)
        for attempt in (run.check_free, run.create):
            with pytest.raises(StoreError) as caught:
                attempt()
            assert str(caught.value) == f"{run.path}: {NO_RUN}"
        run.path.unlink()
    shutil.move(path, run.path)
    with pytest.raises(StoreError, match="exists already, and is no run"):
        run.create()
    assert run.report_html.read_text() == "words"


def test_rm_takes_no_folder_that_is_none_of_ours_and_no_beginning_of_a_name(tmp_path: Path) -> None:
    other = tmp_path / "api"
    (other / "src").mkdir(parents=True)
    (other / "spec.yaml").write_text("openapi: 3.0.0")
    (other / "src" / "main.c").write_text("int main;")
    for name in ("api", "ap"):
        said = swarm("rm", name, "--runs", tmp_path)
        assert said.code == 1 and f"there is no run '{name}'" in said.err
    source = write_sources(tmp_path)
    for id in ("demo-1", "other"):
        Session.create(*check(job(source)), RunFolder(tmp_path, id)).store.close()
    said = swarm("rm", "other", "demo", "--runs", tmp_path)
    assert said.code == 2 and "rm: 'demo' is only the beginning of 'demo-1'\n  give the whole id" in said.err
    assert (other / "src" / "main.c").exists() and RunFolder(tmp_path, "other").exists(), "nothing is removed by halves"
    assert swarm("rm", "other", "demo-1", "--runs", tmp_path).code == 0
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"api", "code"}
