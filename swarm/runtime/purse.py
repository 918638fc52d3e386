"""What one agent may still spend, as its host reckons while it plays.

Owns the look before each call. What limits there are, the job's budget says; what was spent, the log does.
"""

from __future__ import annotations

from swarm.errors import SwarmError


class Purse:
    """What one agent may still spend: (tokens, calls), or None for no limit."""

    def __init__(self, left: tuple[int, int] | None) -> None:
        self._left = left

    def check(self, tokens: int) -> None:
        """Looks before a call whether the agent may spend so much.

        Raises:
            OutOfBudget: it might pass a limit.
        """
        if self._left is None:
            return
        for limit, needed, left in (("tokens", tokens, self._left[0]), ("calls", 1, self._left[1])):
            if needed > left:
                problem = f"its agent may spend {max(0, left):,} {limit} more, and the next call may take {needed:,}"
                raise OutOfBudget(problem, f"budget.agent.{limit}")

    def settle(self, tokens: int) -> None:
        """Counts a call that was answered."""
        if self._left is not None:
            self._left = (self._left[0] - tokens, self._left[1] - 1)


class OutOfBudget(SwarmError):
    """An agent that has spent what it may."""
