"""Who works on a job that a database holds: a row with a name, an epoch, and a time by the database's clock.

Owns the taking of a job and the words about its holder. A hold that is not renewed in time may be taken over; what makes
that safe is the epoch, which every append compares.
"""

from __future__ import annotations

import os
import platform

from swarm.errors import BusyError
from swarm.store.database import Address, Connection, fetch, transaction

HOLD_SECONDS = 15
"""How long a writer that says nothing keeps its job."""
UNTIL = f"clock_timestamp() + interval '{HOLD_SECONDS} s'"
"""When a hold that is renewed now ends, for the database."""


def take(connection: Connection, address: Address, id: str, blobs: str, holder: str) -> tuple[int, str, int]:
    """A job's number, place of blobs and new epoch. Repeating it with the same `holder` gives the same."""
    with transaction(connection):
        connection.execute("INSERT INTO swarmloom.jobs(id, blobs) VALUES (%s, %s) ON CONFLICT DO NOTHING", (id, blobs))
        query = "SELECT number, blobs, epoch, holder FROM swarmloom.jobs WHERE id = %s FOR UPDATE"
        ((number, place, epoch, before),) = fetch(connection, query, (id,))
        if before == holder:  # the answer to our COMMIT was lost
            return number, place, epoch
        if (named := holding(connection, id)) is not None:
            raise in_use(f"{address}, run {id}", named)
        query = f"""UPDATE swarmloom.jobs SET epoch = epoch + 1, holder = %s, host = %s, pid = %s,
            since = clock_timestamp(), expires = {UNTIL} WHERE number = %s"""
        connection.execute(query.encode(), (holder, platform.node(), os.getpid(), number))
    return number, place, epoch + 1


def holding(connection: Connection, id: str) -> tuple[str, float] | None:
    """Who holds a job, as `process 17 on HOST since …`, and for how many seconds yet unless it renews; None if nobody does."""
    query = """SELECT host, pid, since, extract(epoch FROM expires - clock_timestamp())::float8 FROM swarmloom.jobs
        WHERE id = %s AND holder IS NOT NULL AND expires > clock_timestamp()"""
    found = fetch(connection, query, (id,))
    if not found:
        return None
    host, pid, since, left = found[0]
    return f"process {pid} on {host} since {since.astimezone():%Y-%m-%d %H:%M:%S}", left


def in_use(where: str, held: tuple[str, float]) -> BusyError:
    """The error for a job that somebody works on."""
    named, left = held
    cure = (
        "wait until it ends, or stop that process; `swarm watch` follows a run without taking it; if that process is dead,"
        f" its hold ends in {max(1, round(left))} s"
    )
    return BusyError(f"this run is in use by {named}", where, cure)
