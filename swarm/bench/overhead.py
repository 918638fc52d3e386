"""What a step costs when the model costs nothing.

Owns running one real job on a null model through the shells and holding the figures against the floors. Every part of
the road is the product's own: session, master, coordinator, board, store, wire, host, protocol and window.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swarm.bench.bare import run_bare
from swarm.bench.corpus import passages, passages_job, write_passages
from swarm.bench.outcome import Floor, Outcome
from swarm.bench.peers import MOST, run_peers
from swarm.bench.timing import TimedStore
from swarm.errors import SpecError
from swarm.runtime.session import Session, check
from swarm.spec import JobSpec, ModelSpec
from swarm.store.folder import RunFolder
from swarm.testing.null import NullModel

FLOORS = {"local": 5000.0, "ray": 4000.0}
AGENTS = 256
"""Tasks that a host works on at once here; half of them travel in one batch."""
SHELLS = ("local", "ray", "ray+server")
ABOUT = (
    "One step is one reader's task of map_reduce, from lease to durable result: a window packed with a "
    "passage of about 300 tokens, a call, one row as a note whose quote is checked against the passage, the "
    "protocol's answer. Verifying is off, so that a step is one task. The null model copies the row from the "
    "passage, in the host; ray+server has a scripted one behind a ModelServer instead. Pinning the corpus is "
    "not counted.",
    "bare: four msgpack events a step into SQLite (synchronous=FULL, 64 steps a commit) in the same minute, "
    "and nothing else. Compare rates with it; alone they say what else the machine was doing.",
    "latency: from the commit of a lease to the commit of its result. first, last: CPU time of the master's "
    "process for a step (in the local shell the host's as well), median over the quarters of the first and of the last 1,000 "
    "steps, each commit's part held against a fixed piece of work that is done after the commit: so "
    "the two can be compared although the machine's pace changes meanwhile.",
)

PEERS = (
    "Others: the row of a passage's first word and line, by one node of a LangGraph, one AutoGen agent, one plain Ray actor, "
    f"or plain Ray tasks, {MOST:,} passages at most. They have no windows, no leases, no quotes to check, and only LangGraph "
    "with SQLite (synchronous=FULL, durability=sync) has anything durable after a step."
)


def run_overhead(
    steps: int = 20_000, shells: Sequence[str] = SHELLS, tokenizer: str = "embedded", agents: int = AGENTS, peers: bool = False
) -> Outcome:
    """Measures durable steps in each shell.

    Args:
        steps: tasks to carry, at least 1.
        shells: of `local`, `ray`, and `ray+server` (the null model behind a ModelServer).
        tokenizer: as `model.tokenizer` of a job; empty takes the estimate that endpoints get.
        agents: tasks that a host works on at once.
        peers: whether other frameworks do the null work as well, in the same run.

    Raises:
        SpecError: `steps` or `shells` make no sense.
        SwarmError: what made a job fail.
    """
    for shell in shells:
        if shell not in SHELLS:
            raise SpecError(f"there is no shell {shell!r}", "--shell", f"choose from {', '.join(SHELLS)}")
    if steps < 1:
        raise SpecError(f"{steps} steps measure nothing", "--steps", "give at least 1; 20000 takes some seconds")
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as name:
        folder = Path(name)
        write_passages(folder / "corpus", steps, seed=0)
        model = ModelSpec(engine="scripted", name="first-line", tokenizer=tokenizer, concurrency=max(agents, 64))
        spec = passages_job(folder / "corpus", model)
        rows: list[Mapping[str, Any]] = []
        for shell in shells:
            bare = run_bare(Path(tempfile.mkdtemp(dir=folder)), steps)
            run = RunFolder(folder / "runs", shell.replace("+", "-"))
            work = work_locally_timed(spec, run, agents) if shell == "local" else _work_on_ray(spec, run, agents, shell)
            figures = asyncio.run(work)
            share = round(figures["steps_per_s"] / bare, 3)
            rows.append({"shell": shell, **figures, "bare_per_s": round(bare), "of_bare": share})
        if peers:
            rows += run_peers(folder, passages(min(steps, MOST), seed=0))
    return Outcome("overhead", (*ABOUT, *((PEERS,) if peers else ())), tuple(rows), tuple(_floors(rows)))


async def work_locally_timed(spec: JobSpec, run: RunFolder, agents: int) -> dict[str, Any]:
    """The job in the local shell on a null model; its figures."""
    from swarm.runtime.local import work_locally

    job, corpus = check(spec)
    session = Session.create(job, corpus, run)
    try:
        timed = session.master.store = TimedStore(session.store, run.log)
        await work_locally(session, agents, NullModel(job.tokenizer, job.template))
        return timed.figures()
    finally:
        session.close()


async def _work_on_ray(spec: JobSpec, run: RunFolder, agents: int, shell: str) -> dict[str, Any]:
    from swarm.bench.ray_job import work_on_ray

    return await work_on_ray(spec, run, agents, served=shell == "ray+server")


def _floors(rows: Sequence[Mapping[str, Any]]) -> list[Floor]:
    floors = []
    for row in rows:
        if row["shell"] in FLOORS:
            name = f"durable steps/s, {row['shell']}"
            floors.append(Floor.at_least(name, FLOORS[row["shell"]], row["steps_per_s"]))
            floors.append(Floor.at_most(f"last 1,000 steps to first, {row['shell']}", 1.1, row["last_to_first"], "×"))
    return floors
