"""Promises across processes: what a killed writer had acknowledged stands, and there is one writer at a time. On
both stores.

The children say on a pipe what they have done, so nothing here waits for time to pass.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from swarm.errors import StoreError
from swarm.store.damage import verify
from swarm.store.interface import Reader
from swarm.testing.postgres import EmbeddedPostgres
from tests.fired import drawing, fired
from tests.store_process import note
from tests.stores import Postgres, Sqlite, Store

ROOT = Path(__file__).resolve().parent.parent
KILLS = {Sqlite: 20, Postgres: 8}


@contextmanager
def child(store: Store, command: str) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-m", "tests.store_process", store.place, command]
    with subprocess.Popen(
        arguments, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("append\n")
    process.stdin.flush()


def ask(process: subprocess.Popen[str]) -> str:
    go(process)
    return hear(process)


def check_whole(reader: Reader, acknowledged: int) -> int:
    """Every event is there, dense, with its body; none that was acknowledged is lost."""
    count = 0
    for event in reader.read():
        count += 1
        expected, text = note(count, event.epoch)
        assert event == expected
        assert reader.body(expected.body.body) == text
    assert count == reader.last() >= acknowledged
    return count


def test_nothing_acknowledged_is_lost_when_writers_are_killed(store: Store) -> None:
    chance, acknowledged, kills = drawing(7), 0, KILLS[type(store)]
    for round in range(kills):
        with child(store, "append") as process:
            assert hear(process) == "starting"
            if round % 5 != 4:  # every fifth dies somewhere in opening
                assert hear(process) == "open"
                for _ in range(chance.randrange(12)):
                    acknowledged = int(hear(process))
            process.kill()
            assert process.stdout
            for line in process.stdout.read().split("\n")[:-1]:  # said before it died: a whole line each
                acknowledged = int(line) if line.isdigit() else acknowledged
            assert process.wait() == -9
            fired("kill")
        if acknowledged:
            with store.reader() as reader:  # before any writer has cleaned up
                assert reader.last() >= acknowledged
        store.bury_holder()
    with store.reader() as reader:
        assert check_whole(reader, acknowledged) > 500
        epochs = [event.epoch for event in reader.read()]
    assert epochs == sorted(epochs) and len(set(epochs)) > kills // 2
    assert not isinstance(store, Sqlite) or verify(store.folder) is None
    with store.writer() as writer:
        assert writer.epoch >= len(set(epochs)) and writer.last() == len(epochs)
        event, text = note(writer.last() + 1, writer.epoch)
        writer.append([event], {event.body.body: text})


def test_two_processes_cannot_hold_one_job(store: Store) -> None:
    with child(store, "demand") as process:
        assert hear(process) == "1"
        with pytest.raises(StoreError, match=rf"in use by process {process.pid} on \S+ since \d{{4}}-"):
            store.writer()
        assert ask(process) == "1"
        process.kill()
        process.wait()
        fired("kill")
        store.bury_holder()
        with store.writer() as writer:
            assert (writer.epoch, writer.last()) == (2, 1)


def test_a_dead_holder_keeps_a_job_in_a_database_until_its_time_is_up(postgres: EmbeddedPostgres) -> None:
    store = Postgres(postgres.database())
    with child(store, "demand") as process:
        assert hear(process) == "1"
        process.kill()
        process.wait()
        fired("kill")
        with pytest.raises(StoreError, match=rf"process {process.pid} .*\n.*if that process is dead, its hold ends in \d+ s"):
            store.writer()
        assert store.execute("SELECT 1 FROM swarmloom.jobs WHERE expires < clock_timestamp() + interval '15 s'")


@pytest.mark.parametrize("round", range(3))
def test_of_many_that_take_a_job_at_once_one_wins_and_the_others_name_it(store: Store, round: int) -> None:
    with store.writer():
        pass  # the job is there
    with ExitStack() as stack:
        racers = [stack.enter_context(child(store, "race")) for _ in range(4)]
        assert [hear(process) for process in racers] == ["ready"] * 4
        for process in racers:
            go(process)
        said = [hear(process) for process in racers]
        (winner,) = [process for process, words in zip(racers, said, strict=True) if words == "2"]
        assert sorted(said)[1:] == [f"StoreError: this run is in use by process {winner.pid}"] * 3
        fired("race")
        assert ask(winner) == "1"


def test_a_process_that_was_frozen_past_its_hold_cannot_append(store: Store) -> None:
    with child(store, "demand") as process:
        assert hear(process) == "1"
        assert ask(process) == "1"
        os.kill(process.pid, signal.SIGSTOP)
        fired("freeze")
        store.lose_hold()
        with store.writer() as taker:
            os.kill(process.pid, signal.SIGCONT)
            assert ask(process) == "FencedError"
            assert ask(process) == "StoreError"
            event, text = note(2, taker.epoch)
            taker.append([event], {event.body.body: text})
            assert check_whole(taker, 2) == 2


def test_a_reader_in_another_process_sees_a_growing_prefix(store: Store) -> None:
    with child(store, "append") as process:
        assert [hear(process), hear(process)] == ["starting", "open"]
        with store.reader() as reader:
            seen = 0
            while seen < 2000:
                acknowledged = int(hear(process))
                for event in reader.read(seen):
                    seen += 1
                    assert event == note(seen, 1)[0]
                assert seen >= acknowledged
            process.kill()
            process.wait()
            check_whole(reader, seen)
