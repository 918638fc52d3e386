"""What a job has cost so far, by role, agent and model: a projection of its log.

Owns the account of each call, with what failed, what was drawn again, and what the end over a budget took, apart. Its
totals are those of the fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from swarm import events as ev
from swarm.coordinator import JobState
from swarm.coordinator.budget import money
from swarm.events import Event
from swarm.spec import Price

BY = ("role", "agent", "model")
"""What costs can be told apart by. An agent is a task; a model is what answered, `` where nothing did."""


@dataclass(slots=True)
class Cost:
    """What calls took. The first four are totals; the others say what of them, or beside them, was what."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    failed: int = 0
    """Calls without an answer; they stand in no other figure."""
    repeats: int = 0
    """Calls that drew an answer again, because the one before broke its contract."""
    repeat_tokens: int = 0
    reserve: int = 0
    """Calls for the end over a budget."""
    reserve_tokens: int = 0
    late: int = 0
    """Answers that came when their lease had ended: paid for, and of no use."""
    cached: int = 0
    """Answers from the cache; they stand in no other figure."""

    def add(self, other: Cost) -> None:
        for one in fields(Cost):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def document(self, price: Price | None) -> dict[str, Any]:
        """Plain data, with money where there is a price."""
        plain = asdict(self) | {"tokens": self.tokens_in + self.tokens_out, "seconds": round(self.seconds, 3)}
        return plain | ({"money": round(money(price, self.tokens_in, self.tokens_out), 6)} if price else {})


class Costs:
    """Follows a log beside its fold: call `follow` with each event after the state has applied it."""

    def __init__(self) -> None:
        self._costs: dict[tuple[str, str, str], Cost] = {}
        self._roles: dict[str, str] = {}

    def follow(self, event: Event, state: JobState) -> None:
        body = event.body
        match body:
            case ev.TaskLeased() | ev.RangeLeased():
                self._roles.update((task, state.tasks[task].role) for task, *_ in body.leases())
            case ev.CallFinished() if body.cached:
                self._of(body.task, body.weights).cached += 1
            case ev.CallFinished() | ev.CallStrayed():
                cost, tokens = self._of(body.task, body.weights), body.tokens_in + body.tokens_out
                again, last = body.sample > 0, state.closing is not None
                late = isinstance(body, ev.CallStrayed)
                cost.add(
                    Cost(1, body.tokens_in, body.tokens_out, body.seconds, 0, again, again * tokens, last, last * tokens, late)
                )
            case ev.CallFailed():
                self._of(body.task, "").failed += 1

    def by(self, names: Sequence[str]) -> dict[tuple[str, ...], Cost]:
        """The costs told apart by some of BY, the dearest first."""
        at = [BY.index(name) for name in names]
        found: dict[tuple[str, ...], Cost] = {}
        for key, cost in self._costs.items():
            found.setdefault(tuple(key[one] for one in at), Cost()).add(cost)
        return dict(sorted(found.items(), key=lambda pair: (-pair[1].tokens_in - pair[1].tokens_out, pair[0])))

    def total(self) -> Cost:
        total = Cost()
        for cost in self._costs.values():
            total.add(cost)
        return total

    def _of(self, task: str, model: str) -> Cost:
        return self._costs.setdefault((self._roles[task], task, model), Cost())


def costs_of(events: Iterable[Event]) -> tuple[Costs, JobState]:
    """The costs of a log, and its fold."""
    costs, state = Costs(), JobState()
    for event in events:
        state.apply(event)
        costs.follow(event, state)
    return costs, state
