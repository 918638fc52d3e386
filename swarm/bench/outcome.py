"""What every benchmark answers: rows of figures, and the floors they are held against.

Owns the two records and their plain form. How they are shown is `table.py`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Floor:
    """A goal and what was measured. `met` is None where it could not be measured."""

    name: str
    goal: str
    value: float | None
    met: bool | None

    @classmethod
    def at_least(cls, name: str, goal: float, value: float | None, unit: str = "") -> Floor:
        return cls(name, f"≥ {goal:g}{unit}", value, None if value is None else value >= goal)

    @classmethod
    def at_most(cls, name: str, goal: float, value: float | None, unit: str = "") -> Floor:
        return cls(name, f"≤ {goal:g}{unit}", value, None if value is None else value <= goal)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one benchmark. `about` says in sentences what was measured, and what was not."""

    name: str
    about: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    floors: tuple[Floor, ...]

    def document(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "name": self.name,
            "about": list(self.about),
            "rows": [dict(row) for row in self.rows],
            "floors": [asdict(floor) for floor in self.floors],
        }


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of a sorted list lies; 0 for an empty one."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
