"""A driver that says when what happened: `python -m tests.stamped_driver build|resume ROOT ID STEPS`.

`build` makes a job of passages, works on it as fast as it goes, and kills itself after so many steps; `resume` goes on with
it at the pace of a slow model until it is killed, and tells of each stage of getting there. What it says are lines of JSON
with the monotonic clock of the machine, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swarm.bench.corpus import passages_job, write_passages
from swarm.events import Event, TaskFinished
from swarm.models.choose import create_model
from swarm.models.interface import Completion, Request
from swarm.runtime.local import work_locally
from swarm.runtime.session import Session, check
from swarm.spec import ModelSpec
from swarm.store.folder import RunFolder
from swarm.store.interface import Reader, Writer

MODEL = ModelSpec(engine="scripted", name="first-line+slow:0.2", tokenizer="", concurrency=64)
AGENTS = 64
MORE = 3_000
"""Passages beyond the steps that `build` takes."""


def say(**what: Any) -> None:
    print(json.dumps({**what, "at": time.monotonic()}), flush=True)


class Telling:
    """A reader or writer that passes everything on, and tells of a log that is read and of commits."""

    def __init__(self, inner: Any, commits: Callable[[int], None] = lambda steps: None) -> None:
        self._inner, self._commits, self._steps = inner, commits, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> Telling:
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.close()

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Event]:
        yield from self._inner.read(after, upto)
        say(stage="log read")

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        self._inner.append(events, bodies)
        self._steps += sum(isinstance(event.body, TaskFinished) for event in events)
        self._commits(self._steps)


class StampedRun(RunFolder):
    """A run whose opening is told of."""

    def reader(self) -> Reader:
        return Telling(super().reader())

    def writer(self) -> Writer:
        say(stage="fold done")
        writer = super().writer()
        say(stage="lease won")
        return Telling(writer, lambda steps: say(steps=steps))


class FirstToken:
    """A model that tells of its first answer."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._answered = inner, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def complete(self, request: Request) -> Completion:
        completion: Completion = await self._inner.complete(request)
        if not self._answered:
            self._answered = True
            say(stage="first token")
        return completion


def build(root: Path, id: str, steps: int) -> None:
    """Works until so many steps are durable, and dies."""
    def die(done: int) -> None:
        if done >= steps:
            os.kill(os.getpid(), signal.SIGKILL)

    write_passages(root / "corpus", steps + MORE, seed=0)
    session = Session.create(*check(passages_job(root / "corpus", MODEL)), RunFolder(root, id))
    session.master.store = Telling(session.store, die)
    fast = MODEL.model_copy(update={"name": "first-line"})
    asyncio.run(work_locally(session, 4 * AGENTS, create_model(fast, session.job.channels())))


def resume(root: Path, id: str) -> None:
    say(stage="process ready")
    session = Session.resume(StampedRun(root, id))
    model = FirstToken(create_model(session.job.spec.model, session.job.channels()))
    asyncio.run(work_locally(session, AGENTS, model))


if __name__ == "__main__":
    command, place, name, *count = sys.argv[1:]
    build(Path(place), name, int(count[0])) if command == "build" else resume(Path(place), name)
