"""How much memory agents take: thousands of them alive at once in one job.

Owns bringing a host to the point where every agent holds its lease, its passage, its packed window and a call in
flight, and reading the process's memory there.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarm.bench.corpus import passages_job, write_passages
from swarm.bench.outcome import Floor, Outcome, resident
from swarm.errors import SpecError
from swarm.runtime.local import work_locally
from swarm.runtime.session import Session, check
from swarm.spec import JobSpec, ModelSpec
from swarm.store.folder import RunFolder
from swarm.testing.null import GatedModel

GOAL_MB, GOAL_AGENTS = 300.0, 10_000
ABOUT = (
    "All agents work in one job of the local shell: one process holds the master, the board and the host. The"
    " model keeps every call open until all agents wait in one; memory is read there, less what the process "
    "took before the corpus was pinned. Each agent holds its lease, a window with a passage of about 300 "
    "tokens, and a call in flight.",
)


def run_agents(agents: int = GOAL_AGENTS, tokenizer: str = "embedded") -> Outcome:
    """Measures the memory of `agents` agents that are alive at once.

    Raises:
        SpecError: there is no agent to measure.
        SwarmError: what made the job fail.
    """
    if agents < 1:
        raise SpecError(f"{agents} agents take no memory", "--agents", "give at least 1")
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as name:
        folder = Path(name)
        write_passages(folder / "corpus", agents, seed=0)
        model = ModelSpec(engine="scripted", name="null", tokenizer=tokenizer, concurrency=agents, timeout_s=3600)
        row = asyncio.run(_alive(passages_job(folder / "corpus", model), RunFolder(folder / "runs", "agents"), agents))
    extra = row["extra_mb"] * GOAL_AGENTS / agents
    name = f"MB of {GOAL_AGENTS:,} agents" + ("" if agents == GOAL_AGENTS else f", from {agents:,}")
    return Outcome("agents", ABOUT, (row,), (Floor.at_most(name, GOAL_MB, round(extra, 1)),))


async def _alive(spec: JobSpec, run: RunFolder, agents: int) -> Mapping[str, Any]:
    job, corpus = check(spec)
    session = Session.create(job, corpus, run)
    found: dict[str, int] = {}

    def full() -> None:
        found["bytes"], found["leased"] = resident(), session.master.state.leased

    try:
        gc.collect()
        empty = resident()
        model = GatedModel(job.tokenizer, job.template, agents, full)
        await work_locally(session, agents, model)
        extra = found["bytes"] - empty
        return {
            "agents_alive": found["leased"],
            "empty_mb": round(empty / 1e6, 1),
            "extra_mb": round(extra / 1e6, 1),
            "bytes_per_agent": round(extra / agents),
            "steps_done": session.master.state.finished["reader"],
        }
    finally:
        session.close()
