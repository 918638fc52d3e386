"""Takeovers amid an append, forced at the statement where they would do harm; and the checker of what clients were told.

Races of whole processes are in `test_store_processes.py`, for both stores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any

import apsw
import pytest

from swarm.errors import FencedError, StoreError
from swarm.store.lock import FolderLock
from swarm.store.sqlite import LOG, SqliteReader, SqliteWriter
from swarm.testing.history import History
from tests.fired import fired
from tests.store_process import note


def append(writer: SqliteWriter, history: History, client: str) -> None:
    event, text = note(writer.last() + 1, writer.epoch)
    writer.append([event], {event.body.body: text})
    history.told(client, [event.key], "ok")


class Taker:
    """Takes the job over right before a statement of another writer's append."""

    def __init__(self, folder: Path, statement: str) -> None:
        self.folder, self.statement = folder, statement
        self.armed = False
        self.writer: SqliteWriter | None = None
        self.watched: list[apsw.Connection] = []

    def __call__(self, connection: apsw.Connection) -> None:
        if connection.filename.endswith(LOG) and not connection.readonly("main") and not self.watched:
            self.watched.append(connection)
            connection.exec_trace = self.look

    def look(self, cursor: apsw.Cursor, statement: str, bindings: Any) -> bool:
        if self.armed and statement.startswith(self.statement):
            self.armed = False
            (self.folder / "lock").unlink()
            self.writer = SqliteWriter.open(self.folder)
            fired("takeover")
        return True


@contextmanager
def taking(folder: Path, statement: str) -> Iterator[Taker]:
    taker = Taker(folder, statement)
    apsw.connection_hooks.append(taker)
    try:
        yield taker
    finally:
        apsw.connection_hooks.remove(taker)
        if taker.writer:
            taker.writer.close()


def test_a_takeover_right_before_an_append_begins_is_seen_within_it(tmp_path: Path) -> None:
    """Looking at the epoch before the transaction begins would be a moment too early."""
    with taking(tmp_path, "BEGIN IMMEDIATE") as taker, SqliteWriter.open(tmp_path) as writer:
        event, text = note(1, writer.epoch)
        taker.armed = True
        with pytest.raises(FencedError, match="taken over by another process"):
            writer.append([event], {event.body.body: text})
        assert taker.writer and taker.writer.epoch == 2 and taker.writer.last() == 0
        with SqliteReader.open(tmp_path) as reader:
            assert reader.last() == 0, "nothing of a stale writer is there"


def test_what_a_new_holder_appends_before_a_stale_one_stays_alone(tmp_path: Path) -> None:
    history = History()
    with taking(tmp_path, "BEGIN IMMEDIATE") as taker, SqliteWriter.open(tmp_path) as writer:
        append(writer, history, "stale")
        taker.armed = True
        with pytest.raises(StoreError):
            append(writer, history, "stale")
        assert taker.writer
        append(taker.writer, history, "taker")
        log = list(taker.writer.read())
        history.check(log)
        assert [event.epoch for event in log] == [1, 2]


def test_a_history_objects_to_what_breaks_a_promise(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path) as writer:
        history = History()
        for _ in range(3):
            append(writer, history, "one")
        log = list(writer.read())
    history.check(log)
    broken = {
        "durable": History([("one", ("key-4",), "ok")]),
        "failed": History([("one", ("key-2",), "fail")]),
        "in part": History([("one", ("key-3", "key-4"), "unknown")]),
        "changed places": History([("one", ("key-2",), "ok"), ("one", ("key-1",), "ok")]),
        "no prefix": History(reads=[("r", (1, 3))]),
        "shrink": History(reads=[("r", (1, 2)), ("r", (1,))]),
    }
    for message, wrong in broken.items():
        with pytest.raises(AssertionError, match=message):
            wrong.check(log)
    with pytest.raises(AssertionError, match="dense"):
        History().check(log[1:])
    with pytest.raises(AssertionError, match="stale writer"):
        stale = log[2].__class__(3, 3.0, 0, 0, "key-3", log[2].body)
        History().check([*log[:2], stale])


class Replaced(PosixPath):
    """A path whose file is replaced by another between its opening and the next look at it."""

    looks = 0

    def __fspath__(self) -> str:
        self.looks += 1
        place = str(self)
        if self.looks == 2:
            os.unlink(place)
            open(place, "x").close()
        return place


def test_a_lock_on_a_file_that_was_replaced_meanwhile_is_none(tmp_path: Path) -> None:
    path = Replaced(tmp_path / "lock")
    lock = FolderLock.take(path)
    try:
        assert path.looks > 2
        with pytest.raises(StoreError, match="in use by process"):
            FolderLock.take(tmp_path / "lock")
    finally:
        lock.release()
