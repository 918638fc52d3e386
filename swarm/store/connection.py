"""Opening the SQLite file of a log, and saying what went wrong with it in our own words.

Owns the schema, the settings of a connection, the checks that a file is ours and readable by this version,
and the translation of SQLite's errors. What stands in the tables is the business of the modules beside it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import apsw

from swarm.errors import DamageError, NoSpaceError, StoreError
from swarm.store import bodies, wal
from swarm.store.blobs import sync_folder
from swarm.store.lock import holder
from swarm.store.mark import MARK

APPLICATION = 0x5357524D
"""SQLite's application id of our logs: `SWRM`."""
SCHEMA = bodies.SCHEMAS[-1]
LIBRARY = (3, 51, 3)
"""Older ones have a race that can corrupt a write-ahead log: https://sqlite.org/wal.html#walresetbug"""
HEADER_BYTES = 100
"""The header of an SQLite file: one that is shorter holds nothing."""

LIFE = " OR ".join(f"kind = '{kind}'" for kind in ("JobCreated", "JobOpened", "PhaseChanged", "JobEnded"))
"""The few kinds that say how a job stands; indexed, so that a list of runs reads no log. Not written with IN: SQLite would
build a table of the four names for every row that is inserted."""

_TABLES = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA};
CREATE TABLE meta(name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;
CREATE TABLE events(
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, epoch INTEGER NOT NULL, cause INTEGER NOT NULL,
    kind TEXT NOT NULL, version INTEGER NOT NULL, key TEXT NOT NULL, payload BLOB NOT NULL,
    checksum INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX keys ON events(key, kind) WHERE key != '';
CREATE INDEX life ON events(kind) WHERE {LIFE};
{bodies.TABLES}"""

# The cache of pages stays at SQLite's 2 MB: with 32 MB a step costs a tenth more once it is full. A log is written and hardly
# read, and pages that are kept push what the master works with out of the processor's own caches.

_OURS = f"schemas {' and '.join(map(str, bodies.SCHEMAS))}"
_COPY = "copy the run's folder to where you may write, and name that place with --runs"
BUSY_MS = 10_000
"""How long a connection waits for others."""
_CHECKPOINT_PAGES = 4000


def check_library(version: str) -> None:
    """Refuses an SQLite that could damage a log.

    Raises:
        StoreError: it is older than LIBRARY.
    """
    if tuple(int(part) for part in version.split(".")) < LIBRARY:
        need = ".".join(map(str, LIBRARY))
        problem = f"SQLite {version} can corrupt a log; {need} or newer is needed"
        raise StoreError(problem, "apsw", f"pip install 'apsw>={need}'")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns errors of SQLite and the file system into StoreErrors that name `path` and the cure."""
    where = str(path)
    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError, UnicodeDecodeError) as error:
        raise DamageError(
            f"this file is damaged ({error})",
            where,
            f"restore the run folder from a copy; `swarm doctor --repair {path.parent.name}` says if less will do",
        ) from error
    except apsw.FullError as error:
        raise no_space(where) from error
    except apsw.BusyError as error:
        cure = "close that program and resume the job"
        raise StoreError("another program keeps this file locked", where, cure) from error
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError) as error:
        cure = "check the folder's permissions"
        raise StoreError(f"this file cannot be opened ({error})", where, cure) from error
    except apsw.IOError as error:
        raise (no_space(where) if _is_full(path) else _broken(where, str(error))) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(where) from error
        there, reason = str(error.filename2 or error.filename or where), error.strerror or str(error)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            cure = "check the folder's permissions, or name one where you may write with --runs; a run can be copied there"
            raise StoreError(f"access is refused: {reason}", there, cure) from error
        raise _broken(there, reason) from error
    except apsw.Error as error:
        raise StoreError(f"SQLite refused: {error}", where, "see `swarm doctor`") from error


def no_space(where: str) -> NoSpaceError:
    """The error for a full disk or a used-up quota."""
    cure = "free some space and resume the job, or choose another folder with --runs"
    return NoSpaceError("no space left on the device", where, cure)


def _broken(where: str, reason: str) -> StoreError:
    cure = "check the disk and the folder's permissions, then resume the job"
    return StoreError(f"input/output error: {reason}", where, cure)


def _is_full(path: Path) -> bool:
    """SQLite reports a full disk as a bare I/O error if its shared memory file could not grow by 32 KiB."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize < 64 * 1024


def create(path: Path, blobs: str) -> None:
    """Makes an empty log at `path`: it appears whole, or not at all.

    Raises:
        StoreError: no space, or the folder cannot be written.
    """
    draft = path.with_name(path.name + ".new")
    with naming(path):
        _unlink(draft)
        try:
            with closing(apsw.Connection(str(draft))) as connection:
                connection.execute("PRAGMA synchronous = FULL; BEGIN IMMEDIATE;" + _TABLES).fetchall()
                connection.execute("INSERT INTO meta VALUES ('epoch', 0), ('blobs', ?)", (blobs,))
                connection.execute("COMMIT; PRAGMA journal_mode = WAL").fetchall()
            path.with_name(MARK).unlink(missing_ok=True)  # of a log that was there before
            os.rename(draft, path)
            sync_folder(path.parent)
        finally:
            _unlink(draft)


def _unlink(draft: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def open_writing(path: Path) -> apsw.Connection:
    """A connection that may write; each commit is on the disk when it returns.

    Raises:
        StoreError: the file is missing, damaged, not ours, or newer.
    """
    connection = _open(path, apsw.SQLITE_OPEN_READWRITE, _check_ours)
    with naming(path):
        connection.execute(
            f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}"
        ).fetchall()
    return connection


def open_reading(path: Path) -> apsw.Connection:
    """A connection that can only read.

    Raises:
        StoreError: the file is missing, damaged, not ours, or newer.
    """
    return _open(path, apsw.SQLITE_OPEN_READONLY, _check_ours)


def check_removable(path: Path) -> None:
    """Refuses to have what lies at a log's place removed, unless it is ours: one that is damaged or newer is.

    Raises:
        StoreError: it is another program's, or cannot be opened so that nobody knows.
    """
    with suppress(DamageError):
        _open(path, apsw.SQLITE_OPEN_READONLY, _check_application).close()


def _open(path: Path, flags: int, check: Callable[[apsw.Connection, Path], None]) -> apsw.Connection:
    check_library(apsw.sqlite_lib_version())
    with naming(path):
        if path.is_symlink() and not path.exists():
            cure = "bring that file back, or restore the run folder from a copy"
            raise StoreError(f"this log is a link to {os.readlink(path)}, which is not there", str(path), cure)
        if not path.exists():
            cure = "`swarm list` shows the runs there are; what never began, `swarm rm` removes; a log in a database needs --runs"
            raise StoreError("there is no log here", str(path), cure)
        if path.is_dir():
            raise StoreError("a folder lies where the log should be", str(path), "choose another folder with --runs")
        if (size := path.stat().st_size) < HEADER_BYTES:  # SQLite takes a single byte for an empty database
            problem = f"this is no log: it holds only {size} bytes" if size else "this log is empty: it was cut off"
            raise DamageError(problem, str(path), "restore the run folder from a copy, or start the job anew")
        name = str(path)
        if flags & apsw.SQLITE_OPEN_READONLY and _is_archive(path):
            name, flags = f"{path.absolute().as_uri()}?immutable=1", flags | apsw.SQLITE_OPEN_URI
        with ExitStack() as undo:
            connection = apsw.Connection(name, flags=flags)
            undo.callback(connection.close)
            connection.set_busy_timeout(BUSY_MS)
            connection.execute("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON").fetchall()
            check(connection, path)
            undo.pop_all()
    return connection


def _is_archive(path: Path) -> bool:
    """Whether a log lies where nobody may write beside it, and is all in its one file; SQLite needs to be told so. Where there
    is a write-ahead log with its index, SQLite reads both as they are, whether or not a writer is at work.

    Raises:
        StoreError: SQLite would have to make the index.
    """
    pending, index = wal.of(path), path.with_name(path.name + "-shm")
    if os.access(path.parent, os.W_OK) or (pending.exists() and index.exists()):
        return False
    if pending.exists() and pending.stat().st_size:
        problem = f"its newest records are in {pending.name}, which can only be read where one may write"
        raise StoreError(problem, str(path), _COPY)
    if (writer := holder(path.parent / "lock")) is not None:  # an archive's reader sees none of what is written meanwhile
        raise StoreError(f"{writer} begins to work on it, and here one may only read", str(path), "try again in a moment")
    return True


def _check_application(connection: apsw.Connection, path: Path) -> None:
    application, schema = connection.pragma("application_id"), connection.pragma("user_version")
    if application != APPLICATION:
        raise StoreError(
            f"this is another program's database (application id {application:#x}, schema {schema}; "
            f"a swarmloom log has {APPLICATION:#x}, {_OURS})",
            str(path),
            "choose another folder with --runs",
        )


def _check_ours(connection: apsw.Connection, path: Path) -> None:
    _check_application(connection, path)
    schema = connection.pragma("user_version")
    if schema not in bodies.SCHEMAS:
        problem = f"this log has schema {schema}; this software reads {_OURS}"
        raise StoreError(problem, str(path), "use the swarmloom that wrote it")
