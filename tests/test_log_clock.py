"""Log time goes with the seconds that truly pass, whatever the clock on the wall says."""

from __future__ import annotations

import pytest

from swarm.coordinator import JobState
from swarm.runtime.clock import LogClock
from swarm.runtime.master import JobMaster
from swarm.runtime.prepare import prepare
from tests.memory_store import MemoryStore
from tests.simulated import spec

JUMPS = pytest.mark.parametrize("jump", [-86400.0, -1.0, 0.0, 3600.0])


@JUMPS
def test_a_jump_of_the_wall_clock_changes_nothing(jump: float) -> None:
    wall, ticks = [1000.0], [50.0]
    clock = LogClock(0.0, lambda: wall[0], lambda: ticks[0])
    assert clock() == 1000.0
    wall[0] += jump
    ticks[0] += 7.0
    assert clock() == 1007.0


def test_after_a_clock_was_set_back_log_time_goes_on_from_the_last_event() -> None:
    ticks = [0.0]
    clock = LogClock(5000.0, lambda: 1400.0, lambda: ticks[0])
    assert clock() == 5000.0
    ticks[0] += 2.0
    assert clock() == 5002.0, "and does not stand still for an hour"


@JUMPS
def test_a_master_stamps_what_truly_passes(jump: float) -> None:
    wall, ticks, store = [1000.0], [0.0], MemoryStore()
    job = prepare(spec(answer={"columns": {"name": "its name"}, "merge": "set"}))
    master = JobMaster(job, store, JobState(), lambda: wall[0], lambda: ticks[0])
    created, bodies = job.creation("j")
    master.append([created], bodies)
    wall[0] += jump
    ticks[0] += 3.0
    master.open("test")
    assert [event.time for event in store.events] == [1000.0, 1003.0]

