"""Verifier examples: a claim with a true quote, and whether the passage supports it.

Owns the ways in which a claim is made wrong: another function's name, another exception of the passage,
values swapped between rows, values from elsewhere, a quote that exists but shows something else, a fact of
another kind (an exception that is caught, not raised). Every quote occurs in its passage, in right and wrong
claims alike.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.learn.data.examples import Columns, Example, excerpt_around, verifier_example
from swarm.learn.data.passages import Row
from swarm.learn.data.reading import Pool, Shown, Wordings
from swarm.rows import claim_text

NAMES = re.compile(r"\b[A-Za-z_]\w{3,}\b")
DEFINITION = re.compile(r"\bdef (\w+)")
CLASS_LIKE = re.compile(r"\b[A-Z]\w*[a-z]\w*\b")
COMMON = [
    "ValueError",
    "TypeError",
    "KeyError",
    "RuntimeError",
    "OSError",
    "IndexError",
    "AttributeError",
    "NotImplementedError",
    "StopIteration",
    "ImportError",
    "AssertionError",
    "TimeoutError",
    "LookupError",
    "SystemExit",
    "Exception",
]
TEMPTING = 0.25
"""Share of wrong claims that are a fact of another kind."""
ROWS_AT_ONCE = 2
TRIES = 8
"""Ways of making a row wrong are drawn; not every one suits every row."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A row with its quote, and whether the passage supports it."""

    family: str
    source: str
    question: str
    columns: Columns
    row: dict[str, str]
    quote: str
    breadcrumb: str
    excerpt: str
    supported: bool

    def example(self) -> Example:
        return verifier_example(
            self.family,
            self.source,
            self.question,
            claim_text(self.row),
            self.quote,
            self.breadcrumb,
            self.excerpt,
            self.supported,
        )


class Verifying:
    """Endless groups of claims about passages that hold rows of one schema, half of them supported.

    `lures` maps a passage's text to rows of another kind, which look like rows of this one and are not.
    """

    def __init__(
        self,
        wordings: Wordings,
        shown: Sequence[Shown],
        lures: dict[str, tuple[Row, ...]],
        random_: random.Random,
    ) -> None:
        self.wordings, self._lures, self._random = wordings, lures, random_
        filled = [item for item in shown if item[3]]
        self._filled = Pool(filled, random_)
        self._tempting = Pool([item for item in shown if lures.get(item[2])], random_)
        self.rows = [row for item in filled for row in item[3]]
        self._ahead = 0
        """How many more supported claims than others the groups have held so far."""

    def __bool__(self) -> bool:
        return bool(self._filled)

    def group(self) -> list[Example]:
        """Claims about one passage under one question, so that only the claim tells right from wrong."""
        question, columns, order = self.wordings.draw(self._random)
        tempting = bool(self._tempting) and self._random.random() < TEMPTING
        claims: list[Claim] = []
        while not claims:
            shown = (self._tempting if tempting else self._filled).draw()
            picked: list[tuple[Row | None, bool]] = [(self._lure(shown), False)] if tempting else []
            for row in self._random.sample(shown[3], min(len(shown[3]), ROWS_AT_ONCE)):
                if self._ahead <= ROWS_AT_ONCE:
                    picked.append((row, True))
                if self._ahead >= -ROWS_AT_ONCE:
                    wrong = (self._wrong(shown, row) for _ in range(TRIES))
                    picked.append((next(filter(None, wrong), None), False))
            made = [self._made(shown, row, question, columns, order, supported) for row, supported in picked]
            claims = [claim for claim in made if claim is not None]
        claims = [claim for claim in claims if claim.excerpt == claims[0].excerpt]
        self._ahead += sum(1 if claim.supported else -1 for claim in claims)
        self._random.shuffle(claims)
        return [claim.example() for claim in claims]

    def claim(self, question: str, columns: Columns, order: Sequence[int], supported: bool) -> Claim:
        """One claim. Passages are drawn until one allows a wrong claim that looks right."""
        while True:
            tempting = not supported and bool(self._tempting) and self._random.random() < TEMPTING
            shown = (self._tempting if tempting else self._filled).draw()
            true_row = self._random.choice(shown[3]) if shown[3] else None
            picked = (
                true_row if supported else self._lure(shown) if tempting else self._wrong(shown, true_row)
            )
            if claim := self._made(shown, picked, question, columns, order, supported):
                return claim

    def _made(
        self, shown: Shown, picked: Row | None, question: str, columns: Columns, order: Sequence[int], supported: bool
    ) -> Claim | None:
        """The claim of a row, or None where its change does not show in the columns asked for."""
        package, breadcrumb, text, rows = shown
        if picked is None:
            return None
        values = tuple(picked[index] for index in order)
        known = {tuple(row[index] for index in order) for row in rows}
        if not supported and values in known and picked[-1] in {row[-1] for row in rows}:
            return None
        row = {name: value for (name, _), value in zip(columns, values, strict=True)}
        excerpt, family = excerpt_around(text, picked[-1]), f"verify:{self.wordings.name}"
        return Claim(family, package, question, columns, row, picked[-1], breadcrumb, excerpt, supported)

    def _lure(self, shown: Shown) -> Row | None:
        lures = [row for row in self._lures[shown[2]] if row[:-1] not in {other[:-1] for other in shown[3]}]
        return self._random.choice(lures) if lures else None

    def _wrong(self, shown: Shown, row: Row | None) -> Row | None:
        if row is None:
            return None
        true_values = {other[:-1] for other in shown[3]}
        ways = [self._swapped, self._neighbour, self._neighbour, self._named, self._foreign, self._elsewhere]
        wrong = self._random.choice(ways)(shown, row)
        if wrong is None or (wrong[:-1] in true_values and wrong[-1] == row[-1]):
            return None
        return wrong

    def _swapped(self, shown: Shown, row: Row) -> Row | None:
        """A value of another row of the same passage."""
        others = [other for other in shown[3] if other[:-1] != row[:-1]]
        if not others:
            return None
        place = self._random.randrange(len(row) - 1)
        changed = _with(row, place, self._random.choice(others)[place])
        return changed if changed[:-1] not in {other[:-1] for other in shown[3]} else None

    def _neighbour(self, shown: Shown, row: Row) -> Row | None:
        """Another function of the passage, or a name of its text in place of the last part of a name."""
        names = [name for name in DEFINITION.findall(shown[2]) if name not in row[0]]
        if not names or self._random.random() < 0.4:
            names = [name for name in NAMES.findall(shown[2]) if name not in row[0] and name not in row[-1]]
        if not names:
            return None
        owner, dot, _ = row[0].rpartition(".")
        return _with(row, 0, owner + dot + self._random.choice(names))

    def _named(self, shown: Shown, row: Row) -> Row | None:
        """Another class-like name of the passage, or a common exception, in place of the last value."""
        names = [name for name in CLASS_LIKE.findall(shown[2]) if name not in row[-1] and name != row[-2]]
        names = (
            names
            if names and self._random.random() < 0.6
            else [name for name in COMMON if name not in row[-1]]
        )
        return _with(row, len(row) - 2, self._random.choice(names))

    def _foreign(self, shown: Shown, row: Row) -> Row | None:
        """A value of the same column from another passage."""
        place = self._random.randrange(len(row) - 1)
        value = self._random.choice(self.rows)[place]
        known = value == row[place] or value in row[-1]
        return None if known else _with(row, place, value)

    def _elsewhere(self, shown: Shown, row: Row) -> Row | None:
        """The right row, quoted with another line of the passage that doesn't show the last value."""
        lines = [line.strip()[:60].rstrip() for line in shown[2].split("\n")]
        fitting = [
            line
            for line in lines
            if len(line) > 12 and row[-2] not in line and line not in {r[-1] for r in shown[3]}
        ]
        return (*row[:-1], self._random.choice(fitting)) if fitting else None


def _with(row: Row, place: int, value: str) -> Row:
    return (*row[:place], value, *row[place + 1 :])
