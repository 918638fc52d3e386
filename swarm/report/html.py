"""The report as one HTML file that needs nothing else: no network, no other file, and no script to be read.

Owns what the page is given. How it looks stands in `templates/`. All text is escaped by the template engine; the
page's own policy lets no script run but the one it carries, by its digest.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from swarm.names import counted
from swarm.report.answer import Gathered
from swarm.report.drawing import NARROW, NARROW_LEFT, chart, flow, shortened, spoken_seconds
from swarm.report.notices import notices
from swarm.report.passages import References, passages
from swarm.report.shapes import Answer, Cite, Row, Weights

TEMPLATES = Path(__file__).parent / "templates"
ROWS_WITH_PASSAGES = 2000
"""Claims whose passages are in the page; what is beyond has its place and quote only."""
MOST_REFERENCES = 60
MOST_NAME = 60
"""Characters of a name of what answered."""
DIGEST = 8
"""Digits of a digest where a name stands beside it."""
MOST_LISTED = 400
"""Entries of the lists beside the answer; the rest is in answer.json."""
ENDED_EARLY = "Cut short: the job ended before its reducer merged what was found. This is what it had by then."
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference as it is shown. `target` is empty where the passage is not in the page."""

    number: int
    target: str
    place: str
    short: str
    quote: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A row, statement, sentence, or what was not verified, with its references; `more` counts those left out."""

    values: tuple[str, ...]
    text: str
    count: int
    verdict: str
    refs: tuple[Ref, ...]
    more: int
    quote: str = ""
    reason: str = ""


def render_html(gathered: Gathered) -> str:
    """The page. The same log gives the same page."""
    answer, texts = gathered.answer, gathered.texts
    referring = _Referring()
    columns = columns_of(answer)
    claims: dict[str, Any] = {
        "sentences": [referring.claim((), one.text, one.cites) for one in answer.sentences],
        "rows": [referring.row(row, columns, at < ROWS_WITH_PASSAGES) for at, row in enumerate(answer.rows or ())],
        "statements": [
            referring.claim((), one.text, one.cites, one.count, one.verdict, embed=at < ROWS_WITH_PASSAGES)
            for at, one in enumerate(answer.statements or ())
        ],
        "unverified": [
            referring.claim((), one.text, one.cites, 1, one.verdict, one.quote, one.reason)
            for one in answer.unverified[:MOST_LISTED]
        ],
        "left_out": [
            referring.claim((), one.text, one.cites, 1, one.verdict, one.quote, one.reason)
            for one in answer.left_out[:MOST_LISTED]
        ],
    }  # fmt: skip
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html")
        .render(
            answer=answer,
            columns=columns,
            title=title_of(answer),
            none_found=none_found(answer),
            ended_early=ENDED_EARLY if answer.unmerged else "",
            notices=notices(answer),
            passages=passages(referring.references, texts),
            flow=flow(answer.picture),
            charts={"wide": chart(answer.timeline), "narrow": chart(answer.timeline, NARROW, NARROW_LEFT)},
            labels={one.name: label(one) for one in answer.weights},
            most=MOST_LISTED,
            embedded=ROWS_WITH_PASSAGES,
            started=day(answer.provenance.started),
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **claims,
        )
    )


class _Referring:
    """Gives claims their references; only numbered ones have their passage in the page."""

    def __init__(self) -> None:
        self.references = References()

    def claim(
        self,
        values: tuple[str, ...],
        text: str,
        cites: Sequence[Cite],
        count: int = 1,
        verdict: str = "",
        quote: str = "",
        reason: str = "",
        embed: bool = True,
    ) -> Claim:
        shown = cites[:MOST_REFERENCES]
        refs = tuple(self._ref(cite, embed) for cite in shown)
        return Claim(values, text, count, verdict, refs, len(cites) - len(shown), quote, reason)

    def row(self, row: Row, columns: Sequence[str], embed: bool) -> Claim:
        values = tuple(row.values.get(name, "") for name in columns)
        return self.claim(values, "", row.cites, row.count, row.verdict, embed=embed)

    def _ref(self, cite: Cite, embed: bool) -> Ref:
        number = self.references.number(cite) if embed else 0
        target = "" if not embed else f"c{number}" if cite.quote else f"p{cite.span}"
        place = place_of(cite)
        return Ref(number, target, place, shortened(place, 44, keep_end=True), shortened(cite.quote, 240))


def label(weights: Weights) -> str:
    """What answered, as people call it, with the start of its digest."""
    name = shortened(weights.label or weights.name, MOST_NAME, keep_end=bool(weights.label))  # the folder of a model may be long
    return f"{name} ({weights.name[:DIGEST]})" if weights.label else name


def place_of(cite: Cite) -> str:
    """`path:line`; the path alone where the line is not known."""
    return cite.document if cite.line is None else f"{cite.document}:{cite.line}"


def title_of(answer: Answer) -> str:
    """What stands over the rows or statements."""
    what = "Statements" if answer.rows is None else "Rows"
    if answer.draft or answer.unmerged:
        return f"{what} so far" if answer.draft else f"{what} until the job ended"
    return what if answer.rows is None else "All rows"


def none_found(answer: Answer) -> str:
    """What stands there where there is none."""
    what = "statement" if answer.rows is None else "row"
    so_far = " so far" if answer.draft else ""
    return f"No {what} {'could be verified' if answer.unverified else 'was found'}{so_far}."


def columns_of(answer: Answer) -> tuple[str, ...]:
    """The columns of the rows as they came out of the merge: `count` makes columns of its own."""
    seen = dict.fromkeys(name for row in answer.rows or () for name in row.values)
    known = [name for name in answer.columns if name in seen or not seen]
    return (*known, *(name for name in seen if name not in known))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "counted": counted,
        "spoken": spoken_seconds,
        "size": _size,
        "money": money,
        "shortened": shortened,
        "breakable": _breakable,
    }
    return environment


def visible(value: Any) -> Any:
    """Text in which what no page may hold, or what would turn its direction unseen, is U+FFFD."""
    return _UNSEEN.sub("\ufffd", value) if type(value) is str else value


def _breakable(text: str) -> Markup:
    """The text, escaped, with places where a long name may be broken."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/:,])(?=\w)", visible(text)))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def money(cost: float) -> str:
    """A cost with cents, or with as many places as a small one needs."""
    return f"{cost:.2f}" if cost >= 10 or not cost else f"{cost:.4f}" if cost >= 0.0001 else "< 0.0001"


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 1024:.0f} KiB" if size >= 1024 else f"{size} bytes"


def day(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%-d %B %Y, %H:%M UTC")
