"""What is wrong with a run's log, what can be mended, and what can go: the same for runs in folders and in a database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from swarm.errors import DamageError, StoreError
from swarm.events import Body, Event, JobEnded, NotePosted, body_hash
from swarm.store.blobs import BLOB_BYTES
from swarm.store.database import Address
from swarm.store.folder import RunFolder
from swarm.store.interface import Snapshot, Writer
from swarm.store.place import FOLDERS
from swarm.store.postgres_place import PostgresPlace
from swarm.store.snapshots import part_name
from swarm.testing.postgres import EmbeddedPostgres
from tests.commands import swarm
from tests.stores import Postgres

SIZE = 20
TEXT, LARGE = b"a text", b"l" * (BLOB_BYTES + 1)


@dataclass(frozen=True)
class Kept:
    """A run with a log of SIZE events, and a way to do to its tables what only faults do."""

    run: RunFolder
    runs: str
    execute: Callable[[str], object]
    """Does a statement. Tables are named with a leading @."""
    orphan: Callable[[], object]
    """Leaves a large body that no event names."""

    def append(self, writer: Writer, *bodies: Body) -> None:
        first = writer.last() + 1
        events = [Event(first + at, float(first + at), writer.epoch, 0, "", body) for at, body in enumerate(bodies)]
        writer.append(events, {body_hash(TEXT): TEXT, body_hash(LARGE): LARGE})


def note(number: int, text: bytes = TEXT) -> NotePosted:
    return NotePosted(note=f"n{number}", kind="row", task="t", body=body_hash(text))


@pytest.fixture(params=["folder", "postgres"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.chdir(tmp_path)  # where the files of a run in a database lie
    if request.param == "folder":
        run = RunFolder(tmp_path / "runs", "demo", FOLDERS)

        def execute(statement: str) -> None:
            connection = apsw.Connection(str(run.log))
            connection.execute(statement.replace("@", "")).fetchall()
            connection.close()

        found = Kept(run, str(run.root), execute, lambda: (run.blobs / body_hash(b"gone")).write_bytes(b"gone"))
    else:
        server: EmbeddedPostgres = request.getfixturevalue("postgres")
        store = Postgres(server.database())
        run = RunFolder(tmp_path / "runs", "demo", PostgresPlace(Address(store.url)))

        def orphan() -> None:
            store.execute(f"INSERT INTO swarmloom.blobs SELECT number, '{body_hash(b'gone')}', 0, 'gone' FROM swarmloom.jobs")

        def execute(statement: str) -> None:
            store.execute(statement.replace("@", "swarmloom.").replace("x'00'", "'\\x00'"))

        found = Kept(run, store.url, execute, orphan)
    run.create()
    with run.writer() as writer:
        found.append(writer, *[note(number) for number in range(SIZE - 2)], note(SIZE, LARGE), JobEnded(status="done"))
    return found


def test_a_damaged_tail_is_refused_then_cut_with_a_copy_kept(kept: Kept) -> None:
    run = kept.run
    assert run.damage() is None and run.repair() is None
    kept.execute("UPDATE @events SET payload = x'00' WHERE seq >= 18")
    found = run.damage()
    assert found and (found.place, found.first, found.last, found.kept) == ("tail", 18, 20, None)
    for attempt in (run.writer, run.verify, lambda: list(run.reader().read())):
        with pytest.raises(DamageError, match=rf"record 18 is damaged(.|\n)*swarm doctor --repair demo{re.escape(run.option)}`"):
            attempt()
    done = run.repair()
    assert done and done.mended and done.kept == run.path / "log.damaged-18.jsonl"
    assert [json.loads(line)["seq"] for line in done.kept.read_text().splitlines()] == [18, 19, 20]
    assert run.damage() is None
    with run.writer() as writer:
        assert writer.last() == 17
        kept.append(writer, note(18))
        assert [event.seq for event in writer.read(15)] == [16, 17, 18]
    assert run.damage() is None


@pytest.mark.parametrize("harm", ["UPDATE @events SET payload = x'00' WHERE seq = 9", "DELETE FROM @events WHERE seq = 9"])
def test_damage_in_the_middle_is_named_and_never_cut(kept: Kept, harm: str) -> None:
    kept.execute(harm)
    found = kept.run.damage()
    assert found and (found.place, found.first) == ("middle", 9)
    with pytest.raises(DamageError, match="nothing was changed"):
        kept.run.repair()
    assert not list(kept.run.path.glob("log.damaged*"))
    said = swarm("doctor", "--runs", kept.runs)
    assert said.code == 1 and "PROBLEM run demo: record 9 is damaged or missing" in said.out


def test_a_text_that_an_event_names_is_missed(kept: Kept) -> None:
    kept.execute(f"DELETE FROM @bodies WHERE hash = '{body_hash(TEXT)}'")
    found = kept.run.damage()
    assert found and found.place == "body"
    assert found.detail == f"the body {body_hash(TEXT)}, which event 1 (NotePosted) names, is missing"
    said = swarm("doctor", "--repair", "demo", "--runs", kept.runs)
    assert said.code == 1 and "is missing. It cannot be cut away" in said.out


def test_a_snapshot_of_no_use_is_removed(kept: Kept) -> None:
    with kept.run.writer() as writer:
        writer.keep(Snapshot(writer.last(), "f", b"state", {part_name(b"part"): b"part"}))
    assert kept.run.damage() is None
    kept.execute("UPDATE @parts SET bytes = x'00'")
    found = kept.run.damage()
    assert found and found.place == "snapshot"
    said = swarm("doctor", "--repair", "demo", "--apply", "--runs", kept.runs)
    assert said.code == 0 and "removed a snapshot that was of no use" in said.out
    with kept.run.reader() as reader:
        assert reader.snapshot() is None and reader.last() == SIZE


def test_orphans_and_the_snapshot_of_an_ended_job_are_freed(kept: Kept) -> None:
    run = kept.run
    with run.writer() as writer:
        writer.keep(Snapshot(writer.last(), "f", b"state"))
        with pytest.raises(StoreError, match="in use by process"):
            run.free()
    kept.orphan()
    (run.path / f".report.md.{'b' * 32}").write_bytes(b"half of it")
    listed = swarm("gc", "--runs", kept.runs, "--json").document
    assert [row["what"] for row in listed["rows"]] == [
        "a file that was never finished", "a body whose events never became durable", "the snapshot of a job that has ended",
    ]  # fmt: skip
    assert run.needless() == run.free() and run.needless() == []
    assert run.damage() is None
    with run.reader() as reader:
        assert reader.body(body_hash(LARGE)) == LARGE and reader.snapshot() is None


def test_a_repair_refuses_while_the_run_works(kept: Kept) -> None:
    with kept.run.writer():
        kept.execute("UPDATE @events SET payload = x'00' WHERE seq = 20")
        with pytest.raises(StoreError, match="in use by process"):
            kept.run.repair()


def test_records_that_are_gone_from_the_end_of_a_log_in_a_database_are_missed(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """A database knows how many there were."""
    store = Postgres(postgres.database())
    run = RunFolder(tmp_path / "runs", "demo", PostgresPlace(Address(store.url)))
    run.create()
    with run.writer() as writer:
        writer.append([Event(1 + at, 1.0, writer.epoch, 0, "", JobEnded(status="done")) for at in range(5)], {})
    store.execute("DELETE FROM swarmloom.events WHERE seq > 3")
    found = run.damage()
    assert found and (found.place, found.first, found.last) == ("gone", 4, 5)
    done = run.repair()
    assert done and done.mended and run.damage() is None
    with run.writer() as writer:
        writer.append([Event(4, 1.0, writer.epoch, 0, "", JobEnded(status="done"))], {})
