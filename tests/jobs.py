"""Small jobs for tests, run in this process on the scripted model, and what their logs amount to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

from swarm.coordinator import JobState
from swarm.events import CallFinished, CallStarted, Event, TaskFinished
from swarm.runtime.launch import Options, run_again, run_new
from swarm.runtime.session import fold
from swarm.spec import JobSpec, parse_spec
from swarm.store.folder import RunFolder
from swarm.store.runs import Runs

SOURCE = '''"""A queue."""


class QueueEmpty(Exception):
    pass


class Queue:
    def __init__(self, size):
        if size < 0:
            raise ValueError("size is negative")
        self.items, self.size = [], size

    def get(self):
        if not self.items:
            raise QueueEmpty("nothing here")
        return self.items.pop()

    def put(self, item):
        if len(self.items) >= self.size:
            raise OverflowError(f"more than {self.size} items")
        self.items.append(item)


def drained(queue):
    """Empties a queue."""
    while queue.items:
        queue.get()
    if queue.size == 0:
        raise ValueError("a queue without room")
'''
ROWS = [
    ("Queue.__init__", "ValueError"),
    ("Queue.get", "QueueEmpty"),
    ("Queue.put", "OverflowError"),
    ("drained", "ValueError"),
]
"""What SOURCE raises, in the order of the text."""


def write_sources(folder: Path, copies: int = 1) -> Path:
    """A folder with copies of SOURCE that differ in a comment, so that they are documents of their own."""
    place = folder / "code"
    place.mkdir(parents=True, exist_ok=True)
    for number in range(copies):
        (place / f"module_{number:03}.py").write_text(f"# module {number}\n{SOURCE}", encoding="utf-8")
    return place


def job(source: Path, **changes: Any) -> JobSpec:
    """A job that asks what raises what, on the scripted model; `changes` replace top-level settings."""
    data: dict[str, Any] = {
        "name": "raises",
        "question": "Which function raises which exception?",
        "inputs": [str(source)],
        "answer": {
            "columns": {
                "function": "qualified name of the function, such as Class.method",
                "exception": {"description": "class name of the exception", "found_in": "quote"},
            },
            "quote_pattern": r"^raise\b",
            "by": "exception",
        },
        "protocol": {"name": "map_reduce", "options": {"span_tokens": 160}},
        "model": {"engine": "scripted", "name": "raises"},
    }
    return parse_spec({**data, **changes})


def run(spec: JobSpec, root: Path, **options: Any) -> RunFolder:
    """Runs a job to its end or pause, without a report."""
    return asyncio.run(run_new(spec, Options(Runs(root), "local", **options), lambda _: {}, lambda _: None))


def resume(folder: RunFolder, **options: Any) -> RunFolder:
    again = Options(Runs(folder.root, folder.place), "local", **options)
    return asyncio.run(run_again(folder, again, lambda _: {}, lambda _: None))


def state_of(folder: RunFolder) -> JobState:
    with folder.reader() as reader:
        return fold(reader)


def events_of(folder: RunFolder) -> list[Event]:
    with folder.reader() as reader:
        return list(reader.read())


def contents(folder: RunFolder, kind: str) -> list[Mapping[str, Any]]:
    """What the notes of a kind hold, in the board's order."""
    with folder.reader() as reader:
        return [msgpack.unpackb(reader.body(note.body)) for note in fold(reader).board.notes(kind)]


def prompts(events: list[Event]) -> dict[tuple[str, int, int], str]:
    """(task, turn, sample) → digest of the prompt."""
    return {
        (event.body.task, event.body.turn, event.body.sample): event.body.prompt
        for event in events
        if isinstance(event.body, CallStarted)
    }


def finished(events: list[Event]) -> list[str]:
    return [event.body.task for event in events if isinstance(event.body, TaskFinished)]


def answered(events: list[Event]) -> list[tuple[str, int, int]]:
    return [
        (event.body.task, event.body.turn, event.body.sample)
        for event in events
        if isinstance(event.body, CallFinished)
    ]
