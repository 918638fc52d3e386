"""The yardstick of `swarm bench overhead`: what the machine does at most, with no product around it.

A loop that packs four plain events a step with msgpack and commits them to SQLite with synchronous=FULL, 64 steps a
transaction. No coordinator, no board, no windows, no checks. Absolute rates depend on the machine and on what else it
does; the ratio of a job's rate to this one, taken in the same minute, depends far less.
"""

from __future__ import annotations

import time
from pathlib import Path

import apsw
import msgpack

BATCH = 64


def run_bare(folder: Path, steps: int) -> float:
    """Durable steps a second of the bare loop; its file is left in `folder`."""
    connection = apsw.Connection(str(folder / "bare.sqlite"))
    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL").fetchall()
    connection.execute("CREATE TABLE events(seq INTEGER PRIMARY KEY, kind TEXT, payload BLOB)")
    began, seq = time.perf_counter(), 0
    for first in range(0, steps, BATCH):
        rows: list[tuple[int, str, bytes]] = []
        for step in range(first, min(first + BATCH, steps)):
            task = f"{step:016x}"
            for kind, body in (
                ("leased", {"task": task, "host": "bare", "token": step}),
                ("called", {"task": task, "turn": 0, "tokens": 300, "output": task}),
                ("noted", {"task": task, "note": task, "cites": [(step, 0, 60)]}),
                ("finished", {"task": task, "token": step, "outcome": "rows"}),
            ):
                seq += 1
                rows.append((seq, kind, msgpack.packb(body)))
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - began
    connection.close()
    return steps / seconds
