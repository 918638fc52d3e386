"""Which outputs are of less use than they look: those that were cut off, and those that came too late.

Owns what a log says of them and its fold forgets. It is a small projection of the same events; its size depends on the
outputs that were cut off and the leases that were lost, not on the number of steps.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from swarm import events as ev
from swarm.coordinator import JobState
from swarm.coordinator.ledger import Doubt
from swarm.events import Event

Which = tuple[str, int, int]
"""Task, turn and sample of a call."""


class Outputs:
    """Follows a log beside its fold: call `follow` with each event after the state has applied it."""

    def __init__(self) -> None:
        self.cut_off: Counter[str] = Counter()
        """Role → outputs that its finished tasks rest on, and that ended at the most tokens that it may write."""
        self.cut_spans: defaultdict[str, set[int]] = defaultdict(set)
        """Role → the passages that those were about."""
        self._cut: dict[str, tuple[str, tuple[int, ...], set[int]]] = {}
        """Open task → its role, its passages, and the turns whose last output was cut off."""
        self._recorded: dict[str, set[Which]] = {}
        """Task whose lease ended without a result → its answers that were recorded since."""
        self._late: defaultdict[Which, list[int]] = defaultdict(list)
        """Call → the tokens of each of its answers that came too late."""

    def follow(self, event: Event, state: JobState) -> None:
        body = event.body
        match body:
            case ev.CallFinished():
                if body.finish == "length":
                    row = state.tasks[body.task]
                    self._cut.setdefault(body.task, (row.role, row.spans, set()))[2].add(body.turn)
                elif body.task in self._cut:  # another sample stands in its place
                    self._cut[body.task][2].discard(body.turn)
                if body.task in self._recorded and not body.cached:
                    self._recorded[body.task].add((body.task, body.turn, body.sample))
            case ev.CallStrayed():
                self._late[body.task, body.turn, body.sample].append(body.tokens_in + body.tokens_out)
            case ev.LeaseEnded():
                self._recorded.setdefault(body.task, set())
            case ev.TaskFinished() if body.task in self._cut:
                role, spans, turns = self._cut.pop(body.task)
                if turns:
                    self.cut_off[role] += len(turns)
                    self.cut_spans[role].update(spans)
            case ev.TaskFailed(retry_at=None):
                self._cut.pop(body.task, None)

    def paid_twice(self) -> Doubt:
        """The answers that came too late, to calls that have another answer."""
        twice = Doubt()
        for which, late in self._late.items():
            again = late if which in self._recorded.get(which[0], ()) else late[1:]
            twice.calls += len(again)
            twice.tokens += sum(again)
        return twice
