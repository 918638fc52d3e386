"""Whatever happens to the files of a log, nobody reads what was not written, and nothing is cut unasked."""

from __future__ import annotations

import base64
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from swarm import __version__
from swarm.errors import StoreError
from swarm.events import CallStrayed, Event, JobEnded, NotePosted, SpansPinned, body_hash
from swarm.payload import encode
from swarm.store.blobs import BLOB_BYTES
from swarm.store.connection import APPLICATION
from swarm.store.damage import repair, verify
from swarm.store.folder import RunFolder, read_status
from swarm.store.interface import Damage
from swarm.store.named import named, passages
from swarm.store.records import chained
from swarm.store.sqlite import TAIL, SqliteReader, SqliteWriter

SIZE = 1500
TEXT, LARGE = b"a body", b"b" * (BLOB_BYTES + 1)


def fill(writer: SqliteWriter, count: int) -> None:
    first = writer.last() + 1
    bodies = [
        NotePosted(note=f"n{i}", kind="row", task="t", body=body_hash(TEXT), status="s" * (i % 50))
        for i in range(count)
    ]
    writer.append(
        [
            Event(first + i, float(first + i), writer.epoch, i, f"k{first + i}" if i % 2 else "", b)
            for i, b in enumerate(bodies)
        ],
        {body_hash(TEXT): TEXT, body_hash(LARGE): LARGE},
    )


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "demo-0412"
    with SqliteWriter.open(folder) as writer:
        fill(writer, SIZE)
    return folder


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / pristine.name))


def tamper(folder: Path, statement: str) -> None:
    connection = apsw.Connection(str(folder / "log.sqlite"))
    connection.execute(statement)
    connection.close()


def refused(folder: Path) -> str:
    with pytest.raises(StoreError) as caught:
        SqliteWriter.open(folder)
    assert (folder / "lock").read_bytes() == b""  # let go
    return str(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET payload = substr(payload, 1, 20) WHERE seq >= 1498",
        "UPDATE events SET payload = zeroblob(60) WHERE seq >= 1498",
        "UPDATE events SET checksum = checksum + 1 WHERE seq >= 1498",
        "UPDATE events SET time = time + 1 WHERE seq >= 1498",
        "UPDATE events SET epoch = 2 WHERE seq >= 1498",
        "UPDATE events SET cause = 0 WHERE seq >= 1498",
        "UPDATE events SET kind = 'JobMelted' WHERE seq >= 1498",
        "UPDATE events SET version = version + 1 WHERE seq >= 1498",
        "UPDATE events SET key = key || 'x' WHERE seq >= 1498",
        "UPDATE events SET cause = -1, payload = x'' WHERE seq >= 1498",
    ],
)
def test_a_damaged_tail_is_refused_then_cut_with_a_copy_kept(run: Path, statement: str) -> None:
    tamper(run, statement)
    message = refused(run)
    assert "record 1498 is damaged" in message
    assert "swarm doctor --repair demo-0412" in message and "records 1498 to 1500" in message
    found = repair(run)
    assert found == Damage(str(run / "log.sqlite"), "demo-0412", "tail", found.detail if found else "", 1498, 1500)
    refused(run)  # reporting has changed nothing

    done = repair(run, apply=True)
    assert done and done.kept == run / "log.damaged-1498.jsonl"
    kept = [json.loads(line) for line in done.kept.read_text().splitlines()]
    assert [record["seq"] for record in kept] == [1498, 1499, 1500]
    assert all(base64.b64decode(record["payload"], validate=True) is not None for record in kept)
    assert verify(run) is None and repair(run, apply=True) is None
    with SqliteWriter.open(run) as writer:
        assert writer.last() == 1497
        fill(writer, 5)
        assert [event.seq for event in writer.read(1490)] == list(range(1491, 1503))


def test_a_second_repair_at_the_same_place_keeps_both_copies(run: Path) -> None:
    for name in ("log.damaged-1498.jsonl", "log.damaged-1498-2.jsonl"):
        tamper(run, "UPDATE events SET payload = x'00' WHERE seq >= 1498")
        done = repair(run, apply=True)
        assert done and done.kept == run / name
        with SqliteWriter.open(run) as writer:
            fill(writer, 3)


def test_a_reader_stops_at_the_damaged_record(run: Path) -> None:
    tamper(run, "UPDATE events SET time = 0 WHERE seq = 1200")
    with SqliteReader.open(run) as reader:
        events = reader.read()
        assert [next(events).seq for _ in range(1199)][-1] == 1199
        with pytest.raises(
            StoreError, match=r"record 1200 is damaged or missing\n.*swarm doctor --repair demo-0412"
        ):
            next(events)
        with pytest.raises(StoreError, match="record 1200 is damaged"):
            list(reader.keyed("k1200"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET payload = x'00' WHERE seq = 1200",
        "DELETE FROM events WHERE seq = 1200",
        "UPDATE events SET checksum = 0 WHERE seq = 1200",
        "DELETE FROM events WHERE seq BETWEEN 1200 AND 1300",
    ],
)
def test_damage_in_the_middle_is_refused_and_never_cut(run: Path, statement: str) -> None:
    tamper(run, statement)
    assert "record 1200 is damaged or missing, and intact ones follow" in refused(run)
    found = repair(run)
    assert found and (found.place, found.first) == ("middle", 1200)
    with pytest.raises(StoreError, match="nothing was changed"):
        repair(run, apply=True)
    assert not list(run.glob("log.damaged*"))


def test_damage_before_the_tail_costs_no_time_at_open_and_is_found_by_verify(run: Path) -> None:
    early = SIZE - TAIL - 10
    tamper(run, f"UPDATE events SET payload = x'00' WHERE seq = {early}")
    with SqliteWriter.open(run) as writer, pytest.raises(StoreError, match=f"record {early}"):
        list(writer.read())
    found = verify(run)
    assert found and (found.place, found.first) == ("middle", early)


def test_a_repair_refuses_while_the_run_works(run: Path) -> None:
    with SqliteWriter.open(run):
        tamper(run, "UPDATE events SET payload = x'00' WHERE seq = 1500")
        with pytest.raises(StoreError, match="in use by process"):
            repair(run, apply=True)


def test_a_run_that_cannot_be_taken_is_not_repaired(run: Path) -> None:
    tamper(run, "UPDATE events SET payload = x'00' WHERE seq = 1500")
    (run / "lock").unlink()
    (run / "lock").mkdir()
    with pytest.raises(StoreError, match="lock: input/output error: Is a directory"):
        repair(run, apply=True)


@pytest.mark.parametrize(
    ("kind", "version", "message"),
    [
        ("JobEnded", 9, f"JobEnded version 9; swarmloom {__version__} reads up to version 1"),
        ("JobMelted", 1, f"'JobMelted', which swarmloom {__version__} does not know"),
    ],
)
def test_what_a_newer_version_wrote_is_not_damage(run: Path, kind: str, version: int, message: str) -> None:
    """It has a right checksum, so it must never be offered for cutting."""
    payload = encode(JobEnded(status="done"))
    connection = apsw.Connection(str(run / "log.sqlite"))
    previous = connection.execute("SELECT checksum FROM events WHERE seq = ?", (SIZE,)).get
    assert isinstance(previous, int)
    fields = (SIZE + 1, 1e6, 1, 0, kind, version, "", payload)
    connection.execute(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*fields, chained(previous, *fields))
    )
    connection.close()
    assert message in refused(run)
    for attempt in (
        lambda: verify(run),
        lambda: repair(run, apply=True),
        lambda: list(SqliteReader.open(run).read()),
    ):
        with pytest.raises(StoreError, match="use a newer swarmloom"):
            attempt()


# ---- files that SQLite itself cannot read ----


def cut_half(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def cut_all(path: Path) -> None:
    path.write_bytes(b"")


def cut_to_a_page(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(4096)


def overwrite_start(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"GIF89a, not a database, whatever the name says" * 20)


def zero_pages(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\0" * (path.stat().st_size - 4096))


@pytest.mark.parametrize("harm", [cut_half, cut_all, cut_to_a_page, overwrite_start, zero_pages])
def test_a_ruined_file_is_named_with_the_cure(run: Path, harm: Callable[[Path], None]) -> None:
    harm(run / "log.sqlite")
    content = (run / "log.sqlite").read_bytes()
    message = refused(run)
    assert str(run / "log.sqlite") in message and "restore the run folder from a copy" in message
    with pytest.raises(StoreError), SqliteReader.open(run) as reader:
        list(reader.read())
    assert (run / "log.sqlite").read_bytes() == content
    found = verify(run)
    assert found and found.place == ("file" if content else "empty")
    with pytest.raises(StoreError, match="nothing was changed"):
        repair(run, apply=True)


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    for application in (0, 0x42424242):
        folder = tmp_path / str(application)
        folder.mkdir()
        tamper(
            folder,
            f"CREATE TABLE bookmarks(url); PRAGMA application_id = {application}; PRAGMA user_version = 5",
        )
        content = (folder / "log.sqlite").read_bytes()
        message = refused(folder)
        assert f"another program's database (application id {application:#x}, schema 5" in message
        assert f"{APPLICATION:#x}, schemas 1 and 2" in message
        with pytest.raises(StoreError, match="another program"):
            SqliteReader.open(folder)
        assert (folder / "log.sqlite").read_bytes() == content


def test_a_log_of_which_a_few_bytes_are_left_is_no_other_programs(run: Path) -> None:
    for size, words in ((0, "it was cut off"), (1, "it holds only 1 bytes"), (99, "it holds only 99 bytes")):
        (run / "log.sqlite").write_bytes(b"S" * size)
        assert words in refused(run)
        found = verify(run)
        assert found and found.place == "empty" and words in found.detail and "or start the job anew" in str(found.error(""))


def test_a_newer_schema_is_refused_with_both_versions(run: Path) -> None:
    tamper(run, "PRAGMA user_version = 7")
    assert "schema 7; this software reads schemas 1 and 2" in refused(run)
    standing = read_status(RunFolder(run.parent, run.name))
    assert (standing.status, standing.cure) == ("unreadable", "use the swarmloom that wrote it")
    with pytest.raises(StoreError, match="schema 7"):
        verify(run)


def test_damaged_and_lost_bodies_are_found_when_read_and_by_verify(run: Path) -> None:
    blob = run / "blobs" / body_hash(LARGE)
    blob.write_bytes(LARGE[:-1] + b"c")
    with SqliteReader.open(run) as reader, pytest.raises(StoreError, match=rf"{blob}: .* is damaged"):
        reader.body(body_hash(LARGE))
    found = verify(run)
    assert found and found.place == "body" and str(blob) in found.detail
    blob.unlink()
    with SqliteReader.open(run) as reader, pytest.raises(StoreError, match=rf"{blob}: this body is missing"):
        reader.body(body_hash(LARGE))
    blob.write_bytes(LARGE)
    assert verify(run) is None
    tamper(run, f"UPDATE bodies SET bytes = x'00' WHERE hash = '{body_hash(TEXT)}'")
    with (
        SqliteReader.open(run) as reader,
        pytest.raises(StoreError, match="is damaged: its content has another hash"),
    ):
        reader.body(body_hash(TEXT))
    found = verify(run)
    assert found and found.place == "body"


def test_bodies_that_events_name_and_nobody_has_are_found(run: Path) -> None:
    tamper(run, f"DELETE FROM bodies WHERE hash = '{body_hash(TEXT)}'")
    found = verify(run)
    assert found and found.place == "body"
    assert found.detail == f"the body {body_hash(TEXT)}, which event 1 (NotePosted) names, is missing"


@pytest.mark.parametrize("log", sorted(Path(__file__).with_name("logs").glob("*.sqlite")), ids=lambda path: path.stem)
def test_every_body_of_a_job_is_named_by_its_events(log: Path, tmp_path: Path) -> None:
    """Otherwise one could be lost, and the log would still be called sound."""
    shutil.copy(log, tmp_path / "log.sqlite")
    assert verify(tmp_path) is None
    with SqliteReader.open(tmp_path) as reader:
        events = list(reader.read())
        names = {hash for event in events for hash in named(event.body)}
        for event in events:
            if isinstance(event.body, SpansPinned):
                names.update(passages(reader.body(event.body.block)))
    connection = apsw.Connection(str(tmp_path / "log.sqlite"))
    kept = {hash for (hash,) in connection.execute("SELECT hash FROM bodies")}
    connection.close()
    late = any(isinstance(event.body, CallStrayed) for event in events)  # what came too late is refused, and its texts are left
    assert names == kept or (late and names < kept)


ROW = bytes((4, 0, 32 * 2 + 13, len(TEXT) * 2 + 12))
"""What SQLite puts before the body TEXT: the length of this, then the type of each column (id, hash, bytes)."""


@pytest.mark.parametrize(("at", "value"), [(2, 0), (2, 1), (3, 25), (4, 0xE4)])
def test_a_page_that_gives_a_body_as_something_else_is_called_damaged(run: Path, at: int, value: int) -> None:
    """No hash, a number for one, a text for the bytes, and a hash that is no text."""
    row = bytearray(ROW + body_hash(TEXT).encode())
    row[at] = value
    content = (run / "log.sqlite").read_bytes()
    assert content.count(ROW + body_hash(TEXT).encode()) == 1
    (run / "log.sqlite").write_bytes(content.replace(ROW + body_hash(TEXT).encode(), row))
    with SqliteReader.open(run) as reader:
        assert reader.body(body_hash(LARGE)) == LARGE
        with pytest.raises(StoreError, match=r"is missing|is damaged: its content has another hash"):
            reader.body(body_hash(TEXT))
    found = verify(run)
    assert found and found.place == "file"


def test_a_log_without_its_own_settings_is_called_damaged(run: Path) -> None:
    tamper(run, "DELETE FROM meta WHERE name = 'blobs'")
    assert "what it says of itself is gone" in refused(run)
    found = verify(run)
    assert found and found.place == "file"


def test_an_index_that_leads_to_no_record_is_called_damaged(run: Path) -> None:
    """Here to number 0, by the last byte of an entry: in its header, the types of the key, of the kind and of the number."""
    content = (run / "log.sqlite").read_bytes()
    entry = bytes((4, 5 * 2 + 13, 10 * 2 + 13, 2)) + b"k1500NotePosted" + (1500).to_bytes(2, "big")
    assert content.count(entry) == 1
    (run / "log.sqlite").write_bytes(content.replace(entry, entry[:-2] + b"\0\0"))
    with SqliteReader.open(run) as reader, pytest.raises(StoreError, match="record 0 is damaged"):
        list(reader.keyed("k1500"))


def test_a_flipped_bit_anywhere_never_changes_what_is_read(run: Path, tmp_path: Path) -> None:
    chance = random.Random(11)
    original = (run / "log.sqlite").read_bytes()
    with SqliteReader.open(run) as reader:
        written = list(reader.read())
    noticed = 0
    for _ in range(100):
        content = bytearray(original)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (run / "log.sqlite").write_bytes(content)
        try:
            with SqliteReader.open(run) as reader:
                assert list(reader.read()) == written
            verify(run)
            with SqliteWriter.open(run) as writer:
                assert writer.last() == SIZE
        except StoreError:
            noticed += 1
        for leftover in run.glob("log.sqlite-*"):
            leftover.unlink()
    assert noticed > 50
