"""Finding damage in a log, and cutting a damaged tail.

Owns the walk along the checksums, and the check and repair of a run in a folder; those of one in a database stand beside it
and use the same walk. It never cuts anything but
records at the end of a log, and only after copying them beside it; damage elsewhere is named and left
alone.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw

from swarm.errors import DamageError, StoreError
from swarm.events import body_hash
from swarm.names import counted
from swarm.store import indexes, named, snapshots, wal
from swarm.store.blobs import Blobs, open_blobs, sync_folder
from swarm.store.bodies import Bodies, bodies_of, every
from swarm.store.connection import naming, open_reading, open_writing
from swarm.store.interface import Damage, copy_name, folder_option
from swarm.store.lock import FolderLock
from swarm.store.mark import acknowledged, lower
from swarm.store.records import COLUMNS, Opening, Row, sound, to_event

_CHUNK = 1000
_SETTINGS = "SELECT count(*) FROM meta WHERE (name, typeof(value)) IN (VALUES ('epoch', 'integer'), ('blobs', 'text'))"


def survey(
    rows: Iterable[Row], previous: int | None, after: int, where: str, run: str, opening: Opening
) -> Damage | None:
    """Walks the chain of records with seq > `after`; the record `after` itself, with the checksum `previous`, is taken as good.

    Raises:
        NewerError: an intact record is newer than this software.
    """
    expected, first, healed = after + 1, 0, False
    seq, size = after, 0
    for row in rows:
        seq = row[0]
        good = previous is not None and seq == expected and sound(row, previous, opening, where)
        if not good and not first:
            first = expected
        healed = healed or (good and first > 0)
        size += len(row[7]) if first and isinstance(row[7], bytes) else 0
        previous, expected = (row[8] if isinstance(row[8], int) else None), seq + 1
    if not first:
        return None
    if healed:
        detail = f"record {first} is damaged or missing, and intact ones follow it"
        return Damage(where, run, "middle", detail, first, first)
    detail = f"record {first} is damaged, and so is all after it ({seq} is the last): {seq - first + 1} events, {size} bytes"
    return Damage(where, run, "tail", detail, first, seq)


def walk(connection: apsw.Connection, path: Path, after: int) -> Damage | None:
    """`survey` of a log in a folder."""
    rows, previous = _rows(connection, after), checksum_at(connection, after)
    return survey(rows, previous, after, str(path), path.parent.name, opening_in(connection))


def checksum_at(connection: apsw.Connection, seq: int) -> int | None:
    """The checksum that the record after `seq` was chained to; None if there is no record `seq`."""
    if seq <= 0:
        return 0
    found: Any = connection.execute("SELECT checksum FROM events WHERE seq = ?", (seq,)).get
    return found if isinstance(found, int) else None


def opening_in(connection: apsw.Connection) -> Opening:
    """How to learn from a log with which JobOpened a master took it."""

    def opening(epoch: int) -> bytes | None:
        found: Any = connection.execute("SELECT payload FROM events WHERE kind = 'JobOpened' AND epoch = ?", (epoch,)).get
        return found if isinstance(found, bytes) else None

    return opening


def missing(connection: apsw.Connection, path: Path) -> Damage | None:
    """What shows that a log once held more than it gives now, though all that it gives is sound."""
    settings: Any = connection.execute(_SETTINGS).get
    if settings != 2:
        return Damage(str(path), path.parent.name, "file", "this log is damaged: what it says of itself is gone")
    last: Any = connection.execute("SELECT max(seq) FROM events").get or 0
    if lost := wal.lost_commits(connection, path):
        detail = f"the write-ahead log is damaged behind record {last}: {lost} or more later commits cannot be read"
        return Damage(str(path), path.parent.name, "ahead", detail, last + 1)
    report = next((name for name in ("answer.json", "report.md") if not last and (path.parent / name).exists()), "")
    return _emptied(path, f"{report} lies beside it") if report else None


def gone(connection: apsw.Connection, path: Path) -> Damage | None:
    """Records that somebody was told of, and that are not there any more. What is left can be read, and must not be continued."""
    due = acknowledged(path.parent)  # before the log, which only grows
    last: Any = connection.execute("SELECT max(seq) FROM events").get or 0
    if due and not last:
        return _emptied(path, f"{counted(due, 'record')} {'was' if due == 1 else 'were'} acknowledged")
    return gone_between(last, due, str(path), path.parent.name)


def gone_between(last: int, due: int, where: str, run: str) -> Damage | None:
    """The damage of a log that ends with record `last` although `due` were acknowledged; None if none is missing."""
    if last >= due:
        return None
    which = f"record {due} is" if due == last + 1 else f"records {last + 1} to {due} are"
    return Damage(where, run, "gone", f"{which} gone from the end of the log, though acknowledged", last + 1, due)


def _emptied(path: Path, why: str) -> Damage:
    detail = f"this log holds no event although {why}: its write-ahead log ({wal.of(path).name}) is lost"
    return Damage(str(path), path.parent.name, "empty", detail)


def verify(folder: Path) -> Damage | None:
    """Checks all of a run: SQLite's structures, every record, every body and its name, the snapshot. Safe while the run works.

    Raises:
        StoreError: there is no log, it is not ours, or it is newer than this software.
    """
    path = folder / "log.sqlite"
    try:
        with closing(open_reading(path)) as connection, naming(path):
            return (
                missing(connection, path)
                or _structure(connection, path)  # of a broken file it is not known what is gone
                or gone(connection, path)
                or _content(connection, path)
            )
    except DamageError as error:
        return Damage(str(path), path.parent.name, "file" if error.__cause__ else "empty", error.message)


def _structure(connection: apsw.Connection, path: Path, mend: bool = False) -> Damage | None:
    """What SQLite finds wrong. If nothing is lost by it, and with `mend`, a copy that is made from the tables takes the place of
    the log, in one transaction."""
    found: Any = connection.execute("PRAGMA integrity_check(1)").get
    if found == "ok":
        return None
    said = " ".join(found.removeprefix("*** in database main ***").split())
    with suppress(apsw.CorruptError, apsw.ConstraintError):
        if indexes.tables_sound(connection):
            with closing(indexes.anew(connection)) as copy:
                if _content(copy, path) is None:
                    if mend:
                        with connection.backup("main", copy, "main") as all_pages:
                            all_pages.step()
                    return Damage(str(path), path.parent.name, "index", f"an index of this log is damaged ({said})")
    return Damage(str(path), path.parent.name, "file", f"SQLite finds its structure damaged ({said})")


def _content(connection: apsw.Connection, path: Path) -> Damage | None:
    last: Any = connection.execute("SELECT max(seq) FROM events").get or 0
    return (
        walk(connection, path, 0)
        or _contents(connection, path, last)
        or _texts(connection, path, last)
        or _snapshot(connection, path)
    )


def repair(folder: Path, apply: bool = False) -> Damage | None:
    """Reports the damage of a run; with `apply`, cuts a damaged tail or gives up what can't be read of a write-ahead log,
    keeping a copy, makes indexes or names anew, or removes a snapshot that is of no use. None: nothing is wrong.

    Raises:
        StoreError: the run is in use, or `apply` was asked for damage that cannot be cut.
    """
    path, found = folder / "log.sqlite", verify(folder)
    if found is None or not apply:
        return found
    if not found.mendable:
        raise found.error(folder_option(folder.parent))
    if found.place in ("ahead", "gone"):
        with _locked(folder):
            return _give_up(path)
    with _locked(folder), closing(open_writing(path)) as connection, naming(path):
        wal.note_torn(connection, path)
        if found.place == "index":
            again = _structure(connection, path, mend=True)  # once more, now that nobody else can write
            if again is None or again.place != "index":
                return again
            return _structure(connection, path) or _content(connection, path) or replace(again, mended=True)
        bodies = bodies_of(connection)
        found = (  # once more, now that nobody else can write
            walk(connection, path, 0)
            or _unnamed(bodies, connection, path)
            or _astray(bodies, connection, path)
            or _snapshot(connection, path)
        )
        if found is not None and found.place == "names":
            with connection:
                bodies.rename(connection)
            return replace(found, mended=True)
        if found is not None and found.place == "snapshot":
            with connection:
                snapshots.drop(connection)
            return replace(found, mended=True)
        if found is None or found.place != "tail":
            return found
        found = replace(found, kept=keep(_rows(connection, found.first - 1), folder, found.first), mended=True)
        lower(folder, found.first - 1)  # first: one that is too low does no harm
        with connection:
            connection.execute("DELETE FROM events WHERE seq >= ?", (found.first,))
            snapshots.drop(connection)  # it may be of what was cut; a master takes another
    return found


def _give_up(path: Path) -> Damage | None:
    """Copies the write-ahead log if there is anything in it, then lets SQLite take from it what it can, and empties it.
    The caller holds the run."""
    with closing(open_reading(path)) as connection, naming(path):
        damage = missing(connection, path) or gone(connection, path)  # once more, now that nobody else can write
    if damage is None or not damage.mendable:
        return damage
    pending, copy = wal.of(path), None
    with naming(path):
        if pending.exists() and pending.stat().st_size:
            copy = _free_name(path.parent, damage.first, ".wal")
            shutil.copyfile(pending, copy)
            with open(copy, "rb") as file:
                os.fsync(file.fileno())
            sync_folder(path.parent)
        lower(path.parent, damage.first - 1)
    with closing(open_writing(path)) as connection, naming(path):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return replace(damage, kept=copy, mended=True)


def _snapshot(connection: apsw.Connection, path: Path) -> Damage | None:
    with connection:  # one view, whatever the writer does meanwhile
        try:
            snapshots.get(connection, path)
        except StoreError as error:
            return Damage(str(path), path.parent.name, "snapshot", error.message)
    return None


def _contents(connection: apsw.Connection, path: Path, last: int) -> Damage | None:
    blobs = _blobs(connection, path)
    for hash, data in every(connection):
        if data is None:
            try:
                blobs.get(hash)
            except StoreError as error:
                return Damage(str(path), path.parent.name, "body", f"{error.where}: {error.message}", 0, last)
        elif body_hash(data) != hash:
            detail = f"the body {hash} is damaged: its content has another hash"
            return Damage(str(path), path.parent.name, "body", detail, 0, last)
    return None


def _texts(connection: apsw.Connection, path: Path, last: int) -> Damage | None:
    """Bodies that are gone, then names: those can be made anew, and nothing is lost only where no body is."""
    bodies = bodies_of(connection)
    unnamed = _unnamed(bodies, connection, path)
    able = bodies_of(connection, names=False) if unnamed else bodies
    return _lacking(able, connection, path, last) or unnamed or _astray(bodies, connection, path)  # names outlive their bodies


def _lacking(bodies: Bodies, connection: apsw.Connection, path: Path, last: int) -> Damage | None:
    def absent(hashes: list[str]) -> list[str]:
        found = bodies.find(connection, hashes)
        return [hash for hash in hashes if hash not in found]

    def body(hash: str) -> bytes:
        data = bodies.find(connection, (hash,))[hash]
        return _blobs(connection, path).get(hash) if data is None else data

    opening = opening_in(connection)
    events = (to_event(row, opening, str(path)) for row in _rows(connection, 0))
    lack = named.missing(events, absent, body)
    return Damage(str(path), path.parent.name, "body", lack, 0, last) if lack else None


def _unnamed(bodies: Bodies, connection: apsw.Connection, path: Path) -> Damage | None:
    count = bodies.unnamed(connection)
    detail = f"{count} of its texts cannot be found, as the names by which they are looked up are damaged"
    return Damage(str(path), path.parent.name, "names", detail) if count else None


def _astray(bodies: Bodies, connection: apsw.Connection, path: Path) -> Damage | None:
    count = bodies.astray(connection)
    detail = f"{count} of the names by which texts are looked up are damaged: they lead to none"
    return Damage(str(path), path.parent.name, "names", detail) if count else None


def _blobs(connection: apsw.Connection, path: Path) -> Blobs:
    place: Any = connection.execute("SELECT value FROM meta WHERE name = 'blobs'").get
    return open_blobs(place, path.parent)


def _rows(connection: apsw.Connection, after: int) -> Iterator[Row]:
    query = f"SELECT {COLUMNS} FROM events WHERE seq > ? ORDER BY seq LIMIT {_CHUNK}"
    while rows := connection.execute(query, (after,)).fetchall():
        yield from rows  # type: ignore[misc]
        after = rows[-1][0]  # type: ignore[assignment]


def keep(rows: Iterable[Row], folder: Path, first: int) -> Path:
    """Copies what will be cut into a file of its own, one JSON object a record; payloads in base64, for they may be anything.
    Returns where; it is durable."""
    path = _free_name(folder, first, ".jsonl")
    with open(path, "x", encoding="utf-8") as file:
        for row in rows:
            fields = zip(COLUMNS.split(", "), row, strict=True)
            file.write(json.dumps({name: _plain(value) for name, value in fields}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)
    return path


def _free_name(folder: Path, first: int, ending: str) -> Path:
    path, number = folder / copy_name(first, ending), 1
    while path.exists():
        number += 1
        path = folder / copy_name(first, f"-{number}{ending}")
    return path


def _plain(value: object) -> object:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with naming(folder):
        lock = FolderLock.take(folder / "lock")
    try:
        yield
    finally:
        lock.release()
