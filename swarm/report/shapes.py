"""What an answer is, as plain data: the form of `answer.json`.

Owns the records and their meaning. How they are gathered from a log, and how they are shown, stands beside this file.
Fields that do not apply to a job are None and are left out of the file.
"""

from __future__ import annotations

from swarm.runtime.outbox import Untold
from swarm.spec import Frozen

WITHDRAWN = "[text withdrawn]"
"""Stands where a text was, once its body is no longer in the store."""


class Cite(Frozen):
    """A place in a pinned document, from an edge of the graph. The quote is cut from the document, never from a model.

    `start` and `end` are characters of the document's text, which for HTML is what a reader of the page sees; `line` and
    `last_line` are lines of the file, from 1, and None where the text was withdrawn or an old log does not know them.
    """

    document: str
    span: int
    start: int
    end: int
    line: int | None
    last_line: int | None
    quote: str


class Row(Frozen):
    """A merged row. `count` is how many rows of readers it rests on, one for each quote; `verdict` is the weakest of theirs."""

    note: str
    values: dict[str, str]
    count: int
    verdict: str
    cites: tuple[Cite, ...]


class Statement(Frozen):
    """A claim in prose."""

    note: str
    text: str
    count: int
    verdict: str
    cites: tuple[Cite, ...]


class Headline(Frozen):
    """A frequent value with its count, computed by code."""

    note: str
    values: dict[str, str]
    count: int


class Sentence(Frozen):
    """A sentence of the writer that code found to state exactly its headline."""

    note: str
    text: str
    states: Headline | None
    cites: tuple[Cite, ...]


class Unverified(Frozen):
    """What was written down and is not part of the answer.

    `quote` is what the model gave as its evidence. What code refused cites the passage that was read, without a quote.
    """

    kind: str
    text: str
    values: dict[str, str]
    quote: str
    verdict: str
    reason: str
    cites: tuple[Cite, ...]


class Unread(Frozen):
    """Consecutive passages of a document that no agent finished. `line` is where they begin."""

    document: str
    first: int
    last: int
    spans: int
    tokens: int
    reason: str


class Skipped(Frozen):
    """An input, or a part of one, that is not in the corpus."""

    path: str
    reason: str


class Place(Frozen):
    """A passage: its document, its number among all passages, and the line on which it begins, None where it is not known."""

    document: str
    span: int
    line: int | None


class CutOff(Frozen):
    """Outputs of a role that ended at its `max_tokens`, and that finished tasks rest on: what was to follow is nowhere.
    `passages` counts the passages that they were about, and `first` are the first of them."""

    role: str
    outputs: int
    passages: int
    first: tuple[Place, ...]


class GivenUp(Frozen):
    """A task that failed for good."""

    task: str
    role: str
    document: str
    spans: tuple[int, ...]
    kind: str
    reason: str


class Coverage(Frozen):
    """How much of the input was read. `tokens` are those of the passages."""

    documents: int
    spans: int
    spans_read: int
    tokens: int
    tokens_read: int
    documents_cited: int
    spans_cited: int


class ScoredRow(Frozen):
    """A row with the document it belongs to; "" where the gold names none."""

    document: str
    values: dict[str, str]


class Score(Frozen):
    """The answer against gold that no agent saw.

    The lists are cut short; `gold_rows - matched` is how many were missed in all.
    """

    gold: str
    precision: float
    recall: float
    f1: float
    gold_rows: int
    found_rows: int
    matched: int
    missed: tuple[ScoredRow, ...] = ()
    invented: tuple[ScoredRow, ...] = ()
    not_judged: int = 0
    """Rows of documents for which no gold is known; they stand in no other figure."""
    problem: str = ""
    """Why there is no score, or what of the gold could not be computed."""


class Spent(Frozen):
    """What one role's calls to one set of weights took. `cost` is None where no price was given."""

    role: str
    weights: str
    calls: int
    tokens_in: int
    tokens_out: int
    seconds: float
    cost: float | None


class Weights(Frozen):
    """What answered. `kind` is `computed` (a digest of the weights), `declared` (what an endpoint says of itself; not
    verified) or `scripted` (no model at all). `label` is what people call weights that go by their digest."""

    name: str
    kind: str
    calls: int
    label: str = ""


class Lane(Frozen):
    """Agents of one role on one host: agent-seconds of work in each bin of the timeline."""

    host: str
    role: str
    tasks: int
    seconds: float
    busy: tuple[float, ...]


class Moment(Frozen):
    """Something that happened to the whole job, `at` seconds of work after its beginning."""

    at: float
    what: str


class Timeline(Frozen):
    """When agents worked. Time in which nobody held the job is left out; `width` is the seconds of a bin."""

    seconds: float
    width: float
    lanes: tuple[Lane, ...]
    moments: tuple[Moment, ...]


class Node(Frozen):
    """A node of the picture: documents, verdicts, findings or sentences, `count` rows of them taken together."""

    id: str
    column: int
    label: str
    count: int
    tone: str


class Link(Frozen):
    """`count` rows that lead from one node of the picture to another."""

    source: str
    target: str
    count: int
    tone: str


class Picture(Frozen):
    """The blackboard's graph, gathered into a bounded number of nodes."""

    notes: int
    edges: int
    kinds: dict[str, int]
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]


class Source(Frozen):
    """Inputs of one origin and licence."""

    origin: str
    licence: str
    train: bool
    documents: int
    spans: int
    size: int


class Provenance(Frozen):
    """What the run was made of. Digests are those of the log; times are seconds since 1970."""

    job: str
    spec: str
    protocol: str
    protocol_digest: str
    roles: dict[str, str]
    tokenizer: str
    seed: int
    software: str
    engine: str
    model: str
    events: int
    sessions: int
    started: float
    ended: float
    sources: tuple[Source, ...]


class Unjudged(Frozen):
    """Rows that no verifier could judge, `of` those whose verifier has ended; `reason` is why most of these were given up."""

    rows: int
    of: int
    reason: str


class Limit(Frozen):
    """A budget that was reached; `role` says whose: empty for the job's own, `(agent)` for what any one agent may spend."""

    limit: str
    allowed: float
    spent: float
    role: str = ""


class PerhapsPaid(Frozen):
    """Calls, and the tokens that they took at most. `cost` is at the dearest of the job's prices, None where there is none."""

    calls: int
    tokens: int
    cost: float | None


class Word(Frozen):
    """What a person said to the job. `windows` counts the model calls that it was shown in; `event` is its number in the log."""

    text: str
    by: str
    event: int
    windows: int


class Question(Frozen):
    """What the job asked a person, and the answer. `verdict` is empty while there is none."""

    number: int
    question: str
    options: tuple[str, ...]
    verdict: str
    answer: str
    why: str
    by: str


class Answer(Frozen):
    """All that a run has to say. The same log gives the same bytes."""

    id: str
    name: str
    question: str
    status: str
    reason: str
    draft: bool
    """True while the job has not ended: what stands here may still change."""
    columns: tuple[str, ...]
    merge: str
    sentences: tuple[Sentence, ...]
    rows: tuple[Row, ...] | None
    statements: tuple[Statement, ...] | None
    headlines: tuple[Headline, ...]
    unmerged: bool = False
    """True where the job ended before its reducer: the claims are what it had by then, merged by code."""
    unverified: tuple[Unverified, ...]
    left_out: tuple[Unverified, ...] = ()
    """Rows that could be in the answer by their verdict, and that no claim of it rests on."""
    unread: tuple[Unread, ...]
    skipped: tuple[Skipped, ...]
    given_up: tuple[GivenUp, ...]
    cut_off: tuple[CutOff, ...] = ()
    """Rows may be missing that stand in these passages."""
    unjudged: Unjudged | None = None
    """None where each row was judged that was to be."""
    withdrawn: int
    """Texts that the answer rests on and that are no longer in the store."""
    coverage: Coverage
    score: Score | None
    tokens: int
    tokens_in: int
    tokens_out: int
    calls: int
    calls_failed: int
    retries: int
    in_doubt: PerhapsPaid
    """Calls that went out and have no answer on record: they may have been paid for, and were made again. Not in `tokens`."""
    too_late: PerhapsPaid
    """Answers that came when their job had ended, or their task had been taken from its host. They are in `tokens` and `cost`."""
    paid_twice: PerhapsPaid
    """Those of them whose calls have another answer."""
    cached: int
    """Answers that were on record from before; they are in no count of calls or tokens."""
    seconds: float
    cost: float | None
    currency: str | None
    spent: tuple[Spent, ...]
    weights: tuple[Weights, ...]
    limits: tuple[Limit, ...]
    words: tuple[Word, ...] = ()
    """What people said to the job."""
    questions: tuple[Question, ...] = ()
    untold: tuple[Untold, ...] = ()
    """Notices that people have not got when this was gathered: their delivery failed, or nobody works on the job to try it."""
    timeline: Timeline
    picture: Picture
    provenance: Provenance
