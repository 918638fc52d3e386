"""Budgets under faults: whatever befalls a job, with enough budget it finds in the end what an undisturbed one finds.

And whoever is refused rests: a job over its limits has no work that anybody could be given, and nothing more happens to it.
Masters and hosts hear of both: of work that there is, and of calls for which no time is left.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from swarm import events as ev
from swarm.coordinator import Phase, Report
from swarm.runtime.master import LONG_POLL_SECONDS
from swarm.runtime.wire import Batch, Order, Pull
from swarm.testing.simulator import STORM
from tests.simulated import simulate, spec
from tests.test_master import finished, made, ran, started
from tests.test_simulator import FREE, PAID, STORMY, undisturbed

SEEDS = 6
BUDGETS: dict[str, dict[str, Any]] = {
    "tokens": {"tokens": 4000, "reserve": 0.3},
    "calls": {"calls": 9, "reserve": 0.2},
    "roles": {"roles": {"reader": {"calls": 6}, "notetaker": {"calls": 8}, "verifier": {"tokens": 1500}}},
    "seconds": {"seconds": 8, "reserve": 0.2},
    "money": {"money": 0.012, "reserve": 0.2, "roles": {"verifier": {"money": 0.005}}},
}
BASE = {"tokens": 4000, "calls": 9, "seconds": 8, "money": 0.012}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("kind", FREE)
def test_a_job_that_is_given_more_again_and_again_finds_what_one_without_limits_finds(kind: str, budget: str) -> None:
    expected, rests, done = undisturbed(kind).findings(), 0, 0
    limits = BUDGETS[budget]
    names = [f"roles.{role}.{one}" for role, own in limits.get("roles", {}).items() for one in own]
    names += [budget] if budget in BASE else []
    model = {"model": PAID} if budget == "money" else {}
    for seed in range(SEEDS):
        one = simulate(seed, STORM, changes={**FREE[kind], **model, "budget": limits})
        for more in (1.5, 3, 10, None, None):
            one.run_live(one.steps + STORMY)
            if one.state.status != "budget":
                break
            rests += 1
            assert not one.core.pulled(one.now, "anyone", (), 9)[1] and one.state.phase is Phase.PAUSED
            one.faults = STORM
            base = {name: BASE[name.rpartition(".")[2]] for name in names}
            one.give({name: more and (base[name] * more if "money" in name else round(base[name] * more)) for name in names})
        assert one.state.status == "done", f"seed {seed} ends {one.state.status}: {one.state.reason}"
        assert one.findings() == expected, f"seed {seed} finds something else"
        done += 1
    assert rests > SEEDS / 2 and done == SEEDS


def test_a_refused_host_waits_for_news_and_does_not_ask_on_and_on() -> None:
    """While one host works, another that gets nothing is answered once a long poll, and at its news; nothing is appended."""

    async def scene() -> None:
        master, store, _ = started(spec(answer={"columns": {"name": "its name"}, "merge": "set"}, budget={"calls": 4}))
        (work,) = (await master.pull(Pull("worker", 1))).work
        commits, began = len(store.commits), time.monotonic()
        for _ in range(2):
            refused = await master.pull(Pull("idle", 8))
            assert refused.order is Order.WORK and not refused.work
        assert time.monotonic() - began >= 2 * LONG_POLL_SECONDS * 0.9 and len(store.commits) == commits
        waiting = asyncio.create_task(master.pull(Pull("idle", 8)))
        await master.pull(Pull("worker", 0, finished(Batch(Order.WORK, (work,)))))
        assert len((await waiting).work) == 1, "what the task did not use is free again, and its news are heard at once"

    ran(scene())


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_is_set_neither_uses_up_the_seconds_nor_stops_them(jump: float) -> None:
    async def scene() -> None:
        job = spec(answer={"columns": {"name": "its name"}, "merge": "set"}, budget={"seconds": 100, "reserve": 0})
        master, store, clocks = started(job)
        batch = await master.pull(Pull("h", 1))
        for _ in range(3):
            clocks.wall += jump
            clocks.pass_by(20)
            batch = await master.pull(Pull("h", 1, finished(batch)))
            assert batch.work, "there are seconds left"
        clocks.wall += jump
        clocks.pass_by(50)
        await master.pull(Pull("h", 1, finished(batch)))
        assert master.state.limits[0].limit == "seconds" and master.state.limits[0].spent == pytest.approx(110)
        times = [event.time for event in store.events]
        assert times == sorted(times) and times[-1] - times[0] == pytest.approx(110)
        assert any(isinstance(event.body, ev.BudgetReached) for event in store.events)

    ran(scene())


def test_a_host_is_told_of_calls_that_were_broken_off_until_it_says_that_it_has_dropped_them() -> None:
    async def scene() -> None:
        master, store, clocks = started(spec(answer={"columns": {"name": "its name"}, "merge": "set"}, budget={"seconds": 10}))
        (work,) = (await master.pull(Pull("h", 1))).work
        waiting = asyncio.create_task(master.pull(Pull("h", 1)))  # a lease that ends before its host has heard of it
        while master.state.leased < 2:
            await asyncio.sleep(0)
        clocks.pass_by(9.5)
        master.expire()
        assert master.state.closing is not None and store.events[-1].kind == "TaskAdded", "and it is durable"
        batch = await waiting
        assert not batch.work and batch.dropped == (work.token,)
        said = ev.CallFinished(task=work.brief.id, turn=0, sample=0, output="", tokens_in=1, tokens_out=1, finish="stop",
                               weights="w", seconds=0.1)  # fmt: skip
        turn = Report(work.brief.id, work.token, (said,))
        assert (await master.pull(Pull("h", 0, (turn,)))).dropped == (work.token,), "a turn is not the last word"
        batch = await master.pull(Pull("h", 1, (Report(work.brief.id, work.token, ()),)))
        assert batch.dropped == () and [one.brief.role for one in batch.work] == ["reducer"]

    ran(scene())


def test_a_host_that_came_before_the_work_began_is_woken_by_it() -> None:
    async def scene() -> None:
        master, _, _ = made()
        early = asyncio.create_task(master.pull(Pull("h", 1)))
        for _ in range(5):
            await asyncio.sleep(0)
        master.start()
        for _ in range(20):
            await asyncio.sleep(0)
        assert early.done() and (await early).work, "it did not wait for time to pass"

    ran(scene())
