"""Runs whose logs, inboxes and holders are in one PostgreSQL database; their reports lie in folders here.

Owns the few statements about whole runs: their names, holders, messages and removal.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from psycopg import errors as pg

from swarm.errors import StoreError
from swarm.names import is_draft
from swarm.store import postgres_damage, retention
from swarm.store.blobs import sync_folder
from swarm.store.connection import naming
from swarm.store.database import Address, Connection, Link, check_schema, fetch, migrate, transaction
from swarm.store.hold import holding, in_use
from swarm.store.interface import Damage, Message, Needless, has_begun
from swarm.store.place import SPEC, of_a_run
from swarm.store.postgres import PostgresReader, PostgresWriter
from swarm.store.sqlite import LOG

Result = TypeVar("Result")
_TABLES = ("events", "bodies", "blobs", "snapshots", "parts", "inbox")


class PostgresPlace:
    """The place of runs that a database holds; see `Place`. Its own connections are made at the first use, and not pickled."""

    def __init__(self, address: Address, blobs: str = "") -> None:
        self.address, self.blobs = address, blobs
        """`blobs`: where large bodies of new runs go, as an fsspec URL; empty for the database."""
        self._link: Link | None = None
        self._reading: Link | None = None
        """What all readers share: a list of runs opens one after the other."""
        self._known = False
        """Whether our tables have been seen there."""

    def __reduce__(self) -> tuple[Callable[[Address, str], PostgresPlace], tuple[Address, str]]:
        return PostgresPlace, (self.address, self.blobs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PostgresPlace) and (other.address, other.blobs) == (self.address, self.blobs)

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"PostgresPlace({self.address})"

    def title(self, root: Path) -> str:
        return str(self.address)

    def option(self, root: Path) -> str:
        return self.address.option

    def ids(self, root: Path) -> list[str]:
        return [id for (id,) in self._read("SELECT id FROM swarmloom.jobs")]

    def latest(self, root: Path) -> str:
        nothing: list[tuple[Any, ...]] = []
        found = self._run(lambda connection, _: fetch(connection, _latest(connection)), nothing)
        return str(found[0][0]) if found else ""

    def make_latest(self, folder: Path) -> None:
        query = """INSERT INTO swarmloom.latest(job) SELECT number FROM swarmloom.jobs WHERE id = %s
            ON CONFLICT (single) DO UPDATE SET job = excluded.job"""
        self._read(query, folder.name)

    def create(self, folder: Path) -> bool:
        link = self._connected()
        link.run(lambda connection, _: migrate(connection, str(self.address)))
        return link.run(lambda connection, again: self._create(connection, folder, again))

    def _create(self, connection: Connection, folder: Path, again: bool) -> bool:
        if again:  # whether the row that is there now is ours cannot be told
            problem = "the connection was lost while the run was made"
            raise StoreError(problem, self.where(folder), "look with `swarm list`, and choose another id")
        query = "INSERT INTO swarmloom.jobs(id, blobs) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING 1"
        return bool(fetch(connection, query, (folder.name, self.blobs)))

    def publish(self, draft: Path, folder: Path) -> bool:
        found = self._read("SELECT number FROM swarmloom.jobs WHERE id = %s", draft.name)
        if not found:
            raise self._no_run(draft)
        with naming(folder):
            if os.path.lexists(folder) and (not folder.is_dir() or os.listdir(folder)):
                return False
        number = found[0][0]
        query = """UPDATE swarmloom.jobs SET id = %s WHERE number = %s AND NOT EXISTS
            (SELECT FROM swarmloom.jobs WHERE id = %s AND number <> %s) RETURNING 1"""  # twice does no harm
        try:
            if not self._read(query, folder.name, number, folder.name, number):
                return False
        except StoreError as error:
            if isinstance(error.__cause__, pg.UniqueViolation):  # somebody took it at the same moment
                return False
            raise
        # The run is whole: its log says all that its files do, and a run may have begun on another machine. So they follow it,
        # and where they can't, they are left as a draft.
        with suppress(OSError):
            os.rename(draft, folder)
            sync_folder(folder.parent)
        return True

    def beside(self, root: Path, remove: bool) -> list[Needless]:
        # Its folder may lie on another machine. Whoever lets go of a job leaves in `expires` when that was.
        query = f"""SELECT id, bytes FROM swarmloom.jobs WHERE left(id, 1) = '.' AND
            greatest(created, since, expires) < clock_timestamp() - interval '{retention.SPARED} s' ORDER BY id"""
        rows = {root / id: int(size) for id, size in self._read(query) if is_draft(id)}

        def look(draft: Path) -> int | None:
            if draft in rows:
                if remove:
                    self.remove(draft)
                return rows[draft]
            with naming(draft):
                names = set(os.listdir(draft))
                if self.exists(draft) or names & {LOG, "lock"} or not (SPEC in names or of_a_run(names)):
                    return None  # it is being made, or another's
                if remove:
                    shutil.rmtree(draft)
            return 0

        return retention.links(root, remove) + retention.drafts(sorted({*rows, *retention.draft_folders(root)}), look)

    def make_folder(self, folder: Path) -> None:
        self._check_ours(folder)
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def _check_ours(self, folder: Path) -> None:
        """Before anything is written into a folder or removed with it: of two runs of one name, it may be the other's."""
        if (folder / LOG).exists():
            problem = f"this folder holds another run called {folder.name!r}, which has its own log"
            cure = f"work from another folder; nothing was done to that run, nor to {self.where(folder)}"
            raise StoreError(problem, str(folder), cure)

    def exists(self, folder: Path) -> bool:
        return bool(self._read("SELECT 1 FROM swarmloom.jobs WHERE id = %s", folder.name))

    def where(self, folder: Path) -> str:
        return f"{self.address}, run {folder.name}"

    def reader(self, folder: Path) -> PostgresReader:
        if self._reading is None:
            self._reading = Link(self.address, writing=False)
        return PostgresReader.over(self._reading, folder.name)

    def writer(self, folder: Path) -> PostgresWriter:
        self.make_folder(folder)
        return PostgresWriter.open(self.address, folder.name, self.blobs)

    def holder(self, folder: Path) -> str | None:
        held = self._run(lambda connection, _: holding(connection, folder.name), None)
        return held[0] if held else None

    def post(self, folder: Path, kind: str, text: str) -> str:
        id = uuid.uuid4().hex  # chosen here: a message that is sent again, because an answer was lost, is the same one
        query = """INSERT INTO swarmloom.inbox(job, kind, text, id) SELECT number, %s, %s, %s FROM swarmloom.jobs WHERE id = %s
            ON CONFLICT (id) DO UPDATE SET kind = excluded.kind RETURNING 1"""
        if not self._read(query, kind, text.encode("utf-8", "surrogatepass"), id, folder.name):
            raise self._no_run(folder)
        return id

    def messages(self, folder: Path) -> list[Message]:
        query = """SELECT i.id, i.kind, i.text FROM swarmloom.inbox i JOIN swarmloom.jobs j ON i.job = j.number
            WHERE j.id = %s ORDER BY i.number"""
        found = self._read(query, folder.name)
        return [Message(id, kind, bytes(text).decode("utf-8", "surrogatepass")) for id, kind, text in found]

    def heard(self, folder: Path, id: str) -> None:
        self._read("DELETE FROM swarmloom.inbox WHERE id = %s", id)

    def size(self, folder: Path) -> int:
        found = self._read("SELECT bytes FROM swarmloom.jobs WHERE id = %s", folder.name)
        return int(found[0][0]) if found else 0

    def damage(self, folder: Path) -> Damage | None:
        return postgres_damage.look(self.reader(folder))

    def repair(self, folder: Path) -> Damage | None:
        found = self.damage(folder)
        if found is None:
            return None
        if not found.mendable:
            raise found.error(self.address.option)
        self.make_folder(folder)

        def work(connection: Connection, _: bool) -> Damage | None:
            with self._taken(connection, folder) as job, naming(folder):
                reader = self.reader(folder)
                again = postgres_damage.look(reader)  # now that nobody else can write
                if again is None or not again.mendable:
                    return again
                return postgres_damage.mend(connection, reader, job, folder, again)

        return self._run(work, None)

    def needless(self, folder: Path) -> list[Needless]:
        reader = self.reader(folder)
        nothing: list[Needless] = []
        inside = self._run(lambda connection, _: postgres_damage.needless(connection, reader, reader.job), nothing)
        return [*retention.unfinished(folder), *inside]

    def free(self, folder: Path) -> list[Needless]:
        reader = self.reader(folder)

        def work(connection: Connection, _: bool) -> list[Needless]:
            with self._taken(connection, folder) as job:
                return postgres_damage.free(connection, reader, job)

        files, nothing = list(retention.unfinished(folder)), list[Needless]()
        found = self._run(work, nothing)
        with naming(folder):
            for one in files:
                if one.file is not None:
                    one.file.unlink(missing_ok=True)
        return files + found

    def remove(self, folder: Path, begun: bool = True) -> None:
        self._check_ours(folder)
        found = self._read("SELECT number FROM swarmloom.jobs WHERE id = %s", folder.name)
        if not found:
            raise self._no_run(folder)
        number, left = int(found[0][0]), set[Path]()
        try:
            self._run(lambda connection, again: self._remove(connection, folder, number, begun, left, again), None)
        except BaseException:
            for draft in left if not folder.exists() else ():
                with suppress(OSError):  # `gc` takes what cannot come back; the first error is the one to tell
                    draft.rename(folder)
            raise
        with naming(folder):
            for draft in left:
                retention.delete(draft, {SPEC})

    def _remove(
        self, connection: Connection, folder: Path, number: int, begun: bool, left: set[Path], again: bool
    ) -> None:
        """Deletes all that the database has of a run; what there is of its folder, which is then a draft's, comes into `left`."""
        if again and not fetch(connection, "SELECT 1 FROM swarmloom.jobs WHERE number = %s FOR UPDATE", (number,)):
            return  # the answer was lost, and not the COMMIT; who has the name now is another run
        with self._taken(connection, folder) as job:
            if not begun and fetch(connection, "SELECT 1 FROM swarmloom.events WHERE job = %s LIMIT 1", (job,)):
                raise has_begun(folder.name)
            for table in _TABLES:
                connection.execute(f"DELETE FROM swarmloom.{table} WHERE job = %s".encode(), (job,))
            connection.execute("DELETE FROM swarmloom.jobs WHERE number = %s", (job,))
            # Before the COMMIT: a folder without rows may as well be that of a run in another database, and nothing removes it.
            # Whoever dies here leaves a run whose files are gone, as on another machine, and a draft for `gc`.
            with naming(folder):
                if folder.is_dir() and not folder.is_symlink():
                    left.add(retention.set_aside(folder))

    @contextmanager
    def _taken(self, connection: Connection, folder: Path) -> Iterator[int]:
        """A transaction that holds the row of a job, which nobody works on; gives its number."""
        with transaction(connection):
            query = "SELECT number FROM swarmloom.jobs WHERE id = %s FOR UPDATE"
            found = fetch(connection, query, (folder.name,))
            if not found:
                raise self._no_run(folder)
            if (held := holding(connection, folder.name)) is not None:
                raise in_use(self.where(folder), held)
            yield int(found[0][0])

    def _no_run(self, folder: Path) -> StoreError:
        return StoreError(f"there is no run {folder.name!r}", str(self.address), "`swarm list` shows the runs there are")

    def _read(self, query: str, *bindings: Any) -> list[tuple[Any, ...]]:
        return self._run(lambda connection, _: fetch(connection, query, bindings), [])

    def _run(self, work: Callable[[Connection, bool], Result], empty: Result) -> Result:
        """Does some work, as `Link.run` does it, in a database that has our tables; in one that has not, `empty` comes of it."""

        def known(connection: Connection, again: bool) -> Result:
            self._known = self._known or check_schema(connection, str(self.address)) > 0
            return work(connection, again) if self._known else empty

        return self._connected().run(known)

    def _connected(self) -> Link:
        if self._link is None:
            self._link = Link(self.address, writing=True)
        return self._link


def _latest(connection: Connection) -> str:
    """What to ask for the run that was made last. Until somebody writes there, a database of an earlier schema can't say which,
    if that is gone."""
    ((told,),) = fetch(connection, "SELECT to_regclass('swarmloom.latest') IS NOT NULL")
    if told:
        return "SELECT id FROM swarmloom.jobs JOIN swarmloom.latest ON number = job"
    return "SELECT id FROM swarmloom.jobs WHERE left(id, 1) <> '.' ORDER BY number DESC LIMIT 1"
