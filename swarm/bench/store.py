"""How fast a log grows, folds and opens, and what a step costs after a million others.

Owns the measurements of `swarm bench store` and their floors. Folding and opening go through the product's own state,
snapshots and SQLite store; appending through both stores, from several processes at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from swarm.bench.long_job import BYTES_A_STEP, PAIRS, WINDOW, work_long
from swarm.bench.outcome import Floor, Outcome
from swarm.bench.steps import EVENTS_A_STEP, null_log
from swarm.coordinator import JobState
from swarm.errors import SpecError
from swarm.events import Event
from swarm.runtime.opening import EVENTS_BETWEEN, events_between, open_state, take_snapshot
from swarm.store.sqlite import LOG, SqliteReader, SqliteWriter

JOBS = 8
BATCHES = (64, 256)
"""Events of one transaction; the floors are held against the last."""
APPENDED = 40_000
"""Events that each writer appends."""
FOLD_PER_S, OPEN_S, SQLITE_PER_S, POSTGRES_PER_S, LAST_TO_FIRST = 100_000, 10.0, 40_000, 15_000, 1.05
ABOUT = (
    "fold: applying events, four a step, that are in memory already to a job's state, its board included. read and fold: the "
    "same from an SQLite log, with every checksum compared; both in CPU time. open: wall-clock time with a snapshot, the "
    f"furthest behind that a master leaves one ({events_between(1_000_000):,} events where there are a million).",
    f"append: {JOBS} processes, each the master of one job, append {APPENDED:,} events each at the same time, without bodies, "
    "every transaction on the disk before the next begins. batch is events a transaction.",
    "long job: null steps as in `swarm bench overhead`, in the local shell with its estimate for a tokenizer, over pinned "
    f"passages that share one text. last: CPU time of the process for a step, over {WINDOW:,} of them. After each of the last "
    f"{PAIRS} such windows it stands still while a new job does its first {WINDOW:,} steps (first), as the machine's pace "
    "changes; what is given of all three is the median. bytes: growth of its resident memory over the second half of the steps, "
    "for a step: by then caches of constant size, of about 100 MB, are full if the steps are some hundred thousand.",
)


def run_store(events: int = 1_000_000, steps: int = 100_000, postgres: str = "") -> Outcome:
    """Measures folding, opening, appending and a long job.

    Args:
        events: of the log that is folded and opened.
        steps: of the long job; 0 leaves it out.
        postgres: URL of a database to append to; empty takes a server of its own where that is installed.

    Raises:
        SpecError: the counts make no sense.
    """
    if events < 1000 or steps < 0 or 0 < steps < 5000:
        raise SpecError(f"{events} events and {steps} steps measure nothing", "--events", "give 1000 and 5000 at least")
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as name:
        folder = Path(name)
        rows = [*_folding(folder / "fold", events), *_appending(str(folder), "sqlite")]
        with _server(postgres) as url:
            rows += _appending(url, "postgres") if url else []
        if steps:
            rows.append({"what": "long job", **asyncio.run(work_long(folder / "long", steps))})
    return Outcome("store", ABOUT, tuple(rows), tuple(_floors(rows)))


def _floors(rows: Sequence[Mapping[str, Any]]) -> Iterator[Floor]:
    by = {(row["what"], row.get("batch")): row for row in rows}
    largest = BATCHES[-1]

    def value(what: str, field: str, batch: int | None = None) -> float | None:
        found = by.get((what, batch))
        return None if found is None else float(found[field])

    yield Floor.at_least("events folded/s", FOLD_PER_S, value("fold", "events_per_s"))
    yield Floor.at_most("opening with a snapshot", OPEN_S, value("open", "seconds"), " s")
    for store, goal in (("sqlite", SQLITE_PER_S), ("postgres", POSTGRES_PER_S)):
        rate = value(f"append, {store}", "events_per_s", largest)
        yield Floor.at_least(f"durable events/s, {JOBS} jobs on {store}, {largest} a transaction", goal, rate)
    yield Floor.at_most("last steps of a long job to its first", LAST_TO_FIRST, value("long job", "last_to_first"), "×")
    yield Floor.at_most("memory of a finished step", BYTES_A_STEP, value("long job", "bytes_per_step"), " bytes")


# ---- folding and opening ----


def _folding(folder: Path, events: int) -> Iterator[Mapping[str, Any]]:
    """Writes a log while folding it, a part in memory at a time, and opens it with and without its snapshot."""
    folder.mkdir()
    state, folding, snapshots, left = JobState(), 0.0, 0.0, 0
    with SqliteWriter.open(folder) as writer:
        log = null_log(writer.epoch, events // EVENTS_A_STEP + 1)
        # The last snapshot stands as far from the log's end as a master ever lets it.
        rest = min(events_between(events) - 1, events // 2)
        while part := list(islice(log, min(EVENTS_BETWEEN, events - rest - state.seq))):
            folding += _fold(state, part)
            writer.append(part, {})
            began = time.perf_counter()
            take_snapshot(state, writer)
            snapshots, left = snapshots + time.perf_counter() - began, left + 1
        last = list(islice(log, rest))
        folding += _fold(state, last)
        writer.append(last, {})
    yield _rate("fold", state.seq, folding)
    yield {"what": "snapshot", "events": state.seq - rest, "seconds": round(snapshots / left, 3)}
    del state, last
    gc.collect()
    with SqliteReader.open(folder) as reader:
        began = time.perf_counter()
        opened = open_state(reader)
        seconds = time.perf_counter() - began
    assert not opened.ignored and opened.folded == rest, opened.ignored
    yield {"what": "open", "events": opened.state.seq, "seconds": round(seconds, 3)}
    del opened
    with SqliteReader.open(folder) as reader:
        state, began = JobState(), time.process_time()
        for event in reader.read():
            state.apply(event)
        seconds = time.process_time() - began
    yield _rate("read and fold", state.seq, seconds) | {"bytes": (folder / LOG).stat().st_size}


def _fold(state: JobState, events: Sequence[Event]) -> float:
    gc.collect()
    began = time.process_time()
    for event in events:
        state.apply(event)
    return time.process_time() - began


def _rate(what: str, events: int, seconds: float) -> dict[str, Any]:
    return {"what": what, "events": events, "seconds": round(seconds, 3), "events_per_s": round(events / seconds)}


# ---- appending ----


def _appending(place: str, store: str) -> Iterator[Mapping[str, Any]]:
    for batch in BATCHES:
        seconds = max(_raced(place, batch))
        yield {**_rate(f"append, {store}", JOBS * APPENDED, seconds), "jobs": JOBS, "batch": batch}


def _raced(place: str, batch: int) -> list[float]:
    """The seconds that each of the writers took; all begin when the last one is ready."""
    command = [sys.executable, "-m", "swarm.bench.appending", place]
    writers = [
        subprocess.Popen(
            [*command, f"b{batch}-{job}", str(APPENDED), str(batch)], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for job in range(JOBS)
    ]  # fmt: skip
    try:
        lines = [(writer.stdin, writer.stdout) for writer in writers if writer.stdin and writer.stdout]
        for _, heard in lines:
            if heard.readline() != "ready\n":
                raise SpecError("a writer could not begin", place, "its own words stand above")
        for told, _ in lines:
            told.write("\n")
            told.flush()
        return [float(heard.readline()) for _, heard in lines]
    finally:
        for writer in writers:
            with writer:
                writer.kill()


@contextmanager
def _server(url: str) -> Iterator[str]:
    """A database to append to; empty where there is none."""
    if url:
        yield url
        return
    try:
        from swarm.testing.postgres import EmbeddedPostgres

        server = EmbeddedPostgres()
    except ImportError:
        yield ""
        return
    try:
        yield server.database()
    finally:
        server.close()
