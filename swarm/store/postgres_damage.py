"""Damage and needless things in the log of a run that a database holds.

Owns finding both, the cutting of a damaged tail and the removal of what nothing needs, each in one transaction that holds the
job's row: nobody can take the job meanwhile. What damage is, is the same as in a folder, and stands in `damage`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from swarm.errors import StoreError
from swarm.events import JobEnded
from swarm.store import named
from swarm.store.damage import keep, survey
from swarm.store.database import Connection, fetch
from swarm.store.interface import Damage, Needless
from swarm.store.postgres import PostgresReader
from swarm.store.records import START

ORPHANS = """FROM swarmloom.blobs b WHERE b.job = %s AND NOT EXISTS
    (SELECT FROM swarmloom.bodies s WHERE s.job = b.job AND s.hash = b.hash AND s.bytes IS NULL)"""
SNAPSHOT = "the snapshot of a job that has ended"


def look(reader: PostgresReader) -> Damage | None:
    """Checks all of a run: every record, every body, the snapshot. Safe while the run works.

    Raises:
        StoreError: it is newer than this software.
    """
    last, lost = reader.last(), reader.lost()
    found = _records(reader) or lost
    if found is not None:
        return found
    try:
        lack = named.missing(reader.read(), reader.absent, reader.body)
        for hash in reader.hashes():
            reader.body(hash)
    except StoreError as error:
        lack = error.message
    if lack:
        return Damage(reader.where, reader.id, "body", lack, 0, last)
    try:
        reader.snapshot()
    except StoreError as error:
        return Damage(reader.where, reader.id, "snapshot", error.message)
    return None


def _records(reader: PostgresReader) -> Damage | None:
    return survey(reader.rows(0), START.checksum, 0, reader.where, reader.id, reader.opening)


def mend(connection: Connection, reader: PostgresReader, job: int, folder: Path, found: Damage) -> Damage:
    """Cuts a damaged tail after copying it into a folder, gives up records that are gone, or removes a snapshot that is of no
    use, inside the caller's transaction, which holds the job's row."""
    if found.place == "tail":
        found = replace(found, kept=keep(reader.rows(found.first - 1), folder, found.first))
    if found.place in ("tail", "gone"):
        connection.execute("DELETE FROM swarmloom.events WHERE job = %s AND seq >= %s", (job, found.first))
        # A new epoch, so that a master that was only slow cannot append to what it has not read.
        connection.execute("UPDATE swarmloom.jobs SET seq = %s, epoch = epoch + 1 WHERE number = %s", (found.first - 1, job))
    _drop_snapshot(connection, job)  # it may be of what was cut; a master takes another
    return replace(found, mended=True)


def _drop_snapshot(connection: Connection, job: int) -> None:
    for table in ("snapshots", "parts"):
        connection.execute(f"DELETE FROM swarmloom.{table} WHERE job = %s".encode(), (job,))


def needless(connection: Connection, reader: PostgresReader, job: int) -> list[Needless]:
    """What can go of a run."""
    query = f"SELECT sum(length(b.bytes))::bigint {ORPHANS} GROUP BY b.hash ORDER BY b.hash"
    found = [Needless("a body whose events never became durable", int(size)) for (size,) in fetch(connection, query, (job,))]
    life = list(reader.life())
    if life and isinstance(life[-1].body, JobEnded):
        query = """SELECT sum(size)::bigint FROM (SELECT length(state) AS size FROM swarmloom.snapshots WHERE job = %s
            UNION ALL SELECT length(bytes) FROM swarmloom.parts WHERE job = %s) AS sizes"""
        ((size,),) = fetch(connection, query, (job, job))
        found += [Needless(SNAPSHOT, int(size))] if size else []
    return found


def free(connection: Connection, reader: PostgresReader, job: int) -> list[Needless]:
    """Removes what can go of a run, inside the caller's transaction, which holds the job's row."""
    found = needless(connection, reader, job)
    connection.execute(f"DELETE {ORPHANS}".encode(), (job,))
    if any(one.what == SNAPSHOT for one in found):
        _drop_snapshot(connection, job)
    return found
