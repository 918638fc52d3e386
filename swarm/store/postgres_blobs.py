"""Large bodies in the database of the log: in parts, and durable before the transaction of the events that name them.

Owns the table of the parts. Which bodies come here is the business of the store.
"""

from __future__ import annotations

from swarm.errors import StoreError
from swarm.store.blobs import BLOB_BYTES, verified
from swarm.store.database import Connection, Link, transaction


class DatabaseBlobs:
    """The large bodies of one job; see `Blobs`. Putting one twice does no harm."""

    def __init__(self, link: Link, job: int, where: str) -> None:
        self._link, self._job, self._where = link, job, where

    def put(self, hash: str, data: bytes) -> None:
        parts = [(self._job, hash, i, data[i * BLOB_BYTES : (i + 1) * BLOB_BYTES]) for i in range(-(-len(data) // BLOB_BYTES))]

        def work(connection: Connection, _: bool) -> None:
            with transaction(connection):
                for part in parts:
                    connection.execute("INSERT INTO swarmloom.blobs VALUES (%s, %s, %s, %b) ON CONFLICT DO NOTHING", part)

        self._link.run(work, self._where)

    def get(self, hash: str) -> bytes:
        query = "SELECT bytes FROM swarmloom.blobs WHERE job = %s AND hash = %s ORDER BY part"
        parts = self._link.query(query, (self._job, hash), self._where)
        if not parts:
            raise StoreError(f"the body {hash} is missing", self._where, "restore the database from a copy")
        return verified(hash, b"".join(part for (part,) in parts), self._where)
