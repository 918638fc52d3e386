"""A job that takes days, in the simulator: minutes pass between its steps, and everything befalls it that may.

Owns the pace, the renewal of leases, and the master that opens its job at a snapshot when it comes back. What must hold is
the simulator's to say.
"""

from __future__ import annotations

from typing import Any

from swarm.coordinator import JobState
from swarm.coordinator.snapshot import pack, unpack
from swarm.testing.invariants import refold, state_digest
from swarm.testing.simulator import Simulation

HOUR = 3600.0
WAITS = (0.0, 20.0, 60.0, 300.0)
"""Seconds that pass between two steps."""
LOOK_EVERY = 50
"""Steps after which everything that must hold is looked at."""
FOLD_EVERY = 1_000
"""Steps after which the whole log is folded anew and compared with the state."""
SNAPSHOT_EVERY = 300
"""Events after which a snapshot is taken."""


class Days(Simulation):
    """A simulation in which up to some minutes pass between two steps, while hosts that live renew their leases."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.snapshots, self.restored = 0, 0
        self._kept: tuple[int, bytes, dict[str, bytes]] | None = None
        super().__init__(*arguments, **options)

    @property
    def hours(self) -> float:
        """How long the job has taken, as a clock that never jumps measures it."""
        return self.ticks / HOUR

    def step(self) -> None:
        """Some time passes, hosts say that they live, and then one thing happens."""
        self._pass(self.random.choice(WAITS))
        for host in self.crew:
            if host.stands_until <= self.ticks and host.name in self.heard:
                self.heard[host.name] = self.ticks
        super().step()

    def check(self) -> None:
        """What must hold between two steps; most of it is looked at now and then only."""
        assert self.state.seq == len(self.log)
        if self.state.seq - (self._kept[0] if self._kept else 0) >= SNAPSHOT_EVERY:
            self._kept = (self.state.seq, *pack(self.state))
            self.snapshots += 1
        if self.steps % LOOK_EVERY == 0:
            super().check()
        if self.steps % FOLD_EVERY == 0:
            self._compare()

    def reopened(self) -> JobState:
        """The state at the last snapshot, with the events after it."""
        if self._kept is None:
            return super().reopened()
        seq, head, parts = self._kept
        state: JobState = unpack(head, parts)
        for event in self.log[seq:]:
            state.apply(event)
        self.restored += 1
        if self.restored % 10 == 1:
            assert state_digest(state) == state_digest(refold(self.log)), "a snapshot and the log differ"
        return state
