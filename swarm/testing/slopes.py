"""Whether something grows: a line through samples of one or more processes, and what may be said of it.

Owns the fit and the verdict. A process that is killed takes its leak with it, so growth is looked for within each process:
every one has a level of its own, and all share one slope. Samples of the same minute count as one, their median: what lies
so near to each other in time is no second witness.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

GOAL = 1.0
"""Per cent an hour that a thing may grow."""
FEWEST = 20
"""Minutes of samples below which nothing can be said."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A common slope through samples: per cent of their mean an hour, and twice its standard error."""

    name: str
    minutes: int
    processes: int
    mean: float
    percent: float
    error: float
    vague: float
    """Per cent an hour: a line that is known no better than this says nothing."""

    @property
    def verdict(self) -> str:
        if self.minutes < FEWEST:
            return "cannot tell: too few samples"
        if self.percent - self.error > GOAL:
            return "grows"
        if self.error > self.vague:
            return "cannot tell: too much noise"
        return "met" if self.percent + self.error <= GOAL else "met within noise"

    @property
    def met(self) -> bool:
        return self.verdict.startswith("met")


def slope(
    name: str, samples: Mapping[int, Sequence[tuple[float, float]]], scale: float = 1.0, vague: float = GOAL
) -> Slope:
    """Least squares through (seconds, value) of each process, with one slope for all; `scale` is for the mean shown."""
    lines = [line for line in (by_minute(pairs) for pairs in samples.values()) if len(line) > 1]
    count = sum(map(len, lines))
    mean = fmean(value for line in lines for _, value in line) if lines else 0.0
    free = count - len(lines) - 1
    if free < 1 or not mean:
        return Slope(name, count, len(lines), mean * scale, 0.0, float("inf"), vague)
    inner = [
        (at - fmean(when for when, _ in line), value - fmean(one for _, one in line)) for line in lines for at, value in line
    ]
    spread = sum(at**2 for at, _ in inner)
    rise = sum(at * value for at, value in inner) / spread
    rest = sum((value - rise * at) ** 2 for at, value in inner)
    share = 3600 * 100 / mean
    error = 2 * (rest / free / spread) ** 0.5
    return Slope(name, count, len(lines), mean * scale, rise * share, error * share, vague)


def by_minute(pairs: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """One (seconds, value) a minute: the medians of what was sampled in it."""
    minutes: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for at, value in pairs:
        minutes[int(at // 60)].append((at, value))
    return [(median(at for at, _ in each), median(value for _, value in each)) for each in minutes.values()]
