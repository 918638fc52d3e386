"""How good an answer is, against gold that no agent saw.

Owns the two sources of gold (a file of rows, and what a parser finds in the pinned Python documents) and the
comparison. A gold that cannot be had is a sentence in the score, never an error: the answer stands without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from swarm.gold import raises_in
from swarm.report.shapes import Score, ScoredRow
from swarm.report.texts import Texts
from swarm.spec import RAISES, RAISES_COLUMNS, JobSpec

LISTED = 200
"""Rows that are missing or invented and are listed; the rest is only counted."""

Pair = tuple[str, tuple[str, ...]]
"""(path of the document, values in the order of the columns); the path is "" where the gold names no document."""


class NoGold(ValueError):
    """Why there is nothing to score against."""


def score(spec: JobSpec, found: Iterable[tuple[str, dict[str, str]]], documents: Sequence[str], texts: Texts) -> Score:
    """Compares rows, as (path, values), with the gold that the spec names.

    A row counts once for each document it was found in. Values are compared on all columns without white space around
    them. `documents` are the ids of the pinned Python documents, which `ast:raises` parses.
    """
    columns = [column.name for column in spec.answer.columns]
    problems: list[str] = []
    try:
        if spec.answer.statements:
            raise NoGold("statements in prose are not scored")
        if spec.answer.gold == RAISES:
            gold = _raises(columns, documents, texts, problems)
        else:
            gold = _rows_of_file(Path(spec.answer.gold), columns)
    except NoGold as error:
        return Score(
            gold=_label(spec), precision=0, recall=0, f1=0, gold_rows=0, found_rows=0, matched=0, problem=str(error)
        )
    places = any(document for document, _ in gold)
    ours = {
        (document if places else "", tuple(values.get(name, "").strip() for name in columns))
        for document, values in found
    }
    return _compared(_label(spec), gold, ours, columns, "; ".join(problems))


def _compared(label: str, gold: set[Pair], ours: set[Pair], columns: Sequence[str], problem: str) -> Score:
    matched = len(gold & ours)
    precision = matched / len(ours) if ours else float(not gold)
    recall = matched / len(gold) if gold else float(not ours)
    both = precision + recall
    return Score(
        gold=label, precision=round(precision, 4), recall=round(recall, 4),
        f1=round(2 * precision * recall / both, 4) if both else 0.0, gold_rows=len(gold), found_rows=len(ours),
        matched=matched, missed=_listed(gold - ours, columns), invented=_listed(ours - gold, columns), problem=problem,
    )  # fmt: skip


def _listed(pairs: set[Pair], columns: Sequence[str]) -> tuple[ScoredRow, ...]:
    chosen = sorted(pairs)[:LISTED]
    return tuple(ScoredRow(document=place, values=dict(zip(columns, values, strict=True))) for place, values in chosen)


def _raises(columns: Sequence[str], documents: Sequence[str], texts: Texts, problems: list[str]) -> set[Pair]:
    if sorted(columns) != sorted(RAISES_COLUMNS):
        raise NoGold(f"{RAISES} needs the columns {' and '.join(RAISES_COLUMNS)}; this job has {', '.join(columns)}")
    if not documents:
        raise NoGold(f"{RAISES} found no Python document among the inputs")
    gold: set[Pair] = set()
    for document in documents:
        path, pieces = texts.path(document), [text for _, text, _ in texts.pieces(document)]
        whole = "".join(text for text in pieces if text is not None)
        if None in pieces:
            problems.append(f"{path}: part of its text is withdrawn; it counts for nothing")
            continue
        try:
            for pair in raises_in(whole):
                values = dict(zip(RAISES_COLUMNS, pair, strict=True))
                gold.add((path, tuple(values[name] for name in columns)))
        except ValueError as error:
            problems.append(f"{path} {error}")
    return gold


def _rows_of_file(path: Path, columns: Sequence[str]) -> set[Pair]:
    """One JSON object a line: a value for each column, and `document` where rows are to be found in a certain one."""
    gold: set[Pair] = set()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NoGold(f"the gold {path.name} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            values = tuple(str(row[name]).strip() for name in columns)
        except (ValueError, KeyError, TypeError) as error:
            raise NoGold(f"line {number} of the gold {path.name} is no row: {type(error).__name__} {error}") from None
        place = str(row["document"]).strip() if "document" in row and "document" not in columns else ""
        gold.add((place, values))
    if len({bool(place) for place, _ in gold}) > 1:
        raise NoGold(f"some rows of the gold {path.name} name a document and some do not")
    return gold


def _label(spec: JobSpec) -> str:
    return spec.answer.gold if spec.answer.gold == RAISES else Path(spec.answer.gold).name
