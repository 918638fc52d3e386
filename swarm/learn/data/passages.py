"""Source files cut into passages exactly as a job's corpus cuts them, with the right rows of any schema for
each.

Owns the assignment of findings (places in a file) to passages. It knows no questions and no prompts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from swarm.corpus import cut_text, media_of
from swarm.learn.data.code import Found, Module
from swarm.learn.data.sources import SourceFile
from swarm.window.tokens import Tokenizer

Row = tuple[str, ...]
"""Values in column order, then the quote."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One span with its text: what a reader is shown. `rows[i]` belong to the i-th finder."""

    package: str
    breadcrumb: str
    text: str
    tokens: int
    rows: tuple[tuple[Row, ...], ...]


def passages(
    files: Iterable[SourceFile], finders: list[Callable[[Module], Iterator[Found]]], tokenizer: Tokenizer
) -> Iterator[Passage]:
    """The passages of Python files; files that do not parse are left out."""
    for file in files:
        if "\r" in file.text or "\f" in file.text or "\x00" in file.text:
            continue  # the parser counts their lines in another way
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                module = Module(file.text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        found = [sorted(find(module), key=lambda item: item.start) for find in finders]
        for span in cut_text(file.text, file.path, media_of(file.path), tokenizer):
            text = file.text[span.start : span.end]
            rows = tuple(rows_within(items, span.start, span.end, text) for items in found)
            yield Passage(file.package, span.breadcrumb, text, span.tokens, rows)


def rows_within(found: Iterable[Found], start: int, end: int, text: str) -> tuple[Row, ...]:
    """Rows whose quote begins inside the passage, the first of each set of values."""
    rows: dict[tuple[str, ...], Row] = {}
    for item in found:
        if start <= item.start < end and item.values not in rows:
            quote = item.quote if item.quote in text else item.quote[: end - item.start].rstrip()
            rows[item.values] = (*item.values, quote)
    return tuple(rows.values())
