"""What happens when there is ten times more work than a model server or an endpoint takes, from many jobs at once.

Owns running the jobs and holding figures against the floors: nothing is lost, memory stays bounded, and jobs get their
shares by weight. The server is a scripted one that lets in a fixed number of calls, each of which takes a fixed time; the
endpoint answers at once, and is said to allow a fixed number of calls a minute.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from swarm import events as ev
from swarm.bench.corpus import passages_job, write_passages
from swarm.bench.outcome import Floor, Outcome, resident
from swarm.errors import SpecError, SwarmError
from swarm.events import Event
from swarm.models.choose import create_model
from swarm.models.fair import Account, FairQueue
from swarm.models.interface import Completion, Model, Request
from swarm.runtime.local import work_locally
from swarm.runtime.session import Session, check, read_job
from swarm.spec import JobSpec, ModelSpec, Rate
from swarm.store.folder import RunFolder
from swarm.testing.endpoint import Endpoint

SHELLS = ("shared", "processes", "ray", "endpoint")
SLOTS = 40
"""Calls that the server lets in at once."""
CALL_SECONDS = 0.2
ENDPOINT_RATE = 1200.0
"""Calls a minute that the endpoint is said to allow."""
TIMES = 10
"""How much more work than that is asked for at once."""
HEAVY = 3.0
"""Weight of every fourth job; the others weigh 1."""
LOOK_SECONDS = 0.05
ABOUT = (
    f"Each job reads its own passages, one call each, on one scripted server that lets in {SLOTS} calls at once, of "
    f"{CALL_SECONDS:g} s each, or on an endpoint. load: calls that all jobs together have out, to those that the server lets in. "
    f"Every fourth job weighs {HEAVY:g}, the others 1. longest wait: of any call of the job for its turn.",
    "shared: all jobs in this process, on local shells, behind the queue that a ModelServer has. processes: one `swarm run "
    "--local` a job, each with a scripted model of its own (so nothing is shared but the machine; the wait is the whole run). "
    "ray: all jobs on one cluster, with one ModelServer. endpoint: all jobs on one cluster, calling an endpoint on this machine "
    f"for which they name {ENDPOINT_RATE:g} calls a minute.",
    "share: tokens a job got to what its weight gives it, while all jobs had calls waiting (not measured if they never had).",
)


@dataclass
class Watch:
    """Looks at a queue's accounts again and again."""

    jobs: int
    first: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    last: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Job → (calls, tokens) when all jobs were first seen to wait, and when they were last."""
    accounts: Mapping[str, Account] = field(default_factory=dict)
    peak: int = 0
    """Most bytes of this process."""

    def look(self, accounts: Mapping[str, Account]) -> None:
        self.peak = max(self.peak, resident())
        self.accounts = accounts
        if sum(one.waiting > 0 for one in accounts.values()) == self.jobs:
            now = {job: (one.calls, one.tokens) for job, one in accounts.items()}
            self.first, self.last = self.first or now, now

    def shares(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Job → what it got to what its weight gives it; empty if that cannot be told."""
        got = {job: self.last[job][1] - self.first[job][1] for job in self.last}
        total, weight = sum(got.values()), sum(weights.values())
        if total <= 0 or sum(self.last[job][0] - self.first[job][0] for job in self.last) < 20 * self.jobs:
            return {}
        return {job: tokens / total * weight / weights[job] for job, tokens in got.items()}


def run_overload(jobs: int = 20, passages: int = 50, shells: Sequence[str] = ("shared",)) -> Outcome:
    """Runs so many jobs of so many passages at once.

    Raises:
        SpecError: `jobs`, `passages` or `shells` make no sense.
        SwarmError: what made a job fail.
    """
    if wrong := [shell for shell in shells if shell not in SHELLS]:
        raise SpecError(f"there is no shell {wrong[0]!r}", "--shell", f"choose from {', '.join(SHELLS)}")
    if not 1 <= jobs <= SLOTS or passages < 1:
        raise SpecError(f"{jobs} jobs of {passages} passages overload nothing", "--jobs", f"give 1 to {SLOTS} jobs")
    rows: list[Mapping[str, Any]] = []
    floors: list[Floor] = []
    for shell in shells:
        with tempfile.TemporaryDirectory(prefix="swarm-bench-") as name:
            specs = _specs(Path(name), jobs, passages)
            if shell == "processes":
                found, peak, first = _in_processes(Path(name), specs)
            elif shell == "endpoint":
                with Endpoint("first-line") as endpoint:
                    found, peak, first = _in_turn(Path(name), _on_endpoint(specs, endpoint.url), shell)
            else:
                found, peak, first = _in_turn(Path(name), specs, shell)
        rows += [{"shell": shell, **row} for row in found]
        floors += _floors(shell, found, peak, first)
    return Outcome("overload", ABOUT, tuple(rows), tuple(floors))


def _floors(shell: str, rows: Sequence[Mapping[str, Any]], peak: float | None, first: float | None) -> list[Floor]:
    shares = [row["share"] for row in rows if row["share"] is not None]
    off = max((abs(share - 1) for share in shares), default=None)
    return [
        Floor.at_most(f"steps lost or done twice, {shell}", 0, sum(row["lost"] for row in rows)),
        Floor.at_most(f"share of the job that is furthest off, {shell}", 0.25, None if off is None else round(off, 3)),
        Floor.at_most(
            f"memory at {TIMES} times the load to that at once, {shell}", 1.2, round(peak / first, 3) if peak and first else None
        ),
    ]


def _specs(folder: Path, jobs: int, passages: int) -> dict[str, JobSpec]:
    """Jobs by run id, each with a corpus of its own."""
    model = ModelSpec(engine="scripted", name=f"first-line+slow:{CALL_SECONDS}", concurrency=SLOTS, timeout_s=600)
    found = {}
    for number in range(jobs):
        write_passages(folder / f"corpus-{number}", passages, seed=number)
        spec = passages_job(folder / f"corpus-{number}", model)
        found[f"job-{number:02}"] = spec.model_copy(update={"weight": HEAVY if number % 4 == 3 else 1.0})
    return found


def _on_endpoint(specs: Mapping[str, JobSpec], url: str) -> dict[str, JobSpec]:
    model = ModelSpec(
        engine="openai", name="scripted", url=url, concurrency=SLOTS, timeout_s=600, rate=Rate(requests_per_minute=ENDPOINT_RATE)
    )
    return {id: spec.model_copy(update={"model": model}) for id, spec in specs.items()}


def _row(id: str, spec: JobSpec, run: RunFolder, watch: Watch) -> dict[str, Any]:
    with run.reader() as reader:
        state, _, _ = read_job(reader)
        wrong = amiss(reader.read(), state.spans)
    account = watch.accounts.get(id)
    return {
        "job": id, "weight": spec.weight, "steps": state.finished["reader"],
        "lost": wrong, "seconds": round(state.seconds(state.time), 2),
        "longest_wait_s": round(account.longest, 2) if account else round(state.seconds(state.time), 2),
    }  # fmt: skip


def amiss(log: Iterable[Event], passages: int) -> int:
    """How many passages were never read, and how many readings came on top of the first: neither makes up for the other."""
    readers, steps, read = set[str](), dict[str, tuple[str, int]](), Counter[tuple[str, int]]()
    for event in log:
        match event.body:
            case ev.RangeAdded(role="reader"):
                readers.add(event.body.range)
            case ev.RangeLeased() if event.body.range in readers:
                steps.update((task, (event.body.range, index)) for task, index, _ in event.body.leases())
            case ev.TaskFinished() if event.body.task in steps:
                read[steps[event.body.task]] += 1
    return passages - len(read) + read.total() - len(read)


def _in_turn(folder: Path, specs: Mapping[str, JobSpec], shell: str) -> tuple[list[dict[str, Any]], float, float | None]:
    """The rows at the full load, the most memory there, and the most at a load that the server can take."""
    first: float | None = None
    peak, rows = 0.0, list[dict[str, Any]]()
    for load in (1, TIMES) if shell == "shared" else (TIMES,):
        agents = max(1, SLOTS * load // len(specs))
        root = folder / f"runs-{load}"
        if shell == "shared":
            watch = asyncio.run(_share(specs, root, agents))
        else:
            from swarm.bench.ray_job import crowd_on_ray

            watch = asyncio.run(crowd_on_ray(specs, root, agents))
        first, peak = first or (watch.peak if shell == "shared" else None), watch.peak
        shares = watch.shares({id: spec.weight for id, spec in specs.items()})
        rows = [
            {**_row(id, spec, RunFolder(root, id), watch), "load": agents * len(specs) / SLOTS,
             "share": round(shares[id], 3) if id in shares else None}
            for id, spec in specs.items()
        ]  # fmt: skip
    return rows, peak, first


class Shared:
    """A model behind the queue that it has in common with other jobs. Implements `Model`."""

    def __init__(self, model: Model, queue: FairQueue, job: str, weight: float) -> None:
        self._model, self._queue, self._job, self._weight = model, queue, job, weight
        self.tokenizer, self.template = model.tokenizer, model.template

    async def start(self) -> None:
        await self._model.start()

    async def close(self) -> None:
        await self._model.close()

    def weights(self, channel: str) -> str:
        return self._model.weights(channel)

    async def complete(self, request: Request) -> Completion:
        async with self._queue.turn(self._job, self._weight, request.prompt.tokens + request.sampling.max_tokens):
            return await self._model.complete(request)


async def _share(specs: Mapping[str, JobSpec], root: Path, agents: int) -> Watch:
    queue, watch = FairQueue(SLOTS), Watch(len(specs))

    async def one(id: str, spec: JobSpec) -> None:
        job, corpus = check(spec)
        session = Session.create(job, corpus, RunFolder(root, id))
        try:
            model = create_model(spec.model, job.channels())
            await work_locally(session, agents, Shared(model, queue, id, spec.weight))
        finally:
            session.close()

    async def look() -> None:
        while True:
            watch.look(queue.accounts())
            await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    try:
        await asyncio.gather(*(one(id, spec) for id, spec in specs.items()))
    finally:
        looking.cancel()
    watch.accounts = queue.accounts()
    return watch


def _in_processes(folder: Path, specs: Mapping[str, JobSpec]) -> tuple[list[dict[str, Any]], None, None]:
    """One `swarm run --local` for each job, all at once."""
    root, started = folder / "runs", []
    for id, spec in specs.items():
        path = folder / f"{id}.yaml"
        path.write_text(yaml.safe_dump(spec.model_dump(mode="json")), encoding="utf-8")
        agents = str(SLOTS * TIMES // len(specs))
        command: list[str | Path] = [sys.executable, "-m", "swarm", "run", path, "--local", "--runs", root]
        command += ["--id", id, "--agents", agents]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    codes = [process.wait() for process in started]
    if any(codes):
        raise SwarmError(f"of {len(codes)} runs, {len(codes) - codes.count(0)} failed", f"exit codes {codes}")
    watch = Watch(len(specs))
    rows = [_row(id, spec, RunFolder(root, id), watch) | {"share": None} for id, spec in specs.items()]
    return rows, None, None
