"""A store that notes when each step was leased and when its result was durable.

Owns the figures of one run: rate, latency, cost along the run, memory of the process that holds the log. It changes
nothing that passes through it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Self

from swarm.bench.outcome import percentile, resident
from swarm.bench.pace import pace
from swarm.events import Event, RangeLeased, TaskFinished
from swarm.store.connection import open_reading
from swarm.store.interface import Damage, Snapshot, Writer

WINDOW = 1000
"""Steps at the start and at the end of a run whose cost is compared."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How it stood after a commit: `steps` are durable, at `time` (monotonic seconds). `used` is this process's CPU seconds then,
    and `left` what they were when the `pace` had been taken, which is no part of a step."""

    steps: int
    time: float
    used: float
    pace: float
    left: float


class TimedStore:
    """A writer around a writer. Times are monotonic, and those of a commit's return; CPU time is this process's."""

    def __init__(self, store: Writer, log: Path) -> None:
        self._store, self._log = store, log
        self.epoch, self.torn = store.epoch, store.torn
        self._leased: dict[str, float] = {}
        self._latencies: list[float] = []
        self._marks: list[Mark] = []
        """One after each commit since the first lease."""
        self._steps = 0
        self._size = 0
        self._peak = 0

    def lost(self) -> Damage | None:
        return self._store.lost()

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        self._store.append(events, bodies)
        now, finished = time.perf_counter(), self._steps
        for body in [event.body for event in events if type(event.body) in (RangeLeased, TaskFinished)]:
            if isinstance(body, RangeLeased):
                self._leased.update((task, now) for task, *_ in body.leases())
            elif (since := self._leased.pop(body.task, None)) is not None:
                self._latencies.append(now - since)
                self._steps += 1
        if not self._marks and self._leased:
            self._size = database_bytes(self._log)
            self.mark(0)
        elif self._steps > finished:
            self.mark(self._steps)
            self._peak = max(self._peak, resident())

    def mark(self, steps: int) -> None:
        """Notes the time at which so many steps are durable."""
        now, used = time.perf_counter(), time.process_time()
        self._marks.append(Mark(steps, now, used, pace(), time.process_time()))

    def rate(self) -> float:
        """Steps a second between the first mark and the last."""
        first, last = self._marks[0], self._marks[-1]
        return (last.steps - first.steps) / (last.time - first.time)

    def figures(self) -> dict[str, Any]:
        """Figures of all steps so far."""
        ordered = sorted(self._latencies)
        first, last = self.cost(0, WINDOW), self.cost(self._steps - WINDOW, self._steps)
        return {
            "steps": self._steps,
            "steps_per_s": round(self.rate(), 1),
            **{f"p{p}_ms": round(percentile(ordered, p / 100) * 1e3, 2) for p in (50, 95, 99)},
            "cpu_us": round(sum(b.used - a.left for a, b in pairwise(self._marks)) / self._steps * 1e6, 1),
            "bytes_per_step": round((database_bytes(self._log) - self._size) / self._steps),
            "first_us": round(first * 1e6, 1),
            "last_us": round(last * 1e6, 1),
            "last_to_first": round(last / first, 3),
            "master_mb": round(self._peak / 1e6, 1),
        }

    def cost(self, first: int, last: int) -> float:
        """As `step_cost`. The first quarter of a run's first steps is left out: caches are cold and modules are loaded there."""
        return step_cost(self._marks, max(first, min(WINDOW // 4, self._steps // 4)), last)

    # ---- what passes through ----

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Event]:
        return self._store.read(after, upto)

    def last(self) -> int:
        return self._store.last()

    def bodies(self, hashes: Iterable[str]) -> dict[str, bytes]:
        return self._store.bodies(hashes)

    def body(self, hash: str) -> bytes:
        return self._store.body(hash)

    def life(self, sound: bool = False) -> Iterator[Event]:
        return self._store.life(sound)

    def renew(self) -> None:
        self._store.renew()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keyed(self, prefix: str) -> Iterator[Event]:
        return self._store.keyed(prefix)

    def snapshot(self) -> Snapshot | None:
        return self._store.snapshot()

    def keep(self, snapshot: Snapshot) -> None:
        self._store.keep(snapshot)

    def close(self) -> None:
        self._store.close()


def step_cost(marks: Sequence[Mark], first: int, last: int) -> float:
    """CPU seconds of a step of this process, at the machine's usual pace in all of the run.

    It is the median over the quarters of what lies between two counts of steps (of all where nothing does), each commit's part
    held against what the fixed piece of work beside it cost. Single commits say little: while one batch is made durable,
    another is under way; and a mean would count what one commit has to do at the end of the job.
    """
    pairs = list(pairwise(marks))
    within = [(a, b) for a, b in pairs if a.steps >= first and b.steps <= last] or pairs
    share = max(1, (within[-1][1].steps - within[0][0].steps) // 4)
    paces, costs = 0.0, []
    steps = within[0][0].steps
    for a, b in within:
        paces += (b.used - a.left) / (a.pace + b.pace) * 2
        if b.steps - steps >= share:
            costs.append(paces / (b.steps - steps))
            paces, steps = 0.0, b.steps
    return median(costs) * median(mark.pace for mark in marks)


def database_bytes(log: Path) -> int:
    """Size of an SQLite file, its pending write-ahead log included."""
    with closing(open_reading(log)) as connection:
        pages, size = connection.pragma("page_count"), connection.pragma("page_size")
        return int(str(pages)) * int(str(size))
