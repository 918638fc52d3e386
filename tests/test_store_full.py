"""A full disk stops the writer with a clear error, leaves nothing half-written and costs no earlier event."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import apsw
import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from swarm.errors import StoreError
from swarm.events import Event, JobEnded, body_hash
from swarm.store.blobs import BLOB_BYTES
from swarm.store.damage import verify
from swarm.store.sqlite import SqliteReader, SqliteWriter


class SmallDisk:
    """A folder on a disk of 2 MiB, or `more` pages. Without the right to mount one, SQLite is told to stop at 160 KiB."""

    def __init__(self, path: Path, more: int = 0) -> None:
        self.path, self.run, self._pages = path, path / "run", 40
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={2048 + 4 * more}k", "tmpfs", str(path)]
        try:
            self.mounted = subprocess.run(mount, capture_output=True).returncode == 0
        except FileNotFoundError:
            self.mounted = False
        if not self.mounted:
            apsw.connection_hooks.append(self._limit)

    def _limit(self, connection: apsw.Connection) -> None:
        connection.execute(f"PRAGMA max_page_count = {self._pages}").fetchall()

    def fill(self) -> None:
        """Leaves no room at all."""
        self._pages = 2
        if self.mounted:
            descriptor = os.open(self.path / "ballast", os.O_WRONLY | os.O_CREAT)
            with pytest.raises(OSError, match="No space left"):
                while True:
                    os.write(descriptor, b"x" * 4096)
            os.close(descriptor)

    def free(self) -> None:
        """Makes room for good."""
        self._pages = 1_000_000
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", str(self.path)], check=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.path)], check=True)
        else:
            apsw.connection_hooks.remove(self._limit)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk")
    yield small
    small.close()


def append_one(writer: SqliteWriter, text: bytes) -> None:
    """Appends an event, the body that it names, and some more."""
    event = Event(
        writer.last() + 1, 1.0, writer.epoch, 0, "", JobEnded(status="done", reason=body_hash(text))
    )
    more = b"%d" % event.seq + b"." * 3000
    writer.append([event], {body_hash(text): text, body_hash(more): more})


def append_until_full(writer: SqliteWriter, padding: bytes) -> int:
    """Returns the number of the last event that was acknowledged."""
    with pytest.raises(StoreError, match=r"no space left on the device\n.*free some space"):
        for number in range(10_000):
            append_one(writer, b"%d:" % number + padding)
    return writer.last()


def test_a_full_disk_stops_the_writer_and_keeps_what_was_acknowledged(disk: SmallDisk) -> None:
    with SqliteWriter.open(disk.run) as writer:
        acknowledged = append_until_full(writer, b"text " * 100)
        assert 3 < acknowledged < 9_999
        with pytest.raises(StoreError, match="has failed before"):
            append_one(writer, b"small")
        with SqliteReader.open(disk.run) as reader:
            assert [event.seq for event in reader.read()] == list(range(1, acknowledged + 1))
            assert all(reader.body(event.body.reason) for event in reader.read())
    assert verify(disk.run) is None


def test_once_there_is_space_again_the_job_goes_on(disk: SmallDisk) -> None:
    with SqliteWriter.open(disk.run) as writer:
        acknowledged = append_until_full(writer, b"text " * 100)
    disk.free()
    with SqliteWriter.open(disk.run) as again:
        assert again.last() == acknowledged
        append_one(again, b"more")
        assert [event.seq for event in again.read(acknowledged)] == [acknowledged + 1]


def test_a_blob_that_does_not_fit_leaves_no_trace(disk: SmallDisk) -> None:
    with SqliteWriter.open(disk.run) as writer:
        append_one(writer, b"small")
        acknowledged = append_until_full(writer, b"x" * (BLOB_BYTES + 1))
        names = {path.name for path in (disk.run / "blobs").iterdir()}
    with SqliteReader.open(disk.run) as reader:
        assert reader.last() == acknowledged
        held = {event.body.reason for event in reader.read(1)}
        assert held <= names and not [name for name in names if name.startswith(".")]
        assert set(reader.bodies(held)) == held


def test_a_run_cannot_begin_on_a_full_disk_and_leaves_no_log(disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(StoreError, match="no space left on the device"):
        SqliteWriter.open(disk.run)
    assert not list(disk.path.rglob("log.sqlite*"))


class FullStore(MemoryFileSystem):  # type: ignore[misc]
    """An object store that has no room."""

    protocol = "full"

    def pipe_file(self, path: str, value: bytes, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)


def test_an_object_store_without_room_stops_the_writer_too(tmp_path: Path) -> None:
    fsspec.register_implementation("full", FullStore, clobber=True)
    with SqliteWriter.open(tmp_path, blobs="full://room") as writer:
        append_one(writer, b"first")
        with pytest.raises(StoreError, match="no space left on the device"):
            append_one(writer, b"x" * (BLOB_BYTES + 1))
        assert writer.last() == SqliteReader.open(tmp_path).last() == 1
