"""One of the writers of `swarm bench store`, in a process of its own: `python -m swarm.bench.appending PLACE ID EVENTS BATCH`.

Owns a writer's time: it makes its events, says `ready`, waits for a line, appends, and says how many seconds that took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from swarm.bench.steps import EVENTS_A_STEP, null_log
from swarm.store.runs import open_runs


def append(place: str, id: str, events: int, batch: int) -> None:
    """Appends events to a new log at `place`, a value of `--runs`, in transactions of `batch`."""
    run = open_runs(place, {}).run(id)
    if "://" not in place:
        Path(place, id).mkdir()
    with run.writer() as writer:
        made = list(null_log(writer.epoch, events // EVENTS_A_STEP + 1))[:events]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        began = time.perf_counter()
        for first in range(0, events, batch):
            writer.append(made[first : first + batch], {})
        sys.stdout.write(f"{time.perf_counter() - began}\n")


if __name__ == "__main__":
    append(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
