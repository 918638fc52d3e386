"""Reader examples: a question about code or prose, a passage, and the rows it holds.

Owns which passages go with which question and how many of them hold nothing. Examples come in groups that
share their question, because the opening of their prompts is then computed once in training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from swarm.learn.data import prose
from swarm.learn.data.examples import Columns, Example, reader_example
from swarm.learn.data.passages import Passage, Row
from swarm.learn.data.prose import ProsePassage
from swarm.learn.data.questions import Schema

GROUP = 4
GROUP_WITH_ROWS = (1, 2)
"""So 62.5 % of the reader's passages are empty, and there are as many as most jobs have or fewer."""
MOST_ROWS = 9
HARD_EMPTY = 0.6
USUAL_COLUMNS = 0.4
ONE_COLUMN = 0.1
Shown = tuple[str, str, str, tuple[Row, ...]]
"""(package, breadcrumb, text, rows): what reader examples are made of."""


class Pool:
    """Passages drawn until all were drawn; small packages come more often than their size says."""

    def __init__(self, shown: Sequence[Shown], random_: random.Random) -> None:
        self._all, self._random = list(shown), random_
        self._left: dict[str, list[Shown]] = {}
        self._weights: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._all)

    def draw(self) -> Shown:
        if not self._left:
            for item in self._all:
                self._left.setdefault(item[0], []).append(item)
            for items in self._left.values():
                self._random.shuffle(items)
            self._weights = {package: sqrt(len(items)) for package, items in self._left.items()}
        package = self._random.choices(list(self._left), [self._weights[name] for name in self._left])[0]
        item = self._left[package].pop()
        if not self._left[package]:
            del self._left[package]
        return item


@dataclass(frozen=True)
class Wordings:
    """Alternatives for one kind of question: questions, and for each column its names and descriptions."""

    name: str
    questions: tuple[str, ...]
    columns: tuple[tuple[tuple[str, str], ...], ...]

    def draw(self, random_: random.Random, vary: bool = True) -> tuple[str, Columns, tuple[int, ...]]:
        """A question, its columns, and which of the schema's columns these are, in the order shown."""
        question = random_.choice(self.questions)
        usual = not vary or random_.random() < USUAL_COLUMNS
        if usual:
            return question, tuple(ways[0] for ways in self.columns), tuple(range(len(self.columns)))
        order = list(range(len(self.columns)))
        if len(order) > 1 and random_.random() < 0.3:
            random_.shuffle(order)
        if len(order) > 1 and random_.random() < ONE_COLUMN / (1 - USUAL_COLUMNS):
            order = [random_.choice(order)]
        return question, tuple(random_.choice(self.columns[index]) for index in order), tuple(order)


def code_wordings(schema: Schema, held_out: bool = False) -> Wordings:
    return Wordings(schema.name, schema.held_out if held_out else schema.questions, schema.columns)


def prose_wordings(schema: prose.ProseSchema, held_out: bool = False) -> Wordings:
    return Wordings(schema.name, schema.held_out if held_out else schema.questions, (schema.columns,))


def shown_code(passages: Sequence[Passage], index: int) -> list[Shown]:
    """Passages with the rows of the schema number `index`."""
    return [(item.package, item.breadcrumb, item.text, item.rows[index]) for item in passages]


def shown_prose(passages: Sequence[ProsePassage], index: int) -> list[Shown]:
    return [(item.package, item.breadcrumb, item.text, item.rows[index]) for item in passages]


class Reading:
    """Endless groups of examples for one kind of question.

    Hard empty passages hold one of `hints`; passages with several rows, a variable re-raised or a class
    breadcrumb come twice as often as others with rows.
    """

    def __init__(
        self, wordings: Wordings, shown: Sequence[Shown], hints: tuple[str, ...], random_: random.Random
    ) -> None:
        self.wordings, self._random = wordings, random_
        filled = [item for item in shown if 0 < len(item[3]) <= MOST_ROWS]
        hard = [item for item in filled if len(item[3]) > 1 or " > class " in item[1] or "raise\n" in item[2]]
        empty = [item for item in shown if not item[3]]
        self._filled = Pool(filled + hard, random_)
        self._hard = Pool([item for item in empty if any(hint in item[2] for hint in hints)], random_)
        self._empty = Pool(empty, random_)

    def group(self, size: int = GROUP, with_rows: int = 0) -> list[Example]:
        """Examples with one question in one wording, in random order."""
        question, columns, order = self.wordings.draw(self._random)
        with_rows = with_rows or self._random.choice(GROUP_WITH_ROWS)
        picked = [self._filled.draw() for _ in range(with_rows if self._filled else 0)]
        for _ in range(size - len(picked)):
            hard = bool(self._hard) and self._random.random() < HARD_EMPTY
            picked.append((self._hard if hard else self._empty).draw())
        self._random.shuffle(picked)
        return [example_of(self.wordings.name, question, columns, order, item) for item in picked]


def example_of(family: str, question: str, columns: Columns, order: Sequence[int], shown: Shown) -> Example:
    """The reader example of one passage: rows reduced to the columns asked for, repetitions left out."""
    package, breadcrumb, text, rows = shown
    picked: dict[Row, Row] = {}
    for row in rows:
        values = tuple(row[index] for index in order)
        picked.setdefault(values, (*values, row[-1]))
    return reader_example(family, package, question, columns, breadcrumb, text, list(picked.values()))
