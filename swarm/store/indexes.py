"""Damage that is in nothing but what SQLite keeps beside the tables of a log, and a log made anew from its tables.

Owns the question whether the pages of the tables are sound, and the copying of their rows. Whether the rows are what was
written, the checksums say. What can be made from events and bodies (indexes, names, list of free pages) is left behind, and so
is a snapshot, which no job needs.
"""

from __future__ import annotations

import re

import apsw

from swarm.errors import NoSpaceError
from swarm.store.bodies import bodies_of

_TABLES = ("meta", "events", "bodies")
_SCHEMA = f"SELECT sql FROM sqlite_schema WHERE sql != '' AND name IN {(*_TABLES, 'names', 'keys', 'life')} ORDER BY type DESC"
_MOST = 1_000_000
"""Faults of pages that are looked at: more are as bad as one in a table."""


def tables_sound(connection: apsw.Connection) -> bool:
    """Whether every page in which SQLite finds a fault belongs to none of the tables. That all rows can be read is not enough:
    a page that has lost its last row is read without a complaint, and no checksum is missing at the end of a log."""
    pages = {str(page) for (page,) in connection.execute("SELECT pageno FROM dbstat WHERE name IN (?, ?, ?)", _TABLES)}
    (found,) = next(connection.execute(f"PRAGMA integrity_check({_MOST})"))  # pages come first, all at once
    faults = str(found).splitlines()[1:]
    return len(faults) < _MOST and all(_elsewhere(fault, pages) for fault in faults)


def _elsewhere(fault: str, pages: set[str]) -> bool:
    named = re.findall(r"\bpage (\d+)", fault, re.IGNORECASE)
    return pages.isdisjoint(named) if named else fault.startswith("Freelist:")


def anew(connection: apsw.Connection) -> apsw.Connection:
    """The log that the tables amount to, in a file without a name that goes with its connection. It lies in SQLite's temporary
    folder: a mere look must not need the right to write beside the log.

    Raises:
        NoSpaceError: that folder is full.
        apsw.Error: a table cannot be read, or holds what cannot stand in it.
    """
    copy = apsw.Connection("")
    try:
        copy.execute("PRAGMA synchronous = OFF; BEGIN")
        for (statement,) in connection.execute(_SCHEMA):
            copy.execute(str(statement))
        for table in _TABLES:
            rows = connection.execute(f"SELECT * FROM {table} NOT INDEXED")
            marks = ", ".join("?" * len(rows.get_description()))
            copy.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        for pragma in ("application_id", "user_version"):
            copy.pragma(pragma, connection.pragma(pragma))
        bodies_of(copy).rename(copy)
        copy.execute("COMMIT")
    except BaseException as error:
        copy.close()
        if isinstance(error, apsw.FullError):
            problem = "SQLite's temporary folder has no room for a copy of this log, made to see whether anything is lost"
            cure = "free some space there (SQLITE_TMPDIR, TMPDIR, /var/tmp or /tmp), or name another folder in SQLITE_TMPDIR"
            raise NoSpaceError(problem, connection.filename, cure) from error
        raise
    return copy
