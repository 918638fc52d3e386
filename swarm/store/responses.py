"""Answers on record: what a model said to a request, for whoever makes the same request again.

Owns one SQLite file beside the runs, which any number of processes read and write. It holds nothing that a job depends on:
whoever deletes it loses money, not results. What a request is, and which may be answered from here, the caller says.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import apsw

from swarm.errors import DamageError, StoreError
from swarm.events import body_hash
from swarm.store.connection import check_library, naming

FILE = "responses.sqlite"
APPLICATION = 0x53575243
"""SQLite's application id of these files: `SWRC`. Those of earlier versions have none."""
BUSY_MS = 5_000


class Responses:
    """The answers on record in a folder, made if there are none.

    A file that is damaged is put aside, as FILE.damaged, and another one begun.

    Raises (when made):
        StoreError: the file cannot be opened, or is another program's.
    """

    def __init__(self, folder: Path) -> None:
        check_library(apsw.sqlite_lib_version())
        self.path = folder / FILE
        try:
            self._connection = self._open()
        except DamageError:
            with naming(self.path):
                self.path.replace(folder / f"{FILE}.damaged")
                for ending in ("-wal", "-shm"):
                    (folder / f"{FILE}{ending}").unlink(missing_ok=True)
            self._connection = self._open()

    def _open(self) -> apsw.Connection:
        with naming(self.path), ExitStack() as undo:
            connection = apsw.Connection(str(self.path))
            undo.callback(connection.close)
            connection.set_busy_timeout(BUSY_MS)
            application = connection.pragma("application_id")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if application not in (0, APPLICATION) or not tables <= {"responses"}:
                cure = "move it away, or leave `cache` out of the job"
                raise StoreError(f"this is another program's database (application id {application:#x})", str(self.path), cure)
            for line in (
                "PRAGMA journal_mode = WAL",
                "PRAGMA synchronous = NORMAL",  # an answer that power loss takes is asked for again
                f"PRAGMA application_id = {APPLICATION}",
                "CREATE TABLE IF NOT EXISTS responses(key TEXT PRIMARY KEY, hash TEXT NOT NULL, bytes BLOB NOT NULL) STRICT",
            ):
                connection.execute(line)
            undo.pop_all()
        return connection

    def get(self, key: str) -> bytes | None:
        """The answer to a request; None where there is none, or none that can be read and has its hash."""
        try:
            row = self._connection.execute("SELECT hash, bytes FROM responses WHERE key = ?", (key,)).fetchone()
        except apsw.Error:  # damaged, or locked for long: the request is made as if there were no record
            return None
        if row is None or body_hash(row[1]) != row[0]:
            return None
        data: bytes = row[1]
        return data

    def put(self, key: str, data: bytes) -> None:
        """Records an answer. One that is there stays, unless it is damaged."""
        line = "INSERT INTO responses VALUES(?, ?, ?) ON CONFLICT(key) DO UPDATE SET hash = excluded.hash, bytes = excluded.bytes"
        try:
            if self.get(key) is None:
                self._connection.execute(line, (key, body_hash(data), data))
        except apsw.Error:  # no space, or locked for long: what is not recorded is asked for again
            return

    def close(self) -> None:
        self._connection.close()
