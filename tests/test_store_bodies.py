"""Bodies of a log in a folder are appended, named in bulk, and found at every moment; and logs of schema 1 go on."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import apsw
import pytest

from swarm.errors import StoreError
from swarm.events import Event, NotePosted, body_hash
from swarm.store.blobs import BLOB_BYTES
from swarm.store.bodies import RECENT, SHARE, TABLES, NamedBodies
from swarm.store.damage import repair, verify
from swarm.store.sqlite import LOG, SqliteReader, SqliteWriter
from tests.commands import swarm

BULK = 10
LOGS = Path(__file__).with_name("logs")
GOLDEN = LOGS / "rolling-1.sqlite"
NAMED_IN_PART = LOGS / "map_reduce-4.sqlite"
"""A log of schema 2 by a writer that named 20 bodies at a time."""


def text(number: int) -> bytes:
    return f"text {number}".encode()


def append(writer: SqliteWriter, *numbers: int, key: str = "") -> None:
    """Appends a note for each number, with its text, in one transaction."""
    hashes = {number: body_hash(text(number)) for number in numbers}
    events = [
        Event(seq, 1e10 + seq, writer.epoch, 0, key, NotePosted(note=f"n{seq}", kind="row", task="t", body=hash))
        for seq, hash in enumerate(hashes.values(), writer.last() + 1)
    ]
    writer.append(events, {hash: text(number) for number, hash in hashes.items()})


def has(reader: SqliteReader, numbers: Sequence[int]) -> bool:
    """Whether all these texts are found, one at a time and together."""
    wanted = {body_hash(text(number)): text(number) for number in numbers}
    return reader.bodies(wanted) == wanted == {hash: reader.body(hash) for hash in wanted}


def ask(folder: Path, query: str) -> Any:
    with closing(apsw.Connection(str(folder / LOG))) as connection:
        return connection.execute(query).get


def named(folder: Path) -> Any:
    return ask(folder, "SELECT value FROM meta WHERE name = 'named'")


def names(folder: Path) -> Any:
    return ask(folder, "SELECT count(*) FROM names")


def filled(folder: Path) -> Path:
    """A log with 25 texts, of which the first 20 have names."""
    for numbers in (range(20), range(20, 25)):
        with SqliteWriter.open(folder) as writer:
            for number in numbers:
                append(writer, number)
        if not names(folder):
            with closing(apsw.Connection(str(folder / LOG))) as connection, connection:
                NamedBodies().rename(connection)
    assert named(folder) == names(folder) == 20
    return folder


def in_part(folder: Path, count: int) -> Path:
    """A log with so many texts, in the midst of a round of naming."""
    with SqliteWriter.open(folder, bulk=BULK) as writer:
        for number in range(count):
            append(writer, number)
    return folder


def test_bodies_are_found_before_and_after_they_are_named(tmp_path: Path) -> None:
    count = 80
    with SqliteWriter.open(tmp_path, bulk=BULK) as writer, SqliteReader.open(tmp_path) as early:
        with SqliteReader.open(tmp_path) as late:
            for number in range(count):
                append(writer, number)
                done = range(number + 1)
                assert has(writer, done) and has(early, done)  # this one follows, and sees each text while it is in the tail
                assert max(0, number - BULK) <= names(tmp_path) <= number
                assert verify(tmp_path) is None
            assert has(late, range(count)), "it had looked at nothing before the texts were named"
        assert count - 4 * BULK < named(tmp_path) < names(tmp_path)
        for reader in (writer, early):
            with pytest.raises(StoreError, match=f"the body {body_hash(text(count))} is missing"):
                reader.body(body_hash(text(count)))
            with pytest.raises(StoreError, match="the body nothing of the kind is missing"):
                reader.body("nothing of the kind")


@pytest.mark.parametrize("count", [25, 40, 60, 61, 62, 63])
def test_a_writer_goes_on_with_the_tail_that_it_finds(tmp_path: Path, count: int) -> None:
    in_part(tmp_path, count)
    before, whole = names(tmp_path), named(tmp_path)
    with SqliteWriter.open(tmp_path, bulk=BULK) as writer:
        assert has(writer, range(count)) and names(tmp_path) == before
        append(writer, count - 1, count, count + 1)
        assert ask(tmp_path, "SELECT count(*) FROM bodies") == count + 2, "the first of them was there"
        for number in range(count + 2, count + 40):
            append(writer, number)
            assert names(tmp_path) >= number - BULK - 1 and named(tmp_path) >= whole
        assert has(writer, range(count + 40))
    with SqliteReader.open(tmp_path) as reader:
        assert has(reader, range(count + 40))
    assert verify(tmp_path) is None


def test_a_writer_that_is_opened_again_and_again_goes_on_with_the_naming(tmp_path: Path) -> None:
    """Each of them ends long before it has come round all the hashes."""
    for number in range(0, 240, 2):
        with SqliteWriter.open(tmp_path, bulk=BULK) as writer:
            append(writer, number, number + 1)
        assert number - BULK - 3 <= names(tmp_path) and number - 4 * BULK <= named(tmp_path) <= names(tmp_path)
    with SqliteReader.open(tmp_path) as reader:
        assert has(reader, range(240))
    assert verify(tmp_path) is None


@pytest.mark.parametrize("parts", ["NULL", "'1 2 x'", "'1 2'", "7"])
def test_a_writer_that_cannot_tell_how_far_each_part_has_come_begins_with_what_all_have(tmp_path: Path, parts: str) -> None:
    in_part(tmp_path, 60)
    ask(tmp_path, "DELETE FROM meta WHERE name = 'parts'")
    if parts != "NULL":
        ask(tmp_path, f"INSERT INTO meta VALUES ('parts', {parts})")
    with SqliteWriter.open(tmp_path, bulk=BULK) as writer:
        for number in range(60, 100):
            append(writer, number)
        assert has(writer, range(100)) and names(tmp_path) >= 89
    assert verify(tmp_path) is None


def test_what_was_named_anew_stays_named(tmp_path: Path) -> None:
    in_part(tmp_path, 60)
    with closing(apsw.Connection(str(tmp_path / LOG))) as connection, connection:
        NamedBodies().rename(connection)
    with SqliteWriter.open(tmp_path, bulk=BULK) as writer:
        for number in range(60, 90):
            append(writer, number)
            assert named(tmp_path) >= 60
    assert verify(tmp_path) is None


def test_a_text_that_comes_after_others_were_lost_is_named_like_all(tmp_path: Path) -> None:
    """A part of the hashes may have come further than the last text that is left."""
    in_part(tmp_path, 60)
    ask(tmp_path, f"DELETE FROM bodies WHERE id > {named(tmp_path)}")
    with SqliteWriter.open(tmp_path, bulk=BULK) as writer:
        for number in range(100, 160):
            append(writer, number)
    with SqliteReader.open(tmp_path) as reader:
        assert has(reader, range(100, 160))
    with closing(apsw.Connection(str(tmp_path / LOG))) as connection:
        assert NamedBodies().unnamed(connection) == 0


def test_as_many_wait_as_are_in_proportion_to_what_has_a_name(tmp_path: Path) -> None:
    waited = []
    with SqliteWriter.open(tmp_path, bulk=1) as writer:
        for number in range(64 * SHARE):
            append(writer, number)
            bound = max(1, named(tmp_path) // SHARE)
            waited.append((number + 1 - names(tmp_path)) / bound)
            assert number + 1 - names(tmp_path) <= bound + 1
    assert median(waited[len(waited) // 2 :]) > 0.9, "and no more are named than must be"


def test_naming_is_shared_by_the_commits(tmp_path: Path) -> None:
    """None of them names all that waits, but for one that brings more than that."""
    steps = [0]
    with SqliteWriter.open(tmp_path, bulk=64) as writer:
        for number in range(500):
            append(writer, number)
            steps.append(names(tmp_path))
        assert 0 < max(after - before for before, after in pairwise(steps)) < 20
        append(writer, *range(500, 1000))
        append(writer, 1000)
        assert names(tmp_path) > 900 and has(writer, range(1001))
    assert verify(tmp_path) is None


def test_a_body_is_stored_once_if_it_comes_again_soon_and_once_more_later(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path, bulk=BULK) as writer:
        for _ in range(3):
            append(writer, 0, 1)
        assert ask(tmp_path, "SELECT count(*) FROM bodies") == 2
        append(writer, *range(2, RECENT))
        append(writer, 0, 1)
        assert ask(tmp_path, "SELECT count(*) FROM bodies") == RECENT
        append(writer, *range(RECENT, RECENT + 9))
        append(writer, 0, 1)
        assert ask(tmp_path, "SELECT count(*) FROM bodies") == RECENT + 9
        append(writer, *range(RECENT + 9, 3 * RECENT))
        append(writer, 0, 1)
        assert ask(tmp_path, "SELECT count(*) FROM bodies") == 3 * RECENT + 2
        append(writer, 3 * RECENT)
        assert has(writer, range(40))
    with SqliteReader.open(tmp_path) as reader:
        assert has(reader, range(40))
    assert verify(tmp_path) is None


def test_an_append_that_fails_leaves_nothing_to_be_found(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path, bulk=BULK) as writer:
        append(writer, *range(11))
        append(writer, 11, key="once")
        before = names(tmp_path)
        with pytest.raises(StoreError, match="once"):
            append(writer, 12, *range(20, 60), key="once")  # and the names that it would have given went with it
        assert has(writer, range(12)) and names(tmp_path) == before
        with pytest.raises(StoreError, match="missing"):
            writer.body(body_hash(text(12)))
    with SqliteWriter.open(tmp_path, bulk=BULK) as again:
        append(again, *range(12, 30))
        append(again, 30)
        assert has(again, range(31)) and names(tmp_path) >= 20
    assert verify(tmp_path) is None


def test_threads_find_every_text_as_soon_as_it_is_durable(tmp_path: Path) -> None:
    count, whole = 300, list[SqliteReader]()
    with SqliteWriter.open(tmp_path, bulk=7) as writer, SqliteReader.open(tmp_path) as reader:

        def follow(one: SqliteReader) -> None:
            last = 0
            while last < count:
                last = writer.last()
                if not has(one, [*range(0, last, 37), *range(max(0, last - 15), last)]):
                    return
            whole.append(one)

        threads = [threading.Thread(target=follow, args=(one,)) for one in (writer, reader, reader)]
        for thread in threads:
            thread.start()
        for number in range(count):
            append(writer, number)
        for thread in threads:
            thread.join(60)
    assert whole.count(writer) == 1 and whole.count(reader) == 2


def test_hashes_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / LOG))
    connection.execute("CREATE TABLE meta(name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;" + TABLES).fetchall()
    for front in ("0123456789abcdef", "fedcba9876543210"):  # the second is negative as SQLite keeps it
        one, other, neither = (front + letter * 16 for letter in "abc")
        writing, table = NamedBodies(100), NamedBodies()
        with connection:
            writing.add(connection, [(one, b"1"), (other, b"2")])
        writing.committed()
        for _ in ("in the tail", "named"):
            for bodies in (writing, table):
                assert bodies.find(connection, [one, other, neither, front]) == {one: b"1", other: b"2"}
                assert bodies.find(connection, [other]) == {other: b"2"}
            with connection:
                writing.rename(connection)
            assert writing.unnamed(connection) == writing.astray(connection) == 0
    assert connection.execute("SELECT min(front) < 0 AND count(DISTINCT front) = 2 FROM names").get == 1
    connection.close()


# ---- logs of schema 1 ----


def test_a_log_of_schema_1_is_read_and_continued_as_it_is(tmp_path: Path) -> None:
    shutil.copy(GOLDEN, tmp_path / LOG)
    before = ask(tmp_path, "SELECT count(*) FROM bodies")
    with SqliteWriter.open(tmp_path, bulk=1) as writer:
        old = [event.body.body for event in writer.read() if isinstance(event.body, NotePosted)]
        assert old and len(writer.bodies(old)) == len(set(old))
        for _ in range(2):
            append(writer, *range(20))
        assert has(writer, range(20)) and ask(tmp_path, "SELECT count(*) FROM bodies") == before + 20
        with pytest.raises(StoreError, match="00ff is missing"):
            writer.body("00ff")
    with SqliteReader.open(tmp_path) as reader:
        assert has(reader, range(20))
    assert verify(tmp_path) is None
    assert ask(tmp_path, "PRAGMA user_version") == 1 and not ask(tmp_path, "SELECT 1 FROM sqlite_master WHERE name = 'names'")


def test_a_log_of_schema_2_with_named_bodies_and_a_tail_is_continued_over_a_fill(tmp_path: Path) -> None:
    shutil.copy(NAMED_IN_PART, tmp_path / LOG)
    before, had = named(tmp_path), ask(tmp_path, "SELECT count(*) FROM bodies")
    old = ask(tmp_path, "SELECT group_concat(hash) FROM bodies").split(",")
    assert 0 < before < had == len(old)
    with SqliteReader.open(tmp_path) as early:
        texts = early.bodies(old)
        with SqliteWriter.open(tmp_path, bulk=BULK) as writer:
            for done in range(had - before, BULK + 3):
                assert writer.bodies(old) == early.bodies(old) == texts
                append(writer, done)
            assert names(tmp_path) > before and ask(tmp_path, "SELECT max(id) FROM bodies") == before + BULK + 3
        with SqliteReader.open(tmp_path) as late:
            for reader in (early, late):
                assert reader.bodies(old) == texts and has(reader, range(had - before, BULK + 3))
    assert verify(tmp_path) is None


def test_a_new_log_has_schema_2(tmp_path: Path) -> None:
    filled(tmp_path)
    assert ask(tmp_path, "PRAGMA user_version") == 2


# ---- damage ----


@pytest.mark.parametrize(
    ("harm", "detail"),
    [
        ("DELETE FROM names WHERE id = 7", "1 of its texts cannot be found"),
        ("DELETE FROM names", "20 of its texts cannot be found"),
        ("UPDATE names SET front = front + 1 WHERE id IN (3, 4)", "2 of its texts cannot be found"),
        ("UPDATE names SET id = 900 WHERE id = 3", "1 of its texts cannot be found"),
        ("UPDATE meta SET value = 23 WHERE name = 'named'", "3 of its texts cannot be found"),
        ("INSERT INTO names VALUES (1, 900), (2, 5)", "2 of the names by which texts are looked up are damaged"),
        ("INSERT INTO names VALUES (1, 23)", "1 of the names by which texts are looked up are damaged"),
        ("UPDATE meta SET value = 'many' WHERE name = 'named'", "5 of its texts cannot be found"),
        ("DELETE FROM meta WHERE name = 'named'; INSERT INTO names VALUES (1, 900)", "1 of the names by which texts are"),
    ],
)
def test_damaged_names_are_found_and_made_anew(tmp_path: Path, harm: str, detail: str) -> None:
    run = filled(tmp_path / "demo")
    ask(run, harm)
    found = verify(run)
    assert found and found.place == "names" and found.mendable and detail in found.detail
    assert found == repair(run) == verify(run), "saying so has changed nothing"
    assert "nothing is lost: `swarm doctor --repair demo` --apply makes the names anew" in str(found.error(""))
    said = swarm("doctor", "--repair", "demo", "--runs", tmp_path)
    assert said.code == 1 and detail in said.out and "Nothing is lost: the texts are there" in said.out

    said = swarm("doctor", "--repair", "demo", "--apply", "--runs", tmp_path)
    assert said.code == 0 and said.out == "demo: made the names of its texts anew; nothing is lost\n"
    assert verify(run) is None and named(run) == 25
    with SqliteReader.open(run) as reader:
        assert has(reader, range(25))
    with SqliteWriter.open(run, bulk=BULK) as writer:
        append(writer, *range(25, 40))
        assert has(writer, range(40))
    assert verify(run) is None


def test_a_reader_that_is_open_meanwhile_follows_a_repair(tmp_path: Path) -> None:
    run = filled(tmp_path / "demo")
    with SqliteReader.open(run) as reader:
        assert has(reader, range(25))
        ask(run, "DELETE FROM names")
        with pytest.raises(StoreError, match=r"is missing\n.*swarm doctor --repair demo"):
            reader.body(body_hash(text(3)))
        repair(run, apply=True)
        assert has(reader, range(25))


@pytest.mark.parametrize("harm", ["DELETE FROM meta WHERE name = 'named'", "UPDATE meta SET value = 17 WHERE name = 'named'"])
def test_names_beyond_what_is_said_to_be_named_are_no_harm(tmp_path: Path, harm: str) -> None:
    """That is how a round of naming leaves them that is not over; what is named again has its name already."""
    run = filled(tmp_path / "demo")
    ask(run, harm)
    assert verify(run) is None
    with SqliteWriter.open(run, bulk=BULK) as writer:
        append(writer, *range(25, 40))
        assert has(writer, range(40))
    assert verify(run) is None


def test_a_writer_that_cannot_tell_what_is_named_names_all_anew(tmp_path: Path) -> None:
    run = filled(tmp_path / "demo")
    ask(run, "UPDATE meta SET value = 'many' WHERE name = 'named'")
    with SqliteWriter.open(run, bulk=BULK) as writer:
        append(writer, *range(25, 40))
        append(writer, *range(40, 60))
        assert has(writer, range(60))
    assert verify(run) is None


@pytest.mark.parametrize("number", [3, 23])
def test_a_text_that_is_gone_is_not_blamed_on_its_name(tmp_path: Path, number: int) -> None:
    """It cannot be made anew, whether it had a name or not."""
    run = filled(tmp_path / "demo")
    ask(run, f"DELETE FROM bodies WHERE hash = '{body_hash(text(number))}'")
    found = verify(run)
    assert found and found.place == "body" and not found.mendable
    assert found.detail == f"the body {body_hash(text(number))}, which event {number + 1} (NotePosted) names, is missing"


@pytest.mark.parametrize("harm", ["DELETE FROM names WHERE id = 7", "DELETE FROM names", "INSERT INTO names VALUES (1, 900)"])
def test_of_a_log_that_lost_a_text_and_a_name_the_text_is_told(tmp_path: Path, harm: str) -> None:
    """That nothing is lost, as names can be made anew, would not be true."""
    run = filled(tmp_path / "demo")
    ask(run, f"DELETE FROM bodies WHERE hash = '{body_hash(text(3))}'")
    ask(run, harm)
    found = verify(run)
    assert found and found.place == "body" and not found.mendable
    assert found.detail == f"the body {body_hash(text(3))}, which event 4 (NotePosted) names, is missing"
    said = swarm("doctor", "--repair", "demo", "--runs", tmp_path)
    assert said.code == 1 and found.detail in said.out and "othing is lost" not in said.out
    said = swarm("doctor", "--repair", "demo", "--apply", "--runs", tmp_path)
    assert said.code == 1 and found.detail in said.err and verify(run) == found


def test_texts_that_are_gone_from_the_end_leave_no_name_to_others(tmp_path: Path) -> None:
    run = filled(tmp_path / "demo")
    ask(run, "DELETE FROM bodies WHERE id > 15")
    with SqliteWriter.open(run, bulk=BULK) as writer:
        append(writer, *range(30, 35))
        assert has(writer, range(30, 35))
    with SqliteReader.open(run) as reader:
        assert has(reader, [*range(15), *range(30, 35)])


def test_large_bodies_are_named_like_all_others(tmp_path: Path) -> None:
    large = {body_hash(data): data for data in (bytes([letter]) * (BLOB_BYTES + 1) for letter in b"abc")}
    with SqliteWriter.open(tmp_path, bulk=0) as writer:
        for hash, data in large.items():
            writer.append([], {hash: data})
            assert writer.body(hash) == data
        assert names(tmp_path) == 2
    with SqliteReader.open(tmp_path) as reader:
        assert reader.bodies(large) == large
    assert verify(tmp_path) is None
