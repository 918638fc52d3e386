"""The report as Markdown: the same content as the page, with numbered references and a list of sources.

Owns the form of `report.md`. Text from sources and models is escaped, so that it is shown and never read as markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from swarm.names import counted
from swarm.report.drawing import shortened, spoken_seconds
from swarm.report.html import (
    ENDED_EARLY,
    MOST_LISTED,
    columns_of,
    day,
    label,
    money,
    none_found,
    place_of,
    title_of,
    visible,
)
from swarm.report.notices import notices
from swarm.report.passages import References
from swarm.report.shapes import Answer, Cite, Unverified

MOST_NUMBERS = 12
"""References after one claim; the rest is counted."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def render_markdown(answer: Answer) -> str:
    """The report. Numbers in brackets lead to the list of sources at its end."""
    references = References()
    parts = [
        _head(answer), _sentences(answer, references), _claims(answer, references), _doubts(answer, references),
        _unread(answer), _people(answer), _score(answer), _cost(answer), _provenance(answer), _sources(references),
    ]  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in map(list, parts) if lines) + "\n"


def _head(answer: Answer) -> Iterator[str]:
    draft = "DRAFT: " if answer.draft else ""
    yield f"# {draft}{escaped(answer.question)}"
    yield ""
    began = day(answer.provenance.started)
    yield f"{escaped(answer.name)}, run {code(answer.id)}, {began}. Status: **{answer.status}**."
    for notice in notices(answer):
        yield ""
        yield f"> **{notice.title}.** {escaped(notice.text)}"


def _sentences(answer: Answer, references: References) -> Iterator[str]:
    if answer.sentences:
        yield "## In short"
        yield ""
        yield "Numbers count the places that are quoted, by code."
        yield ""
        for sentence in answer.sentences:
            yield f"- {escaped(sentence.text)} {_numbers(sentence.cites, references)}"


def _claims(answer: Answer, references: References) -> Iterator[str]:
    many = "" if answer.rows is None else f" ({len(answer.rows):,})"
    yield f"## {title_of(answer)}{many}"
    yield ""
    if not (answer.rows or answer.statements):
        yield none_found(answer)
        return
    if answer.unmerged:
        yield ENDED_EARLY
        yield ""
    if answer.rows is None:
        for number, one in enumerate(answer.statements or (), 1):
            yield f"{number}. {escaped(one.text)} {_numbers(one.cites, references)} ({one.verdict})"
        return
    columns = columns_of(answer)
    yield _table_row([*map(escaped, columns), "sources", "judged"])
    yield _table_row(["---"] * (len(columns) + 2))
    for row in answer.rows:
        values = [escaped(row.values.get(name, "")) for name in columns]
        yield _table_row([*values, _numbers(row.cites, references), row.verdict])


def _doubts(answer: Answer, references: References) -> Iterator[str]:
    if not answer.unverified and not answer.coverage.spans_read:  # nothing was written down that could be in the answer
        return
    yield f"## Could not be verified ({len(answer.unverified):,})"
    yield ""
    yield from _not_in_it(answer.unverified, references)
    if not answer.unverified:
        yield "Nothing." if answer.left_out else "Everything that was written down is in the answer."
    if answer.left_out:
        yield ""
        yield f"## Left out of the answer ({len(answer.left_out):,})"
        yield ""
        yield from _not_in_it(answer.left_out, references)


def _not_in_it(listed: Sequence[Unverified], references: References) -> Iterator[str]:
    for one in listed[:MOST_LISTED]:
        quote = f" {code(shortened(one.quote, 160))}" if one.quote else ""
        numbers = _numbers(one.cites, references)
        yield f"- {escaped(one.text)}{quote}: {one.verdict}; {escaped(one.reason)} {numbers}".rstrip()
    yield from _rest(listed)


def _unread(answer: Answer) -> Iterator[str]:
    cover = answer.coverage
    yield f"## Not read ({cover.spans - cover.spans_read:,} of {counted(cover.spans, 'passage')})"
    yield ""
    for run in answer.unread[:MOST_LISTED]:
        spans = f"passage {run.first}" if run.spans == 1 else f"passages {run.first} to {run.last}"
        yield f"- {code(run.document)}, {spans}, {run.tokens:,} tokens: {escaped(run.reason)}"
    yield from _rest(answer.unread)
    if not answer.unread:
        cut = " Of some, the output was cut off: see above." if answer.cut_off else ""
        yield f"Every passage{'' if answer.skipped else ' of every input'} was read.{cut}"
    for skipped in answer.skipped[:MOST_LISTED]:
        yield f"- left out: {code(skipped.path)}: {escaped(skipped.reason)}"
    yield from _rest(answer.skipped)
    for task in answer.given_up[:MOST_LISTED]:
        place = f" on {code(task.document)}" if task.document else ""
        yield f"- given up: {task.role}{place} ({task.kind}): {escaped(shortened(task.reason, 300))}"
    yield from _rest(answer.given_up)


def _people(answer: Answer) -> Iterator[str]:
    if not answer.words and not answer.questions:
        return
    yield "## What people said"
    yield ""
    for word in answer.words:
        windows = f"{word.windows:,} window{'s' * (word.windows != 1)}"
        yield f"- {escaped(word.by)}: “{escaped(word.text)}” (shown in {windows})"
    for one in answer.questions:
        by = f" by {escaped(one.by)}" if one.by else ""
        given = f"{one.verdict}{by}{f': {escaped(one.answer)}' if one.answer else ''}" if one.verdict else "not answered"
        yield f"- asked: {escaped(one.question)} **{given}**{f' ({escaped(one.why)})' if one.why else ''}"


def _score(answer: Answer) -> Iterator[str]:
    score = answer.score
    if score is None:
        return
    yield "## Score"
    yield ""
    if score.gold_rows or score.found_rows:
        yield (
            f"Against gold ({code(score.gold)}) that no agent saw: precision {score.precision:.3f}, recall "
            f"{score.recall:.3f}, F1 {score.f1:.3f}; {score.matched:,} of {score.gold_rows:,} gold rows found."
        )
    if score.problem:
        yield escaped(score.problem)
    for title, rows in (("missed", score.missed), ("not in the gold", score.invented)):
        for row in rows[:MOST_LISTED]:
            values = "; ".join(f"{escaped(name)} = {escaped(value)}" for name, value in row.values.items())
            yield f"- {title}: {values}" + (f" in {code(row.document)}" if row.document else "")


def _cost(answer: Answer) -> Iterator[str]:
    paid = f", {money(answer.cost)} {escaped(answer.currency or '')}" if answer.cost is not None else ""
    yield "## What it took"
    yield ""
    time = spoken_seconds(answer.seconds)
    tokens, calls = counted(answer.tokens, "token"), counted(answer.calls, "call")
    yield f"{tokens} in {calls}, {time}{paid}; {counted(answer.retries, 'retry')}."
    if answer.cached:
        were = "was" if answer.cached == 1 else "were"
        yield f"{counted(answer.cached, 'call')} {were} answered from the cache and cost nothing."
    yield ""
    yield _table_row(["role", "what answered", "calls", "tokens in", "tokens out", "time in calls"])
    yield _table_row(["---", "---", "--:", "--:", "--:", "--:"])
    labels = {one.name: label(one) for one in answer.weights}
    for one in answer.spent:
        numbers = [f"{one.calls:,}", f"{one.tokens_in:,}", f"{one.tokens_out:,}", spoken_seconds(one.seconds)]
        yield _table_row([one.role, escaped(labels[one.weights]), *numbers])


def _provenance(answer: Answer) -> Iterator[str]:
    made = answer.provenance
    yield "## What the run was made of"
    yield ""
    yield f"- run {code(made.job)}: {counted(made.events, 'event')}, {counted(made.sessions, 'session')}, seed {made.seed}"
    yield f"- swarmloom {made.software}"
    yield f"- job spec {code(made.spec)}; protocol {escaped(made.protocol)} {code(made.protocol_digest)}"
    yield f"- model {escaped(made.engine)}: {escaped(made.model)}; tokenizer {code(made.tokenizer)}"
    for weights in answer.weights:
        kind = {"computed": "digest computed", "declared": "declared, not verified"}.get(
            weights.kind, "scripted, for tests only"
        )
        name = f"{escaped(weights.label)} {code(weights.name)}".strip()
        yield f"- what answered: {name} ({kind}), {counted(weights.calls, 'call')}"
    for source in made.sources[:MOST_LISTED]:
        yield f"- input {escaped(source.origin)}: {counted(source.documents, 'document')}, licence {escaped(source.licence)}"


def _sources(references: References) -> Iterator[str]:
    if references.cites:
        yield "## Sources"
        yield ""
    for number, cite in enumerate(references.cites, 1):
        yield f"{number}. {code(place_of(cite))} {code(shortened(cite.quote, 240)) if cite.quote else ''}".rstrip()


def _numbers(cites: Sequence[Cite], references: References) -> str:
    shown = "".join(f"\\[{references.number(cite)}\\]" for cite in cites[:MOST_NUMBERS])
    left = len(cites) - MOST_NUMBERS
    return f"{shown} and {left:,} more" if left > 0 else shown


def _rest(items: Sequence[object]) -> Iterator[str]:
    if len(items) > MOST_LISTED:
        yield f"- and {len(items) - MOST_LISTED:,} more in answer.json"


def _table_row(cells: Sequence[str]) -> str:
    """A row of a table. The cells are escaped; within a table a bar in a code span must be as well."""
    barred = (re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells)
    return f"| {' | '.join(barred)} |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(str(visible(text)).split())
    return _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def code(text: str) -> str:
    """Text as a code span, on one line."""
    line = " ".join(str(visible(text)).split())
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line[:1] == "`" or line[-1:] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"
