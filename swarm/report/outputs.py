"""Which outputs are of less use than they look: those that were cut off, and those that came too late.

Owns what a log says of them and its fold forgets. It is a small projection of the same events; its size depends on the
outputs that were cut off and the leases that were lost, not on the number of steps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from swarm import events as ev
from swarm.coordinator import JobState
from swarm.coordinator.ledger import Doubt
from swarm.events import Event

Which = tuple[str, int, int]
"""Task, turn and sample of a call."""


@dataclass(slots=True)
class _Cut:
    """Of a task: its role, its passages, the turns whose last output was cut off, and how many turns were made."""

    role: str
    spans: tuple[int, ...]
    turns: set[int] = field(default_factory=set)
    made: int = 0

    def about(self) -> Iterable[int]:
        """The passages that those turns were about: one each, where a task has a turn for each of its passages."""
        return [self.spans[turn] for turn in self.turns] if self.made == len(self.spans) else self.spans


class Outputs:
    """Follows a log beside its fold: call `follow` with each event after the state has applied it."""

    def __init__(self) -> None:
        self.cut_off: Counter[str] = Counter()
        """Role → outputs that its finished tasks rest on, and that ended at the most tokens that it may write."""
        self.cut_spans: defaultdict[str, set[int]] = defaultdict(set)
        """Role → the passages that those were about."""
        self._cut: dict[str, _Cut] = {}
        """Open task of which an output was cut off → what is known of these."""
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
                    self._cut.setdefault(body.task, _Cut(row.role, row.spans)).turns.add(body.turn)
                elif body.task in self._cut:  # another sample stands in its place
                    self._cut[body.task].turns.discard(body.turn)
                if body.task in self._cut:
                    self._cut[body.task].made = body.turn + 1
                if body.task in self._recorded and not body.cached:
                    self._recorded[body.task].add((body.task, body.turn, body.sample))
            case ev.CallStrayed():
                self._late[body.task, body.turn, body.sample].append(body.tokens_in + body.tokens_out)
            case ev.LeaseEnded():
                self._recorded.setdefault(body.task, set())
            case ev.TaskFinished() if body.task in self._cut:
                cut = self._cut.pop(body.task)
                if cut.turns:
                    self.cut_off[cut.role] += len(cut.turns)
                    self.cut_spans[cut.role].update(cut.about())
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
