"""How fast the machine is at this moment: a fixed piece of work, timed.

Owns the work and its timing. A machine that others share changes its pace by half from one minute to the next, so what a step
costs early and late in a long run can only be compared by how much such work cost at the same moments.
"""

from __future__ import annotations

import time

from swarm.bench.steps import null_log
from swarm.coordinator import JobState
from swarm.payload import encode

STEPS = 16
"""Steps whose events are folded and encoded: some tenths of a millisecond."""
_EVENTS = list(null_log(1, STEPS))


def pace() -> float:
    """CPU seconds of the work, in the thread that asks."""
    began = time.thread_time()
    state = JobState()
    for event in _EVENTS:
        state.apply(event)
        encode(event.body)
    return time.thread_time() - began
