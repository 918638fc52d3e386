"""An outcome as text for people: what was measured, a table, and the floors."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from swarm.bench.outcome import Floor, Outcome


def render(outcome: Outcome) -> str:
    """The whole outcome, one figure a cell; numbers to the right, words to the left."""
    lines = [f"swarm bench {outcome.name}"]
    for sentence in outcome.about:
        lines += textwrap.wrap(sentence, 100, initial_indent="  ", subsequent_indent="  ")
    names = list(dict.fromkeys(name for row in outcome.rows for name in row))
    cells = [[_shown(row.get(name)) for name in names] for row in outcome.rows]
    numeric = [any(isinstance(row.get(name), (int, float)) for row in outcome.rows) for name in names]
    lines += ["", *_aligned([[name.replace("_", " ") for name in names], *cells], numeric)]
    lines += ["", *_aligned([_floor(floor) for floor in outcome.floors], [False, True, True, False])]
    return "\n".join(lines) + "\n"


def _floor(floor: Floor) -> list[str]:
    words = {True: "met", False: "MISSED", None: "not measured"}
    return [floor.name, floor.goal, _shown(floor.value), words[floor.met]]


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(right))] if rows else []
    return [
        "  ".join(cell.rjust(width) if is_right else cell.ljust(width)
                  for cell, width, is_right in zip(row, widths, right, strict=True)).rstrip()
        for row in rows
    ]  # fmt: skip


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
