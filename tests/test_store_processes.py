"""Promises across processes: what a killed writer had acknowledged stands, and there is one writer at a time.

The children say on a pipe what they have done, so nothing here waits for time to pass.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarm.errors import StoreError
from swarm.store.damage import verify
from swarm.store.sqlite import SqliteReader, SqliteWriter
from tests.store_process import note

ROOT = Path(__file__).resolve().parent.parent
KILLS = 20


@contextmanager
def child(folder: Path, command: str) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-m", "tests.store_process", str(folder), command]
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


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin
    process.stdin.write("append\n")
    process.stdin.flush()
    return hear(process)


def check_whole(reader: SqliteReader, acknowledged: int) -> int:
    """Every event is there, dense, with its body; none that was acknowledged is lost."""
    count = 0
    for event in reader.read():
        count += 1
        expected, text = note(count, event.epoch)
        assert event == expected
        assert reader.body(event.body.body) == text
    assert count == reader.last() >= acknowledged
    return count


def test_nothing_acknowledged_is_lost_when_writers_are_killed(tmp_path: Path) -> None:
    chance, acknowledged = random.Random(7), 0
    for round in range(KILLS):
        with child(tmp_path, "append") as process:
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
        if (tmp_path / "log.sqlite").exists():
            with SqliteReader.open(tmp_path) as reader:  # before any writer has cleaned up
                assert reader.last() >= acknowledged
    with SqliteReader.open(tmp_path) as reader:
        assert check_whole(reader, acknowledged) > 500
        epochs = [event.epoch for event in reader.read()]
    assert epochs == sorted(epochs) and len(set(epochs)) > KILLS // 2
    assert verify(tmp_path) is None
    with SqliteWriter.open(tmp_path) as writer:
        assert writer.epoch >= len(set(epochs)) and writer.last() == len(epochs)
        event, text = note(writer.last() + 1, writer.epoch)
        writer.append([event], {event.body.body: text})


def test_two_processes_cannot_hold_one_job(tmp_path: Path) -> None:
    with child(tmp_path, "demand") as process:
        assert hear(process) == "1"
        with pytest.raises(StoreError, match=rf"in use by process {process.pid} on "):
            SqliteWriter.open(tmp_path)
        assert ask(process) == "1"
        process.kill()
        process.wait()
        with SqliteWriter.open(tmp_path) as writer:  # the kernel has released the dead one's lock
            assert (writer.epoch, writer.last()) == (2, 1)


def test_a_process_that_lost_its_lock_cannot_append(tmp_path: Path) -> None:
    with child(tmp_path, "demand") as process:
        assert hear(process) == "1"
        assert ask(process) == "1"
        (tmp_path / "lock").unlink()
        with SqliteWriter.open(tmp_path) as taker:
            assert ask(process) == "FencedError"
            assert ask(process) == "StoreError"
            event, text = note(2, taker.epoch)
            taker.append([event], {event.body.body: text})
            assert check_whole(taker, 2) == 2


def test_a_reader_in_another_process_sees_a_growing_prefix(tmp_path: Path) -> None:
    with child(tmp_path, "append") as process:
        assert [hear(process), hear(process)] == ["starting", "open"]
        with SqliteReader.open(tmp_path) as reader:
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
