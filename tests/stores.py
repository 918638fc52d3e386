"""The two stores behind one face, so that a promise is tested once and holds for both.

Owns how a test opens a job's log, and how it does to it what only faults do: a hold that is lost without a word.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import apsw
import psycopg

from swarm.store.database import Address
from swarm.store.interface import Reader, Writer
from swarm.store.postgres import PostgresReader, PostgresWriter
from swarm.store.records import COLUMNS, Row
from swarm.store.sqlite import LOG, SqliteReader, SqliteWriter

JOB = "run"
BULK = 50
"""Bodies that a log in a folder names at a time: so few that it happens in many a test."""


class Store(Protocol):
    """One job's log."""

    @property
    def place(self) -> str:
        """A folder or a URL, by which another process finds it: see `at`."""
        ...

    def writer(self, blobs: str = "") -> Writer: ...

    def reader(self) -> Reader: ...

    def lose_hold(self) -> None:
        """Whoever holds the job holds it no longer, and has not heard of it."""
        ...

    def bury_holder(self) -> None:
        """A holder that has been killed is known to be dead: at once where the kernel says so, else when its time is up."""
        ...

    def large(self) -> list[int]:
        """The sizes of the bodies that lie outside the table of bodies, smallest first."""
        ...

    def put(self, row: Row) -> None:
        """Adds a record to the log, as a writer of another version might have."""
        ...


@dataclass(frozen=True, slots=True)
class Sqlite:
    """A log in a folder."""

    folder: Path

    @property
    def place(self) -> str:
        return str(self.folder)

    def writer(self, blobs: str = "") -> Writer:
        return SqliteWriter.open(self.folder, blobs, BULK)

    def reader(self) -> Reader:
        return SqliteReader.open(self.folder)

    def lose_hold(self) -> None:
        (self.folder / "lock").unlink()  # what a file system without locks looks like

    def bury_holder(self) -> None:
        return None

    def large(self) -> list[int]:
        blobs = self.folder / "blobs"
        return sorted(path.stat().st_size for path in blobs.iterdir()) if blobs.exists() else []

    def put(self, row: Row) -> None:
        with closing(apsw.Connection(str(self.folder / LOG))) as connection:
            connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


@dataclass(frozen=True, slots=True)
class Postgres:
    """A log in a database."""

    url: str

    @property
    def place(self) -> str:
        return self.url

    def writer(self, blobs: str = "") -> Writer:
        return PostgresWriter.open(Address(self.url), JOB, blobs)

    def reader(self) -> Reader:
        return PostgresReader.open(Address(self.url), JOB)

    def lose_hold(self) -> None:
        self.execute("UPDATE swarmloom.jobs SET expires = clock_timestamp() - interval '1 s'")

    def age(self) -> None:
        """Nobody has worked on the jobs for hours."""
        hours = "clock_timestamp() - interval '2 hours'"
        self.execute(f"UPDATE swarmloom.jobs SET created = {hours}, since = {hours}, expires = {hours}")

    def bury_holder(self) -> None:
        with suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):  # it died before it made anything
            self.lose_hold()

    def large(self) -> list[int]:
        found = self.execute("SELECT sum(length(bytes))::bigint FROM swarmloom.blobs GROUP BY job, hash")
        return sorted(size for (size,) in found)

    def put(self, row: Row) -> None:
        values = "%s, %s, %s, %s, %s, %s, %s, %s, %s"
        query = f"INSERT INTO swarmloom.events (job, {COLUMNS}) SELECT number, {values} FROM swarmloom.jobs"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(query.encode(), row)

    def execute(self, statement: str) -> list[tuple[int]]:
        """The rows of a statement, done at once."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


def at(place: str) -> Store:
    """The store that a process was told of."""
    return Postgres(place) if "://" in place else Sqlite(Path(place))
