"""One job of very many null steps: whether a step costs the same after a million others, and what a finished one leaves.

Owns a job whose passages share one text, so that pinning a million of them takes a moment, and a model whose rows are all
different, so that every note, output and index entry is as new as in a real job. All else is the product's own. The first steps
that the last are compared with are those of a new job of the kind, `python -m swarm.bench.long_job FOLDER STEPS PASSAGES`, which
runs while the long one stands still: the pace of a machine that others share is another one a minute later.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgpack

from swarm import events as ev
from swarm.bench.corpus import passages_job, write_passages
from swarm.bench.outcome import resident
from swarm.bench.timing import TimedStore
from swarm.errors import SpecError
from swarm.events import Body, Event, TaskFinished, body_hash
from swarm.models.interface import Completion, Request
from swarm.runtime.local import work_locally
from swarm.runtime.pins import PinnedSpan
from swarm.runtime.session import Session, check
from swarm.spec import ModelSpec
from swarm.store.folder import RunFolder
from swarm.store.interface import Writer
from swarm.testing.null import NullModel

BYTES_A_STEP = 200
AGENTS = 64
"""As many as `swarm run` has where it is not told otherwise."""
WINDOW = 10_000
"""Steps at the start and at the end whose cost is compared."""
PAIRS = 9
"""Windows at the end that are compared, each with a new job's first."""
COLD = 40
"""Of the first window a part so small is left out: caches are cold and modules are loaded there."""
NewJob = Callable[[], float]
"""Gives the CPU seconds of a step among the first of a new job, at this moment."""
_BLOCK = 256


class NewRows(NullModel):
    """A null model that gives another row to nearly every call: words of the passage and a quote, both picked by the call's
    key out of some millions."""

    _text, _words = "", list[str]()

    async def complete(self, request: Request) -> Completion:
        if (text := request.prompt.segments[-1].text) != self._text:  # it is always the same: what is measured is not this model
            self._text, self._words = text, text.split()
        words, pick = self._words, int(request.key, 16)
        pick, at = divmod(pick, len(words) - 8)
        pick, count = divmod(pick, 8)
        longer, quoted = divmod(pick, len(words) - 20)
        quote = words[quoted : quoted + 6 + longer % 8]
        row = json.dumps([[" ".join(words[at : at + 1 + count]), " ".join(quote)]])
        return Completion(row, request.prompt.tokens, 24, "stop", "null", 0.0)


class SteppedStore(TimedStore):
    """A store that keeps little of what passes through it, and calls `enough` once when `steps` steps are durable.

    `new_job` is asked after each of the last windows what the first steps of a new job cost at that moment.
    """

    def __init__(
        self, store: Writer, log: Path, steps: int, window: int, enough: Callable[[], None], new_job: NewJob | None
    ) -> None:
        super().__init__(store, log)
        self._wanted, self._window, self._enough, self._new_job = steps, window, enough, new_job
        self.memory: list[tuple[int, int]] = []
        """(steps, resident bytes) at each hundredth of the steps."""
        self.costs: list[float] = []
        """CPU seconds of a step of this process, for each window."""
        self.firsts: list[float] = []
        """What `new_job` said, for each of the last windows."""
        self._began, self._away, self._seconds = time.perf_counter(), 0.0, 0.0
        self._counted, self._used = 0, 0.0

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        self._store.append(events, bodies)
        before = self._steps
        self._steps += sum([type(event.body) is TaskFinished for event in events])
        if before >= self._wanted or self._steps == before:
            return
        if not self._counted and self._steps * COLD >= self._window:
            self._counted, self._used = self._steps, time.process_time()
        if self._new_job is not None and len(self.memory) * self._wanted <= self._steps * 100:
            self.memory.append((self._steps, resident()))
        if self._steps >= (len(self.costs) + 1) * self._window:
            self.costs.append((time.process_time() - self._used) / (self._steps - self._counted))
            if self._new_job is not None and len(self.costs) > self._wanted // self._window - PAIRS:
                left = time.perf_counter()
                self.firsts.append(self._new_job())
                self._away += time.perf_counter() - left
            self._counted, self._used = self._steps, time.process_time()
        if self._steps >= self._wanted:
            self._seconds = time.perf_counter() - self._began - self._away
            self._enough()

    def figures(self) -> dict[str, Any]:
        """What the first and the last steps cost, and how memory grew over the second half of them."""
        lasts = self.costs[-len(self.firsts) :]
        ratio = median(last / first for first, last in zip(self.firsts, lasts, strict=True))
        steps, held = next(mark for mark in self.memory if mark[0] * 2 >= self._wanted)
        grown = (self.memory[-1][1] - held) / (self.memory[-1][0] - steps)
        return {
            "steps": self._wanted, "steps_per_s": round(self._wanted / self._seconds, 1),
            "first_us": round(median(self.firsts) * 1e6, 1), "last_us": round(median(lasts) * 1e6, 1),
            "last_to_first": round(ratio, 3), "bytes_per_step": round(grown, 1), "master_mb": round(self.memory[-1][1] / 1e6, 1),
        }  # fmt: skip


async def work_long(folder: Path, steps: int) -> dict[str, Any]:
    """Carries `steps` null steps in one job under `folder`; its figures."""
    window = min(WINDOW, steps // 10)
    return (await _work(folder / "job", steps, steps, window, lambda: _first_steps(folder / "new", window, steps))).figures()


def _first_steps(folder: Path, window: int, spans: int) -> float:
    """What a step costs among the first of a new job, in a process of its own."""
    command = [sys.executable, "-m", "swarm.bench.long_job", str(folder), str(window), str(spans)]
    path = os.pathsep.join(filter(None, sys.path))
    said = subprocess.run(command, text=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    shutil.rmtree(folder, ignore_errors=True)
    if said.returncode:
        raise SpecError("the job that was to be compared with failed", str(folder), "its own words stand above")
    return float(said.stdout)


async def _work(folder: Path, steps: int, spans: int, window: int, new_job: NewJob | None) -> SteppedStore:
    write_passages(folder / "corpus", 1, seed=0)
    model = ModelSpec(engine="scripted", name="first-line", tokenizer="", concurrency=AGENTS)
    job, corpus = check(passages_job(folder / "corpus", model))
    session = Session.create(job, corpus, RunFolder(folder / "runs", "long"))
    loop = asyncio.get_running_loop()

    def enough() -> None:
        loop.call_soon(session.master.end, "cancelled", "as many steps as were to be measured")

    try:
        text = (folder / "corpus" / "part-0000.txt").read_text(encoding="utf-8").split("\n\n")[0].encode()
        events, bodies = _pinned(text, spans + 4 * AGENTS)
        session.corpus = None  # in its place stands one passage, many times
        session.master.append(events, bodies)
        timed = SteppedStore(session.store, session.run.log, steps, window, enough, new_job)
        session.master.store = timed
        await work_locally(session, AGENTS, NewRows(job.tokenizer, job.template))
        return timed
    finally:
        session.close()


def _pinned(text: bytes, spans: int) -> tuple[list[Body], dict[str, bytes]]:
    """Events and bodies of a document whose spans all hold one text."""
    digest, path = body_hash(text), body_hash(b"passages.txt")
    row = PinnedSpan(0, len(text.decode()), 300, digest, "passages.txt", 1)
    block = msgpack.packb([row] * _BLOCK)
    events: list[Body] = [
        ev.SpansPinned(document="d", first=first, count=_BLOCK, tokens=300 * _BLOCK, block=body_hash(block))
        for first in range(0, spans, _BLOCK)
    ]
    count = _BLOCK * len(events)
    events.append(
        ev.DocumentPinned(document="d", path=path, media="text/plain", origin="", licence="", train=False, digest=digest,
                          size=len(text), spans=count)
    )  # fmt: skip
    events.append(ev.CorpusPinned(documents=1, spans=count, tokens=300 * count))
    return events, {digest: text, path: b"passages.txt", body_hash(block): block}


if __name__ == "__main__":
    place, window = Path(sys.argv[1]), int(sys.argv[2])
    sys.stdout.write(f"{asyncio.run(_work(place, window, int(sys.argv[3]), window, None)).costs[0]}\n")
