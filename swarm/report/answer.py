"""The answer of a run, gathered from its log.

Owns the one pass over the log from which everything in a report follows, and puts the parts together. It is a
projection: it writes nothing, asks no model, and gives the same answer for the same log.
"""

from __future__ import annotations

import glob
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgpack

from swarm.coordinator import JobState, Phase
from swarm.coordinator.budget import money, words
from swarm.coordinator.ending import most_frequent
from swarm.coordinator.ledger import Doubt
from swarm.coordinator.tables import AGENT_BUDGET, OVER_BUDGET, failure_word
from swarm.errors import StoreError, on_a_line
from swarm.models.embedded import MODEL_NAME
from swarm.models.weights import BASE
from swarm.names import IN_VAIN, reason_body
from swarm.report import picture
from swarm.report.activity import Activity
from swarm.report.claims import Claims
from swarm.report.outputs import Outputs
from swarm.report.people import People
from swarm.report.score import score
from swarm.report.shapes import (
    Answer,
    Coverage,
    CutOff,
    GivenUp,
    Limit,
    PerhapsPaid,
    Picture,
    Place,
    Provenance,
    Skipped,
    Source,
    Spent,
    Unjudged,
    Unread,
    Weights,
)
from swarm.report.texts import Texts, printable
from swarm.runtime.outbox import untold
from swarm.spec import JobSpec, parse_spec
from swarm.store.interface import Reader

PYTHON = "text/x-python"
FIT = frozenset({"supported"})
"""Verdicts with which a row may be in the answer. Where no judging came to nothing, rows that are unchecked were never to be
judged: they may as well."""
PLACES = 20
"""Passages that are named of those whose output was cut off; all are counted."""
WHY_GIVEN_UP = {
    "budget": "what was left of the budget, its reserve included, might not have paid for it",
    AGENT_BUDGET: "it had spent what one agent may, in attempts before",
    "in-doubt": "a call of it may have been paid for without its answer, and a person would not have it made again",
}
"""What there is to say of tasks that the coordinator itself gave up."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """An answer and the texts it was gathered from, for those who show passages beside it."""

    answer: Answer
    texts: Texts


def gather(reader: Reader, held: bool = True) -> Answer:
    """The answer of a run as its log stands, a draft while the job has not ended; `held` says whether a process works on it.

    Raises:
        StoreError: the log is empty or damaged, or the job's spec is not in the store.
    """
    return gather_with_texts(reader, held).answer


def gather_with_texts(reader: Reader, held: bool = True) -> Gathered:
    """As `gather`, with the texts."""
    state, activity, people, outputs = JobState(), Activity(), People(), Outputs()
    for event in reader.read():
        state.apply(event)
        activity.follow(event, state)
        people.follow(event)
        outputs.follow(event, state)
    if state.created is None:
        raise StoreError("holds no job", "log", "the run stopped before it began; remove it with `swarm rm`")
    spec = parse_spec(msgpack.unpackb(reader.body(state.created.spec)), f"job {state.created.job}")
    texts = Texts(reader, state)
    answer = _Gathering(spec, state, activity, people, outputs, texts).answer(held)
    return Gathered(answer.model_copy(update={"untold": tuple(untold(reader, held))}), texts)


class _Gathering:
    """The parts of one answer."""

    def __init__(
        self, spec: JobSpec, state: JobState, activity: Activity, people: People, outputs: Outputs, texts: Texts
    ) -> None:
        self.spec, self.state, self.activity, self.people, self.texts = spec, state, activity, people, texts
        self.outputs = outputs
        self.ended = state.settled
        planned = spec.answer.merge if spec.answer.merge != "auto" else "set"
        self.merge = str(state.memory.get("merge", planned))
        fit = FIT if activity.judged_nothing else FIT | {"unchecked"}
        self.claims = Claims(spec, state.board, texts, fit, self.ended, self.merge, state.status == "budget")

    def answer(self, held: bool) -> Answer:
        state, claims, total = self.state, self.claims, self.state.total()
        price, prose = self.spec.model.price, self.spec.answer.statements
        sentences = claims.sentences()
        unread = tuple(self._unread())
        return Answer(
            id=state.created.job if state.created else "",
            name=self.spec.name,
            question=printable(self.spec.question),
            status=self._status(held),
            reason=self._reason(),
            draft=not self.ended,
            columns=tuple(column.name for column in self.spec.answer.columns),
            merge="prose" if prose else self.merge,
            sentences=sentences,
            rows=None if prose else claims.rows(),
            statements=claims.statements() if prose else None,
            headlines=claims.headlines(),
            unmerged=claims.unmerged,
            unverified=claims.unverified(),
            left_out=claims.left_out(),
            unread=unread,
            skipped=tuple(self._skipped()),
            given_up=tuple(self._given_up()),
            cut_off=tuple(self._cut_off()),
            unjudged=self._unjudged(),
            coverage=self._coverage(unread),
            score=score(self.spec, claims.counted(), self._python(), self.texts) if self.spec.answer.gold else None,
            tokens=total.tokens,
            tokens_in=total.tokens_in,
            tokens_out=total.tokens_out,
            calls=total.calls,
            calls_failed=state.calls_failed,
            retries=state.retries,
            in_doubt=self._perhaps_paid(state.doubt(held)),
            too_late=self._perhaps_paid(state.ledger.strayed),
            paid_twice=self._perhaps_paid(self.outputs.paid_twice()),
            cached=state.ledger.cached,
            seconds=round(self.activity.seconds, 3),
            cost=round(money(price, total.tokens_in, total.tokens_out), 6) if price else None,
            currency=price.currency if price else None,
            spent=self._spent(),
            weights=self._weights(),
            limits=tuple(self._limits()),
            words=self.people.words(self.texts),
            questions=self.people.questions(self.texts),
            timeline=self.activity.timeline(),
            picture=self._picture([(one.note, one.text) for one in sentences]),
            provenance=self._provenance(),
            withdrawn=len(self.texts.gone),  # last: what was missed on the way is known by now
        )

    # ---- how the job stands ----

    def _status(self, held: bool) -> str:
        if self.state.settled:
            return self.state.status
        if self.state.phase in (Phase.PAUSED, Phase.WAITING):
            return str(self.state.phase)
        return "running" if held else "interrupted"

    def _reason(self) -> str:
        if hash := reason_body(self.state.reason):
            kind, text = self.state.reason.partition(":")[0], self._error(hash)
            before = {"model": "the model did not answer", **IN_VAIN}.get(kind)
            said = text if kind == "person" else on_a_line(text)
            return f"{before}: {said}" if before else said
        return printable(self.state.reason.removeprefix(OVER_BUDGET))

    def _error(self, hash: str) -> str:
        text = self.texts.text(hash) if hash else ""
        return "(text withdrawn)" if text is None else text.strip()

    def _limits(self) -> Iterator[Limit]:
        """Each limit that was reached, once: that a role stops, and that the job ends over it, are two events."""
        for one in {(one.role, one.limit): one for one in self.state.limits}.values():
            yield Limit(limit=one.limit, allowed=one.allowed, spent=one.spent, role=one.role)

    # ---- what was read ----

    def _unread(self) -> Iterator[Unread]:
        """Passages that no agent finished, consecutive ones of a document and with the same reason together."""
        first, last, key = 0, -2, ("", "")
        for number in range(self.state.spans):
            if number in self.activity.read:
                continue
            here = (self.state.block_of(number)[0], self._why_unread(number))
            if here != key or number != last + 1:
                if last >= 0:
                    yield self._run(first, last, *key)
                first, key = number, here
            last = number
        if last >= 0:
            yield self._run(first, last, *key)

    def _run(self, first: int, last: int, document: str, reason: str) -> Unread:
        tokens = sum(self.texts.span(number).tokens for number in range(first, last + 1))
        return Unread(
            document=self.texts.path(document),
            first=first,
            last=last,
            spans=last - first + 1,
            tokens=tokens,
            reason=reason,
        )

    def _why_unread(self, number: int) -> str:
        failed = self.activity.why_failed.get(number)
        if failed and failed[1]:
            return f"given up ({failure_word(failed[0])}): {self._error(failed[1]).partition(chr(10))[0]}"[:240]
        if self.state.limits:
            return f"{words(self.state.limits[0])} was reached first"
        if failed and (why := WHY_GIVEN_UP.get(failed[0])):
            return f"given up ({failure_word(failed[0])}): {why}"
        if not self.ended:
            return "not read yet"
        return {"cancelled": "the job was cancelled first", "failed": "the job failed first"}.get(
            self.state.status, "the job ended first"
        )

    def _skipped(self) -> Iterator[Skipped]:
        for hash in self.state.skipped:
            data = self.texts.data(hash)
            path, reason = msgpack.unpackb(data, unicode_errors="surrogateescape") if data else ("", "(text withdrawn)")
            yield Skipped(path=printable(path), reason=printable(reason))

    def _given_up(self) -> Iterator[GivenUp]:
        for task, role, spans, kind, hash in self.state.failed:
            place = self.texts.path(self.state.block_of(spans[0])[0]) if spans else ""
            yield GivenUp(
                task=task, role=role, document=place, spans=spans, kind=failure_word(kind), reason=self._why_given_up(kind, hash)
            )

    def _cut_off(self) -> Iterator[CutOff]:
        for role, count in sorted(self.outputs.cut_off.items()):
            spans = sorted(self.outputs.cut_spans[role])
            yield CutOff(
                role=role, outputs=count, passages=len(spans), first=tuple(self._place(one) for one in spans[:PLACES])
            )

    def _place(self, number: int) -> Place:
        span = self.texts.span(number)
        return Place(document=self.texts.path(span.document), span=number, line=span.line or None)

    def _why_given_up(self, kind: str, hash: str) -> str:
        return on_a_line(self._error(hash)) or WHY_GIVEN_UP.get(kind, "")

    def _unjudged(self) -> Unjudged | None:
        failed = [row for row in self.state.failed if row[0] in self.activity.judged_nothing]
        rows = self.state.board.count("row", "unchecked")
        if not failed or not rows:
            return None
        kind, hash = most_frequent(failed)
        judged = sum(self.state.board.count("row", verdict) for verdict in ("supported", "unsupported"))
        return Unjudged(rows=rows, of=rows + judged, reason=self._why_given_up(kind, hash) or failure_word(kind))

    def _coverage(self, unread: tuple[Unread, ...]) -> Coverage:
        cited = {span: self.state.block_of(span)[0] for one in self.claims.found for span, _, _ in one.places}
        return Coverage(
            documents=len(self.state.documents), spans=self.state.spans,
            spans_read=self.state.spans - sum(one.spans for one in unread), tokens=self.state.span_tokens,
            tokens_read=self.state.span_tokens - sum(one.tokens for one in unread),
            documents_cited=len(set(cited.values())), spans_cited=len(cited),
        )  # fmt: skip

    def _python(self) -> list[str]:
        return [row.id for row in self.state.documents.values() if row.media == PYTHON]

    # ---- what it took ----

    def _spent(self) -> tuple[Spent, ...]:
        price = self.spec.model.price
        return tuple(
            Spent(role=role, weights=weights, calls=one.calls, tokens_in=one.tokens_in, tokens_out=one.tokens_out,
                  seconds=round(one.seconds, 3),
                  cost=round(money(price, one.tokens_in, one.tokens_out), 6) if price else None)
            for (role, weights), one in sorted(self.state.spend.items())
        )  # fmt: skip

    def _perhaps_paid(self, doubt: Doubt) -> PerhapsPaid:
        price = self.spec.model.price
        dearest = max(price.input, price.output) / 1e6 if price else 0.0
        cost = round(doubt.tokens * dearest, 6) if price else None
        return PerhapsPaid(calls=doubt.calls, tokens=doubt.tokens, cost=cost)

    def _weights(self) -> tuple[Weights, ...]:
        calls: Counter[str] = Counter()
        for (_, weights), one in self.state.spend.items():
            calls[weights] += one.calls
        return tuple(
            Weights(name=name, kind=kind_of(name), calls=count, label=self._label(name))
            for name, count in sorted(calls.items())
        )

    def _label(self, weights: str) -> str:
        """The model and the adapter whose digest this is."""
        if kind_of(weights) != "computed":
            return ""
        model = self.spec.model
        ours = model.name == "embedded"  # whose channels have the adapter of their name, if the job names none
        channels = sorted(self.activity.channels[weights] - {""})
        adapters = [name for name in channels if model.weights.get(name, name if ours else BASE) != BASE]
        return " + adapter ".join([f"embedded {MODEL_NAME}" if ours else model.name, *adapters])

    # ---- how it came about ----

    def _picture(self, sentences: list[tuple[str, str]]) -> Picture:
        by = self.spec.answer.by or (self.spec.answer.columns[-1].name if self.spec.answer.columns else "statement")
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for one in self.claims.found:
            groups[one.values.get(by, "")].extend(row.id for row in one.rows)
        told = [(f"sentence {number}", self.claims.rows_of(note)) for number, (note, _) in enumerate(sentences, 1)]
        return picture.draw(self.state.board, self.claims.document_of, groups.items(), told)

    def _provenance(self) -> Provenance:
        created, activity = self.state.created, self.activity
        assert created is not None, "a log without a first event is refused before"
        sources: dict[tuple[str, str, bool], list[int]] = {}
        for row in self.state.documents.values():
            one = sources.setdefault((row.origin, row.licence, row.train), [0, 0, 0])
            one[0], one[1], one[2] = one[0] + 1, one[1] + row.spans, one[2] + row.size
        return Provenance(
            job=created.job, spec=created.spec, protocol=created.protocol, protocol_digest=created.protocol_digest,
            roles=created.roles, tokenizer=created.tokenizer, seed=created.seed, software=created.software,
            engine=self.spec.model.engine, model=self.spec.model.name, events=activity.events,
            sessions=activity.sessions, started=self.state.started, ended=activity.ended,
            sources=tuple(
                Source(origin=printable(self._origin(origin)), licence=licence, train=train, documents=n, spans=spans, size=size)
                for (origin, licence, train), (n, spans, size) in sources.items()
            ),
        )  # fmt: skip

    def _origin(self, origin: str) -> str:
        """Where an input comes from, in a file that people pass on: of a place on this machine the name of the folder and the
        way from it, unless the job itself gives it as the origin."""
        place = fixed = Path(origin)
        if not place.is_absolute() or any(item.origin == origin for item in self.spec.inputs):
            return origin
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        return Path(fixed.name, place.relative_to(fixed)).as_posix()


def kind_of(weights: str) -> str:
    """Whether weights are a digest that was computed here, what an endpoint declares, or no model at all."""
    kind = weights.partition(":")[0]
    return kind if kind in ("declared", "scripted") else "computed"
