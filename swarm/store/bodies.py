"""The bodies in the SQLite file of a log: their table, what goes into it, and how one is found by its hash.

Owns the tables `bodies` and `names` in all schemas that this software reads. What a body means, and the files of large ones,
are the business of others; a body whose bytes are NULL lies in the blob store.

A hash is a random key, so an index that follows each append changes a page for every body, the more of them the longer the
log: at a million bodies (600 bytes, 256 a transaction) one took twice the CPU time of the first ones, and four times the
writes of one that is named in bulk. So bodies are only appended, and they are named later, many at a time and in the order of
the index, where neighbours share a page. Until then they are found by a table in memory, which any reader makes from the end
of the log.
"""

from __future__ import annotations

import json
import threading
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
# `front` is the first half of a hash, as a signed integer; `named` is the last body that `names` holds.

BULK, SHARE = 4096, 32
"""Bodies are named once BULK of them wait, or one for every SHARE that have a name, whichever is more. The pages of `names` are
in proportion to its rows, and naming a SHARE-th as many writes each page about once: so the cost for one body stays within a
bound, however long the log is. That of the commit in which it is done does not: above SHARE * BULK bodies it grows with the
log, and at a million it names 31,000 and takes some 100 ms."""

_NAMED = "(SELECT value FROM meta WHERE name = 'named')"


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

    Ids only grow, and a body that has one keeps it. The bodies with id > `named` are the tail: `_tail` holds them, by the
    whole hash as a number, up to id `_last`. A body that is appended again while it is in the tail is left alone; an older one
    is stored once more, which does no harm, as the same hash has the same bytes and reading takes any of them.

    Threads may share it: a reader's, or a writer's that appends on one connection while others read on another.
    """

    def __init__(self, bulk: int = BULK, names: bool = True) -> None:
        self._bulk, self._names, self._changing = bulk, names, threading.Lock()
        self._tail: dict[int, int] = {}
        self._named = self._last = -1  # nothing is known yet
        self._fresh: dict[int, int] = {}
        """What was added and is not known to be durable."""
        self._filled = 0
        """The last id that was named with it, 0 if none was."""

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
        """Looks in the tail as far as it is known, then among the names: what leaves the tail is named by then."""
        tail = self._tail
        query = "SELECT hash, bytes FROM bodies WHERE id IN (SELECT value FROM json_each(?))"
        found = _rows(connection, query, [tail[key] for key in wanted.values() if key in tail])
        query = "SELECT hash, bytes FROM names CROSS JOIN bodies USING (id) WHERE front IN (SELECT value FROM json_each(?))"
        found |= _rows(connection, query, [_front(key) for hash, key in wanted.items() if hash not in found])
        return {hash: found[hash] for hash in wanted if hash in found}  # fronts may be those of others

    def _follow(self, connection: apsw.Connection) -> None:
        """Brings the tail to what is durable."""
        value: Any = connection.execute(f"SELECT {_NAMED}").get if self._names else 0
        named = value if isinstance(value, int) else 0
        if named != self._named:
            self._tail, self._named, self._last = {}, named, named
        # As bytes: a hash in which a bit was flipped may be no text, and must not hide the other bodies.
        later: Any = connection.execute("SELECT id, CAST(hash AS BLOB) FROM bodies WHERE id > ? ORDER BY id", (self._last,))
        for id, hash in later:
            self._tail[_key(hash)] = self._last = id

    def add(self, connection: apsw.Connection, rows: Sequence[BodyRow]) -> None:
        with self._changing:
            if self._last < 0:
                self._follow(connection)
            keys = {hash: key for hash, _ in rows if (key := _key(hash)) not in self._tail}
            ids = dict(zip(keys, range(self._last + 1, self._last + 1 + len(keys)), strict=True))
            fresh = [(ids.pop(hash), hash, data) for hash, data in rows if hash in ids]
            connection.executemany("INSERT INTO bodies VALUES (?, ?, ?)", fresh)
            self._fresh = {keys[hash]: id for id, hash, _ in fresh}
            if len(self._tail) + len(fresh) >= max(self._bulk, self._named // SHARE):
                self._filled = self._last + len(fresh)
                self._name(connection, self._filled)

    def _name(self, connection: apsw.Connection, last: int) -> None:
        rows = sorted((_front(key), id) for part in (self._tail, self._fresh) for key, id in part.items())
        connection.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", rows)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('named', ?)", (last,))

    def committed(self) -> None:
        with self._changing:
            if self._filled:
                self._tail, self._named, self._last = {}, self._filled, self._filled
            elif self._fresh:
                self._tail.update(self._fresh)
                self._last = max(self._last, max(self._fresh.values()))
            self._fresh, self._filled = {}, 0

    def unnamed(self, connection: apsw.Connection) -> int:
        _teach(connection)
        named = "SELECT 1 FROM names WHERE front = front_of(hash) AND names.id = bodies.id"
        lacking: Any = connection.execute(f"SELECT count(*) FROM bodies WHERE id <= {_NAMED} AND NOT EXISTS ({named})").get
        return int(lacking)

    def astray(self, connection: apsw.Connection) -> int:
        query = f"SELECT (SELECT count(*) FROM names) - (SELECT count(*) FROM bodies WHERE id <= {_NAMED})"
        more: Any = connection.execute(query).get
        return int(more)

    def rename(self, connection: apsw.Connection) -> None:
        _teach(connection)
        connection.execute("DELETE FROM names")
        connection.execute("INSERT INTO names SELECT front_of(hash), id FROM bodies ORDER BY 1, 2")  # SQLite sorts on the disk
        connection.execute("INSERT OR REPLACE INTO meta SELECT 'named', ifnull(max(id), 0) FROM bodies")


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
