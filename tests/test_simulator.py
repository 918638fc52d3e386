"""The core under faults: safety after every step, and the undisturbed answer at the end, for many seeds.

`Simulation.run` itself objects to whatever must not happen; see `swarm.testing.invariants` for the list.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from swarm import events as ev
from swarm.coordinator.budget import AGENT
from swarm.errors import ProtocolError
from swarm.protocol import Passage
from swarm.testing.faults import FLOOD, NONE, STORM, Faults
from swarm.testing.invariants import LogWatch, log_digest, refold, state_digest
from swarm.testing.simulator import Simulation
from tests.peopled import APPROVED, Peopled
from tests.simulated import PROSE, ROLLING, answer, simulate

ROOT = Path(__file__).resolve().parent.parent
FREE: dict[str, dict[str, Any]] = {"map_reduce": {}, "rolling": ROLLING, "prose": PROSE}
PAID: dict[str, Any] = {"engine": "scripted", "name": "raises", "price": {"input": 1.0, "output": 4.0}}
LIMITS: dict[str, Any] = {"money": 0.03, "reserve": 0.2, "roles": {"reader": {"calls": 9}, "verifier": {"money": 0.005}}}
KINDS: dict[str, dict[str, Any]] = {
    **FREE,
    "paid": {"model": PAID},
    "limited": {"model": PAID, "budget": LIMITS},
    "people": {**APPROVED, "model": {**PAID, "in_doubt": "ask"}},
}
"""Answers of each form, calls that are paid for, a budget that ends the work early, and people who are asked."""
UNLIMITED: dict[str, float | None] = {"money": None, "roles.reader.calls": None, "roles.verifier.money": None}
SAFE_SEEDS, LIVE_SEEDS, BUDGET_SEEDS = 5, 10, 6
"""Of each kind. `test_simulator_seeds.py` runs hundreds more, and `make chaos` tens of thousands."""
STORMY, STEPS = 200, 3000
"""Steps under faults before they cease; and more steps than any run takes."""
LEAST = {"map_reduce": 5, "rolling": 1, "prose": 5, "paid": 5, "limited": 5, "people": 5}
"""Steps that a safety run finishes on average, at least."""
SPELL = 25
"""Steps of calm between two floods, in which work gets done that the next one could harm, and of a flood."""


def made(kind: str, seed: int = 0, faults: Faults = NONE, **how: Any) -> Simulation:
    return simulate(seed, faults, changes=KINDS[kind], make=Peopled if kind == "people" else Simulation, **how)


def undisturbed(kind: str) -> Simulation:
    one = made(kind, hosts=1)
    one.run(STEPS)
    while one.state.status == "budget":
        one.give(UNLIMITED)
        one.run(STEPS)
    return one


def found(one: Simulation) -> list[Any]:
    """What a job has found. The flags of a finding count what people said, which differs from run to run."""
    return [row[:3] if isinstance(one, Peopled) else row for row in one.findings()]


@pytest.mark.parametrize("kind", FREE)
def test_a_run_without_faults_finds_everything(kind: str) -> None:
    one = undisturbed(kind)
    assert one.state.status == "done" and not one.state.failed
    findings = {tuple(content["values"].values()) for name, content, _, _ in one.findings() if name == "finding"}
    if kind == "prose":
        assert len(findings) == 7
    else:
        expected = {
            ("f0", "ValueError"),
            ("f1", "KeyError"),
            ("f2", "OSError"),
            ("f2", "TypeError"),
            ("f4", "KeyError"),
            ("f5", "OSError"),
            ("f5", "TypeError"),
            ("f6", "ValueError"),
            ("f8", "OSError"),
            ("f8", "TypeError"),
        }
        assert findings == expected


def run_live(kind: str, seeds: range) -> Counter[str]:
    """Liveness: once nothing goes wrong any more, it ends in time, with the findings of an undisturbed run. One that
    has spent its budget rests instead, and goes on when it gets more."""
    expected = found(undisturbed(kind))
    befell: Counter[str] = Counter()
    for seed in seeds:
        one = made(kind, seed, STORM)
        one.run_live(STORMY)
        while one.state.status == "budget":
            befell["rests"] += 1
            one.give(UNLIMITED)
            one.faults = STORM
            one.run_live(one.steps + STORMY)
        assert one.state.status == "done", f"seed {seed} ends {one.state.status}"
        assert found(one) == expected, f"seed {seed} finds something else"
        befell.update(one.seen)
    assert befell["rests"] or kind != "limited"
    return befell


def run_safe(kind: str, seeds: range) -> Counter[str]:
    """Safety: floods of faults, three times as many as in a storm, and no claim that a job ever ends. In the calm between
    them something gets done, or there would be nothing to lose."""
    befell: Counter[str] = Counter()
    finished = 0
    for seed in seeds:
        one = made(kind, seed)
        if isinstance(one, Peopled):
            one.rejects = 0.3
        while one.steps < STORMY and not (one.ended and one.state.status != "budget"):
            if one.state.status == "budget":
                one.give(UNLIMITED)
            one.faults = (NONE, FLOOD)[one.steps // SPELL % 2]
            one.run(one.steps + SPELL)
        befell.update(one.seen)
        finished += one.state.finished.total()
    assert finished >= len(seeds) * LEAST[kind], f"only {finished} steps were finished in {len(seeds)} runs"
    return befell


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_befalls_it_a_job_ends_with_the_same_findings(kind: str) -> None:
    assert run_live(kind, range(LIVE_SEEDS)).total()


@pytest.mark.parametrize("kind", KINDS)
def test_faults_without_end_break_no_promise(kind: str) -> None:
    assert run_safe(kind, range(SAFE_SEEDS)).total()


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("budget", [{"tokens": 7000, "reserve": 0.3}, {"calls": 13, "reserve": 0.2}], ids=str)
def test_no_budget_is_passed_under_any_fault(kind: str, budget: dict[str, Any]) -> None:
    stopped = 0
    for seed in range(BUDGET_SEEDS):
        one = simulate(seed, STORM, changes={**KINDS[kind], "budget": budget})
        one.run(STEPS)
        assert one.ended, f"seed {seed} never ends"
        stopped += one.state.status == "budget"
    assert stopped, "some of them reached it"


def test_the_same_seed_gives_the_same_log() -> None:
    one, two, other = simulate(3, STORM), simulate(3, STORM), simulate(4, STORM)
    for simulation in (one, two, other):
        simulation.run(STEPS)
    assert log_digest(one.log) == log_digest(two.log) != log_digest(other.log)


def test_the_jobs_id_does_not_show_in_the_answer() -> None:
    """Every other id depends on it; rows that cite the same place must not be ordered by those."""
    text = "def f():\n    raise ValueError if x else KeyError\n"
    both = [["f", name, "raise ValueError if x else KeyError"] for name in ("ValueError", "KeyError")]
    texts = [Passage(number, "d", "p", 100 * number, text, 20, "m.py > f", False) for number in range(3)]
    found = []

    def said(asked: str) -> str:
        return json.dumps(both) if asked.endswith(text) else answer(asked)

    for job in "abcdef":
        one = simulate(texts=texts, job=job)
        one.answer = said
        one.run(STEPS)
        found.append(one.findings())
    assert len(found[0]) == 4 and all(one == found[0] for one in found)


def test_the_order_of_hashes_does_not_show() -> None:
    code = (
        "from itertools import product\n"
        "from tests.test_simulator import *\n"
        "for kind, seed in product(KINDS, range(5, 8)):\n"
        "    one = made(kind, seed, STORM); one.run_live(STORMY); print(kind, log_digest(one.log), len(one.log))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1, "which of the jobs it is, the lines tell"
    assert min(map(int, said.pop().split()[2::3])) > 60


def test_no_agent_spends_more_than_one_may_under_any_fault() -> None:
    """Without faults a reader makes one call; broken outputs are drawn again, until it may not."""
    reached = 0
    for seed in range(BUDGET_SEEDS):
        one = simulate(seed, STORM, changes={"budget": {"agent": {"calls": 1}}})
        one.run(STEPS)
        reached += any(limit.role == AGENT for limit in one.state.limits)
    assert reached, "some of them reached it"


@pytest.mark.parametrize("part", range(1, 9))
def test_a_job_goes_on_from_every_commit(part: int) -> None:
    """A master may die after any commit: here, after each of the eight parts of a run."""
    whole = simulate(1)
    whole.run(STEPS)
    durable = whole.commits[len(whole.commits) * part // 9]
    again = simulate(2)
    again.log, again.bodies, again.watch = whole.log[:durable], whole.bodies, LogWatch()
    for event in again.log:
        again.watch.see(event)
    again.wall = again.log[-1].time
    again.restart()
    again.run(STEPS)
    assert again.log[:durable] == whole.log[:durable]
    assert again.findings() == whole.findings()


# ---- that the watch sees what it is there for ----


def broken_logs() -> dict[str, list[ev.Event]]:
    one = simulate(0)
    one.run(STEPS)
    log = one.log
    done = next(at for at, event in enumerate(log) if isinstance(event.body, ev.TaskFinished))
    lease = next(at for at, event in enumerate(log) if isinstance(event.body, (ev.TaskLeased, ev.RangeLeased)))
    last = log[-1]

    def after(body: ev.Body, **changes: Any) -> list[ev.Event]:
        stamp = {"seq": done + 2, "time": log[done].time, "epoch": 1, "cause": 0, "key": "", **changes}
        return [*log[: done + 1], ev.Event(**stamp, body=body)]

    return {
        "gap": [*log[:5], *log[6:]],
        "time goes back": after(log[0].body, time=0.0),
        "ended twice": after(log[done].body),
        "leased twice": after(log[lease].body),
        "another epoch": after(ev.SourceSkipped(note=""), epoch=7),
        "after the end": [*log, ev.Event(last.seq + 1, last.time, 1, 0, "", ev.SourceSkipped(note=""))],
    }


@pytest.mark.parametrize(
    "name", ["gap", "time goes back", "ended twice", "leased twice", "another epoch", "after the end"]
)
def test_the_watch_objects_to_a_log_that_breaks_a_promise(name: str) -> None:
    watch = LogWatch()
    with pytest.raises(AssertionError):
        for event in broken_logs()[name]:
            watch.see(event)


def test_digests_tell_states_apart() -> None:
    one = simulate(0)
    one.run(STEPS)
    digests = {state_digest(refold(one.log[:upto])) for upto in range(5, len(one.log))}
    assert len(digests) == len(one.log) - 5


def test_a_protocol_that_raises_is_named_and_leaves_the_log_as_it_was() -> None:
    one = simulate(0)
    react = one.protocol.react

    class Faulty:
        """Raises when the first reader has ended."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def react(self, state: Any, event: Any, view: Any) -> Any:
            if view.ended and view.ended.role == "reader":
                raise KeyError("left")
            return react(state, event, view)

    one.core.protocol = Faulty(one.protocol)
    with pytest.raises(ProtocolError, match=r"map_reduce: failed at event \d+ \(TaskFinished\): KeyError") as caught:
        one.run(STEPS)
    assert "resume" in caught.value.cure
    one.restart()
    assert one.run(STEPS).status == "done", "the log was not touched: with the protocol mended the job goes on"
    assert one.findings() == undisturbed("map_reduce").findings()
