"""A PostgreSQL database that holds runs: reaching it, its schema, and what went wrong with it in our own words.

Owns the address (whose password is never shown), the settings of a connection, the migrations, and the translation of
errors. What stands in the tables is the business of the modules beside it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from swarm.errors import SpecError, StoreError
from swarm.names import is_number
from swarm.store.connection import LIFE, no_space

Result = TypeVar("Result")
Connection = psycopg.Connection[tuple[Any, ...]]

OLDEST = 14
"""The oldest PostgreSQL that this is made for."""
PATIENCE_SECONDS = 20.0
"""How long a lost connection is tried anew before its user is told."""
_RETRY_SECONDS = 0.2
_LAST_PORT = 65535
_LOCK_KEY = 0x5357524D
"""Of the advisory lock under which the schema changes."""

MIGRATIONS: tuple[str, ...] = (
    f"""
CREATE TABLE swarmloom.jobs(
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL UNIQUE, blobs text NOT NULL,
    created timestamptz NOT NULL DEFAULT clock_timestamp(), epoch bigint NOT NULL DEFAULT 0, seq bigint NOT NULL DEFAULT 0,
    holder text, host text, pid bigint, since timestamptz, expires timestamptz) WITH (fillfactor = 20);
CREATE TABLE swarmloom.events(
    job bigint NOT NULL, seq bigint NOT NULL, time float8 NOT NULL, epoch bigint NOT NULL, cause bigint NOT NULL,
    kind text NOT NULL, version integer NOT NULL, key bytea NOT NULL, payload bytea NOT NULL, checksum bigint NOT NULL,
    PRIMARY KEY (job, seq));
CREATE UNIQUE INDEX keys ON swarmloom.events(job, key, kind) WHERE key <> '';
CREATE INDEX life ON swarmloom.events(job, seq) WHERE {LIFE};
CREATE TABLE swarmloom.bodies(job bigint NOT NULL, hash text NOT NULL, bytes bytea, PRIMARY KEY (job, hash));
CREATE TABLE swarmloom.blobs(
    job bigint NOT NULL, hash text NOT NULL, part integer NOT NULL, bytes bytea NOT NULL, PRIMARY KEY (job, hash, part));
CREATE TABLE swarmloom.snapshots(
    job bigint PRIMARY KEY, seq bigint NOT NULL, checksum bigint NOT NULL, format text NOT NULL, state bytea NOT NULL,
    parts bytea NOT NULL, digest bytea NOT NULL);
CREATE TABLE swarmloom.parts(job bigint NOT NULL, name text NOT NULL, bytes bytea NOT NULL, PRIMARY KEY (job, name));
CREATE TABLE swarmloom.inbox(
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, job bigint NOT NULL, kind text NOT NULL, text bytea NOT NULL,
    id text NOT NULL UNIQUE);
CREATE INDEX waiting ON swarmloom.inbox(job);
""",
    """
ALTER TABLE swarmloom.jobs ADD COLUMN bytes bigint NOT NULL DEFAULT 0;
UPDATE swarmloom.jobs SET bytes =
    (SELECT coalesce(sum(length(payload) + length(key) + 100), 0) FROM swarmloom.events WHERE job = number)
    + (SELECT coalesce(sum(length(bytes)), 0) FROM swarmloom.bodies WHERE job = number)
    + (SELECT coalesce(sum(length(bytes)), 0) FROM swarmloom.blobs WHERE job = number);
""",
    """
CREATE TABLE swarmloom.latest(single boolean PRIMARY KEY DEFAULT true CHECK (single), job bigint NOT NULL);
INSERT INTO swarmloom.latest(job) SELECT number FROM swarmloom.jobs WHERE left(id, 1) <> '.' ORDER BY number DESC LIMIT 1;
""",
)
"""How the schema came to be what it is, step by step; steps are added and never changed. A key is bytes, because text in
PostgreSQL can hold no NUL and sorts by language. A body whose bytes are NULL lies in the blob store. The one row of `latest`
names the job that was made last also where that is gone."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is, as `postgresql://USER@HOST/DATABASE`. Printing it shows no password.

    Raises:
        SpecError: it cannot be read as one, or part of a password would be taken for a host, a port or a database; where its
            host's name can be none, once it is looked up.
    """

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        self._parts()

    def _parts(self) -> dict[str, Any]:
        try:
            parts = dict(conninfo_to_dict(self.url))
        except (psycopg.ProgrammingError, UnicodeError):  # whose words may contain the password
            raise no_address() from None
        if _misread(self.url, str(parts.get("host") or ""), str(parts.get("port") or "")):
            raise no_address()
        return parts

    def __str__(self) -> str:
        parts = self._parts()
        user, host, port = (str(parts.get(name) or "") for name in ("user", "host", "port"))
        if host.startswith("/"):
            return f"postgresql://{user}@/{parts.get('dbname', '')}?host={host}"
        return f"postgresql://{user}{'@' if user else ''}{host}{':' if port else ''}{port}/{parts.get('dbname', '')}"

    @property
    def option(self) -> str:
        """What a command line needs to be led here: nothing where $SWARM_RUNS does; the URL is never in it."""
        return "" if os.environ.get("SWARM_RUNS") == self.url else " --runs URL"

    def connect(self, writing: bool) -> Connection:
        """A connection in which each statement is a transaction of its own, unless BEGIN says otherwise.

        Raises:
            SpecError: no host can have the name that it gives.
            StoreError: the server cannot be reached, refuses us, or is too old.
        """
        fixed: dict[str, Any] = {"application_name": "swarmloom", "client_encoding": "utf8"}
        slow: dict[str, Any] = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
                                "tcp_user_timeout": 20_000}  # fmt: skip
        given = self._parts()
        with naming(str(self)):
            try:
                connection: Connection = psycopg.connect(
                    make_conninfo(self.url, **fixed, **{name: value for name, value in slow.items() if name not in given}),
                    autocommit=True,
                )
            except UnicodeError:  # a name that no host can have, such as one with an empty part
                raise no_address() from None
        try:
            with naming(str(self)):
                self._prepare(connection, writing)
        except StoreError:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Connection, writing: bool) -> None:
        version = connection.info.server_version // 10000
        if version < OLDEST:
            problem = f"this server is PostgreSQL {version}; {OLDEST} or newer is needed"
            raise StoreError(problem, str(self), "choose another server with --runs")
        connection.execute("SET default_transaction_isolation = 'read committed'")
        connection.execute(f"SET default_transaction_read_only = {'off' if writing else 'on'}")
        if not writing:
            return
        # A transaction whose client is gone must end by itself: until then it keeps the job's row locked.
        connection.execute("SET idle_in_transaction_session_timeout = '10s'")
        connection.execute("SET lock_timeout = '20s'")
        connection.execute("SET synchronous_commit = on")
        fsync = connection.execute("SHOW fsync").fetchone()
        if fsync != ("on",):
            cure = "set fsync = on in its configuration, or choose another server with --runs"
            raise StoreError("this server does not sync its disk, so that nothing in it is safe", str(self), cure)


class Link:
    """One connection, shared by threads and made again when it is lost."""

    def __init__(self, address: Address, writing: bool, patience: float = PATIENCE_SECONDS) -> None:
        """Connects.

        Raises:
            StoreError: the server cannot be reached, refuses us, or is too old.
        """
        self.address, self._writing, self._patience = address, writing, patience
        self._connection = address.connect(writing)
        self._lock, self._closed = threading.RLock(), False

    def run(self, work: Callable[[Connection, bool], Result], where: str = "") -> Result:
        """Does some work on the connection. If it is lost meanwhile, the work is done again on a new one.

        `work` gets the connection, and whether this is a further attempt: what the first one did is then unknown.

        Raises:
            StoreError: what the server said, or that it was lost and did not come back in time.
        """
        where = where or str(self.address)
        with self._lock:
            if self._closed:
                raise StoreError("this log has been closed", where)
            deadline, again = time.monotonic() + self._patience, False
            while True:
                connection = self._connection
                try:
                    if connection.closed and again:
                        connection = self._connection = self.address.connect(self._writing)
                    with naming(where):
                        return work(connection, again)
                except StoreError as error:
                    if not connection.closed or not isinstance(error.__cause__, psycopg.Error):
                        raise
                    if time.monotonic() >= deadline:
                        raise self._lost(error, where) from error
                again = True
                time.sleep(_RETRY_SECONDS)

    def _lost(self, error: StoreError, where: str) -> StoreError:
        problem = f"the connection was lost and could not be made again within {self._patience:g} s ({error.message})"
        return StoreError(problem, where, "what was acknowledged is safe; when the server is back: `swarm resume`")

    def query(self, query: str, bindings: Sequence[Any] = (), where: str = "") -> list[tuple[Any, ...]]:
        """The rows of a statement that may be repeated without harm."""
        return self.run(lambda connection, _: fetch(connection, query, bindings), where)

    def last_words(self, query: str, bindings: Sequence[Any]) -> None:
        """Tries a statement once, whatever comes of it, and closes the connection."""
        with self._lock:
            with suppress(psycopg.Error):
                self._connection.execute(query.encode(), bindings)
            self.close()

    def close(self) -> None:
        """Lets go of the server. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._connection.close()


def fetch(connection: Connection, query: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """The rows of a statement; numbers and bytes come in binary form."""
    cursor = connection.cursor(binary=True)
    cursor.execute(query.encode(), bindings)
    return cursor.fetchall() if cursor.description else []


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """BEGIN before, COMMIT after. On an error inside, all is undone; one of COMMIT itself leaves it unknown what stands."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        if not connection.closed:
            connection.execute("ROLLBACK")
        raise
    if (said := connection.execute("COMMIT").statusmessage) != "COMMIT":
        raise psycopg.InternalError(f"the server answered COMMIT with {said}")


# ---- the schema ----


def schema_of(connection: Connection, where: str) -> int:
    """The version of our schema in a database; 0 if it has none.

    Raises:
        StoreError: another program has a schema of that name.
    """
    ((ours, other),) = fetch(
        connection,
        "SELECT to_regclass('swarmloom.migrations') IS NOT NULL, EXISTS (SELECT FROM pg_namespace WHERE nspname = 'swarmloom')",
    )
    if not ours and not other:
        return 0
    try:
        ((version,),) = fetch(connection, "SELECT max(version) FROM swarmloom.migrations WHERE program = 'swarmloom'")
    except (pg.UndefinedTable, pg.UndefinedColumn, pg.InvalidSchemaName):
        version = None
    if version is None:
        problem = "another program has a schema called `swarmloom` in this database"
        raise StoreError(problem, where, "choose another database with --runs")
    return int(version)


def check_schema(connection: Connection, where: str, newest: int = len(MIGRATIONS)) -> int:
    """The version of the schema, which this software can read; 0 if there is none.

    Raises:
        StoreError: it is newer, or another program's.
    """
    found = schema_of(connection, where)
    if found > newest:
        problem = f"this database has schema {found}; this software reads schemas up to {newest}"
        raise StoreError(problem, where, "use the swarmloom that wrote it, or a newer one")
    return found


def migrate(connection: Connection, where: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Brings the schema to this software's version, or makes it. One process at a time; the others wait.

    Raises:
        StoreError: it is newer, another program's, or we may not change it.
    """
    if check_schema(connection, where, len(migrations)) == len(migrations):
        return
    with transaction(connection):
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        found = check_schema(connection, where, len(migrations))
        if not found:
            connection.execute("CREATE SCHEMA swarmloom")
            connection.execute(
                "CREATE TABLE swarmloom.migrations(version integer PRIMARY KEY, program text NOT NULL,"
                " at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
        for version, statements in enumerate(migrations[found:], found + 1):
            connection.execute(statements.encode())
            connection.execute("INSERT INTO swarmloom.migrations(version, program) VALUES (%s, 'swarmloom')", (version,))


# ---- errors ----


def no_address() -> SpecError:
    """The error for what is no URL of a database; it repeats nothing of it, for a password may stand anywhere in it."""
    cure = "write postgresql://USER@HOST:PORT/DATABASE, and %40 for an @ and %2F for a / inside a name or password"
    return SpecError("this is no address of a database", "--runs", cure)


def _misread(url: str, hosts: str, ports: str) -> bool:
    """Whether what libpq takes for hosts, ports or a database may be part of a password, whose first @ or / ended it."""
    path = url.partition("://")[2].partition("?")[0].partition("/")[2]
    named = any("@" in host[1:] and not host.startswith("/") for host in hosts.split(","))
    numbered = all(not port.strip() or (is_number(port.strip()) and int(port) <= _LAST_PORT) for port in ports.split(","))
    return "@" in path or named or not numbered


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Turns errors of PostgreSQL and of a blob store into StoreErrors that name `where` and the cure."""
    try:
        yield
    except pg.DiskFull as error:
        raise no_space(where) from error
    except pg.InsufficientPrivilege as error:
        cure = "let its owner grant you CREATE on the database, or choose another with --runs"
        raise StoreError(f"the database refuses: {_first_line(error)}", where, cure) from error
    except psycopg.OperationalError as error:
        raise StoreError(f"the database does not answer: {_first_line(error)}", where, _cure(str(error))) from error
    except psycopg.Error as error:
        raise StoreError(f"the database refuses: {_first_line(error)}", where, "see the server's log") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(where) from error
        raise StoreError(f"input/output error: {error.strerror or error}", where, "check the place of large bodies") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return " ".join(text[0].split()) if text else type(error).__name__


def _cure(text: str) -> str:
    if "password" in text or "authentication" in text:
        return "check the user and the password: PGPASSWORD, ~/.pgpass, or a service file"
    if "does not exist" in text and 'role "' in text:
        return "name another user with --runs, or create this one (createuser NAME)"
    if "does not exist" in text:
        return "create it (createdb NAME), or name another with --runs"
    return "check that the server runs and that --runs names it"
