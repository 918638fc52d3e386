"""Reader examples that ask code about any kind of `asked.yaml`: columns, descriptions and question drawn anew each time.

Owns wordings and which passages go together. A group often asks the passages of the group before it something else,
so that what decides whether a passage holds rows is the question alone.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from swarm.learn.data.examples import Columns, Example
from swarm.learn.data.passages import Passage, Row
from swarm.learn.data.reading import Shown, example_of
from swarm.protocol import Passage as Span
from swarm.rows import find_quote, grounded

MOST_ROWS = 5
SHORT, LONG_KEPT = 420, 0.2
"""Passages of more characters cost more and teach no more: some are kept."""
SIZE = 4
PINNED = 0.5
AGAIN = 0.5
LONGEST_PIN = 28
KEPT = ("isinstance",)
"""What is kept for judging is not read here, so that nobody learns to pass it over."""
Ways = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of a column, and descriptions."""


@dataclass(frozen=True)
class Kind:
    """One kind of `asked.yaml`. `columns` are in the order of the finder's values."""

    name: str
    things: tuple[str, ...]
    columns: dict[str, Ways]
    questions: tuple[str, ...]
    pinned: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Asked:
    """What one group asks: a kind, and a column with the value that the rows must have, if any."""

    kind: int
    column: int = -1
    value: str = ""

    def rows(self, passage: Passage, offset: int) -> list[Row] | None:
        """The right rows of a passage; None where it can't be asked."""
        held = passage.rows[offset + self.kind]
        if any(len(row) == 1 for row in held):
            return None
        return [row for row in held if self.column < 0 or row[self.column] == self.value]


def _read() -> tuple[tuple[str, ...], tuple[Kind, ...]]:
    held = yaml.safe_load(Path(__file__).with_name("asked.yaml").read_text(encoding="utf-8"))

    def ways(given: str | list[list[str]]) -> Ways:
        names, descriptions = held[given] if isinstance(given, str) else given
        return tuple(map(str, names)), tuple(map(str, descriptions))

    kinds = [
        Kind(
            name,
            tuple(one["things"]),
            {column: ways(given) for column, given in one["columns"].items()},
            tuple(one["questions"]),
            {column: tuple(questions) for column, questions in one.get("pinned", {}).items()},
        )
        for name, one in held["kinds"].items()
    ]
    return tuple(held["general"]), tuple(kinds)


GENERAL, KINDS = _read()


class Asking:
    """Endless groups over passages whose `rows` hold, from `offset` on, those of each of `KINDS`."""

    def __init__(self, passages: Sequence[Passage], offset: int, random_: random.Random) -> None:
        self._random, self._offset = random_, offset
        self._all = [
            item for item in passages
            if (len(item.text) <= SHORT or random_.random() < LONG_KEPT) and not any(word in item.text for word in KEPT)
        ]  # fmt: skip
        self._places: dict[Asked, list[int]] = defaultdict(list)
        self._pinnable: dict[int, set[int]] = defaultdict(set)
        for at, item in enumerate(self._all):
            for asked in self._askable(item):
                self._places[asked].append(at)
                if asked.column >= 0:
                    self._pinnable[asked.kind].add(at)
        self._kinds = sorted({asked.kind for asked in self._places})
        self._last: list[int] = []
        self._pattern: list[bool] = []

    def group(self) -> list[Example]:
        """Some passages under one question, half of them with rows."""
        again = bool(self._last) and self._random.random() < AGAIN
        asked = self._other(self._last) if again else None
        picked = self._last if asked else []
        if asked is None:
            first, asked = self._first()
            picked = self._company(first, asked)
        self._last = [] if again else picked
        self._pattern = [bool(asked.rows(self._all[at], self._offset)) for at in picked]
        question, columns, order = self._worded(asked)
        shown = [self._shown(at, asked) for at in self._random.sample(picked, len(picked))]
        name = f"asked:{KINDS[asked.kind].name}"
        return [example_of(name, question, columns, order, item) for item in shown if _stands(item)]

    def _askable(self, passage: Passage) -> set[Asked]:
        """All that can be asked of a passage and finds something, but not too much."""
        able: set[Asked] = set()
        for at, kind in enumerate(KINDS):
            held = Asked(at).rows(passage, self._offset) or []
            if kind.questions and 0 < len(held) <= MOST_ROWS:
                able.add(Asked(at))
            for column in kind.pinned:
                number = list(kind.columns).index(column)
                values = [row[number] for row in held]
                able |= {Asked(at, number, v) for v in values if len(v) <= LONGEST_PIN and values.count(v) <= MOST_ROWS}
        return able

    def _first(self) -> tuple[int, Asked]:
        """A passage, and something to ask it: every kind as often as the others."""
        kind = self._random.choice(self._kinds)
        able = self._places.get(Asked(kind), [])
        if self._pinnable[kind] and (not able or self._random.random() < PINNED):
            at = self._random.choice(sorted(self._pinnable[kind]))
            pins = [asked for asked in self._askable(self._all[at]) if asked.kind == kind and asked.column >= 0]
            return at, self._random.choice(sorted(pins, key=str))
        return self._random.choice(able), Asked(kind)

    def _company(self, first: int, asked: Asked) -> list[int]:
        """The first passage, another with rows if there is one, and some without, most of them alike."""
        picked = [first]
        same = [at for at in self._places[asked] if at != first]
        if same:
            picked.append(self._random.choice(same))
        alike = self._places[Asked(asked.kind)] if asked.column >= 0 else []
        while len(picked) < SIZE:
            near = alike and self._random.random() < 0.6
            at = self._random.choice(alike) if near else self._random.randrange(len(self._all))
            if at not in picked and asked.rows(self._all[at], self._offset) == []:
                picked.append(at)
            elif near:
                alike = []
        return picked

    def _other(self, picked: list[int]) -> Asked | None:
        """Something else to ask the same passages, that other ones of them answer."""
        able = sorted({asked for at in picked for asked in self._askable(self._all[at])}, key=str)
        kinds = self._random.sample(self._kinds, len(self._kinds))
        for asked in sorted(able, key=lambda one: (kinds.index(one.kind), self._random.random())):
            held = [asked.rows(self._all[at], self._offset) for at in picked]
            rows = [MOST_ROWS + 1 if one is None else len(one) for one in held]
            if [n > 0 for n in rows] != self._pattern and sum(n > 0 for n in rows) < len(rows) and max(rows) <= MOST_ROWS:
                return asked
        return None

    def _worded(self, asked: Asked) -> tuple[str, Columns, tuple[int, ...]]:
        """A question, the columns as shown, and which of the kind's columns these are."""
        kind, draw = KINDS[asked.kind], self._random
        free = [at for at in range(len(kind.columns)) if at != asked.column]
        usual = draw.random() < 0.6
        order = free if usual else draw.sample(free, draw.randint(1, len(free)))
        names = list(kind.columns)
        columns: list[tuple[str, str]] = []
        for at in order:
            ways = kind.columns[names[at]]
            name = draw.choice([way for way in ways[0] if way not in dict(columns)] or [names[at]])
            columns.append((name, draw.choice(ways[1])))
        if asked.column >= 0:
            question = draw.choice(kind.pinned[names[asked.column]]).format(value=asked.value)
        elif draw.random() < 0.5:
            question = draw.choice(kind.questions)
        else:
            listed = " and ".join(f"the {name}" for name, _ in columns)
            question = draw.choice(GENERAL).format(thing=draw.choice(kind.things), columns=listed)
        return question, tuple(columns), tuple(order)

    def _shown(self, at: int, asked: Asked) -> Shown:
        item = self._all[at]
        return item.package, item.breadcrumb, item.text, tuple(asked.rows(item, self._offset) or ())


def _stands(shown: Shown) -> bool:
    """Whether all rows would stand a job's checks: the name of a function may lie outside the passage."""
    _, breadcrumb, text, rows = shown
    span = Span(0, "", "", 0, text, 0, breadcrumb, False)
    return all(
        find_quote(text, row[-1]) is not None and all(grounded(value, "passage", row[-1], span) for value in row[:-1])
        for row in rows
    )
