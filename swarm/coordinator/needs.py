"""What a task may take at most: what the coordinator sets aside for it before it starts.

Owns the reckoning by role, protocol and agent. Whether there is so much left, `budget` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from swarm.agents.roles import Role
from swarm.coordinator.budget import AGENT, Need, Refusal
from swarm.coordinator.state import JobState, RangeRow, TaskRow
from swarm.protocol import WORD, SwarmProtocol
from swarm.spec import MOST, BudgetSpec

NOTE_TOKENS = 96
"""What a note in a working set is reckoned at."""
BREADCRUMB_TOKENS = 64
"""What the line above a passage is reckoned at."""


class Needs:
    """Reckons for one job. `overhead` is tokens by role that every call carries besides its working set; `window` is the
    model's; `budget` may be replaced when the job gets more."""

    def __init__(
        self,
        protocol: SwarmProtocol,
        roles: Mapping[str, Role],
        overhead: Mapping[str, int],
        window: int,
        state: JobState,
        budget: BudgetSpec,
    ) -> None:
        self.protocol, self.roles, self.overhead, self._window = protocol, roles, overhead, window
        self.state, self.budget = state, budget
        free = {name: min(role.window, window) - role.max_tokens - overhead.get(name, 0) for name, role in roles.items()}
        self.room: Mapping[str, int] = MappingProxyType(free)
        """Tokens by role that a prompt has for what its task is about."""

    def overspent(self, row: TaskRow | RangeRow) -> Refusal | None:
        """Whether a task has spent what one agent may, in attempts before this one."""
        left = self.left(row) if isinstance(row, TaskRow) else None
        return self.reached(row) if isinstance(row, TaskRow) and left is not None and min(left) <= 0 else None

    def reached(self, row: TaskRow) -> Refusal:
        """The limit at which an agent stands that may not go on."""
        agent, tokens, calls = self.budget.agent, *_spent(row)
        if agent.calls is not None and (agent.tokens is None or calls >= agent.calls):
            return Refusal("calls", agent.calls, calls, AGENT)
        return Refusal("tokens", agent.tokens or 0, tokens, AGENT)

    def of(self, row: TaskRow | RangeRow) -> Need:
        """What a task may take at most, within what its agent may: reserved for it, and settled when it ends."""
        tokens, calls = self._cost(row)
        left = self.left(row) if isinstance(row, TaskRow) else (self.budget.agent.tokens, self.budget.agent.calls)
        if left is not None:
            tokens, calls = min(tokens, left[0] or tokens), min(calls, left[1] or calls)
        return Need(row.role, tokens, calls, self.roles[row.role].reserve)

    def _cost(self, row: TaskRow | RangeRow) -> tuple[int, int]:
        """Tokens and calls that a task takes at most by its role and its protocol, near enough.

        A host draws an output that breaks its contract again, so a lease may take more calls than turns.
        """
        role = self.roles[row.role]
        turns, spans, notes = role.turns, 1, 0
        if isinstance(row, TaskRow):
            turns = row.calls if row.calls is not None else role.turns
            spans, notes = len(row.spans), row.query[2] if row.query else len(row.reads)
        if not turns or role.weights == "none":
            return 0, 0
        if isinstance(row, TaskRow) and row.said:
            turns -= len({turn for turn, *_ in row.said})
        free = min(role.window, self._window) - role.max_tokens
        passages = spans * (self.protocol.span_tokens + BREADCRUMB_TOKENS)
        prompt = self.overhead.get(row.role, 0) + passages + notes * NOTE_TOKENS
        if isinstance(row, TaskRow) and row.query and not notes:
            prompt = free  # a query without a bound
        if role.hears and self.state.board.count(WORD):
            prompt = free  # what people said is put in as far as it fits
        calls = max(turns, 0) + role.attempts - 1
        return (min(prompt, free) + role.max_tokens) * calls, calls

    def left(self, row: TaskRow) -> tuple[int, int] | None:
        """Tokens and calls that a task's agent may still spend; None for no limit."""
        agent, tokens, calls = self.budget.agent, *_spent(row)
        if agent.tokens is None and agent.calls is None:
            return None
        return MOST if agent.tokens is None else agent.tokens - tokens, MOST if agent.calls is None else agent.calls - calls


def _spent(row: TaskRow) -> tuple[int, int]:
    """Tokens and calls that an agent has spent, or may have."""
    return row.spent + row.lost_tokens, row.made + row.lost_calls
