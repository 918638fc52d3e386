"""The snapshot of a log's fold, as it lies in the database of the log.

Owns its two tables; what makes a snapshot whole is the same as beside a file, and stands in `snapshots`.
"""

from __future__ import annotations

from swarm.store.database import Connection, fetch
from swarm.store.interface import Snapshot
from swarm.store.records import Tip
from swarm.store.snapshots import fresh, to_row, whole


def put(connection: Connection, job: int, snapshot: Snapshot, tip: Tip) -> None:
    """Writes a job's snapshot of its log up to `tip` over the one before, inside the caller's transaction."""
    connection.execute("DELETE FROM swarmloom.snapshots WHERE job = %s", (job,))
    connection.execute("INSERT INTO swarmloom.snapshots VALUES (%s, %s, %s, %s, %b, %b, %b)", (job, *to_row(snapshot, tip)))
    have = {str(name) for (name,) in fetch(connection, "SELECT name FROM swarmloom.parts WHERE job = %s", (job,))}
    gone = sorted(have.difference(snapshot.parts))
    connection.execute("DELETE FROM swarmloom.parts WHERE job = %s AND name = ANY(%s)", (job, gone))
    for name, data in fresh(snapshot, have):
        connection.execute("INSERT INTO swarmloom.parts VALUES (%s, %s, %b)", (job, name, data))


def get(connection: Connection, job: int, where: str) -> Snapshot | None:
    """A job's snapshot; None if there is none.

    Raises:
        StoreError: it is damaged, incomplete, or of another log than this one.
    """
    # One statement is one view, whatever the writer does meanwhile.
    query = """SELECT s.seq, s.checksum, s.format, s.state, s.parts, s.digest, e.checksum,
        array(SELECT name FROM swarmloom.parts p WHERE p.job = s.job ORDER BY name),
        array(SELECT bytes FROM swarmloom.parts p WHERE p.job = s.job ORDER BY name)
        FROM swarmloom.snapshots s LEFT JOIN swarmloom.events e ON e.job = s.job AND e.seq = s.seq WHERE s.job = %s"""
    found = fetch(connection, query, (job,))
    if not found:
        return None
    seq, checksum, format, state, names, digest, record, stored, contents = found[0]
    return whole((seq, checksum, format, state, names, digest), record, dict(zip(stored, contents, strict=True)), where)
