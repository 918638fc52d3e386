"""The bodies in the SQLite file of a log: their table, what goes into it, and how one is found by its hash.

Owns the tables `bodies` and `names` in all schemas that this software reads. What a body means, and the files of large ones,
are the business of others; a body whose bytes are NULL lies in the blob store.

A hash is a random key, so an index that follows each append changes a page for every body, the more of them the longer the
log: at a million bodies (600 bytes, 256 a transaction) one took twice the CPU time of the first ones, and four times the
writes of one that is named in bulk. So bodies are only appended, and they are named later: those whose hashes lie in one part of
all hashes together, in the order of the index, where neighbours share a page. Until then a reader finds them by a table in
memory, which it makes from the end of the log.
"""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import apsw

BodyRow = tuple[str, bytes | None]
"""A body as it lies in the table: its hash and its bytes, None for one in the blob store. Either may be of any type where a page
is damaged: `verified` tells."""

SCHEMAS = (1, 2)
"""Versions of a log's schema that are read and continued, each as it is; new logs have the last."""

TABLES = """
CREATE TABLE bodies(id INTEGER PRIMARY KEY, hash TEXT NOT NULL, bytes BLOB) STRICT;
CREATE TABLE names(front INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY(front, id)) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('named', 0);
"""
# `front` is the first half of a hash, as a signed integer. `names` holds all bodies up to `named`, and those of each part of the
# hashes up to the number that stands for it in `parts`, once there is such a row.

BULK, SHARE = 4096, 16
"""Bodies are named as long as more than BULK of them wait, or one for every SHARE that have a name, whichever is more. The pages
of `names` are in proportion to its rows, and a SHARE-th as many names write each page about once: so the cost for one body stays
within a bound, however long the log is."""
PARTS = 16
"""The hashes are named in so many parts, one after the other and round again: so the commits share that cost as well."""
RECENT = 1024
"""The bodies that were appended last, so many at least, are known by their whole hashes: what comes again is not stored twice."""

_NAMED = "ifnull((SELECT value FROM meta WHERE name = 'named'), 0)"


class Bodies(Protocol):
    """What is asked of the table, whatever the log's schema. Statements go to the connection that is given with each call."""

    def find(self, connection: apsw.Connection, hashes: Iterable[str]) -> dict[str, bytes | None]:
        """Those of the bodies named that are durable, by hash."""
        ...

    def add(self, connection: apsw.Connection, rows: Sequence[BodyRow]) -> None:
        """Inserts bodies inside the caller's transaction. `committed` is to follow, or no other `add`."""
        ...

    def committed(self) -> None:
        """What was added is durable."""
        ...

    def unnamed(self, connection: apsw.Connection) -> int:
        """How many bodies ought to be found by their hashes, and are not."""
        ...

    def astray(self, connection: apsw.Connection) -> int:
        """How many names lead to no body, where all bodies have theirs."""
        ...

    def rename(self, connection: apsw.Connection) -> None:
        """Makes all names anew from the bodies, inside the caller's transaction."""
        ...


def bodies_of(connection: apsw.Connection, bulk: int = BULK, names: bool = True) -> Bodies:
    """The table of the log that a connection is open on. `bulk` is how many bodies a new log names at a time. Without `names`
    it finds bodies also where their names are damaged, by a table in memory of them all."""
    return NamedBodies(bulk, names) if connection.pragma("user_version") != 1 else IndexedBodies()


def every(connection: apsw.Connection) -> Iterable[BodyRow]:
    """All bodies; a hash may come twice."""
    found: Iterable[Any] = connection.execute("SELECT hash, bytes FROM bodies")
    return found


def outside(connection: apsw.Connection) -> set[str]:
    """The hashes of those that lie in the blob store."""
    return {str(hash) for (hash,) in connection.execute("SELECT hash FROM bodies WHERE bytes IS NULL")}


class IndexedBodies:
    """Schema 1: an index by hash, which SQLite keeps."""

    def find(self, connection: apsw.Connection, hashes: Iterable[str]) -> dict[str, bytes | None]:
        query = "SELECT hash, bytes FROM bodies WHERE hash IN (SELECT value FROM json_each(?))"
        return _rows(connection, query, list(hashes))

    def add(self, connection: apsw.Connection, rows: Sequence[BodyRow]) -> None:
        connection.executemany("INSERT INTO bodies VALUES (?, ?) ON CONFLICT DO NOTHING", rows)

    def committed(self) -> None:
        pass

    def unnamed(self, connection: apsw.Connection) -> int:
        return 0

    def astray(self, connection: apsw.Connection) -> int:
        return 0

    def rename(self, connection: apsw.Connection) -> None:
        pass


class NamedBodies:
    """Schema 2: bodies in the order in which they came, and names that follow in bulk.

    Ids only grow, and a body that has one keeps it. All bodies up to id `named` have names, and of the others some. `_tail` has
    these others by the whole hash as a number, up to id `_last`, once one of them was looked for in vain. A body that is appended
    again soon is left alone; an older one is stored once more, which does no harm, as the same hash has the same bytes and
    reading takes any of them.

    Threads may share it: a reader's, or a writer's that appends on one connection while others read on another.
    """

    def __init__(self, bulk: int = BULK, names: bool = True) -> None:
        self._bulk, self._names, self._changing = bulk, names, threading.Lock()
        self._tail: dict[int, int] = {}
        self._named = self._last = -1  # nothing is known yet
        self._naming: Naming | None = None

    def find(self, connection: apsw.Connection, hashes: Iterable[str]) -> dict[str, bytes | None]:
        wanted = {hash: _key(hash) for hash in hashes}
        found = self._look(connection, wanted)
        if len(found) < len(wanted):
            # Perhaps it came later, or was named since. One view of the log, so that a writer can move nothing between the two.
            with self._changing, connection:
                self._follow(connection)
                found = self._look(connection, wanted)
        return found

    def _look(self, connection: apsw.Connection, wanted: Mapping[str, int]) -> dict[str, bytes | None]:
        """Looks among the bodies whose ids are known, and then among the names."""
        ids = [self._id(key) for key in wanted.values()]
        query = "SELECT hash, bytes FROM bodies WHERE id IN (SELECT value FROM json_each(?))"
        found = _rows(connection, query, [id for id in ids if id])
        query = "SELECT hash, bytes FROM names CROSS JOIN bodies USING (id) WHERE front IN (SELECT value FROM json_each(?))"
        found |= _rows(connection, query, [_front(key) for hash, key in wanted.items() if hash not in found])
        return {hash: found[hash] for hash in wanted if hash in found}  # fronts may be those of others

    def _id(self, key: int) -> int:
        """The id of a body as far as it is known, or 0."""
        return (self._naming.recent(key) if self._naming else 0) or self._tail.get(key, 0)

    def _follow(self, connection: apsw.Connection) -> None:
        """Brings the tail to what is durable."""
        named = _named(connection) if self._names else 0
        if named != self._named:
            self._tail, self._named, self._last = {}, named, named
        # As bytes: a hash in which a bit was flipped may be no text, and must not hide the other bodies.
        later: Any = connection.execute("SELECT id, CAST(hash AS BLOB) FROM bodies WHERE id > ? ORDER BY id", (self._last,))
        for id, hash in later:
            self._tail[_key(hash)] = self._last = id

    def add(self, connection: apsw.Connection, rows: Sequence[BodyRow]) -> None:
        with self._changing:
            naming = self._naming = self._naming or Naming(connection, self._bulk)
            connection.executemany("INSERT INTO bodies VALUES (?, ?, ?)", naming.numbered(rows))
            naming.name(connection)

    def committed(self) -> None:
        with self._changing:
            if self._naming is not None:
                self._naming.committed()

    def unnamed(self, connection: apsw.Connection) -> int:
        _teach(connection)
        named = "SELECT 1 FROM names WHERE front = front_of(hash) AND names.id = bodies.id"
        lacking: Any = connection.execute(f"SELECT count(*) FROM bodies WHERE id <= {_NAMED} AND NOT EXISTS ({named})").get
        return int(lacking)

    def astray(self, connection: apsw.Connection) -> int:
        _teach(connection)
        theirs = "SELECT 1 FROM bodies WHERE bodies.id = names.id AND front_of(hash) = front"
        later = f"SELECT count(*) FROM names WHERE id > {_NAMED} AND NOT EXISTS ({theirs})"
        bound = f"WHERE id <= {_NAMED}"  # counted only: to look for each body would take seconds where there are millions
        query = f"SELECT (SELECT count(*) FROM names {bound}) - (SELECT count(*) FROM bodies {bound}) + ({later})"
        more: Any = connection.execute(query).get
        return int(more)

    def rename(self, connection: apsw.Connection) -> None:
        _teach(connection)
        connection.execute("DELETE FROM names")
        connection.execute("INSERT INTO names SELECT front_of(hash), id FROM bodies ORDER BY 1, 2")  # SQLite sorts on the disk
        connection.execute("INSERT OR REPLACE INTO meta SELECT 'named', ifnull(max(id), 0) FROM bodies")


class Naming:
    """What a writer knows of the bodies that it appends: their ids, and which of them wait for their names.

    What an `add` brings counts once it is `committed`. Whenever too many wait, the part of the hashes is named whose turn is the
    longest ago. How far each part has come is in the log, so that a writer goes on where the last one stopped.
    """

    def __init__(self, connection: apsw.Connection, bulk: int) -> None:
        self._bulk = bulk
        self._upto = _upto(connection)
        """For each part of the hashes, up to which id its bodies have their names."""
        self._naming = self._upto
        """The same with what this transaction names."""
        self._parts = [array("q") for _ in range(PARTS)]
        """For each part of the hashes, the front and the id of each body that waits."""
        self._waiting = 0
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._fresh: dict[int, int] = {}
        # As bytes: a hash in which a bit was flipped may be no text.
        query = "SELECT id, CAST(hash AS BLOB) FROM bodies WHERE id > ? ORDER BY id"
        later: Any = connection.execute(query, (min(self._upto),))
        for id, hash in later:
            self._enter(_key(hash), id)
        last: Any = connection.execute("SELECT max(id) FROM bodies").get
        self._last: int = max(last or 0, *self._upto)

    def recent(self, key: int) -> int:
        """The id of a body that was appended lately, or 0."""
        return self._young.get(key) or self._old.get(key, 0)

    def numbered(self, rows: Sequence[BodyRow]) -> list[tuple[int, str, bytes | None]]:
        """The rows of those bodies that are not there yet, each with its id."""
        fresh: dict[int, int] = {}
        new: list[tuple[int, str, bytes | None]] = []
        for hash, data in rows:
            if not self.recent(key := _key(hash)):
                fresh[key] = id = self._last + 1 + len(new)
                new.append((id, hash, data))
        self._fresh = fresh
        return new

    def name(self, connection: apsw.Connection) -> None:
        """Names parts of those that wait, inside the caller's transaction, until few enough of them do."""
        waiting, upto = self._waiting, list(self._upto)
        while waiting > max(self._bulk, min(upto) // SHARE):
            at = upto.index(min(upto))
            part, upto[at] = self._parts[at], self._last
            connection.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", sorted(zip(part[::2], part[1::2], strict=True)))
            waiting -= len(part) // 2
        if upto != self._upto:
            rows = [("named", min(upto)), ("parts", " ".join(map(str, upto)))]
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            self._naming = upto

    def committed(self) -> None:
        """What was added and named is durable."""
        for at in range(PARTS):
            if self._naming[at] != self._upto[at]:
                self._waiting -= len(self._parts[at]) // 2
                self._parts[at] = array("q")
        self._upto = self._naming
        for key, id in self._fresh.items():
            self._enter(key, id)
            self._last = id
        self._fresh = {}

    def _enter(self, key: int, id: int) -> None:
        if len(self._young) >= RECENT:
            self._old, self._young = self._young, {}
        self._young[key] = id
        front = _front(key)
        at = front >> 60 & PARTS - 1
        if id > self._upto[at]:
            self._parts[at].extend((front, id))
            self._waiting += 1


def _named(connection: apsw.Connection) -> int:
    """The last body of those that all have names; 0 where a damaged page has something else in its place."""
    value: Any = connection.execute(f"SELECT {_NAMED}").get
    return value if isinstance(value, int) else 0


def _upto(connection: apsw.Connection) -> list[int]:
    """For each part of the hashes, up to which id its bodies have their names."""
    named = _named(connection)
    found: Any = connection.execute("SELECT value FROM meta WHERE name = 'parts'").get
    try:
        upto = [max(named, int(one)) for one in str(found or "").split()]
    except ValueError:  # a damaged page: what is named again does no harm
        upto = []
    return upto if len(upto) == PARTS else [named] * PARTS


def _rows(connection: apsw.Connection, query: str, wanted: Sequence[str | int]) -> dict[str, bytes | None]:
    # One statement for all: each one begins and ends a transaction of its own, which costs more than a look-up.
    found: Iterable[Any] = connection.execute(query, (json.dumps(wanted),)).fetchall() if wanted else ()
    return dict(found)


def _key(hash: Any) -> int:
    """A hash as a number. What is none of ours has one too, of whatever type where a page is damaged: what is found by it is
    compared with the hash itself."""
    try:
        return int(hash, 16)
    except (TypeError, ValueError):
        return 0


def _front(key: int) -> int:
    """The first half of a hash, as SQLite keeps integers."""
    front = key >> 64 & (1 << 64) - 1
    return front - (1 << 64) if front >> 63 else front


def _teach(connection: apsw.Connection) -> None:
    def front_of(*hash: Any) -> int:
        return _front(_key(hash[0]))

    connection.create_scalar_function("front_of", front_of, 1, deterministic=True)
