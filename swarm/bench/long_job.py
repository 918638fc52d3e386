"""One job of very many null steps: whether a step costs the same after a million others, and what a finished one leaves.

Owns a job whose passages share one text, so that pinning a million of them takes a moment, and a model whose rows are all
different, so that every note, output and index entry is as new as in a real job. All else is the product's own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack

from swarm import events as ev
from swarm.bench.corpus import passages_job, write_passages
from swarm.bench.outcome import resident
from swarm.bench.timing import TimedStore
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
AGENTS = 256
WINDOW = 10_000
"""Steps at the start and at the end whose cost is compared."""
_BLOCK = 256


class NewRows(NullModel):
    """A null model that gives another row to nearly every call: words of the passage and a quote, both picked by the call's
    key out of some millions."""

    async def complete(self, request: Request) -> Completion:
        words, pick = request.prompt.segments[-1].text.split(), int(request.key, 16)
        pick, at = divmod(pick, len(words) - 8)
        pick, count = divmod(pick, 8)
        longer, quoted = divmod(pick, len(words) - 20)
        quote = words[quoted : quoted + 6 + longer % 8]
        row = json.dumps([[" ".join(words[at : at + 1 + count]), " ".join(quote)]])
        return Completion(row, request.prompt.tokens, 24, "stop", "null", 0.0)


class SteppedStore(TimedStore):
    """A store that keeps little of what passes through it, and calls `enough` once when `steps` steps are durable."""

    def __init__(self, store: Writer, log: Path, steps: int, enough: Callable[[], None]) -> None:
        super().__init__(store, log)
        self._wanted, self._enough = steps, enough
        self.memory: list[tuple[int, int]] = []
        """(steps, resident bytes) at each hundredth of the steps."""

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        self._store.append(events, bodies)
        before = self._steps
        self._steps += sum(isinstance(event.body, TaskFinished) for event in events)
        if before >= self._wanted or self._steps == before:
            return
        self.mark(self._steps)
        if len(self.memory) * self._wanted <= self._steps * 100:
            self.memory.append((self._steps, resident()))
        if self._steps >= self._wanted:
            self._enough()

    def figures(self) -> dict[str, Any]:
        """What the first and the last steps cost, and how memory grew over the second half of them."""
        window = min(WINDOW, self._wanted // 5)
        first, last = self.cost(0, window), self.cost(self._wanted - window, self._wanted)
        steps, held = next(mark for mark in self.memory if mark[0] * 2 >= self._wanted)
        grown = (self.memory[-1][1] - held) / (self.memory[-1][0] - steps)
        return {
            "steps": self._wanted, "steps_per_s": round(self.rate(), 1), "first_us": round(first * 1e6, 1),
            "last_us": round(last * 1e6, 1), "last_to_first": round(last / first, 3), "bytes_per_step": round(grown, 1),
            "master_mb": round(self.memory[-1][1] / 1e6, 1),
        }  # fmt: skip


async def work_long(folder: Path, steps: int) -> dict[str, Any]:
    """Carries `steps` null steps in one job under `folder`; its figures."""
    write_passages(folder / "corpus", 1, seed=0)
    model = ModelSpec(engine="scripted", name="first-line", tokenizer="", concurrency=AGENTS)
    job, corpus = check(passages_job(folder / "corpus", model))
    session = Session.create(job, corpus, RunFolder(folder / "runs", "long"))
    loop = asyncio.get_running_loop()

    def enough() -> None:
        loop.call_soon(session.master.end, "cancelled", "as many steps as were to be measured")

    try:
        text = (folder / "corpus" / "part-0000.txt").read_text(encoding="utf-8").split("\n\n")[0].encode()
        events, bodies = _pinned(text, steps + 4 * AGENTS)
        session.corpus = None  # in its place stands one passage, many times
        session.master.append(events, bodies)
        timed = SteppedStore(session.store, session.run.log, steps, enough)
        session.master.store = timed
        await work_locally(session, AGENTS, NewRows(job.tokenizer, job.template))
        return timed.figures()
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
