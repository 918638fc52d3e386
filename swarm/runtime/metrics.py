"""What a job's master and hosts tell Prometheus, through Ray's metrics.

Owns the names and what they count. The numbers are read from the fold and the host, and nothing is decided by them: the log
is exact, while the last seconds of an actor that ends may never be exported. No tag names a job, whose number is unbounded.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from ray.util.metrics import Counter, Gauge, Histogram

from swarm.coordinator import JobState
from swarm.coordinator.budget import effective, used
from swarm.runtime.host import Host
from swarm.spec import JobSpec

REPORT_SECONDS = 5.0
"""How often the numbers are brought up to date: a gauge that isn't set again vanishes after about 20 s."""
WAITS = [0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0]
"""Upper bounds, in seconds, of the classes that waits are counted in."""


class MasterMetrics:
    """A master's numbers. What earlier masters of the job did was theirs to tell."""

    def __init__(self, spec: JobSpec, state: JobState) -> None:
        self._spec, self._told = spec, counts(state)
        self._counters = {
            "steps": Counter("swarm_steps", "Tasks that were finished, by role.", ("role",)),
            "tokens": Counter("swarm_tokens", "Tokens of recorded calls, by role.", ("role", "direction")),
            "retries": Counter("swarm_retries", "Tasks that failed and are tried again."),
            "given_up": Counter("swarm_given_up", "Tasks that were given up."),
        }
        self._tasks = Gauge("swarm_open_tasks", "Tasks that are known and not finished, by role.", ("role",))
        self._leased = Gauge("swarm_leased_tasks", "Tasks that hosts work on.")
        self._questions = Gauge("swarm_open_questions", "Questions that wait for a person.")
        self._budget = Gauge("swarm_budget_left", "The share of each limit that is left, 0 to 1.", ("limit",))

    def report(self, state: JobState, now: float, disk: int) -> None:
        """Brings the numbers up to date; `now` is in seconds since 1970, `disk` the bytes that the run takes."""
        found = counts(state)
        for (name, *tags), value in (found - self._told).items():
            self._counters[name].inc(value, dict(zip(TAGS[name], tags, strict=True)))
        self._told = found
        for role, count in state.open.items():
            self._tasks.set(count, {"role": role})
        self._leased.set(state.leased)
        self._questions.set(len(state.questions))
        for limit, left in budget_left(self._spec, state, now, disk):
            self._budget.set(left, {"limit": limit})


TAGS = {"steps": ("role",), "tokens": ("role", "direction"), "retries": (), "given_up": ()}


def counts(state: JobState) -> Counts[tuple[str, ...]]:
    """(metric, tags…) → how much of it there was since the job began."""
    found: Counts[tuple[str, ...]] = Counts({("retries",): state.retries, ("given_up",): len(state.failed)})
    for role, steps in state.finished.items():
        found["steps", role] = steps
    for (role, _), spend in state.spend.items():
        found["tokens", role, "in"] += spend.tokens_in
        found["tokens", role, "out"] += spend.tokens_out
    return found


def budget_left(spec: JobSpec, state: JobState, now: float, disk: int) -> Iterator[tuple[str, float]]:
    """(limit, share of it that is left) for each limit that is set."""
    budget = effective(spec.budget, state.raised)
    found = used(budget, spec.model.price, state, now, disk)
    return ((name, max(0.0, 1 - spent / limit)) for name, limit, spent in found)


class HostMetrics:
    """A host's numbers."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._wait = Histogram("swarm_queue_wait_seconds", "How long calls waited for their turn on a host.", WAITS)
        self._agents = Gauge("swarm_agents", "Tasks that a host may work on at once.")
        self._busy = Gauge("swarm_agents_busy", "Tasks that a host works on now.")

    def report(self) -> None:
        """Brings the numbers up to date."""
        while self._host.waits:
            self._wait.observe(self._host.waits.popleft())
        self._agents.set(self._host.agents)
        self._busy.set(self._host.busy)


@asynccontextmanager
async def reporting(report: Callable[[], None]) -> AsyncIterator[None]:
    """Reports again and again until the end of the block, and once more then."""

    async def again_and_again() -> None:
        while True:
            report()
            await asyncio.sleep(REPORT_SECONDS)

    task = asyncio.create_task(again_and_again())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        report()
