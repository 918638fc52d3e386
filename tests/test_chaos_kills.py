"""Where `make chaos` kills drivers, and what it makes of a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.store.folder import RunFolder
from tests.chaos_kills import Kills
from tests.jobs import state_of


def test_kills_are_drawn_from_the_whole_job_at_commits_and_at_moments_in_turn(tmp_path: Path) -> None:
    kills = Kills(tmp_path)
    kills.commits, kills.seconds = 30, 2.0
    named, moments = ([kills.where(number) for number in range(first, 600, 2)] for first in (0, 1))
    assert all(isinstance(one, int) for one in named) and set(named) == set(range(1, 31)), "from the first to the last"
    assert all(isinstance(one, float) for one in moments) and len(set(moments)) == 300
    assert min(moments) < 0.1 and 1.9 < max(moments) <= 2.0
    assert [kills.where(number) for number in (0, 1)] == [named[0], moments[0]], "by the seed alone"


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Kills:
    one = Kills(tmp_path_factory.mktemp("kills") / "base", copies=1)
    one.measure()
    return one


@pytest.mark.parametrize("where", [1, 0.0], ids=["a commit", "a moment"])
def test_a_killed_job_is_resumed_and_the_kill_counts(tmp_path: Path, kills: Kills, where: int | float) -> None:
    assert kills.commits > 3 and kills.seconds > 0.02
    folder = RunFolder(tmp_path, "killed")
    assert kills.kill(folder, where) == 1
    assert (state_of(folder).status, state_of(folder).epoch) == ("done", 2)


def test_a_kill_that_comes_after_the_end_is_none(tmp_path: Path, kills: Kills) -> None:
    folder = RunFolder(tmp_path, "killed")
    assert kills.kill(folder, 60.0) == 0
    assert (state_of(folder).status, state_of(folder).epoch) == ("done", 1)
