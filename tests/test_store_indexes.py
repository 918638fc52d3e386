"""What is damaged beside the tables of a log costs nothing, and what is lost from a table is never passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from swarm.errors import DamageError, NoSpaceError, StoreError
from swarm.store.damage import repair, verify
from swarm.store.sqlite import SqliteReader, SqliteWriter
from tests.commands import swarm
from tests.test_store_damage import fill

PAGE = 4096


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with SqliteWriter.open(tmp_path / "demo", bulk=1) as writer:
        fill(writer, 600)
    return tmp_path / "demo"


def zeros(page: bytearray) -> None:
    page[:] = bytes(PAGE)


def a_byte(page: bytearray) -> None:
    page[page.rindex(b"NotePosted")] ^= 0x55  # a kind, as an index of it has it


def the_last_row(page: bytearray) -> None:
    page[4] -= 1  # how many rows there are, after which nothing else on the page says that there was one


def harm(folder: Path, table: str, how: Callable[[bytearray], None]) -> str:
    """Harms the last page of a table or index; gives what SQLite says of it."""
    path = folder / "log.sqlite"
    with closing(apsw.Connection(str(path))) as connection:
        number = connection.execute("SELECT max(pageno) FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)).get
    assert isinstance(number, int)
    content = bytearray(path.read_bytes())
    page = content[(number - 1) * PAGE : number * PAGE]
    how(page)
    content[(number - 1) * PAGE : number * PAGE] = page
    path.write_bytes(content)
    with closing(apsw.Connection(str(path))) as connection:
        return str(connection.execute("PRAGMA integrity_check(1)").get)


def refused(folder: Path) -> str:
    with pytest.raises(DamageError) as caught, SqliteWriter.open(folder) as writer:
        fill(writer, 2)
    return str(caught.value)


@pytest.mark.parametrize(("table", "how"), [("keys", a_byte), ("keys", zeros), ("life", zeros), ("names", zeros)])
def test_a_damaged_index_is_told_and_made_anew_and_nothing_is_lost(
    run: Path, table: str, how: Callable[[bytearray], None]
) -> None:
    with SqliteReader.open(run) as reader:
        written = list(reader.read())
    assert harm(run, table, how) != "ok"
    found = verify(run)
    assert found and found.place == "index" and found.mendable and found == repair(run)
    assert "nothing is lost: `swarm doctor --repair demo` --apply makes the indexes anew" in str(found.error(""))
    said = swarm("doctor", "--repair", "demo", "--runs", run.parent)
    assert said.code == 1 and "an index of this log is damaged" in said.out and "Nothing is lost" in said.out
    assert verify(run) == found, "saying so has changed nothing"
    with SqliteWriter.open(run), pytest.raises(StoreError, match="in use by process"):
        repair(run, apply=True)

    said = swarm("doctor", "--repair", "demo", "--apply", "--runs", run.parent)
    assert said.code == 0 and said.out == "demo: made its indexes anew; nothing is lost\n"
    assert verify(run) is None
    with SqliteWriter.open(run) as writer:
        assert list(writer.read()) == written and writer.epoch == 3
        assert len(list(writer.keyed("k"))) == sum(event.key != "" for event in written)
        fill(writer, 2)
    assert verify(run) is None


def test_whoever_meets_a_damaged_index_is_led_to_its_repair(run: Path) -> None:
    harm(run, "keys", zeros)
    assert "`swarm doctor --repair demo` says if less will do" in refused(run)


@pytest.fixture
def copies() -> Iterator[list[int]]:
    """Page limits that the copies to come are made under, the last one first: 0 is none."""
    limits: list[int] = []

    def limit(connection: apsw.Connection) -> None:
        if not connection.filename:
            connection.execute(f"PRAGMA max_page_count = {limits.pop() or 2**31}").fetchall()

    apsw.connection_hooks.append(limit)
    yield limits
    apsw.connection_hooks.remove(limit)


def test_a_full_temporary_folder_is_not_taken_for_the_disk_of_the_log(run: Path, copies: list[int]) -> None:
    harm(run, "keys", zeros)
    copies[:] = [10]
    with pytest.raises(NoSpaceError) as caught:
        verify(run)
    assert caught.value.message.startswith("SQLite's temporary folder has no room for a copy of this log")
    assert "name another folder in SQLITE_TMPDIR" in caught.value.cure and caught.value.where == f"{run}/log.sqlite"


def test_a_look_makes_one_copy_and_mending_one_more(run: Path, copies: list[int]) -> None:
    harm(run, "keys", zeros)
    copies[:] = [0, 0, 0, 0]
    found = verify(run)
    assert found and found.place == "index" and len(copies) == 3
    mended = repair(run, apply=True)
    assert mended and mended.mended and len(copies) == 1
    assert verify(run) is None and len(copies) == 1


@pytest.mark.parametrize("index", [None, "life"])
def test_a_record_that_is_gone_without_a_trace_is_not_passed_over(run: Path, index: str | None) -> None:
    """All that is left of the log can be read, and is sound: making the rest anew would hide that there was more."""
    if index:
        harm(run, index, zeros)
    harm(run, "events", the_last_row)
    with pytest.raises(DamageError, match="record 600 is gone from the end of the log"):
        SqliteWriter.open(run)
    with SqliteReader.open(run) as reader:
        assert [event.seq for event in reader.read()] == list(range(1, 600))
    found = verify(run)
    assert found and found.place == "file" and not found.mendable
    with pytest.raises(DamageError, match="nothing was changed"):
        repair(run, apply=True)
