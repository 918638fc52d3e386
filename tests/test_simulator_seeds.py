"""The simulator over as many seeds as `make test` has time for: 960 of them, about half a minute of one core."""

from __future__ import annotations

import pytest

from swarm.testing.faults import KINDS as FAULTS
from tests.test_simulator import KINDS, LIVE_SEEDS, SAFE_SEEDS, run_live, run_safe

LIVE, SAFE = range(LIVE_SEEDS, LIVE_SEEDS + 100), range(SAFE_SEEDS, SAFE_SEEDS + 60)


@pytest.mark.parametrize("kind", KINDS)
def test_every_job_ends_once_faults_cease(kind: str) -> None:
    befell = run_live(kind, LIVE)
    assert all(befell[fault] for fault in FAULTS), "every fault happened"


@pytest.mark.parametrize("kind", KINDS)
def test_no_promise_breaks_under_faults_without_end(kind: str) -> None:
    befell = run_safe(kind, SAFE)
    assert all(befell[fault] for fault in FAULTS), "every fault happened"
