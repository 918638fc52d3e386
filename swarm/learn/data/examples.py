"""One training example: what the model is shown, in the segments of a window, and what it should write.

Owns the text of the reader's, verifier's, planner's and writer's prompts on the learning side, and how they
become token ids. The system text is the body of `roles/ROLE.md`, so that learning and jobs can't drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from swarm.rows import EXCERPT_ASK, columns_text, excerpt
from swarm.spec import Column
from swarm.window.pack import CHATML, Segment
from swarm.window.tokens import Tokenizer

Columns = tuple[tuple[str, str], ...]
"""(name, description) of each column."""


@dataclass(frozen=True, slots=True)
class Example:
    """`shared` is the part of the user's turn that examples of a group have in common: the question, and a claim's passage.

    `family` is what is practised (`raises`, `records:order`, `verify:raises`, …), `source` the package or
    template that it was made from, `rows` whether the right answer holds anything.
    """

    role: str
    family: str
    source: str
    shared: tuple[str, ...]
    own: tuple[str, ...]
    answer: str
    rows: int

    @property
    def group(self) -> tuple[str, ...]:
        """Examples with the same group share the first tokens of their prompts."""
        return (self.role, *self.shared)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids: of the shared opening, of the rest of the prompt, of the answer with its end mark."""

    shared: tuple[int, ...]
    own: tuple[int, ...]
    answer: tuple[int, ...]


@cache
def role_text(role: str) -> str:
    """The body of a role file, stripped."""
    from swarm.shipped import shipped

    text = (shipped("roles") / f"{role}.md").read_text(encoding="utf-8")
    return text.split("---", 2)[2].strip() if text.startswith("---") else text.strip()


def schema_text(columns: Columns) -> str:
    """The line that names and describes the columns, with the quote that every row needs."""
    return columns_text([Column(name=name, description=description) for name, description in columns])


def rows_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows as the model should write them: compact JSON, the quote last."""
    return json.dumps([list(row) for row in rows], ensure_ascii=False, separators=(",", ":"))


def reader_example(
    family: str,
    source: str,
    question: str,
    columns: Columns,
    breadcrumb: str,
    text: str,
    rows: Sequence[Sequence[str]],
) -> Example:
    shared = (f"Question: {question}\n", schema_text(columns))
    return Example(
        "reader", family, source, shared, (f"Passage: {breadcrumb}\n", text), rows_text(rows), len(rows)
    )


def verifier_example(
    family: str,
    source: str,
    question: str,
    claim: str,
    quote: str,
    breadcrumb: str,
    excerpt: str,
    supported: bool,
) -> Example:
    shared = (f"Question: {question}\n", f"Passage: {breadcrumb}\n", f"{excerpt}\n")
    own = (f"Claim: {claim}\n", f"Quote: {quote}\n", EXCERPT_ASK)
    answer = '"yes"' if supported else '"no"'
    return Example("verifier", family, source, shared, own, answer, int(supported))


def excerpt_around(text: str, quote: str) -> str:
    """The lines around the first place of `quote`, as a job's verifier sees them."""
    start = max(0, text.find(quote))
    return excerpt(text, start, start + len(quote))


def encode(example: Example, tokenizer: Tokenizer) -> Encoded:
    """Token ids of an example, each segment encoded by itself, as in a job's window."""
    segments = [Segment("role", role_text(example.role), 0, "system")]
    segments += [Segment("shared", text, 0) for text in example.shared]
    segments += [Segment("own", text, 0) for text in example.own]
    ids = [tuple(tokenizer.encode(text, special)) for text, special in CHATML.pieces(tuple(segments))]
    opening = 3 + len(example.shared)  # opening of the system's turn, role, opening of the user's turn
    answer = (*tokenizer.encode(example.answer), *tokenizer.encode(CHATML.closing.rstrip(), True))
    return Encoded(_joined(ids[:opening]), _joined(ids[opening:]), answer)


def _joined(parts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(token for part in parts for token in part)
