"""A log written on a recorded disk, and what is left of it after power cuts and I/O errors.

Used by the tests and, with more rounds, by `make chaos`.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from swarm.errors import StoreError
from swarm.events import Event, NotePosted, body_hash
from swarm.store.damage import verify
from swarm.store.interface import Snapshot
from swarm.store.mark import Mark
from swarm.store.snapshots import part_name
from swarm.store.sqlite import LOG, SqliteWriter
from swarm.testing.disk import HOWS, Operation, acknowledged, image, recorded, write_image

SIZES = (1, 5, 2, 17)
BULK = 12
"""Bodies that are named at a time: in each recording, and in each workload on a failing disk, it happens."""


@dataclass
class Recording:
    """A workload: the files before it, every operation of the disk, and all events that were handed to the store."""

    folder: Path
    before: dict[str, bytes]
    operations: list[Operation] = field(default_factory=list)
    written: list[Event] = field(default_factory=list)


def event(seq: int, epoch: int, chance: random.Random) -> tuple[Event, bytes]:
    text = f"{seq}:".encode() + chance.randbytes(chance.choice((10, 700, 9000)))
    body = NotePosted(note=f"n{seq}", kind="row", task="t", body=body_hash(text))
    return Event(seq, float(seq), epoch, seq - 1, f"k{seq}", body), text


def append(writer: SqliteWriter, size: int, chance: random.Random) -> list[Event]:
    """Appends some events with their bodies, and returns them."""
    made = [event(writer.last() + 1 + at, writer.epoch, chance) for at in range(size)]
    writer.append([one for one, _ in made], {one.body.body: text for one, text in made})
    return [one for one, _ in made]


def keep_snapshot(writer: SqliteWriter, chance: random.Random) -> None:
    """Keeps some bytes as if they were a snapshot of the log."""
    part = chance.randbytes(5000)
    writer.keep(Snapshot(writer.last(), "of a test", b"state", {part_name(part): part}))


def fresh(folder: Path) -> None:
    """An empty log, made and closed."""
    SqliteWriter.open(folder, bulk=BULK).close()


def record(folder: Path, seed: int, masters: int = 3, appends: int = 5) -> Recording:
    """Several masters after one another, each with some appends; now and then a snapshot, or a checkpoint from outside."""
    fresh(folder)
    chance = random.Random(seed)
    recording = Recording(folder, {str(folder / LOG): (folder / LOG).read_bytes()})
    with recorded() as disk:
        for _ in range(masters):
            with SqliteWriter.open(folder, bulk=BULK) as writer:
                for _ in range(appends):
                    recording.written += append(writer, chance.choice(SIZES), chance)
                    disk.mark(writer.last())
                    if chance.random() < 0.2:
                        keep_snapshot(writer, chance)
                    if chance.random() < 0.3:
                        with closing(apsw.Connection(str(folder / LOG))) as other:
                            other.execute(f"PRAGMA wal_checkpoint({chance.choice(('PASSIVE', 'RESTART', 'TRUNCATE'))})")
    recording.operations = disk.operations
    return recording


def cut(recording: Recording, place: Path, count: int, seed: int) -> Counter[str]:
    """Cuts the power so many times, and looks at what is left.

    Returns:
        How many images of each sort there were; under `harmed`, how many lack something of what was written, or hold it
        torn; under `torn`, of how many an unfinished commit was cut off; and under `refused`, how many were not opened, with
        an error that says so.

    Raises:
        AssertionError: an acknowledged event is gone, or something that was never written is there.
    """
    chance, seen = random.Random(seed), Counter[str]()
    for number in range(count):
        upto, how = chance.randrange(1, len(recording.operations) + 1), HOWS[number % len(HOWS)]
        files = image(recording.before, recording.operations, upto, how, chance)
        folder = place / "image"
        folder.mkdir()
        write_image(files, recording.folder, folder)
        acked = acknowledged(recording.operations, upto)
        with closing(Mark(folder)) as mark:  # it is not synced: any one of those that were written may be left
            mark.put(chance.randint(0, acked))
        seen[how] += 1
        seen["harmed"] += files != image(recording.before, recording.operations, upto, "all", chance)
        where = f"image {number} of seed {seed} ({how}, after operation {upto})"
        seen["refused"] += not _holds(folder, recording, acked, where, seen)
        shutil.rmtree(folder)
    return seen


def _holds(folder: Path, recording: Recording, acked: int, where: str, seen: Counter[str]) -> bool:
    """Whether the log opens; if it does, it must hold a beginning of what was written, and all that was acknowledged."""
    try:
        writer = SqliteWriter.open(folder, bulk=BULK)
    except StoreError:
        return False
    with writer:
        seen["torn"] += writer.torn > 0
        found = list(writer.read())
        assert len(found) >= acked, f"{where}: {acked} events were acknowledged, and {len(found)} are there"
        assert found == recording.written[: len(found)], f"{where}: it holds what was not written"
        assert writer.bodies([one.body.body for one in found]) is not None
        kept = writer.snapshot()
        assert kept is None or kept.seq <= len(found), f"{where}: the snapshot is ahead of the log"
        assert not found or writer.epoch > found[-1].epoch, f"{where}: an epoch comes twice"
        append(writer, 3, random.Random(0))
        assert writer.last() == len(found) + 3
    assert verify(folder) is None, f"{where}: it is damaged"
    return True


def fail(folder: Path, place: Path, nth: int) -> int:
    """A copy of a log on a disk whose n-th operation fails: once, or from there on; with EIO, or because it is full.

    An append that failed is in doubt, as nobody knows what a failed sync has left on the disk: all of it is there, or none.

    Returns:
        How many operations failed; 0 if there were fewer.

    Raises:
        AssertionError: what was acknowledged is gone, a part of what failed is there, or the error is none of ours.
    """
    shutil.copytree(folder, place)
    chance, acked, asked, error = random.Random(nth), 0, 0, (apsw.IOError, apsw.FullError)[nth % 2]
    with recorded(nth, error, lasting=nth % 3 == 0) as disk, suppress(apsw.Error):
        # SQLite itself never tells of an error while it closes; apsw does, of one that was raised in Python
        try:
            with SqliteWriter.open(place, bulk=BULK) as writer:
                for size in SIZES * 3:
                    asked = acked + size
                    append(writer, size, chance)
                    acked = writer.last()
        except StoreError as failure:
            assert failure.cure, f"operation {nth}: the error says nothing of what to do"
    with SqliteWriter.open(place, bulk=BULK) as again:
        found = list(again.read())
        there = f"operation {nth}: {acked} events were acknowledged of {asked} appended, and {len(found)} are there"
        assert len(found) in (acked, asked), there
        assert [one.seq for one in found] == list(range(1, len(found) + 1))
        append(again, 2, chance)
    assert verify(place) is None, f"operation {nth}: the log is damaged"
    shutil.rmtree(place)
    return disk.failed
