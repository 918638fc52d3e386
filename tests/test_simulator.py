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
from swarm.errors import ProtocolError
from swarm.protocol import Passage
from swarm.testing.faults import FLOOD, STORM
from swarm.testing.invariants import LogWatch, log_digest, refold, state_digest
from swarm.testing.simulator import Simulation
from tests.simulated import PROSE, ROLLING, answer, simulate

ROOT = Path(__file__).resolve().parent.parent
KINDS: dict[str, dict[str, Any]] = {"map_reduce": {}, "rolling": ROLLING, "prose": PROSE}
SAFE_SEEDS, LIVE_SEEDS, BUDGET_SEEDS = 10, 20, 6
"""Of each kind. `test_simulator_seeds.py` runs hundreds more, and `make chaos` tens of thousands."""
STORMY, STEPS = 200, 3000
"""Steps under faults before they cease; and more steps than any run takes."""


def undisturbed(kind: str) -> Simulation:
    one = simulate(changes=KINDS[kind], hosts=1)
    one.run(STEPS)
    return one


@pytest.mark.parametrize("kind", KINDS)
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
    """Liveness: once nothing goes wrong any more, it ends within a minute, with the findings of an undisturbed run."""
    expected = undisturbed(kind).findings()
    befell: Counter[str] = Counter()
    for seed in seeds:
        one = simulate(seed, STORM, changes=KINDS[kind])
        one.run_live(STORMY)
        assert one.state.status == "done", f"seed {seed} ends {one.state.status}"
        assert one.findings() == expected, f"seed {seed} finds something else"
        befell.update(one.seen)
    return befell


def run_safe(kind: str, seeds: range) -> Counter[str]:
    """Safety: three times as many faults, and no claim that anything gets done."""
    befell: Counter[str] = Counter()
    for seed in seeds:
        one = simulate(seed, FLOOD, changes=KINDS[kind])
        one.run(STORMY)
        befell.update(one.seen)
    return befell


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_befalls_it_a_job_ends_with_the_same_findings(kind: str) -> None:
    assert run_live(kind, range(LIVE_SEEDS)).total()


@pytest.mark.parametrize("kind", KINDS)
def test_faults_without_end_break_no_promise(kind: str) -> None:
    assert run_safe(kind, range(SAFE_SEEDS)).total()


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_hashes_does_not_show(kind: str) -> None:
    code = (
        "from tests.test_simulator import *\n"
        f"one = simulate(5, STORM, changes=KINDS[{kind!r}]); one.run_live(STORMY); print(log_digest(one.log), len(one.log))"
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
    assert len(said) == 1 and int(said.pop().split()[1]) > 60


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
    lease = next(at for at, event in enumerate(log) if isinstance(event.body, ev.TaskLeased))
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
