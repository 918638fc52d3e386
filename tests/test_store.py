"""A log gives back what was appended, in order, to any reader; and takes nothing that does not fit. On both stores."""

from __future__ import annotations

import math
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings, strategies as st

from swarm.errors import FencedError, StoreError
from swarm.events import Body, CallFinished, CallStarted, Event, JobEnded, NotePosted, body_hash
from swarm.store.blobs import BLOB_BYTES
from swarm.store.connection import check_library
from swarm.store.interface import Snapshot, Writer
from swarm.store.postgres import PostgresWriter
from swarm.store.snapshots import part_name
from swarm.store.sqlite import SqliteReader, SqliteWriter
from swarm.testing.postgres import EmbeddedPostgres
from tests.stores import Postgres, Sqlite, Store
from tests.test_events import BODIES


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    with store.writer() as opened:
        yield opened


@pytest.fixture
def in_folder(tmp_path: Path) -> Iterator[SqliteWriter]:
    with SqliteWriter.open(tmp_path / "run") as opened:
        yield opened


def ended(writer: Writer, offset: int = 1, key: str = "", time: float = 1.0) -> Event:
    return Event(writer.last() + offset, time, writer.epoch, 0, key, JobEnded(status="done"))


def of_bodies(writer: Writer, bodies: Sequence[Body]) -> list[Event]:
    first = writer.last() + 1
    return [Event(first + i, 1e9 + i / 7, writer.epoch, i, "", body) for i, body in enumerate(bodies)]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@settings(max_examples=25)
@given(batches=st.lists(st.lists(BODIES, max_size=8), max_size=6))
def test_what_is_appended_is_read_back_by_all(
    kind: str, tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres, batches: list[list[Body]]
) -> None:
    store = Sqlite(tmp_path_factory.mktemp("run")) if kind == "sqlite" else Postgres(postgres.database())
    written: list[Event] = []
    with store.writer() as writer, store.reader() as reader:
        for batch in batches:
            events = of_bodies(writer, batch)
            events = [
                Event(e.seq, max(e.time, written[-1].time if written else 0), e.epoch, e.cause, e.key, e.body)
                for e in events
            ]
            writer.append(events, {})
            written += events
            assert reader.last() == writer.last() == len(written)
        assert list(writer.read()) == list(reader.read()) == written
    with store.writer() as again:
        assert again.epoch == 2 and list(again.read()) == written


def test_read_takes_any_part_and_pages_through_long_logs(writer: Writer) -> None:
    writer.append(of_bodies(writer, [JobEnded(status=str(i)) for i in range(1501)]), {})
    for after, upto in (
        (0, None),
        (0, 1000),
        (499, 1001),
        (1500, None),
        (1501, None),
        (9999, None),
        (5, 5),
        (-3, 2),
    ):
        expected = range(max(after, 0) + 1, min(1501, upto or 1501) + 1)
        assert [event.seq for event in writer.read(after, upto)] == list(expected)
    times = [event.time for event in writer.read()]
    assert times == sorted(times)


def test_keyed_finds_exactly_the_events_whose_key_starts_so(writer: Writer) -> None:
    keys = [
        "a",
        "ab",
        "ab:1",
        "ab:10",
        "ab;",
        "b",
        "\U0010ffff",
        "\U0010ffffx",
        "\ud7ffz",
        "é",
        "é\0",
        "",
        "",
    ]
    writer.append([ended(writer, 1 + i, key) for i, key in enumerate(reversed(keys))], {})
    for prefix in [
        "",
        "a",
        "ab",
        "ab:",
        "ab:1",
        "ab:10",
        "abc",
        "b",
        "\U0010ffff",
        "\ud7ff",
        "é",
        "é\0",
        "z",
    ]:
        found = [event.key for event in writer.keyed(prefix)]
        assert found == [key for key in reversed(keys) if key and key.startswith(prefix)]


def test_life_is_the_few_events_that_say_how_a_job_stands(writer: Writer) -> None:
    note = NotePosted(note="n", kind="row", task="t", body="b")
    writer.append(
        of_bodies(writer, [note, JobEnded(status="failed"), note, JobEnded(status="done"), note]), {}
    )
    assert [event.seq for event in writer.life()] == [2, 4]


def test_one_key_serves_one_event_of_each_kind(writer: Writer) -> None:
    started = CallStarted(
        task="t", turn=0, sample=0, channel="c", prompt="p", tokens=1, manifest=(), sampling={}
    )
    finished = CallFinished(
        task="t",
        turn=0,
        sample=0,
        output="o",
        tokens_in=1,
        tokens_out=1,
        finish="stop",
        weights="w",
        seconds=0.5,
    )
    events = [Event(i + 1, 1.0, writer.epoch, 0, "t:0:0", body) for i, body in enumerate((started, finished))]
    writer.append(events, {})
    assert list(writer.keyed("t:")) == events
    with pytest.raises(StoreError, match=r"event 3 .CallStarted. has the key 't:0:0'"):
        writer.append([Event(3, 1.0, writer.epoch, 0, "t:0:0", started)], {})


def test_one_batch_with_a_key_twice_is_refused(store: Store, writer: Writer) -> None:
    with pytest.raises(StoreError, match=r"event 2 .JobEnded. has the key 'x'"):
        writer.append([ended(writer, 1, "x"), ended(writer, 2, "x")], {})
    with store.reader() as reader:
        assert reader.last() == 0


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(4, 5.0, 1, 0, "", JobEnded(status="")), "event 4 .JobEnded. was appended where 3 comes next"),
        (Event(2, 5.0, 1, 0, "", JobEnded(status="")), "event 2 .JobEnded. was appended where 3 comes next"),
        (Event(3, 4.9, 1, 0, "", JobEnded(status="")), "has time 4.9, after an event at 5.0"),
        (Event(3, math.nan, 1, 0, "", JobEnded(status="")), "has time nan"),
        (Event(3, math.inf, 1, 0, "", JobEnded(status="")), "has time inf"),
        (Event(3, 5.0, 2, 0, "", JobEnded(status="")), "has epoch 2; this writer's is 1"),
    ],
)
def test_what_does_not_fit_is_refused_and_ends_the_writer(
    store: Store, writer: Writer, event: Event, message: str
) -> None:
    writer.append([ended(writer), ended(writer, 2, time=5.0)], {})
    with pytest.raises(StoreError, match=message):
        writer.append([event], {body_hash(b"x"): b"x"})
    with pytest.raises(StoreError, match="has failed before"):
        writer.append([ended(writer, time=5.0)], {})
    writer.close()
    with store.writer() as again:
        assert again.last() == 2
        with pytest.raises(StoreError, match="missing"):
            again.body(body_hash(b"x"))
        again.append([ended(again, time=5.0)], {})


def test_negative_zero_is_a_time_like_any_other(writer: Writer) -> None:
    writer.append([ended(writer, time=-0.0)], {})
    assert next(writer.read()).time == 0.0


# ---- bodies ----


def named(*contents: bytes) -> dict[str, bytes]:
    return {body_hash(data): data for data in contents}


def test_bodies_come_back_and_appending_them_again_changes_nothing(store: Store, writer: Writer) -> None:
    bodies = named(
        b"", b"\0\xff", b"text " * 1000, b"x" * BLOB_BYTES, b"y" * (BLOB_BYTES + 1), b"z" * (3 * BLOB_BYTES)
    )
    writer.append([ended(writer)], bodies)
    writer.append([], bodies)
    with store.reader() as reader:
        assert reader.bodies(bodies) == writer.bodies(list(bodies) * 2) == bodies
        assert reader.body(body_hash(b"\0\xff")) == b"\0\xff"
        assert reader.bodies([]) == {}
    assert store.large() == [BLOB_BYTES + 1, 3 * BLOB_BYTES]


def test_a_missing_body_and_one_under_a_wrong_name_are_refused(store: Store, writer: Writer) -> None:
    with pytest.raises(StoreError, match="body 00ff is missing"):
        writer.bodies(["00ff"])
    with pytest.raises(StoreError, match="named 00ff, which is not its hash"):
        writer.append([ended(writer)], {"00ff": b"text"})
    with store.reader() as reader:
        assert reader.last() == 0


def test_large_bodies_can_lie_behind_a_url_that_readers_learn_from_the_log(store: Store, tmp_path: Path) -> None:
    large = named(b"a" * (BLOB_BYTES + 1))
    with store.writer(blobs=f"memory://{tmp_path.name}/blobs") as writer, store.reader() as reader:
        writer.append([], large)
        writer.append([], large)
        assert reader.bodies(large) == large
    assert store.large() == []


def test_a_url_where_no_body_can_lie_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"nowhere://x: bodies cannot be kept here"):
        store.writer(blobs="nowhere://x")


# ---- who may write ----


def test_a_second_writer_is_refused_and_the_holder_named(store: Store, writer: Writer) -> None:
    with pytest.raises(StoreError, match=rf"in use by process {os.getpid()} on \S+ since 2.*\n.*stop that process"):
        store.writer()
    writer.append([ended(writer)], {})


def test_a_writer_that_lost_its_hold_is_fenced(store: Store, writer: Writer) -> None:
    writer.append([ended(writer)], {})
    store.lose_hold()
    with store.writer() as taker:
        assert (writer.epoch, taker.epoch) == (1, 2)
        with pytest.raises(FencedError, match=r"taken over by another process .epoch 2; ours is 1."):
            writer.append([ended(writer)], named(b"late"))
        with pytest.raises(StoreError, match="has failed before"):
            writer.append([ended(writer)], {})
        taker.append([ended(taker)], {})
        assert [event.epoch for event in taker.read()] == [1, 2]
        with pytest.raises(StoreError, match="missing"):
            taker.body(body_hash(b"late"))


def test_a_writer_that_lost_its_hold_frees_nobody_elses_as_it_closes(store: Store, writer: Writer) -> None:
    store.lose_hold()
    with store.writer() as taker:
        writer.close()
        with pytest.raises(StoreError, match="in use by process"):
            store.writer()
        taker.append([ended(taker)], {})


def test_a_writer_that_does_nothing_learns_that_it_was_fenced(store: Store, writer: Writer) -> None:
    writer.renew()
    store.lose_hold()
    with store.writer(), pytest.raises(FencedError, match="taken over by another process"):
        renew_at_once(writer)


def renew_at_once(writer: Writer) -> None:
    """Renews without waiting until it is due."""
    if isinstance(writer, PostgresWriter):
        writer.renewed = -math.inf
    writer.renew()


def test_closing_twice_is_harmless_and_a_closed_writer_appends_nothing(store: Store) -> None:
    writer = store.writer()
    writer.close()
    writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.append([], {})


# ---- reading beside the writer ----


def test_threads_share_a_reader_while_the_writer_works(store: Store, writer: Writer) -> None:
    with store.reader() as reader:
        wrong: list[list[int]] = []

        def follow() -> None:
            seen = 0
            while seen < 600:
                numbers = [event.seq for event in reader.read(seen)]
                if numbers != list(range(seen + 1, seen + 1 + len(numbers))):
                    wrong.append(numbers)
                    return
                seen += len(numbers)

        threads = [threading.Thread(target=follow) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            writer.append([ended(writer, i) for i in (1, 2, 3)], {})
        for thread in threads:
            thread.join(60)
        assert not wrong and not any(thread.is_alive() for thread in threads)


def test_a_half_read_log_does_not_keep_the_write_ahead_log_from_being_reused(in_folder: SqliteWriter) -> None:
    with SqliteReader.open(in_folder.path.parent) as reader:
        in_folder.append([ended(in_folder)], {})
        unfinished = reader.read()
        next(unfinished)
        for i in range(60):
            in_folder.append([], named(b"%d" % i + b"x" * (BLOB_BYTES - 10)))
        assert (in_folder.path.parent / "log.sqlite-wal").stat().st_size < 30 * BLOB_BYTES


def test_a_reader_changes_nothing_and_needs_a_log(in_folder: SqliteWriter, tmp_path: Path) -> None:
    in_folder.append([ended(in_folder)], named(b"text"))
    folder = in_folder.path.parent
    in_folder.close()
    before = (folder / "log.sqlite").read_bytes()
    with SqliteReader.open(folder) as reader:
        assert [event.seq for event in reader.read()] == [1]
    assert (folder / "log.sqlite").read_bytes() == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="there is no log here"):
        SqliteReader.open(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a folder read-only")
@pytest.mark.parametrize("left", [(), ("log.sqlite-shm", "log.sqlite-wal")], ids=["by its writer", "by a reader"])
def test_an_archive_on_a_read_only_disk_can_be_read(in_folder: SqliteWriter, left: tuple[str, ...]) -> None:
    in_folder.append([ended(in_folder)], named(b"text"))
    folder = in_folder.path.parent
    with SqliteReader.open(folder) if left else nullcontext():  # who lets go last may remove what SQLite needs, or may not
        in_folder.close()
    assert sorted(path.name for path in folder.glob("log.sqlite-*")) == list(left)
    if subprocess.run(
        ["mount", "--bind", "-o", "ro", str(folder), str(folder)], capture_output=True
    ).returncode:
        pytest.skip("this container may not mount")
    try:
        with SqliteReader.open(folder) as reader:
            assert reader.last() == 1 and reader.body(body_hash(b"text")) == b"text"
        with pytest.raises(StoreError, match=r"access is refused: Read-only file system\n.*a run can be copied there"):
            SqliteWriter.open(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# ---- the ground that it stands on ----


def test_commits_are_on_the_disk_when_they_return(tmp_path: Path) -> None:
    """Kill tests cannot see a weaker setting, only a power cut can: so the setting itself is read."""
    seen: list[apsw.Connection] = []

    def watch(connection: apsw.Connection) -> None:
        if connection.filename.endswith("log.sqlite") and not connection.readonly("main"):
            seen.append(connection)

    apsw.connection_hooks.append(watch)
    try:
        with SqliteWriter.open(tmp_path):
            assert [(c.pragma("synchronous"), c.pragma("journal_mode")) for c in seen] == [(2, "wal")]
    finally:
        apsw.connection_hooks.remove(watch)


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.7.0"])
def test_an_sqlite_that_can_corrupt_logs_is_refused(version: str) -> None:
    with pytest.raises(StoreError, match=rf"SQLite {version} can corrupt a log; 3.51.3 or newer"):
        check_library(version)


def test_the_installed_sqlite_is_good_enough() -> None:
    check_library(apsw.sqlite_lib_version())
    check_library("3.51.3")


# ---- snapshots ----


def snapshot(writer: Writer, *parts: bytes) -> Snapshot:
    return Snapshot(writer.last(), "f", b"state", {part_name(data): data for data in parts})


def test_a_snapshot_takes_the_place_of_the_one_before_and_readers_find_it(store: Store, writer: Writer) -> None:
    with store.reader() as reader:
        assert reader.snapshot() is None
        writer.append([ended(writer)], {})
        writer.keep(snapshot(writer, b"a", b"b"))
        assert reader.snapshot() == snapshot(writer, b"a", b"b")
        writer.append([ended(writer)], {})
        writer.keep(snapshot(writer, b"b", b"c"))
        assert reader.snapshot() == snapshot(writer, b"b", b"c")
        writer.append([ended(writer)], {})
        assert (reader.last(), writer.snapshot()) == (3, reader.snapshot())


def test_only_the_holder_keeps_a_snapshot_and_only_of_the_whole_log(store: Store, writer: Writer) -> None:
    with pytest.raises(StoreError, match="a snapshot of 5 events was to be kept with a log of 0"):
        writer.keep(Snapshot(5, "f", b""))
    with pytest.raises(StoreError, match="has failed before"):
        writer.append([], {})
    store.lose_hold()
    with store.writer() as stale:
        store.lose_hold()
        with store.writer() as taker:
            with pytest.raises(FencedError, match="taken over"):
                stale.keep(snapshot(stale))
            assert taker.snapshot() is None
