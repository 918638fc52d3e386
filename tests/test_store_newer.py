"""A log that a newer swarmloom has written into is refused by name: of what was found, of this version and of that one. It is
never taken for damage. On both stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from swarm import __version__
from swarm.errors import DamageError, NewerError, StoreError
from swarm.events import Body, Event, JobEnded, JobOpened, NotePosted
from swarm.payload import encode
from swarm.store.folder import RunFolder, read_status
from swarm.store.records import Row, chained
from swarm.store.runs import open_runs
from tests.stores import JOB, Postgres, Store

UNKNOWN = f"holds an event of kind 'JobMelted', which swarmloom {__version__} does not know"
LATER = f"holds JobEnded version 9; swarmloom {__version__} reads up to version 1"
WROTE = "; swarmloom 9.9.9 wrote it\n  use swarmloom 9.9.9, or a newer one"
ENDED = encode(JobEnded(status="done"))


def opened(software: Any) -> bytes:
    fields: bytes = msgpack.packb({**msgpack.unpackb(encode(of(2))), "software": software})
    return fields


def of(epoch: int) -> JobOpened:
    return JobOpened(epoch=epoch, host="h", pid=1, shell="local", software="0.0.1")


class Log:
    """A log that this version began, in epoch 1, and another one went on with, in epoch 2."""

    def __init__(self, store: Store) -> None:
        self.store = store
        bodies: list[Body] = [of(1), *(NotePosted(note=f"n{i}", kind="row", task="t", body="b") for i in range(3))]
        with store.writer() as writer:
            writer.append([Event(at, 1.0, 1, 0, "", body) for at, body in enumerate(bodies, start=1)], {})
        self.seq = len(bodies)
        self.checksum = 0
        for at, body in enumerate(bodies, start=1):
            self.checksum = chained(self.checksum, at, 1.0, 1, 0, body.__class__.__name__, body.version, "", encode(body))

    def add(self, kind: str, version: int, payload: bytes) -> None:
        self.seq += 1
        fields = (self.seq, 2.0, 2, 0, kind, version, "", payload)
        self.checksum = chained(self.checksum, *fields)
        row: Row = (*fields, self.checksum)
        self.store.put(row)


@pytest.fixture
def log(store: Store) -> Log:
    return Log(store)


@pytest.fixture
def run(log: Log, tmp_path: Path) -> RunFolder:
    return open_runs(log.store.url, {}).run(JOB) if isinstance(log.store, Postgres) else RunFolder(tmp_path, JOB)


@pytest.fixture
def doors(log: Log, run: RunFolder) -> dict[str, Callable[[], object]]:
    """Every way into the log that comes upon the record."""

    def read() -> object:
        with log.store.reader() as reader:
            return list(reader.read())

    def life() -> object:
        with log.store.reader() as reader:
            return list(reader.life(sound=True))

    return {"read": read, "life": life, "writer": log.store.writer, "verify": run.damage, "repair": run.repair}


@pytest.mark.parametrize(("kind", "version", "problem"), [("JobMelted", 1, UNKNOWN), ("JobEnded", 9, LATER)])
def test_both_versions_are_named_and_the_log(
    log: Log, run: RunFolder, doors: dict[str, Callable[[], object]], kind: str, version: int, problem: str
) -> None:
    log.add("JobOpened", JobOpened.version, opened("9.9.9"))
    log.add(kind, version, ENDED)
    if kind == "JobMelted":
        del doors["life"]  # which does not come upon it
    for door in doors.values():
        with pytest.raises(NewerError) as caught:
            door()
        assert str(caught.value) == f"{run.where}: {problem}{WROTE}"


def test_who_opened_the_job_may_be_what_is_newer(log: Log, doors: dict[str, Callable[[], object]]) -> None:
    log.add("JobOpened", JobOpened.version + 1, opened("9.9.9"))
    for door in doors.values():
        with pytest.raises(NewerError, match=r"holds JobOpened version .* 9\.9\.9 wrote it\n"):
            door()


@pytest.mark.parametrize("payload", [None, b"\xc1", opened(7), opened("\n"), opened(""), msgpack.packb(["9.9.9"])])
def test_where_it_is_not_known_who_wrote_it_this_version_is_named(
    log: Log, run: RunFolder, doors: dict[str, Callable[[], object]], payload: bytes | None
) -> None:
    if payload is not None:
        log.add("JobOpened", JobOpened.version + 1, payload)
    log.add("JobMelted", 1, ENDED)
    with pytest.raises(NewerError, match=rf"swarmloom {__version__} .*\n  use a newer swarmloom") as caught:
        doors["read"]()
    assert caught.value.where == run.where


def test_only_the_master_of_its_own_epoch_wrote_a_record(log: Log, doors: dict[str, Callable[[], object]]) -> None:
    log.add("JobMelted", 1, ENDED)
    with pytest.raises(NewerError) as caught:
        doors["read"]()
    assert "wrote it" not in str(caught.value)


def test_what_is_damaged_besides_is_damage(log: Log, doors: dict[str, Callable[[], object]]) -> None:
    log.checksum += 1
    log.add("JobMelted", 1, ENDED)
    with pytest.raises(DamageError):
        doors["read"]()


def test_a_payload_that_cannot_be_read_names_the_log(
    log: Log, run: RunFolder, doors: dict[str, Callable[[], object]]
) -> None:
    log.add("JobEnded", JobEnded.version, b"\xc1")
    for door in ("read", "life"):
        with pytest.raises(StoreError, match="holds a damaged JobEnded") as caught:
            doors[door]()
        assert caught.value.where == run.where


def test_a_run_of_a_newer_version_is_listed_with_the_reason(log: Log, run: RunFolder) -> None:
    log.add("JobOpened", JobOpened.version, opened("9.9.9"))
    log.add("JobMelted", 1, ENDED)
    known = read_status(run)
    assert (known.status, known.detail) == ("unreadable", f"{UNKNOWN}; swarmloom 9.9.9 wrote it")
    assert known.cure == "use swarmloom 9.9.9, or a newer one"
