"""A driver with a stop-watch at its store: `python -m swarm.testing.soaked run|resume ID …`, with the options of `swarm`.

Owns the samples that the soak test reads: every few seconds a line of JSON in the run's folder says how large this process
is, how many files it has open, and how long its appends took since the line before: by the clock, and their work as so many
times a fixed piece of work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from swarm.bench.pace import pace
from swarm.events import Event, TaskFinished
from swarm.report import render
from swarm.runtime.launch import Options, run_again, run_new
from swarm.spec import parse_spec
from swarm.store.place import FolderPlace
from swarm.store.runs import Runs
from swarm.store.sqlite import SqliteWriter

SAMPLE_SECONDS = 5.0
SAMPLES = "soak.jsonl"


class TimedWriter(SqliteWriter):
    """A writer that times its appends and writes the samples of its process."""

    born = time.monotonic()
    sampled = 0.0
    took: tuple[tuple[float, float], ...] = ()
    """Seconds that appends of finished steps took since the last sample: by the clock, and of this thread's work. Others, such as
    those that pin the corpus, are of another size."""

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        began, worked = time.perf_counter(), time.thread_time()
        super().append(events, bodies)
        if any(isinstance(event.body, TaskFinished) for event in events):
            self.took = (*self.took, (time.perf_counter() - began, time.thread_time() - worked))
        if self.took and time.monotonic() - self.sampled >= SAMPLE_SECONDS:
            self.sampled = time.monotonic()
            self._sample()

    def _sample(self) -> None:
        took, self.took = self.took, ()
        line = {
            "time": time.time(), "pid": os.getpid(), "age": time.monotonic() - self.born, "rss": resident(),
            "files": len(os.listdir("/proc/self/fd")), "appends": len(took),
            "append": median(clock for clock, _ in took), "work": median(work for _, work in took) / pace(),
        }  # fmt: skip
        with (self.path.parent / SAMPLES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True, slots=True)
class TimedPlace(FolderPlace):
    """Folders whose logs are written by the clock."""

    def writer(self, folder: Path) -> SqliteWriter:
        return TimedWriter.open(folder)


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def drive(arguments: Sequence[str]) -> None:
    """Runs or resumes one job without Ray, as `swarm.runtime.driver` asks for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("run", "resume"))
    parser.add_argument("job", help="`-`: a new one, whose spec comes on stdin; else the id of one")
    parser.add_argument("--id")
    parser.add_argument("--at", type=int)
    parser.add_argument("--since", type=int)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--local", action="store_true", required=True)
    parser.add_argument("--agents", type=int, required=True)
    chosen = parser.parse_args(arguments)
    runs = Runs(chosen.runs, TimedPlace())
    how = Options(runs, "local", agents=chosen.agents, id=chosen.id or "", at=chosen.at, since=chosen.since)
    if chosen.verb == "run":
        await run_new(parse_spec(json.load(sys.stdin)), how, render, lambda opened: None)
    else:
        await run_again(runs.run(chosen.job), how, render, lambda opened: None)


if __name__ == "__main__":
    asyncio.run(drive(sys.argv[1:]))
