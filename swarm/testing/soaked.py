"""The command `swarm` with a stop-watch at its store: `python -m swarm.testing.soaked resume ID …`.

Owns the samples that the soak test reads: every few seconds a line of JSON in the run's folder says how large this process
is, how many files it has open, and how long its appends took since the line before.
"""

from __future__ import annotations

import json
import os
import runpy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from swarm.events import Event
from swarm.store.sqlite import SqliteWriter

SAMPLE_SECONDS = 5.0
SAMPLES = "soak.jsonl"


class StopWatch:
    """Times the appends of one process."""

    def __init__(self) -> None:
        self._born = self._last = time.monotonic()
        self._took: list[float] = []
        self._plain = SqliteWriter.append

    def append(self, store: SqliteWriter, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        began = time.perf_counter()
        self._plain(store, events, bodies)
        self._took.append(time.perf_counter() - began)
        if time.monotonic() - self._last >= SAMPLE_SECONDS:
            self._last = time.monotonic()
            self._write(store.path.parent / SAMPLES)

    def _write(self, path: Path) -> None:
        took, self._took = sorted(self._took), []
        line = {
            "time": time.time(), "pid": os.getpid(), "age": time.monotonic() - self._born, "rss": resident(),
            "files": len(os.listdir("/proc/self/fd")), "appends": len(took), "mean": fmean(took),
            "median": took[len(took) // 2],
        }  # fmt: skip
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed() -> None:
    """Puts a stop-watch at every store that this process opens."""
    watch = StopWatch()

    def append(store: SqliteWriter, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        watch.append(store, events, bodies)

    setattr(SqliteWriter, "append", append)  # noqa: B010  the type checker knows that a method is not to be replaced


if __name__ == "__main__":
    timed()
    runpy.run_module("swarm", run_name="__main__", alter_sys=True)
