"""Budgets as values that are checked before anything is spent.

Owns the arithmetic of limits and the reserve, their names, and changes of them. It holds no state: what was spent is the
log's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from swarm.coordinator.state import JobState
from swarm.errors import SpecError
from swarm.events import BudgetReached
from swarm.spec import BudgetSpec, Price, RoleBudget
from swarm.wording import explain

TOKEN_BYTES = 8
CALL_BYTES = 4096
"""What a token and a call are reckoned to add to the log and its bodies at most."""
AGENT = "(agent)"
"""Whose limit it is, where a task has spent what one agent may."""
WHOLE = ("tokens", "calls", "disk")
"""Limits that are whole numbers."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why work was not started: the limit and its size, what is spent and reserved, and whose it is (empty: the job's)."""

    limit: str
    allowed: float
    spent: float
    role: str = ""


@dataclass(frozen=True, slots=True)
class Need:
    """The most that a task may take, and whether its role may spend the reserve."""

    role: str
    tokens: int
    calls: int
    reserve: bool


def money(price: Price | None, tokens_in: int, tokens_out: int) -> float:
    """What tokens cost at a price a million; 0 where no price is known."""
    return (tokens_in * price.input + tokens_out * price.output) / 1e6 if price else 0.0


def dearest(price: Price | None) -> float:
    """The most that one token may cost."""
    return max(price.input, price.output) / 1e6 if price else 0.0


# ---- checking ----


def check(budget: BudgetSpec, price: Price | None, state: JobState, now: float, disk: int, need: Need) -> Refusal | None:
    """Whether a task may start, counting what is spent, what may have been without being on record, and what running work
    may still spend. `disk` is the bytes that the run takes. What costs nothing and the report needs is never refused."""
    if not need.calls and need.reserve:
        return None
    share = 1.0 if need.reserve else 1.0 - budget.reserve
    if not budget.limited():
        return None
    spent, more = state.total(), state.ledger.unsettled()
    reserved, reserved_calls = state.reserved + more.tokens, state.reserved_calls + more.calls
    tokens, calls = reserved + need.tokens, reserved_calls + need.calls
    if budget.tokens is not None or budget.calls is not None or budget.money is not None:
        if budget.tokens is not None and spent.tokens + tokens > budget.tokens * share:
            return Refusal("tokens", budget.tokens, spent.tokens + reserved)
        if budget.calls is not None and spent.calls + calls > budget.calls * share:
            return Refusal("calls", budget.calls, spent.calls + reserved_calls)
        if budget.money is not None:
            paid = money(price, spent.tokens_in, spent.tokens_out)
            if paid + tokens * dearest(price) > budget.money * share:
                return Refusal("money", budget.money, paid)
    if (over := late(budget, state, now, need.reserve)) is not None:
        return over
    if budget.disk is not None and disk + tokens * TOKEN_BYTES + calls * CALL_BYTES > budget.disk * share:
        return Refusal("disk", budget.disk, disk)
    own = budget.roles.get(need.role)
    return _check_role(own, price, state, need) if own is not None and need.calls else None


def late(budget: BudgetSpec, state: JobState, now: float, reserve: bool) -> Refusal | None:
    """Whether the seconds are over, for work that may spend the reserve or for what may not."""
    share = 1.0 if reserve else 1.0 - budget.reserve
    if budget.seconds is None or state.seconds(now) < budget.seconds * share:
        return None
    return Refusal("seconds", budget.seconds, round(state.seconds(now), 1))


def _check_role(budget: RoleBudget, price: Price | None, state: JobState, need: Need) -> Refusal | None:
    spent, more = state.total(need.role), state.ledger.unsettled(need.role)
    tokens, calls = state.reserved_by[need.role] + more.tokens, state.reserved_calls_by[need.role] + more.calls
    if budget.tokens is not None and spent.tokens + tokens + need.tokens > budget.tokens:
        return Refusal("tokens", budget.tokens, spent.tokens + tokens, need.role)
    if budget.calls is not None and spent.calls + calls + need.calls > budget.calls:
        return Refusal("calls", budget.calls, spent.calls + calls, need.role)
    if budget.money is not None:
        paid = money(price, spent.tokens_in, spent.tokens_out)
        if paid + (tokens + need.tokens) * dearest(price) > budget.money:
            return Refusal("money", budget.money, paid, need.role)
    return None


def used(budget: BudgetSpec, price: Price | None, state: JobState, now: float, disk: int) -> Iterator[tuple[str, float, float]]:
    """(name, allowed, spent) of each limit that is set, those of single agents left out."""
    roles = [(f"roles.{role}.", own, role) for role, own in budget.roles.items()]
    for prefix, limits, role in [("", budget, ""), *roles]:
        spent = state.total(role)
        paid = money(price, spent.tokens_in, spent.tokens_out)
        found = {"tokens": spent.tokens, "calls": spent.calls, "money": paid, "seconds": state.seconds(now), "disk": disk}
        for name, value in found.items():
            if (allowed := getattr(limits, name, None)) is not None:
                yield prefix + name, allowed, value


def limits_reached(state: JobState) -> list[str]:
    """The names of the limits that a job rests over; empty unless it does."""
    return list(dict.fromkeys(map(limit_name, state.limits))) if state.status == "budget" else []


def limit_name(reached: BudgetReached) -> str:
    """The name of a limit that was reached, as `--budget` takes it."""
    whose = "agent." if reached.role == AGENT else f"roles.{reached.role}." if reached.role else ""
    return whose + reached.limit


def words(reached: BudgetReached) -> str:
    """A limit that was reached, for people."""
    whose = " of one agent" if reached.role == AGENT else f" of role {reached.role}" if reached.role else ""
    unit = {"disk": "bytes of disk", "money": "(money)"}.get(reached.limit, reached.limit)
    return f"the budget{whose} of {reached.allowed:,.10g} {unit}"


# ---- changing ----


def effective(budget: BudgetSpec, raised: Mapping[str, float | None]) -> BudgetSpec:
    """The budget with limits changed by name.

    Raises:
        SpecError: a name is none, or a value cannot be a limit.
    """
    if not raised:
        return budget
    data = budget.model_dump()
    for name, value in raised.items():
        place: dict[str, Any] = data
        *way, last = name.split(".")
        for part in way:
            place = place.setdefault(part, {})
        place[last] = value
    try:
        return BudgetSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(*explain(error, BudgetSpec, "--budget")) from None


def changes(budget: BudgetSpec, texts: Iterable[str]) -> dict[str, float | None]:
    """Limit → new value, from words such as `tokens=+200000`, `money=5` or `seconds=none`.

    Raises:
        SpecError: a word names no limit, or its value cannot be one.
    """
    out: dict[str, float | None] = {}
    for text in texts:
        name, mark, value = (part.strip() for part in text.partition("="))
        if not mark or not value:
            raise SpecError(f"{text!r} changes nothing", "--budget", "write LIMIT=+MORE, LIMIT=VALUE or LIMIT=none")
        before = limit(effective(budget, out), name)
        if value == "none":
            out[name] = None
            continue
        number = _number(name, value.removeprefix("+"))
        if value.startswith("+"):
            if before is None:
                raise SpecError(f"{name} has no limit that could be raised", "--budget", f"set one with {name}={value[1:]}")
            if number <= 0:
                raise SpecError(f"{text!r} adds nothing", "--budget", "give more than 0, or LIMIT=VALUE to set a limit")
            number = before + number
        out[name] = number
        effective(budget, out)
    return out


def limit_names(budget: BudgetSpec) -> Iterator[str]:
    """The names of all limits that a budget may set, those of the roles that it has included."""
    yield from ("tokens", "calls", "money", "seconds", "disk")
    yield from (f"agent.{one}" for one in type(budget.agent).model_fields)
    yield from (f"roles.{role}.{one}" for role in budget.roles for one in RoleBudget.model_fields)


def limit(budget: BudgetSpec, name: str) -> float | None:
    """The limit of this name.

    Raises:
        SpecError: there is no such limit.
    """
    match name.split("."):
        case ["roles", role, one] if one in RoleBudget.model_fields:
            value = getattr(budget.roles.get(role, RoleBudget()), one)
        case ["agent", one] if one in type(budget.agent).model_fields:
            value = getattr(budget.agent, one)
        case [one] if one in ("tokens", "calls", "money", "seconds", "disk"):
            value = getattr(budget, one)
        case _:
            known = "tokens, calls, money, seconds, disk, agent.tokens, agent.calls, roles.ROLE.tokens, …calls, …money"
            raise SpecError(f"there is no limit {name!r}", "--budget", f"limits: {known}")
    return None if value is None else float(value) if isinstance(value, float) else int(value)


def _number(name: str, text: str) -> float:
    try:
        return int(text) if name.rpartition(".")[2] in WHOLE else float(text)
    except ValueError:
        kind = "whole number" if name.rpartition(".")[2] in WHOLE else "number"
        cure = f"write {name}=+MORE, {name}=VALUE or {name}=none"
        raise SpecError(f"{text!r} is no {kind}", f"--budget {name}", cure) from None
