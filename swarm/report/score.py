"""How good an answer is, against gold that no agent saw.

Owns the comparison, and what a parser finds in the pinned Python documents. A gold that cannot be had is a sentence in the
score, never an error: the answer stands without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from swarm.gold import NoGold, Pair, gold_rows, raises_in
from swarm.names import counted
from swarm.report.shapes import Score, ScoredRow
from swarm.report.texts import Texts
from swarm.spec import RAISES, RAISES_COLUMNS, JobSpec

LISTED = 200
"""Rows that are missing or invented and are listed; the rest is only counted."""


def score(spec: JobSpec, found: Iterable[tuple[str, dict[str, str]]], documents: Sequence[str], texts: Texts) -> Score:
    """Compares rows, as (path, values), with the gold that the spec names.

    A row counts once for each document it was found in. Values are compared on all columns without white space around
    them. `documents` are the ids of the pinned Python documents, which `ast:raises` parses; of other documents, and of those that
    do not parse, no gold is known, and their rows are not judged.
    """
    columns = [column.name for column in spec.answer.columns]
    problems: list[str] = []
    parsed: set[str] | None = None
    try:
        if spec.answer.statements:
            raise NoGold("statements in prose are not scored")
        if spec.answer.gold == RAISES:
            gold, parsed = _raises(columns, documents, texts, problems)
        else:
            gold = gold_rows(Path(spec.answer.gold), columns)
    except NoGold as error:
        return Score(
            gold=_label(spec), precision=0, recall=0, f1=0, gold_rows=0, found_rows=0, matched=0, problem=str(error)
        )
    places = parsed is not None or any(document for document, _ in gold)
    ours = {
        (document if places else "", tuple(values.get(name, "").strip() for name in columns))
        for document, values in found
    }
    judged = ours if parsed is None else {pair for pair in ours if pair[0] in parsed}
    if aside := len(ours) - len(judged):
        are = "is" if aside == 1 else "are"
        problems.append(f"{counted(aside, 'row')} of documents that were not parsed as Python {are} not judged")
    return _compared(_label(spec), gold, judged, columns, "; ".join(problems), aside)


def _compared(
    label: str, gold: set[Pair], ours: set[Pair], columns: Sequence[str], problem: str, aside: int
) -> Score:
    matched = len(gold & ours)
    precision = matched / len(ours) if ours else float(not gold)
    recall = matched / len(gold) if gold else float(not ours)
    both = precision + recall
    return Score(
        gold=label, precision=round(precision, 4), recall=round(recall, 4),
        f1=round(2 * precision * recall / both, 4) if both else 0.0, gold_rows=len(gold), found_rows=len(ours),
        matched=matched, missed=_listed(gold - ours, columns), invented=_listed(ours - gold, columns), not_judged=aside,
        problem=problem,
    )  # fmt: skip


def _listed(pairs: set[Pair], columns: Sequence[str]) -> tuple[ScoredRow, ...]:
    chosen = sorted(pairs)[:LISTED]
    return tuple(ScoredRow(document=place, values=dict(zip(columns, values, strict=True))) for place, values in chosen)


def _raises(
    columns: Sequence[str], documents: Sequence[str], texts: Texts, problems: list[str]
) -> tuple[set[Pair], set[str]]:
    """The gold, and the paths of the documents that it was computed from."""
    if sorted(columns) != sorted(RAISES_COLUMNS):
        raise NoGold(f"{RAISES} needs the columns {' and '.join(RAISES_COLUMNS)}; this job has {', '.join(columns)}")
    if not documents:
        raise NoGold(f"{RAISES} found no Python document among the inputs")
    gold: set[Pair] = set()
    parsed: set[str] = set()
    for document in documents:
        path, pieces = texts.path(document), [text for _, text, _ in texts.pieces(document)]
        whole = "".join(text for text in pieces if text is not None)
        if None in pieces:
            problems.append(f"{path}: part of its text is withdrawn; it counts for nothing")
            continue
        try:
            pairs = raises_in(whole)
        except ValueError as error:
            problems.append(f"{path} {error}")
            continue
        parsed.add(path)
        for pair in pairs:
            values = dict(zip(RAISES_COLUMNS, pair, strict=True))
            gold.add((path, tuple(values[name] for name in columns)))
    if not parsed:
        raise NoGold("; ".join(problems))
    return gold, parsed


def _label(spec: JobSpec) -> str:
    return spec.answer.gold if spec.answer.gold == RAISES else Path(spec.answer.gold).name
