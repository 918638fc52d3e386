"""A job's log in PostgreSQL: the reader that any process may open, and the one writer.

Owns appending and reading of events and bodies, and the hold of a writer on its job: a row with an expiry by the database's
clock, and an epoch that each append compares. Connections, schema and errors stand in `database`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from psycopg import errors as pg

from swarm.errors import DamageError, StoreError
from swarm.events import Event, body_hash
from swarm.store import postgres_snapshots
from swarm.store.blobs import BLOB_BYTES, Blobs, blobs_at, verified
from swarm.store.connection import LIFE
from swarm.store.damage import gone_between
from swarm.store.database import Address, Connection, Link, check_schema, fetch, migrate, transaction
from swarm.store.hold import UNTIL, take
from swarm.store.interface import Damage, Snapshot
from swarm.store.postgres_blobs import DatabaseBlobs
from swarm.store.records import COLUMNS, FAULT, START, Row, Tip, fenced, intact, repeated, sound, to_event, to_rows

RENEW_SECONDS = 3.0
"""How often a writer that does nothing else renews its hold."""
_CLOSED = "this writer is closed"
TAIL = 1000
"""Records at the end of a log that are checked whenever a writer opens it."""
_CHUNK = 500
_RECORD_BYTES = 100
"""What a record takes beside its key and payload, roughly."""
_EVENTS = f"SELECT {COLUMNS} FROM swarmloom.events WHERE job = %s AND seq > %s AND seq <= %s ORDER BY seq LIMIT {_CHUNK}"
_INSERT = f"""INSERT INTO swarmloom.events(job, {COLUMNS}) SELECT %s, * FROM unnest(
%b::bigint[], %b::float8[], %b::bigint[], %b::bigint[], %b::text[], %b::integer[], %b::bytea[], %b::bytea[], %b::bigint[])"""

_BODIES = """WITH given AS (SELECT * FROM unnest(%b::text[], %b::bytea[], %b::bigint[]) AS g(hash, bytes, size)),
new AS (INSERT INTO swarmloom.bodies SELECT %s, hash, bytes FROM given ON CONFLICT DO NOTHING RETURNING hash)
UPDATE swarmloom.jobs SET bytes = bytes + (SELECT coalesce(sum(size), 0) FROM given JOIN new USING (hash)) WHERE number = %s"""


class PostgresReader:
    """Reads one job's log. It never writes, sees durable events only, and may be shared by threads."""

    def __init__(self, link: Link, id: str, number: int, blobs: str, shared: bool = False) -> None:
        self._link, self.id, self.job, self._shared = link, id, number, shared
        self.where = f"{link.address}, run {id}"
        self._blobs: Blobs = blobs_at(blobs) if blobs else DatabaseBlobs(link, number, self.where)

    @classmethod
    def open(cls, address: Address, id: str) -> Self:
        """Opens a job's log for reading, whether or not its writer is at work.

        Raises:
            StoreError: there is no such job; the server cannot be reached, is too old, or holds a newer schema.
        """
        link = Link(address, writing=False)
        try:
            return cls.over(link, id, shared=False)
        except StoreError:
            link.close()
            raise

    @classmethod
    def over(cls, link: Link, id: str, shared: bool = True) -> Self:
        """As `open`, over a connection for reading; a shared one is not closed with the reader."""
        where = f"{link.address}, run {id}"
        known = link.run(lambda connection, _: check_schema(connection, str(link.address)))
        found = link.query("SELECT number, blobs FROM swarmloom.jobs WHERE id = %s", (id,), where) if known else []
        if not found:
            raise StoreError("there is no log here", where, "`swarm list` shows the runs there are")
        number, blobs = found[0]
        return cls(link, id, number, blobs, shared)

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Event]:
        """Durable events with after < seq <= upto, in order; see `Reader.read`."""
        after, end = max(after, 0), 2**62 if upto is None else upto
        checksum = self._checksum_at(after)
        rows = self._rows(_EVENTS, (self.job, after, end))
        while rows:
            for row in rows:
                if checksum is None or row[0] != after + 1 or not intact(row, checksum):
                    raise self._damaged(after + 1)
                yield to_event(row, self.opening, self.where)
                after, checksum = row[0], row[8]
            rows = self._rows(_EVENTS, (self.job, after, end)) if len(rows) == _CHUNK else []

    def last(self) -> int:
        """The number of the last durable event, 0 for an empty log."""
        return int(self._query("SELECT max(seq) FROM swarmloom.events WHERE job = %s", (self.job,))[0][0] or 0)

    def keyed(self, prefix: str) -> Iterator[Event]:
        """Durable events whose key starts with `prefix`, in order; see `Reader.keyed`."""
        first = prefix.encode()
        behind = _after_prefix(first)
        if behind:
            yield from self._chosen("e.key <> '' AND e.key >= %s AND e.key < %s", (first, behind))
        else:
            yield from self._chosen("e.key <> '' AND e.key >= %s", (first,))

    def life(self, sound: bool = False) -> Iterator[Event]:
        """The few events that say how the job stands (created, opened, phases, ended), found by an index; see `Reader.life`."""
        yield from self._chosen(f"({LIFE.replace('kind', 'e.kind')})", (), sound)

    def _chosen(self, condition: str, bindings: tuple[Any, ...], sound: bool = False) -> Iterator[Event]:
        columns = ", ".join(f"e.{name}" for name in COLUMNS.split(", "))
        query = (
            f"SELECT {columns}, p.checksum FROM swarmloom.events e LEFT JOIN swarmloom.events p"
            f" ON p.job = e.job AND p.seq = e.seq - 1 WHERE e.job = %s AND e.seq > %s AND {condition}"
            f" ORDER BY e.seq LIMIT {_CHUNK}"
        )
        after, more = 0, True
        while more:
            found = self._query(query, (self.job, after, *bindings))
            for *fields, before in found:
                row, previous = _row(fields), START.checksum if fields[0] == 1 else before
                after = row[0]
                if previous is not None and intact(row, previous):
                    yield to_event(row, self.opening, self.where)
                elif not sound:
                    raise self._damaged(after)
            more = len(found) == _CHUNK

    def bodies(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """The bodies named, by hash; see `Reader.bodies`."""
        wanted = list(hashes)
        query = "SELECT hash, bytes FROM swarmloom.bodies WHERE job = %s AND hash = ANY(%s)"
        stored: dict[str, bytes | None] = dict(self._query(query, (self.job, wanted)))
        found: dict[str, bytes] = {}
        for hash in wanted:
            if hash not in stored:
                raise StoreError(f"the body {hash} is missing", self.where, "restore the database from a copy")
            data = stored[hash]
            found[hash] = self._blobs.get(hash) if data is None else verified(hash, data, self.where)
        return found

    def snapshot(self) -> Snapshot | None:
        """The log's snapshot; see `Reader.snapshot`."""
        return self._link.run(lambda connection, _: postgres_snapshots.get(connection, self.job, self.where), self.where)

    def hashes(self) -> Iterator[str]:
        """The hashes of all bodies that are stored, in order."""
        after = ""
        query = f"SELECT hash FROM swarmloom.bodies WHERE job = %s AND hash > %s ORDER BY hash LIMIT {_CHUNK}"
        while found := [hash for (hash,) in self._query(query, (self.job, after))]:
            yield from found
            after = found[-1]

    def lost(self) -> Damage | None:
        """Records that are gone from the end of the log; see `Reader.lost`."""
        query = "SELECT seq, (SELECT max(seq) FROM swarmloom.events WHERE job = number) FROM swarmloom.jobs WHERE number = %s"
        found = self._query(query, (self.job,))
        return gone_between(int(found[0][1] or 0), int(found[0][0]), self.where, self.id) if found else None

    def absent(self, hashes: list[str]) -> list[str]:
        """Those of some hashes whose bodies are not stored."""
        query = """SELECT hash FROM unnest(%s::text[]) AS g(hash)
            WHERE NOT EXISTS (SELECT FROM swarmloom.bodies b WHERE b.job = %s AND b.hash = g.hash)"""
        return [str(hash) for (hash,) in self._query(query, (hashes, self.job))]

    def body(self, hash: str) -> bytes:
        """The body with this hash; see `Reader.bodies`."""
        return self.bodies((hash,))[hash]

    def close(self) -> None:
        """Lets go of the server. A second call does nothing."""
        if not self._shared:
            self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, after: int) -> Iterator[Row]:
        """All records after a number as they are stored, sound or not."""
        while found := self._rows(_EVENTS, (self.job, after, 2**62)):
            yield from found
            after = found[-1][0]

    def opening(self, epoch: int) -> bytes | None:
        """The payload of the JobOpened with which a master of this epoch took the job; None if there is none."""
        query = "SELECT payload FROM swarmloom.events WHERE job = %s AND kind = 'JobOpened' AND epoch = %s"
        found = self._query(query, (self.job, epoch))
        return bytes(found[0][0]) if found else None

    def _checksum_at(self, seq: int) -> int | None:
        if seq <= 0:
            return START.checksum
        query = "SELECT checksum FROM swarmloom.events WHERE job = %s AND seq = %s"
        found = self._query(query, (self.job, seq))
        return int(found[0][0]) if found else None

    def _rows(self, query: str, bindings: tuple[Any, ...]) -> list[Row]:
        return [_row(fields) for fields in self._query(query, bindings)]

    def _query(self, query: str, bindings: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._link.query(query, bindings, self.where)

    def _damaged(self, seq: int) -> DamageError:
        cure = f"`swarm doctor --repair {self.id}{self._link.address.option}` says what can be done"
        return DamageError(f"record {seq} is damaged or missing", self.where, cure)


class PostgresWriter(PostgresReader):
    """The one writer of a job's log.

    It holds the job by a row that it renews by use; the epoch that it raised fences whoever held the job before. In whatever
    way an append fails, the writer refuses all later ones: only opening the log anew and reading it can tell what it says.
    """

    epoch: int
    torn = 0
    """A server mends its own."""

    @classmethod
    def open(cls, address: Address, id: str, blobs: str = "") -> Self:
        """Takes a job and fences earlier writers; makes the schema and the job if they are missing.

        Args:
            address: the database.
            id: the job's id.
            blobs: fsspec URL for large bodies, written into a new job; empty means the database.

        Raises:
            StoreError: the job is in use; its log is damaged (nothing is changed); the server cannot be reached, is too old,
            or holds a newer schema.
        """
        if blobs:
            blobs_at(blobs)  # says what is wrong with it before a job is made
        link = Link(address, writing=True)
        try:
            link.run(lambda connection, _: migrate(connection, str(address)))
            holder = uuid.uuid4().hex
            number, place, epoch = link.run(lambda connection, _: take(connection, address, id, blobs, holder))
            writer = cls(link, id, number, place)
            writer._start(epoch)
        except BaseException:
            link.close()
            raise
        return writer

    def _start(self, epoch: int) -> None:
        self.epoch, self._refusal, self._appending = epoch, "", threading.Lock()
        self.renewed = time.monotonic()
        try:
            self._tip = self._checked_tip()
        except BaseException:
            self.close()
            raise

    def _checked_tip(self) -> Tip:
        last = super().last()
        if damage := self.lost():
            raise damage.error(self._link.address.option)
        after = max(0, last - TAIL)
        tip, checksum = START, self._checksum_at(after)
        for row in self.rows(after):
            if checksum is None or row[0] != after + 1 or not sound(row, checksum, self.opening, self.where):
                raise self._damaged(after + 1)
            after, checksum = row[0], row[8]
            tip = Tip(row[0], row[1], row[8])
        return tip

    def last(self) -> int:
        """The number of the last durable event, 0 for an empty log."""
        return self._tip.seq

    def renew(self) -> None:
        """Renews the hold on the job, if that is due; see `Writer.renew`."""
        if time.monotonic() - self.renewed < RENEW_SECONDS:
            return
        query = f"UPDATE swarmloom.jobs SET expires = {UNTIL} WHERE number = %s AND epoch = %s RETURNING 1"
        if not self._link.query(query, (self.job, self.epoch), self.where):
            self._link.run(lambda connection, _: self._refuse(connection), self.where)
        self.renewed = time.monotonic()

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        """Makes events and bodies durable in one transaction, or ends this writer; see `Writer.append`."""
        with self._or_never_again():
            rows = to_rows(events, self._tip, self.epoch)
            contents = self._contents(bodies)
            sizes = {hash: len(data) for hash, data in bodies.items()}
            try:
                self._link.run(lambda connection, again: self._commit(connection, rows, sizes, contents, again), self.where)
            except StoreError as error:
                if isinstance(error.__cause__, pg.UniqueViolation):
                    raise self._repeated(rows) from error
                raise
            if rows:
                self._tip = Tip(rows[-1][0], rows[-1][1], rows[-1][8])

    def keep(self, snapshot: Snapshot) -> None:
        """Puts a snapshot of the whole log in the place of the one before, or ends this writer; see `Writer.keep`."""
        with self._or_never_again():
            if snapshot.seq != self._tip.seq:
                problem = f"a snapshot of {snapshot.seq} events was to be kept with a log of {self._tip.seq}"
                raise StoreError(problem, self.where, FAULT)
            self._link.run(lambda connection, _: self._keep(connection, snapshot), self.where)

    def _keep(self, connection: Connection, snapshot: Snapshot) -> None:
        with transaction(connection):  # doing it twice does no harm
            self._advance(connection, self._tip.seq, 0)
            postgres_snapshots.put(connection, self.job, snapshot, self._tip)

    @contextmanager
    def _or_never_again(self) -> Iterator[None]:
        """Around everything that writes: whatever goes wrong inside, this writer refuses all that comes after."""
        with self._appending:
            if self._refusal:
                raise StoreError(self._refusal, self.where, "open the job again (`swarm resume`)")
            self._refusal = "this writer has failed before and appends no more"
            yield
            self._refusal, self.renewed = "", time.monotonic()

    def _advance(self, connection: Connection, last: int, size: int) -> None:
        """Locks the job's row, in which this writer's epoch is still the newest, and says where the log will end."""
        query = f"""UPDATE swarmloom.jobs SET seq = %s, bytes = bytes + %s, expires = {UNTIL}
            WHERE number = %s AND epoch = %s AND seq = %s"""
        if connection.execute(query.encode(), (last, size, self.job, self.epoch, self._tip.seq)).rowcount != 1:
            self._refuse(connection)

    def _commit(self, connection: Connection, rows: list[Row], sizes: dict[str, int], contents: list[Any], again: bool) -> None:
        """One transaction. On a further attempt it is first looked up what became of the one before."""
        with transaction(connection):
            # The row is locked until that transaction has ended, if it lives on in the server: then the answer is final.
            if again and self._stands(connection, rows, list(sizes)):
                return
            size = sum([len(row[6]) + len(row[7]) + _RECORD_BYTES for row in rows])
            self._advance(connection, rows[-1][0] if rows else self._tip.seq, size)
            if sizes:
                values = (list(sizes), contents, list(sizes.values()), self.job, self.job)
                connection.execute(_BODIES.encode(), values)
            if rows:
                columns = [list(column) for column in zip(*rows, strict=True)]
                columns[6] = [key.encode() for key in columns[6]]
                connection.execute(_INSERT.encode(), (self.job, *columns))

    def _stands(self, connection: Connection, rows: list[Row], hashes: list[str]) -> bool:
        """Whether a batch is in the log, all of it: a transaction leaves no half."""
        fetch(connection, "SELECT 1 FROM swarmloom.jobs WHERE number = %s FOR UPDATE", (self.job,))
        if rows:
            query = "SELECT 1 FROM swarmloom.events WHERE job = %s AND seq = %s AND epoch = %s AND checksum = %s"
            return bool(fetch(connection, query, (self.job, rows[-1][0], self.epoch, rows[-1][8])))
        query = "SELECT count(*) FROM swarmloom.bodies WHERE job = %s AND hash = ANY(%s)"
        return fetch(connection, query, (self.job, hashes)) == [(len(set(hashes)),)]

    def _refuse(self, connection: Connection) -> None:
        found = fetch(connection, "SELECT epoch, seq FROM swarmloom.jobs WHERE number = %s", (self.job,))
        if not found:
            raise StoreError("this run has been removed", self.where, "nothing was appended")
        epoch, seq = found[0]
        if epoch != self.epoch:
            raise fenced(epoch, self.epoch, self.where)
        raise StoreError(f"the log ends at {seq}, and this writer believes at {self._tip.seq}", self.where, FAULT)

    def _contents(self, bodies: Mapping[str, bytes]) -> list[bytes | None]:
        """What of each body goes into its row; those that are too large are put into the blob store, durably."""
        contents: list[bytes | None] = []
        for hash, data in bodies.items():
            if body_hash(data) != hash:
                raise StoreError(f"a body was named {hash}, which is not its hash", "bodies", FAULT)
            if len(data) > BLOB_BYTES:
                self._blobs.put(hash, data)
            contents.append(None if len(data) > BLOB_BYTES else data)
        return contents

    def _repeated(self, rows: list[Row]) -> StoreError:
        query = "SELECT key, kind FROM swarmloom.events WHERE job = %s AND seq < %s AND key = ANY(%s)"
        keys = [row[6].encode() for row in rows if row[6]]
        found = self._link.query(query, (self.job, rows[0][0], keys), self.where)
        return repeated(rows, {(bytes(key).decode(), kind) for key, kind in found}, self.where)

    def _query(self, query: str, bindings: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        self.renew()  # so that reading a long log does not lose the job
        return super()._query(query, bindings)

    def close(self) -> None:
        """Lets go of the job. A second call does nothing."""
        with self._appending:
            if self._refusal != _CLOSED:
                self._refusal = _CLOSED
                free = "UPDATE swarmloom.jobs SET holder = NULL, expires = clock_timestamp() WHERE number = %s AND epoch = %s"
                self._link.last_words(free, (self.job, self.epoch))


def _row(fields: Sequence[Any]) -> Row:
    seq, at, epoch, cause, kind, version, key, payload, checksum = fields
    return seq, at, epoch, cause, kind, version, bytes(key).decode("utf-8", "replace"), bytes(payload), checksum


def _after_prefix(prefix: bytes) -> bytes:
    """The least bytes greater than all that start with `prefix`; empty if there are none."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes([cut[-1] + 1]) if cut else b""
