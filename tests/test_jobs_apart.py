"""Jobs that share one database: each log has its own numbers, and whoever follows one sees nothing of the others."""

from __future__ import annotations

from swarm.events import Event
from swarm.store.database import Address
from swarm.store.interface import Writer
from swarm.store.postgres import PostgresReader, PostgresWriter
from swarm.testing.postgres import EmbeddedPostgres
from tests.store_process import note
from tests.stores import JOB, Postgres


def append(writer: Writer, count: int) -> list[Event]:
    made = [note(writer.last() + 1 + at, writer.epoch) for at in range(count)]
    writer.append([event for event, _ in made], {event.body.body: text for event, text in made})
    return [event for event, _ in made]


def test_who_follows_a_log_sees_its_own_numbers_without_a_gap(postgres: EmbeddedPostgres) -> None:
    """An id that all jobs share would come in another order than commits do, and have gaps for everyone."""
    address = Address(Postgres(postgres.database()).url)
    with (
        PostgresWriter.open(address, JOB) as one,
        PostgresWriter.open(address, "other") as other,
        PostgresReader.open(address, JOB) as mine,
        PostgresReader.open(address, "other") as theirs,
    ):
        written: dict[str, list[Event]] = {"one": [], "other": []}
        seen: dict[str, list[Event]] = {"one": [], "other": []}
        for turn in range(12):
            for name, writer, reader in (("one", one, mine), ("other", other, theirs)):
                written[name] += append(writer, 1 + turn % (3 if name == "one" else 2))
                seen[name] += list(reader.read(after=len(seen[name])))
                assert seen[name] == written[name] and reader.last() == len(written[name])
    assert [event.seq for event in seen["one"]] == list(range(1, len(seen["one"]) + 1))
    assert len(seen["one"]) != len(seen["other"])
