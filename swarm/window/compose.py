"""From what an agent wants to say to a packed window.

Owns the joining of role and parts, and compaction: when an agent's earlier turns no longer fit, the oldest are left out
and a line says how many; a person's words that do not fit are left out as well, the oldest first. That depends on sizes
alone, so a task that is taken up again gets identical token ids.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

from swarm.protocol import WORD, Part
from swarm.window.pack import ChatTemplate, Prompt, Segment, Speaker, Trust, pack, template_tokens, text_digest
from swarm.window.tokens import Tokenizer


def compose(
    role: str, prompt: str, parts: Sequence[Part], template: ChatTemplate, tokenizer: Tokenizer, limit: int
) -> Prompt:
    """Builds the window of one call: at most `limit` tokens, template included.

    Raises:
        WindowError: what may not be left out does not fit.
    """
    head = (Part("role", prompt, origin=role, speaker="system"),) if prompt else ()
    segments = [_segment(part, tokenizer) for part in (*head, *parts)]
    turns = [at for at, segment in enumerate(segments) if segment.kind == "turn"]
    if turns:
        segments = _compacted(segments, turns, template, tokenizer, limit)
    words = [at for at, segment in enumerate(segments) if segment.kind == WORD]
    while words and not _fits(segments, template, tokenizer, limit):
        segments[words[0]] = replace(segments[words[0]], text="", tokens=0)  # the oldest first
        words.pop(0)
    return pack(segments, template, tokenizer, limit, f"roles.{role}")


def _compacted(
    segments: list[Segment], turns: list[int], template: ChatTemplate, tokenizer: Tokenizer, limit: int
) -> list[Segment]:
    """Leaves out the oldest turns, two segments (asked and answered) at a time, until the rest fits."""

    def without(dropped: int) -> list[Segment]:
        line = _segment(Part("compaction", f"({dropped // 2} earlier turns are left out here.)\n"), tokenizer)
        return [*segments[: turns[0]], line, *segments[turns[0] + dropped :]]

    if _fits(segments, template, tokenizer, limit):
        return segments
    choices = range(2, len(turns) + 1, 2)
    # The more is dropped, the less is left.
    at = bisect_left(choices, True, key=lambda dropped: _fits(without(dropped), template, tokenizer, limit))
    return without(choices[at]) if at < len(choices) else segments


def _fits(segments: list[Segment], template: ChatTemplate, tokenizer: Tokenizer, limit: int) -> bool:
    spoken = tuple(segment for segment in segments if segment.text)
    return sum(segment.tokens for segment in spoken) + template_tokens(spoken, template, tokenizer) <= limit


def _segment(part: Part, tokenizer: Tokenizer) -> Segment:
    return _fixed(part, tokenizer) if part.trust == "operator" else _measured(part, tokenizer)


@lru_cache(maxsize=1024)
def _fixed(part: Part, tokenizer: Any) -> Segment:
    """What the operator says is the same in call after call: it is measured once."""
    return _measured(part, tokenizer)


def _measured(part: Part, tokenizer: Tokenizer) -> Segment:
    tokens = part.tokens if part.tokens >= 0 else tokenizer.count(part.text)
    return Segment(
        part.kind, part.text, tokens, cast(Speaker, part.speaker), cast(Trust, part.trust), part.origin, part.train,
        text_digest(part.text),
    )  # fmt: skip


def role_overhead(prompt: str, fixed: Mapping[str, str], template: ChatTemplate, tokenizer: Tokenizer) -> int:
    """Tokens of a role's prompt, the texts that every one of its calls carries, and the template."""
    segments = (Segment("role", prompt, tokenizer.count(prompt), "system"),) + tuple(
        Segment(kind, text, tokenizer.count(text)) for kind, text in fixed.items()
    )
    return sum(segment.tokens for segment in segments) + template_tokens(segments, template, tokenizer)
