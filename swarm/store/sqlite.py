"""A job's log in one SQLite file: the reader that any process may open, and the one writer.

Owns appending and reading of events and bodies. The form of a row, the settings of a connection, the search
for damage and the lock stand in the modules beside it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import apsw

from swarm.errors import DamageError, StoreError
from swarm.events import Event, TailCut, body_hash
from swarm.store import snapshots, wal
from swarm.store.blobs import BLOB_BYTES, Blobs, open_blobs, verified
from swarm.store.bodies import BULK, BodyRow, bodies_of
from swarm.store.connection import BUSY_MS, LIFE, create, naming, open_reading, open_writing
from swarm.store.damage import checksum_at, gone, missing, opening_in, walk
from swarm.store.interface import Damage, Snapshot, folder_option
from swarm.store.lock import FolderLock
from swarm.store.mark import Mark
from swarm.store.records import COLUMNS, FAULT, START, Row, Tip, fenced, intact, repeated, to_event, to_rows

LOG = "log.sqlite"
TAIL = 1000
"""Records at the end of a log that are checked whenever a writer opens it."""
SETTLE_MS = 500
"""How long a writer waits for readers to bring all of the log into its one file."""
_CHUNK = 500


class SqliteReader:
    """Reads one job's log. It never writes, sees durable events only, and may be shared by threads."""

    def __init__(self, path: Path, connection: apsw.Connection, bulk: int = BULK) -> None:
        self.path, self._reading, self._one_at_a_time = path, connection, threading.Lock()
        with naming(path):
            self._bodies = bodies_of(connection, bulk)
        place = self._query("SELECT value FROM meta WHERE name = 'blobs'")
        self._blobs: Blobs = open_blobs(str(place[0][0]), path.parent)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the log of a run's folder for reading, whether or not its writer is at work.

        Raises:
            StoreError: there is no log, or it is damaged, another program's, or newer than this software.
        """
        path = folder / LOG
        with ExitStack() as undo:
            connection = open_reading(path)
            undo.callback(connection.close)
            _check_whole(connection, path)
            reader = cls(path, connection)
            undo.pop_all()
        return reader

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Event]:
        """Durable events with after < seq <= upto, in order; see `Reader.read`."""
        after, end = max(after, 0), 2**62 if upto is None else upto
        with self._one_at_a_time, naming(self.path):
            checksum = checksum_at(self._reading, after)
        query = f"SELECT {COLUMNS} FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT {_CHUNK}"
        rows: list[Row] = self._query(query, (after, end))
        while rows:
            for row in rows:
                if checksum is None or row[0] != after + 1 or not intact(row, checksum):
                    raise self._damaged(after + 1)
                yield to_event(row, self._opening, str(self.path))
                after, checksum = row[0], row[8]
            rows = self._query(query, (after, end)) if len(rows) == _CHUNK else []

    def last(self) -> int:
        """The number of the last durable event, 0 for an empty log."""
        return int(self._query("SELECT max(seq) FROM events")[0][0] or 0)

    def lost(self) -> Damage | None:
        """Records that are gone from the end of the log; see `Reader.lost`."""
        with self._one_at_a_time, naming(self.path):
            return gone(self._reading, self.path)

    def keyed(self, prefix: str) -> Iterator[Event]:
        """Durable events whose key starts with `prefix`, in order; see `Reader.keyed`."""
        query, after = "SELECT seq FROM events WHERE key != '' AND key >= ?", _after_prefix(prefix)
        if after:
            found = self._query(query + " AND key < ? ORDER BY seq", (prefix, after))
        else:
            found = self._query(query + " ORDER BY seq", (prefix,))
        for (seq,) in found:
            yield self._event(seq)

    def life(self, sound: bool = False) -> Iterator[Event]:
        """The few events that say how the job stands (created, opened, phases, ended), found by an index; see `Reader.life`."""
        for (seq,) in self._query(f"SELECT seq FROM events WHERE {LIFE} ORDER BY seq"):
            try:
                event = self._event(seq)
            except DamageError:
                if sound:
                    continue
                raise
            yield event

    def bodies(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """The bodies named, by hash; see `Reader.bodies`."""
        wanted = list(hashes)
        with self._one_at_a_time, naming(self.path):
            stored = self._bodies.find(self._reading, wanted)
        found: dict[str, bytes] = {}
        outside: list[str] = []
        for hash in wanted:
            if hash not in stored:
                cure = f"restore the run folder from a copy; {self._doctor()} says if less will do"
                raise StoreError(f"the body {hash} is missing", str(self.path), cure)
            if (data := stored[hash]) is None:
                outside.append(hash)
            else:
                found[hash] = verified(hash, data, str(self.path))
        with naming(self.path):
            found.update((hash, self._blobs.get(hash)) for hash in outside)
        return found

    def body(self, hash: str) -> bytes:
        """The body with this hash; see `Reader.bodies`."""
        return self.bodies((hash,))[hash]

    def snapshot(self) -> Snapshot | None:
        """The log's snapshot; see `Reader.snapshot`."""
        found = None
        with self._one_at_a_time, naming(self.path), self._reading:  # one view, whatever the writer does meanwhile
            found = snapshots.get(self._reading, self.path)
        return found

    def close(self) -> None:
        """Lets go of the file. A second call does nothing."""
        with self._one_at_a_time:
            self._reading.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _event(self, seq: int) -> Event:
        query = f"SELECT {COLUMNS} FROM events WHERE seq IN (?, ?) ORDER BY seq"
        rows: list[Row] = self._query(query, (max(seq - 1, 0), seq))  # a damaged index may lead anywhere
        whole = len(rows) == min(max(seq, 1), 2) and rows[-1][0] == seq
        if not whole or not intact(rows[-1], START.checksum if seq == 1 else rows[0][8]):
            raise self._damaged(seq)
        return to_event(rows[-1], self._opening, str(self.path))

    def _opening(self, epoch: int) -> bytes | None:
        with self._one_at_a_time, naming(self.path):
            return opening_in(self._reading)(epoch)

    def _query(self, query: str, bindings: tuple[Any, ...] = ()) -> list[Any]:
        # Whole results, never an open cursor: a reading transaction left open stops the writer's checkpoints.
        with self._one_at_a_time, naming(self.path):
            return self._reading.execute(query, bindings).fetchall()

    def _damaged(self, seq: int) -> DamageError:
        return DamageError(
            f"record {seq} is damaged or missing",
            str(self.path),
            f"{self._doctor()} says what can be done",
        )

    def _doctor(self) -> str:
        return f"`swarm doctor --repair {self.path.parent.name}{folder_option(self.path.parent.parent)}`"


class SqliteWriter(SqliteReader):
    """The one writer of a job's log.

    In whatever way an append fails, the writer refuses all later ones: what its caller believes is no
    longer what the log says, and only opening it anew and reading it can tell.
    """

    epoch: int
    torn: int

    @classmethod
    def open(cls, folder: Path, blobs: str = "", bulk: int = BULK) -> Self:
        """Takes the job in a run's folder and fences earlier writers; makes the log if there is none.

        Args:
            folder: the run's folder; made if missing.
            blobs: fsspec URL for large bodies, written into a new log; empty means `blobs/` in the folder.
            bulk: how many bodies are named at a time; see `NamedBodies`.

        Raises:
            StoreError: the job is in use; its log is damaged (nothing is changed), not ours, or newer; no
            space.
        """
        path = folder / LOG
        with ExitStack() as undo:
            with naming(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock = FolderLock.take(folder / "lock")
            undo.callback(lock.release)
            if not os.path.lexists(path):
                create(path, blobs)
            reading = open_reading(path)
            undo.callback(reading.close)
            _check_whole(reading, path)  # first: the last connection that may write empties the write-ahead log as it closes
            _check_end(reading, path)
            writing = open_writing(path)
            undo.callback(writing.close)
            with naming(path):
                tip = _checked_tip(writing, path)
            writer = cls(path, reading, bulk)
            mark = Mark(folder)
            undo.callback(mark.close)
            writer._start(lock, writing, mark, tip)
            undo.pop_all()
        return writer

    def _start(self, lock: FolderLock, writing: apsw.Connection, mark: Mark, tip: Tip) -> None:
        self._lock, self._writing, self._mark, self._tip, self._refusal = lock, writing, mark, tip, ""
        self._appending = threading.Lock()
        self._parts: set[str] | None = None
        """Names of the stored parts of the snapshot, once they are known."""
        with naming(self.path):
            torn = wal.note_torn(writing, self.path)
            writing.execute("BEGIN IMMEDIATE")
            writing.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
            raised: Any = writing.execute("SELECT value FROM meta WHERE name = 'epoch'").get
            unsaid: Any = writing.execute("SELECT value FROM meta WHERE name = 'torn'").get
            writing.execute("COMMIT")
            if torn:  # or the rest of it would lie behind what comes next, and be taken for torn again
                self._settle()
        self.epoch, self.torn = raised, unsaid or 0
        mark.put(tip.seq)

    def last(self) -> int:
        """The number of the last durable event, 0 for an empty log."""
        return self._tip.seq

    def renew(self) -> None:
        """Looks whether the job is still this writer's; the kernel tells others that it lives. See `Writer.renew`."""
        with self._appending:
            self._check_epoch()

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        """Makes events and bodies durable in one transaction, or ends this writer; see `Writer.append`."""
        with self._or_never_again():
            self._commit(to_rows(events, self._tip, self.epoch), self._body_rows(bodies))

    def keep(self, snapshot: Snapshot) -> None:
        """Puts a snapshot of the whole log in the place of the one before, or ends this writer; see `Writer.keep`."""
        with self._or_never_again():
            if snapshot.seq != self._tip.seq:
                problem = f"a snapshot of {snapshot.seq} events was to be kept with a log of {self._tip.seq}"
                raise StoreError(problem, str(self.path), FAULT)
            if self._parts is None:
                self._parts = snapshots.stored(self._writing)
            self._begin()
            snapshots.put(self._writing, snapshot, self._tip, self._parts)
            self._writing.execute("COMMIT")
            self._parts = set(snapshot.parts)

    @contextmanager
    def _or_never_again(self) -> Iterator[None]:
        """Around everything that writes: whatever goes wrong inside, this writer refuses all that comes after."""
        with self._appending:
            if self._refusal:
                raise StoreError(self._refusal, str(self.path), "open the job again (`swarm resume`)")
            self._refusal = "this writer has failed before and appends no more"
            try:
                with naming(self.path):
                    yield
                self._refusal = ""
            finally:
                if self._refusal and self._writing.in_transaction:
                    with suppress(apsw.Error):  # the first error is the one to tell
                        self._writing.execute("ROLLBACK")

    def _begin(self) -> None:
        """Begins a transaction in which this writer's epoch is still the newest."""
        writing = self._writing
        writing.execute("BEGIN IMMEDIATE")
        self._check_epoch()

    def _commit(self, rows: list[Row], bodies: list[BodyRow]) -> None:
        writing = self._writing
        self._begin()
        if bodies:
            self._bodies.add(writing, bodies)
        try:
            writing.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        except apsw.ConstraintError as error:
            raise self._repeated(rows) from error
        if self.torn and any(row[4] == TailCut.__name__ for row in rows):
            writing.execute("DELETE FROM meta WHERE name = 'torn'")
            self.torn = 0
        writing.execute("COMMIT")
        self._bodies.committed()
        if rows:
            self._tip = Tip(rows[-1][0], rows[-1][1], rows[-1][8])
            self._mark.put(self._tip.seq)

    def _check_epoch(self) -> None:
        with naming(self.path):
            epoch: Any = self._writing.execute("SELECT value FROM meta WHERE name = 'epoch'").get
        if epoch != self.epoch:
            raise fenced(epoch, self.epoch, str(self.path))

    def _body_rows(self, bodies: Mapping[str, bytes]) -> list[BodyRow]:
        rows: list[BodyRow] = []
        for hash, data in bodies.items():
            if body_hash(data) != hash:
                raise StoreError(f"a body was named {hash}, which is not its hash", "bodies", FAULT)
            if len(data) > BLOB_BYTES:
                self._blobs.put(hash, data)
                rows.append((hash, None))
            else:
                rows.append((hash, data))
        return rows

    def _repeated(self, rows: list[Row]) -> StoreError:
        query = "SELECT 1 FROM events WHERE key = ? AND kind = ? AND key != '' AND seq < ?"
        pairs = {(row[6], row[4]) for row in rows}
        taken = {pair for pair in pairs if self._writing.execute(query, (*pair, rows[0][0])).get}
        return repeated(rows, taken, str(self.path))

    def close(self) -> None:
        """Lets go of the job. A second call does nothing."""
        with self._appending:
            failed, self._refusal = self._refusal, "this writer is closed"
            try:
                super().close()
                if not failed:
                    self._settle()
                self._writing.close()
            finally:
                self._mark.close()
                self._lock.release()

    def _settle(self) -> None:
        """Brings all of the log into its one file, and empties the write-ahead log. Whoever is reading just now may prevent it;
        then the log is as safe as it was before. So may a full disk, and half of it would only take the room that is left."""
        with suppress(apsw.Error, OSError):
            grown = int(self._writing.pragma("page_count")) * int(self._writing.pragma("page_size"))
            disk = os.statvfs(self.path)
            if grown - self.path.stat().st_size > disk.f_bavail * disk.f_frsize:
                return
        self._writing.set_busy_timeout(SETTLE_MS)
        with suppress(apsw.Error):
            self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._writing.set_busy_timeout(BUSY_MS)


def _check_whole(connection: apsw.Connection, path: Path) -> None:
    with naming(path):
        damage = missing(connection, path)
    if damage:
        raise damage.error(folder_option(path.parent.parent))


def _check_end(connection: apsw.Connection, path: Path) -> None:
    with naming(path):
        damage = gone(connection, path)
    if damage:
        raise damage.error(folder_option(path.parent.parent))


def _checked_tip(connection: apsw.Connection, path: Path) -> Tip:
    last: Any = connection.execute("SELECT max(seq) FROM events").get or 0
    damage: Damage | None = walk(connection, path, max(0, last - TAIL))
    if damage:
        raise damage.error(folder_option(path.parent.parent))
    row: Any = connection.execute("SELECT seq, time, checksum FROM events WHERE seq = ?", (last,)).fetchone()
    return Tip(*row) if row else START


def _after_prefix(prefix: str) -> str:
    """The least text greater than all that start with `prefix`; empty if there is none."""
    while prefix:
        point = ord(prefix[-1]) + 1
        if point <= 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if point == 0xD800 else point)
        prefix = prefix[:-1]
    return ""
