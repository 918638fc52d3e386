"""What a job will take, as ranges, before anything is spent; and afterwards, how far off that was.

Owns the estimate and the one table of rates behind it. It reads inputs to measure them, calls no model and writes
nothing.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

from swarm.corpus import Pinned, glance, open_spans, pin
from swarm.protocol import Expected, expected
from swarm.runtime.prepare import Prepared, check_budget, prepare
from swarm.runtime.session import check_gold
from swarm.spec import JobSpec

EXACT_BYTES = 2 << 20
"""Input up to this size is cut to count its spans; what lies beyond is reckoned from that, by size."""
LEAST_PROMPT, LEAST_OUTPUT = 16, 8
"""Tokens that a prompt holds besides what all have, and that are written, where the protocol does not say it."""
GROWING = 0.75
"""What part of a window prompts take at least, on average, that grow until it is full."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a machine does: tokens a second in and out over all calls at once, and seconds until it begins."""

    tokens_in: float
    tokens_out: float
    start: float
    source: str


RATES: dict[tuple[str, bool], Rate] = {
    ("vllm", False): Rate(700, 130, 45, "SmolLM2-135M on 2 CPU cores, vLLM 0.32, merged weights"),
}
"""(engine, on a GPU) → measured rates. Nothing is promised where nothing was measured."""
CALL_SECONDS = (0.5, 5.0)
"""Seconds that one call to an endpoint takes: an assumption, for no endpoint is like another."""
SPREAD = (0.6, 1.6)
"""How much faster or slower than the measured machine this one may be."""


@dataclass(frozen=True, slots=True)
class Range:
    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def times(self, low: float, high: float) -> Range:
        return Range(self.low * low, self.high * high)


@dataclass(frozen=True, slots=True)
class Measure:
    """What the inputs amount to. `exact` is False where a part was reckoned from the rest by its size."""

    documents: int
    spans: int
    tokens: int
    exact: bool
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How often each reason for leaving something out was met."""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimate of a job. `tokens_in` and `tokens_out` are of all calls; `seconds` and `money` may be unknown, and all of it
    is where the protocol does not say what calls it makes: what is unknown is None."""

    name: str
    input: Measure
    calls: Mapping[str, Range] | None
    tokens_in: Range | None
    tokens_out: Range | None
    seconds: Range | None
    rate: str
    money: Range | None
    currency: str
    over: tuple[str, ...]
    """Limits of the budget that the job may reach, each with what it is likely to need."""

    @property
    def total_calls(self) -> Range | None:
        return None if self.calls is None else sum(self.calls.values(), Range(0, 0))

    @property
    def tokens(self) -> Range | None:
        return None if self.tokens_in is None or self.tokens_out is None else self.tokens_in + self.tokens_out

    def document(self) -> dict[str, Any]:
        """The plan as plain data, for `--json`."""
        calls, tokens = self.total_calls, self.tokens
        return asdict(self) | {"total_calls": calls and asdict(calls), "tokens": tokens and asdict(tokens)}


def plan_job(spec: JobSpec) -> Plan:
    """Checks a job, reads its inputs and estimates what it takes.

    Raises:
        SwarmError: whatever would stop the job from starting, but for its model and its ways of telling people, which may be
            elsewhere.
    """
    glance(spec.inputs)
    job = prepare(spec)
    check_budget(job)
    check_gold(spec.answer)
    return estimate(job, measure(job, pin(spec.inputs)))


def measure(job: Prepared, corpus: Pinned) -> Measure:
    """Counts spans and tokens of the inputs, by cutting the first EXACT_BYTES of them.

    Raises:
        CorpusError: an input changed or went while it was read.
    """
    spans = tokens = seen = 0
    total = sum(document.size for document in corpus.documents)
    for source, document in zip(corpus.sources, corpus.documents, strict=True):
        if seen >= EXACT_BYTES:
            break
        characters = 0
        for span, text in open_spans(source, job.tokenizer, job.protocol.span_tokens, document=document):
            spans, tokens, characters = spans + 1, tokens + span.tokens, characters + len(text)
            if characters >= EXACT_BYTES:
                break
        seen += min(characters, document.size) if characters >= EXACT_BYTES else document.size
    exact = seen >= total
    scale = 1.0 if exact else total / seen
    return Measure(
        len(corpus.documents),
        round(spans * scale),
        round(tokens * scale),
        exact,
        dict(Counter(re.split(r"[:.(;]", one.reason)[0].strip() for one in corpus.skipped)),
        corpus.remarks,
    )


def estimate(job: Prepared, size: Measure) -> Plan:
    """The ranges for a job over inputs of this size.

    Raises:
        ProtocolError: the protocol failed to say what it expects.
    """
    said = expected(job.protocol, size.spans, size.tokens)
    calls = {role: Range(round(one.calls[0]), ceil(one.calls[1])) for role, one in said.items() if one.calls is not None}
    if not said or len(calls) < len(said):
        why = f"protocol {job.protocol.name} does not say what calls it makes"
        return Plan(job.spec.name, size, None, None, None, None, why, None, "", ())
    calls = {role: count for role, count in calls.items() if count.high}
    read = Range(0, 0)
    written = Range(0, 0)
    for role, count in calls.items():
        prompt, output = _tokens_a_call(job, role, said[role])
        read += Range(count.low * prompt.low, count.high * prompt.high)
        written += Range(count.low * output.low, count.high * output.high)
    seconds, source = _time(job, calls, read, written)
    price = job.spec.model.price
    money = None
    if price is not None:
        money = read.times(price.input / 1e6, price.input / 1e6) + written.times(price.output / 1e6, price.output / 1e6)
    total = sum(calls.values(), Range(0, 0))
    return Plan(
        job.spec.name, size, calls, read, written, seconds, source, money, price.currency if price else "",
        _over(job.spec, total, read + written, seconds, money),
    )  # fmt: skip


def _tokens_a_call(job: Prepared, role: str, one: Expected) -> tuple[Range, Range]:
    """(prompt, output) tokens of one call of a role."""
    fixed, most = job.overhead[role], job.roles[role].max_tokens
    window = min(job.roles[role].window, job.spec.model.window)
    output = Range(*one.output) if one.output else Range(LEAST_OUTPUT, most)
    if one.prompt is None:
        return Range(fixed + LEAST_PROMPT, window), output
    room = window - most
    prompt = Range(fixed + one.prompt[0], fixed + one.prompt[1])
    return prompt if prompt.high <= room else Range(min(prompt.low, GROWING * room), room), output


def _time(job: Prepared, calls: Mapping[str, Range], read: Range, written: Range) -> tuple[Range | None, str]:
    model = job.spec.model
    if model.engine == "openai":
        total = sum(calls.values(), Range(0, 0))
        return (
            total.times(CALL_SECONDS[0] / model.concurrency, CALL_SECONDS[1] / model.concurrency) + Range(1, 10),
            f"assuming {CALL_SECONDS[0]:g} to {CALL_SECONDS[1]:g} s a call, {model.concurrency} at once",
        )
    rate = RATES.get((model.engine, os.path.exists("/dev/nvidia0")))
    if rate is None or model.name != "embedded":
        return None, "no rate was measured for this model here"
    # At best the texts that all calls share are computed once and kept.
    shared = sum(count.low * job.overhead[role] for role, count in calls.items())
    busy = Range((read.low - shared) / rate.tokens_in, read.high / rate.tokens_in)
    busy += written.times(1 / rate.tokens_out, 1 / rate.tokens_out)
    return busy.times(*SPREAD) + Range(rate.start * SPREAD[0], rate.start * SPREAD[1]), rate.source


def _over(spec: JobSpec, calls: Range, tokens: Range, seconds: Range | None, money: Range | None) -> tuple[str, ...]:
    """What of the budget may not be enough."""
    budget, share = spec.budget, 1 - spec.budget.reserve
    found = []
    for name, limit, need in (
        ("tokens", budget.tokens, tokens), ("calls", budget.calls, calls), ("seconds", budget.seconds, seconds),
        ("money", budget.money, money),
    ):  # fmt: skip
        if limit is not None and need is not None and need.high > limit * share:
            verdict = "is not enough" if need.low > limit else "may not be enough"
            words = amounts(need) if name == "money" else f"{need.low:,.0f} to {need.high:,.0f}"
            found.append(f"budget.{name} = {limit:,} {verdict}: {words} are likely needed")
    return tuple(found)


def amounts(money: Range) -> str:
    """A range of money with cents, or with as many places as a small amount needs."""
    return " to ".join(f"{one:,.2f}" if one >= 1 or not one else f"{one:.4f}" for one in (money.low, money.high))
