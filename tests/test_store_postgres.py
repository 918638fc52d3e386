"""What only a database does: it goes away, forgets to answer, refuses us, or is older, newer, or somebody else's."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from swarm.errors import FencedError, SpecError, StoreError
from swarm.events import Event, JobEnded, body_hash
from swarm.store.blobs import BLOB_BYTES
from swarm.store.database import MIGRATIONS, Address, Link, migrate
from swarm.store.interface import Writer
from swarm.store.postgres import PostgresReader, PostgresWriter
from swarm.store.postgres_place import PostgresPlace
from swarm.store.runs import Runs, open_runs
from swarm.testing.postgres import EmbeddedPostgres, Wire
from tests.fired import fired
from tests.store_process import note
from tests.stores import JOB, Postgres
from tests.test_store_processes import ask, check_whole, child, hear


@pytest.fixture
def store(postgres: EmbeddedPostgres) -> Postgres:
    return Postgres(postgres.database())


@pytest.fixture
def wire(postgres: EmbeddedPostgres) -> Iterator[Wire]:
    with Wire(postgres.socket) as made:
        yield made


def until(holds: Callable[[], bool]) -> None:
    """Waits for what another process or thread does; it may take its time on a busy machine."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end


def append(writer: Writer) -> None:
    event, text = note(writer.last() + 1, writer.epoch)
    writer.append([event], {event.body.body: text})


# ---- commits whose outcome is unknown ----


def test_a_commit_whose_answer_was_lost_is_looked_up_and_not_repeated(store: Postgres, wire: Wire) -> None:
    with PostgresWriter.open(Address(wire.url(store.url)), JOB) as writer:
        for number in range(1, 13):
            wire.lose = number % 2
            append(writer)
        writer.append([], {body_hash(b"before"): b"before"})
        wire.lose = 1
        writer.append([], {body_hash(b"alone"): b"alone", body_hash(b"before"): b"before"})
        assert wire.lost == 7
        fired("lost answer", wire.lost)
        append(writer)
        assert check_whole(writer, 13) == 13
    with store.reader() as reader:
        assert check_whole(reader, 13) == 13 and reader.body(body_hash(b"alone")) == b"alone"


def test_a_commit_that_did_not_happen_is_done_after_looking(postgres: EmbeddedPostgres, store: Postgres, wire: Wire) -> None:
    """The connection is lost in the transaction, before COMMIT was sent: nothing of it stands, and it is done anew."""
    with PostgresWriter.open(Address(wire.url(store.url)), JOB) as writer:
        append(writer)
        before = writer.last()
        wire.cut_before_commit = 1
        append(writer)
        assert wire.cut_before_commit == 0 and writer.last() == before + 1
        fired("cut before COMMIT")
        assert check_whole(writer, 2) == 2


def test_an_opening_and_a_blob_whose_answers_were_lost_are_looked_up(store: Postgres, wire: Wire) -> None:
    store.writer().close()
    wire.lose = 1
    with PostgresWriter.open(Address(wire.url(store.url)), JOB) as writer:
        assert (writer.epoch, wire.lost) == (2, 1)  # not 3: the first opening stood
        large = b"x" * (2 * BLOB_BYTES + 1)
        wire.lose = 1
        writer.append([], {body_hash(large): large})
        assert writer.body(body_hash(large)) == large and wire.lost == 2
        fired("lost answer", wire.lost)


@pytest.mark.parametrize("arrives", [True, False], ids=["the commit arrives", "the commit is lost"])
def test_an_unknown_commit_is_told_from_what_another_writer_appended(store: Postgres, wire: Wire, arrives: bool) -> None:
    """The job is taken before the outcome is looked up: a batch that stands is acknowledged; another's of the same number is
    not ours."""
    with PostgresWriter.open(Address(wire.url(store.url)), JOB) as writer, ThreadPoolExecutor() as pool:
        append(writer)
        wire.open.clear()
        wire.lose, wire.cut_before_commit = int(arrives), int(not arrives)
        appending = pool.submit(append, writer)
        until(lambda: not wire.lose + wire.cut_before_commit)
        store.lose_hold()
        with store.writer() as taker:
            append(taker)
            wire.open.set()
            if arrives:
                appending.result()
            else:
                with pytest.raises(FencedError):
                    appending.result()
            with pytest.raises(StoreError):
                append(writer)
            assert check_whole(taker, 2) == 2 + arrives
            assert [event.epoch for event in taker.read()] == [1, 1, 2] if arrives else [1, 2]
            fired("lost answer" if arrives else "lost commit")
            fired("takeover")


def test_an_unknown_commit_that_is_still_on_its_way_is_waited_for(store: Postgres, wire: Wire) -> None:
    """Its COMMIT is still on its way when the client looks: only once that transaction has ended is the answer final."""
    with PostgresWriter.open(Address(wire.url(store.url)), JOB) as writer, ThreadPoolExecutor() as pool:
        append(writer)
        wire.keep_back = 1
        appending = pool.submit(append, writer)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        until(lambda: store.execute(waiting) == [(1,)])
        assert not appending.done()
        wire.deliver()
        appending.result()
        fired("late commit")
        append(writer)
        assert check_whole(writer, 3) == 3


def test_a_server_that_stays_away_is_named_after_a_while(store: Postgres, wire: Wire) -> None:
    link = Link(Address(wire.url(store.url)), writing=True, patience=0.5)
    wire.close()
    with pytest.raises(StoreError, match=r"lost and could not be made again within 0.5 s .*\n.*swarm resume"):
        link.query("SELECT 1")


def test_a_server_stopped_the_hard_way_loses_nothing_and_its_writers_go_on() -> None:
    server = EmbeddedPostgres()
    try:
        store = Postgres(server.database())
        with child(store, "append") as process:
            assert [hear(process), hear(process)] == ["starting", "open"]
            acknowledged = 0
            for _ in range(3):
                while acknowledged % 7:
                    acknowledged = int(hear(process))
                server.control("stop", "-m", "immediate")
                fired("server stopped")
                server.start()
                with store.reader() as reader:
                    assert reader.last() >= acknowledged
                acknowledged = int(hear(process))
            assert acknowledged > 3
            process.kill()
            process.wait()
        with store.reader() as reader:
            check_whole(reader, acknowledged)
            assert {event.epoch for event in reader.read()} == {1}
    finally:
        server.close()


def test_a_killed_backend_costs_a_reader_nothing(postgres: EmbeddedPostgres, store: Postgres) -> None:
    with store.writer() as writer, store.reader() as reader:
        append(writer)
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'swarmloom' AND datname ="
            f" '{store.url.partition('@/')[2].partition('?')[0]}'"
        )
        fired("backends killed")
        assert check_whole(reader, 1) == 1
        append(writer)
        assert check_whole(reader, 2) == 2


# ---- what it is ----


def test_commits_are_on_the_disk_when_they_return(store: Postgres) -> None:
    """No test that kills a process can see a weaker setting, so the setting itself is read."""
    link = Link(Address(store.url), writing=True)
    assert link.query("SELECT current_setting('synchronous_commit'), current_setting('fsync')") == [("on", "on")]
    link.close()


def test_a_reader_cannot_write(store: Postgres) -> None:
    store.writer().close()
    link = Link(Address(store.url), writing=False)
    with pytest.raises(StoreError, match="read-only transaction"):
        link.query("DELETE FROM swarmloom.jobs")
    link.close()


def test_damage_is_named_by_readers_and_writers(store: Postgres) -> None:
    with store.writer() as writer:
        for _ in range(3):
            append(writer)
    store.execute("UPDATE swarmloom.events SET payload = payload || '\\x00' WHERE seq = 2")
    with store.reader() as reader, pytest.raises(StoreError, match="record 2 is damaged or missing"):
        list(reader.read())
    with pytest.raises(StoreError, match="record 2 is damaged or missing"):
        store.writer()
    store.execute("UPDATE swarmloom.bodies SET bytes = '\\x00'")
    with store.reader() as reader, pytest.raises(StoreError, match="is damaged: its content has another hash"):
        reader.body(note(1, 1)[0].body.body)


def test_the_size_of_a_run_counts_each_body_once(store: Postgres, tmp_path: Path) -> None:
    place = open_runs(store.url, {}).place
    texts = [b"x" * 1000, b"y" * (BLOB_BYTES + 5)]
    with store.writer() as writer:
        for _ in range(3):
            writer.append([], {body_hash(text): text for text in texts})
        assert place.size(tmp_path / JOB) == sum(map(len, texts))
        append(writer)
        one = place.size(tmp_path / JOB)
        append(writer)
        assert 100 < one - sum(map(len, texts)) < place.size(tmp_path / JOB) - one + 100
    store.execute("UPDATE swarmloom.jobs SET bytes = 0; DELETE FROM swarmloom.migrations WHERE version > 1;"
                  "ALTER TABLE swarmloom.jobs DROP COLUMN bytes; DROP TABLE swarmloom.latest")  # fmt: skip
    before = one - sum(map(len, texts))
    with store.writer():  # brought up from the first schema
        assert place.size(tmp_path / JOB) > sum(map(len, texts)) + before


def test_an_older_schema_is_brought_up_and_a_newer_one_is_refused(store: Postgres) -> None:
    with store.writer() as writer:
        append(writer)
    later = (*MIGRATIONS, "ALTER TABLE swarmloom.jobs ADD COLUMN mood text NOT NULL DEFAULT 'calm'")
    link = Link(Address(store.url), writing=True)
    for _ in range(2):
        link.run(lambda connection, _: migrate(connection, "here", later))
    assert link.query("SELECT mood, seq FROM swarmloom.jobs") == [("calm", 1)]
    link.close()
    newer = rf"has schema {len(MIGRATIONS) + 1}; this software reads schemas up to {len(MIGRATIONS)}\n.*newer"
    for opening in (store.writer, store.reader):
        with pytest.raises(StoreError, match=newer):
            opening()


def test_a_database_of_an_earlier_schema_has_its_newest_run_for_the_latest(store: Postgres, tmp_path: Path) -> None:
    runs = Runs(tmp_path, open_runs(store.url, {}).place)
    for id in ("one", "two"):
        runs.run(id).create()
    store.execute("DROP TABLE swarmloom.latest; DELETE FROM swarmloom.migrations WHERE version > 2")
    assert runs.find("latest").id == "two"
    runs.run("two").remove()
    assert runs.find("latest").id == "one", "nothing there can say more"
    runs.run("three").create()  # which brings it up
    assert runs.find("latest").id == "one"
    runs.run("one").remove()
    with pytest.raises(StoreError, match="there is no latest run"):
        runs.find("latest")


def test_processes_that_begin_at_once_make_one_schema(store: Postgres) -> None:
    children = [child(Postgres(store.url), "demand") for _ in range(3)]
    with children[0] as one, children[1] as two, children[2] as three:
        said = [hear(process) for process in (one, two, three)]
        assert sorted(words.partition(":")[0] for words in said) == ["1", "StoreError", "StoreError"]
        (winner,) = [process for process, words in zip((one, two, three), said, strict=True) if words == "1"]
        assert ask(winner) == "1"


@pytest.mark.parametrize(
    "made", ["CREATE SCHEMA swarmloom", "CREATE SCHEMA swarmloom; CREATE TABLE swarmloom.migrations(version integer)"]
)
def test_another_programs_schema_is_left_alone(store: Postgres, made: str) -> None:
    store.execute(made)
    for opening in (store.writer, store.reader):
        with pytest.raises(StoreError, match="another program has a schema called `swarmloom` in this database"):
            opening()


# ---- bad input ----


def test_a_wrong_password_is_said_and_never_shown(postgres: EmbeddedPostgres, store: Postgres) -> None:
    rules = postgres.data / "pg_hba.conf"
    rules.write_text("local all guarded scram-sha-256\n" + rules.read_text())
    postgres.execute("CREATE ROLE guarded LOGIN PASSWORD 'right-one'")
    postgres.execute("SELECT pg_reload_conf()")
    url = store.url.replace("postgres@", "guarded:{}@")
    with pytest.raises(StoreError) as refused:
        PostgresReader.open(Address(url.format("wrong-one")), JOB)
    assert re.search(r"password authentication failed.*\n.*PGPASSWORD, ~/.pgpass", str(refused.value))
    assert "wrong-one" not in str(refused.value)
    for place in (Address(url.format("right-one")), PostgresPlace(Address(url.format("right-one")))):
        assert "right-one" not in f"{place} {place!r} {open_runs(url.format('right-one'), {})}"
        assert pickle.loads(pickle.dumps(place)) == place
    with pytest.raises(StoreError, match=r"permission denied .*\n.*CREATE on the database"):
        PostgresWriter.open(Address(url.format("right-one")), JOB)


def test_an_old_server_is_refused(postgres: EmbeddedPostgres, store: Postgres) -> None:
    with (
        Wire(postgres.socket, alter=(b"server_version\x0018.", b"server_version\x0013.")) as old,
        pytest.raises(StoreError, match="this server is PostgreSQL 13; 14 or newer is needed"),
    ):
        PostgresReader.open(Address(old.url(store.url)), JOB)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:1/runs", "does not answer: .*refused"),
        ("postgresql://me:secret@no-such-host.invalid/runs", "does not answer: "),
        ("postgresql://me:secret@/runs?host=/nowhere", "does not answer: "),
    ],
)
def test_a_server_that_is_not_there(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as refused:
        open_runs(url, {}).list()
    assert "secret" not in str(refused.value) and "127.0.0.1:1/runs, run" not in str(refused.value)


NO_ADDRESS = [
    "postgres://me:secret@[::/x", "postgresql://?secret=1", "postgresql://secret\udcff/x", "postgresql://secret..b/x",
    "postgresql://me:pass@secret@127.0.0.1:1/x", "postgresql://me:pass@secret@a:1,b:2/x", "postgresql://me:pass@secret@/x",
    "postgresql://me:secret/x", "postgresql://me:a,secret/x", "postgresql://me:1/secret@a/x", "postgresql://me:@/secret@a/x",
    "postgresql:me:secret@a/x", "postgres:/me:secret@a/x", "postgres:me:secret://a/x", " PostgreSQL:me:secret@a/x",
    "postgresql://a:65536/secret",
]  # fmt: skip


@pytest.mark.parametrize("url", NO_ADDRESS)
def test_an_address_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(SpecError, match=r"--runs: this is no address of a database\n.*postgresql://USER@HOST") as refused:
        open_runs(url, {}).list()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@a:1,b:2/x", "postgresql://me@a,b:1,2/x"),
        ("postgres://me:secret@a,b/x", "postgresql://me@a,b:,/x"),
        ("postgresql://me%40there:se%40%2Fcret@[::1]/x", "postgresql://me@there@::1/x"),
        ("postgresql://me:secret@/x?host=/run/a@b", "postgresql://me@/x?host=/run/a@b"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert str(open_runs(url, {})) == shown


def test_a_database_that_is_not_there(postgres: EmbeddedPostgres) -> None:
    nobody = postgres.url.replace("postgres@", "nobody@")
    with pytest.raises(StoreError, match=r'role "nobody" does not exist\n.*createuser'):
        PostgresReader.open(Address(nobody), JOB)
    with pytest.raises(StoreError, match=r'database "nowhere" does not exist\n.*createdb'):
        PostgresReader.open(Address(postgres.url.replace("/postgres?", "/nowhere?")), JOB)


# ---- runs ----


def test_an_empty_database_has_no_runs_and_is_not_changed_by_looking(store: Postgres) -> None:
    runs = open_runs(store.url, {})
    assert runs.list() == [] and runs.ids() == []
    with pytest.raises(StoreError, match="there is no latest run"):
        runs.find("latest")
    with pytest.raises(StoreError, match="there is no log here"):
        store.reader()
    with psycopg.connect(store.url) as connection:
        assert connection.execute("SELECT to_regnamespace('swarmloom')").fetchone() == (None,)


def test_runs_are_made_found_listed_asked_and_removed(store: Postgres, tmp_path: Path) -> None:
    runs = open_runs(store.url, {"SWARM_RUNS": "elsewhere"})
    runs = type(runs)(tmp_path / "runs", runs.place)
    one, two = runs.run("one"), runs.run("two")
    for run in (one, two):
        run.check_free()
        run.create()
        run.make_latest()
    assert (runs.find("o"), runs.find("latest")) == (one, two)
    assert one.holder() is None and one.exists() and not runs.run("three").exists()
    with one.writer() as writer:
        writer.append([Event(1, 5.0, writer.epoch, 0, "", JobEnded(status="done"))], {})
        assert "process" in (one.holder() or "")
        for take in (one.check_free, one.create):
            with pytest.raises(StoreError, match=r"a run called 'one' exists already"):
                take()
        one.path.rmdir()  # as on another machine
        with pytest.raises(StoreError, match=r"a run called 'one' exists already"):
            one.create()
        assert not one.path.exists()
        with pytest.raises(StoreError, match="in use by process"):
            one.remove()
        assert [(run.id, run.status, run.holder is None) for run in runs.list()] == [("one", "done", False), ("two", "new", True)]
        first, second = one.post("tell", "look\0 closer"), one.post("pause")
        assert [(each.id, each.kind, each.text) for each in one.messages()] == [
            (first, "tell", "look\0 closer"), (second, "pause", ""),
        ]  # fmt: skip
        one.heard(first)
        one.heard(first)
        assert [each.id for each in one.messages()] == [second] and two.messages() == []
    one.remove()
    assert runs.ids() == ["two"] and not one.path.exists()
    for gone in (one.remove, lambda: one.post("pause")):
        with pytest.raises(StoreError, match="there is no run 'one'"):
            gone()
    assert store.execute("SELECT count(*) FROM swarmloom.events") == [(0,)]
