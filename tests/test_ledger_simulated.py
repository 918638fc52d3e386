"""Paid calls under every fault that the simulator knows: whatever befalls a job, each call that was charged is accounted for."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.coordinator import Phase
from swarm.testing.faults import STORM
from swarm.testing.simulator import Simulation
from tests.simulated import ROLLING, simulate

PAID: dict[str, Any] = {"engine": "scripted", "name": "raises", "price": {"input": 1.0, "output": 4.0}}
SEEDS = range(12)
STEPS = 3000


def paid(seed: int, **changes: Any) -> Simulation:
    """A paid job in a storm; its check looks after each step whether the log knows of every call that was charged."""
    one = simulate(seed, STORM, changes={"model": PAID, **changes})
    one.run(STEPS)
    return one


@pytest.mark.parametrize("kind", [{}, ROLLING], ids=["map_reduce", "rolling"])
def test_every_call_that_is_charged_is_in_the_spend_in_doubt_or_out(kind: dict[str, Any]) -> None:
    ended, doubts, strays = 0, 0, 0
    for seed in SEEDS:
        one = paid(seed, **kind)
        ended += one.state.phase is Phase.ENDED
        doubts += one.state.ledger.doubt().calls
        strays += one.state.ledger.strayed.calls
    assert ended == len(SEEDS) and doubts > 0 and strays > 0, (ended, doubts, strays)


def test_paying_changes_nothing_in_the_answer() -> None:
    free = simulate(0)
    free.run(STEPS)
    assert all(paid(seed).findings() == free.findings() for seed in SEEDS)


def test_a_build_that_forgets_late_answers_is_caught() -> None:
    from swarm.coordinator.ledger import Ledger

    class Forgetful(Ledger):
        def lose(self, role: str, intent: tuple[int, int, int]) -> None:
            return None

    for seed in SEEDS:
        one = simulate(seed, STORM, changes={"model": PAID})
        one.core.state.ledger = Forgetful()
        try:
            one.run(STEPS)
        except AssertionError as error:
            assert "calls were charged" in str(error) or "differ" in str(error)
            return
    pytest.fail("nobody noticed")
