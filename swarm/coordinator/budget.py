"""Budgets as values that are checked before anything is spent.

Owns the arithmetic of limits and the reserve. It holds no state: what was spent is the log's to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.coordinator.state import JobState
from swarm.spec import BudgetSpec, Price


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why work was not started: the limit, its size, and what is spent and reserved."""

    limit: str
    allowed: float
    spent: float


def money(price: Price | None, tokens_in: int, tokens_out: int) -> float:
    """What tokens cost at a price a million; 0 where no price is known."""
    return (tokens_in * price.input + tokens_out * price.output) / 1e6 if price else 0.0


def check(
    budget: BudgetSpec, price: Price | None, state: JobState, now: float, tokens: int, calls: int, may_use_reserve: bool
) -> Refusal | None:
    """Whether a task of up to `tokens` tokens in up to `calls` calls may start, counting what is spent, what may have been
    without being on record, and what running work may still spend. What costs nothing and the report needs is never refused."""
    if budget.tokens is None and budget.calls is None and budget.money is None and budget.seconds is None:
        return None
    if not calls and may_use_reserve:
        return None
    share = 1.0 if may_use_reserve else 1.0 - budget.reserve
    spent, more = state.total(), state.ledger.unsettled()
    reserved, reserved_calls = state.reserved + more.tokens, state.reserved_calls + more.calls
    if budget.tokens is not None and spent.tokens + reserved + tokens > budget.tokens * share:
        return Refusal("tokens", budget.tokens, spent.tokens + reserved)
    if budget.calls is not None and spent.calls + reserved_calls + calls > budget.calls * share:
        return Refusal("calls", budget.calls, spent.calls + reserved_calls)
    if budget.money is not None and price is not None:
        paid = money(price, spent.tokens_in, spent.tokens_out)
        dearest = max(price.input, price.output) / 1e6
        if paid + (reserved + tokens) * dearest > budget.money * share:
            return Refusal("money", budget.money, paid)
    if budget.seconds is not None and state.seconds(now) >= budget.seconds * share:
        return Refusal("seconds", budget.seconds, round(state.seconds(now), 1))
    return None
