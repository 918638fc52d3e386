"""The steps of a job, one after the other: each task from its lease to its durable end, with what it cost.

Owns a stream over the log that holds open tasks only, so that a job of any length can be listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from swarm import events as ev
from swarm.coordinator.tables import failure_word
from swarm.store.interface import Reader


@dataclass(frozen=True, slots=True)
class Step:
    """The `number`-th step, which event `seq` ended. `outcome` is what the task said, or the kind of fault that it was
    given up for. `seconds` passed between its last lease and its end; tokens are of all its calls."""

    number: int
    seq: int
    role: str
    task: str
    spans: tuple[int, ...]
    failed: bool
    outcome: str
    calls: int
    tokens_in: int
    tokens_out: int
    seconds: float


@dataclass(slots=True)
class _Open:
    """A task that has not ended."""

    role: str
    spans: tuple[int, ...]
    since: float = 0.0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(slots=True)
class _Tasks:
    ranges: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Range → role, and the span after its last one."""
    open: dict[str, _Open] = field(default_factory=dict)

    def leased(self, body: ev.TaskLeased | ev.RangeLeased, time: float) -> None:
        for task, index, _ in body.leases():
            if task not in self.open:
                role, stop = self.ranges[body.range]
                self.open[task] = _Open(role, (index,))
                if index + 1 >= stop:
                    del self.ranges[body.range]
            self.open[task].since = time

    def answered(self, body: ev.CallFinished) -> None:
        row = self.open.get(body.task)
        if row is not None:
            row.calls += 1
            row.tokens_in += body.tokens_in
            row.tokens_out += body.tokens_out


def steps(reader: Reader) -> Iterator[Step]:
    """Every step that has ended, in the order in which they did.

    Raises:
        StoreError: the log is damaged.
    """
    tasks, number = _Tasks(), 0
    for event in reader.read():
        match event.body:
            case ev.TaskAdded() as added:
                tasks.open[added.task] = _Open(added.role, added.spans)
            case ev.RangeAdded() as added:
                tasks.ranges[added.range] = added.role, added.stop
            case ev.TaskLeased() | ev.RangeLeased() as leased:
                tasks.leased(leased, event.time)
            case ev.CallFinished() as answered:
                tasks.answered(answered)
            case ev.TaskFinished(task=task, outcome=outcome):
                number += 1
                yield _ended(number, event.seq, event.time, task, tasks.open.pop(task), False, outcome)
            case ev.TaskFailed(task=task, retry_at=None, kind=kind):
                number += 1
                yield _ended(number, event.seq, event.time, task, tasks.open.pop(task), True, failure_word(kind))


def _ended(number: int, seq: int, time: float, task: str, row: _Open, failed: bool, outcome: str) -> Step:
    seconds = round(time - row.since, 3)
    return Step(
        number, seq, row.role, task, row.spans, failed, outcome, row.calls, row.tokens_in, row.tokens_out, seconds
    )
