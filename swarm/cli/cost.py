"""The verb `cost`: what a run took, by role, agent and model.

Owns the table and its document. The account itself is `swarm.report.cost`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.door import Json, RunId, Runs, duration, emit, number, people, the_run, verb
from swarm.names import counted

if TYPE_CHECKING:
    from swarm.report.cost import Cost
    from swarm.spec import Price

MOST_ROWS = 50
"""Rows that are shown to people; programs get all."""


@verb
def cost(
    id: RunId,
    by: Annotated[str, typer.Option("--by", metavar="NAMES", help="Of role, agent (a task) and model.")] = "role,model",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Say what a run has cost, with failed calls, repeats and what its end over a budget took apart."""
    from swarm.coordinator.budget import effective, used
    from swarm.report.cost import costs_of
    from swarm.runtime.session import read_job

    names = _names(by)
    run = the_run(id, runs)
    held = run.holder() is not None  # before reading: what a driver that leaves has answered is there
    with run.reader() as reader:
        _, spec, _ = read_job(reader)
        costs, state = costs_of(reader.read())
    price, found, total, doubt = spec.model.price, costs.by(names), costs.total(), state.doubt(held)
    limits = list(used(effective(spec.budget, state.raised), price, state, state.time, run.size()))
    if as_json:
        rows = [dict(zip(names, key, strict=True)) | one.document(price) for key, one in found.items()]
        emit(
            {
                "id": run.id, "by": names, "currency": price.currency if price else None, "rows": rows,
                "total": total.document(price), "in_doubt": {"calls": doubt.calls, "tokens": doubt.tokens},
                "budget": [{"limit": name, "allowed": allowed, "spent": spent} for name, allowed, spent in limits],
            }
        )  # fmt: skip
        return
    where = people(as_json)
    for line in _lines(names, found, total, price):
        where.print(line, markup=False)
    if len(found) > MOST_ROWS:
        where.print(f"and {number(len(found) - MOST_ROWS)} more, with --json", markup=False)
    if doubt.calls:
        text = f"in doubt: {counted(doubt.calls, 'call')}, up to {counted(doubt.tokens, 'token')}, may have been paid for besides"
        where.print(text, markup=False)
    for name, allowed, spent in limits:
        where.print(f"budget {name}: {spent:,.10g} of {allowed:,.10g} ({spent / allowed:.0%})", markup=False)


def _names(by: str) -> list[str]:
    from swarm.errors import SpecError
    from swarm.report.cost import BY

    names = [name.strip() for name in by.split(",") if name.strip()]
    wrong = next((name for name in names if name not in BY), "")
    if wrong or not names or len(set(names)) < len(names):
        raise SpecError(f"{by!r} names nothing to tell costs apart by", "--by", f"write some of {', '.join(BY)}")
    return names


def _lines(names: list[str], found: dict[tuple[str, ...], Cost], total: Cost, price: Price | None) -> list[str]:
    """The table; names to the left, figures to the right."""
    figures = ["calls", "tokens in", "tokens out", *([price.currency] if price else []), "time", "failed", "repeats", "reserve"]
    rows = [[*names, *figures]]
    for key, one in list(found.items())[:MOST_ROWS]:
        rows.append([*[part or "(no answer)" for part in key], *_figures(one, price)])
    rows.append(["total", *[""] * (len(names) - 1), *_figures(total, price)])
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) if at < len(names) else cell.rjust(width)
                      for at, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]  # fmt: skip


def _figures(one: Cost, price: Price | None) -> list[str]:
    paid = [f"{one.document(price)['money']:,.4f}"] if price else []
    repeats = f"{one.repeats:,} ({one.repeat_tokens:,} tokens)" if one.repeats else "0"
    reserve = f"{one.reserve:,} ({one.reserve_tokens:,} tokens)" if one.reserve else "0"
    return [f"{one.calls:,}", f"{one.tokens_in:,}", f"{one.tokens_out:,}", *paid, duration(one.seconds), f"{one.failed:,}",
            repeats, reserve]  # fmt: skip
