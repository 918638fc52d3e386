"""One window: an ordered list of segments, each with its exact size and its origin.

Owns what a prompt is made of, how it is rendered for a model, and the manifest that says where every token came from.
It does not choose what goes in (the JobMaster names the working set), and it holds no text longer than one prompt.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

from swarm.errors import WindowError
from swarm.events import record
from swarm.window.tokens import Tokenizer

Speaker = Literal["system", "user", "assistant"]
Trust = Literal["operator", "person", "corpus", "tool", "agent"]


@record
class Segment:
    """A piece of a prompt that is tokenised by itself, so that its token ids never depend on its neighbours.

    `kind` is what it is (role, question, schema, breadcrumb, span, note, …), `origin` the id of what it came from,
    `trust` who wrote it, `train` whether learning may use it. `tokens` is exact where the tokenizer is.
    """

    kind: str
    text: str
    tokens: int
    speaker: Speaker = "user"
    trust: Trust = "operator"
    origin: str = ""
    train: bool = True
    digest: str = ""
    """The text's digest where it is known already; the manifest computes it where it is not."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The fixed text around a speaker's turn, and the text after which the model starts to write.

    For an endpoint that applies its own template, all pieces are empty and `overhead` is its cost for each turn.
    """

    opening: dict[str, str]
    closing: str
    overhead: int = 0
    name: str = ""

    def __hash__(self) -> int:
        return hash((self.name, self.closing, self.overhead))

    def pieces(self, segments: tuple[Segment, ...]) -> list[tuple[str, bool]]:
        """The rendered prompt as (text, may hold special tokens) pieces, in order, ready to be encoded one by one."""
        out: list[tuple[str, bool]] = []
        speaker = ""
        for segment in segments:
            if segment.speaker != speaker:
                out.append(((self.closing if speaker else "") + self.opening[segment.speaker], True))
                speaker = segment.speaker
            out.append((segment.text, False))
        out.append((self.closing + self.opening["assistant"], True))
        return [(text, special) for text, special in out if text]


CHATML = ChatTemplate(
    {who: f"<|im_start|>{who}\n" for who in ("system", "user", "assistant")}, "<|im_end|>\n", name="chatml"
)
ENDPOINT = ChatTemplate({"system": "", "user": "", "assistant": ""}, "", overhead=4, name="endpoint")


@record
class Prompt:
    """A packed window, ready to be sent. `tokens` counts the template as well.

    `manifest` is what a trace is read from: (digest, kind, origin, trust, may be trained on, tokens) of each segment.
    """

    segments: tuple[Segment, ...]
    template: ChatTemplate
    tokens: int
    digest: str
    manifest: tuple[tuple[str, str, str, str, bool, int], ...]

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids, the concatenation of each piece's own."""
        return [
            token for text, special in self.template.pieces(self.segments) for token in encode(tokenizer, text, special)
        ]

    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages, neighbouring segments of one speaker joined."""
        out: list[dict[str, str]] = []
        for segment in self.segments:
            if out and out[-1]["role"] == segment.speaker:
                out[-1]["content"] += segment.text
            else:
                out.append({"role": segment.speaker, "content": segment.text})
        return out


def pack(
    segments: list[Segment] | tuple[Segment, ...], template: ChatTemplate, tokenizer: Tokenizer, limit: int, where: str
) -> Prompt:
    """Builds a prompt of at most `limit` tokens.

    Raises:
        WindowError: the segments do not fit; the largest one is named.
    """
    kept = tuple(segment for segment in segments if segment.text)
    tokens = sum([segment.tokens for segment in kept]) + template_tokens(kept, template, tokenizer)
    if tokens > limit:
        largest = max(kept, key=lambda segment: segment.tokens)
        raise WindowError(
            f"the prompt needs {tokens} tokens and {limit} are free; its largest part is the {largest.kind} "
            f"{largest.origin} with {largest.tokens}",
            where,
            "raise model.window (or the role's window), or lower the protocol's span_tokens",
        )
    manifest = tuple([
        (s.digest or text_digest(s.text), s.kind, s.origin, s.trust, s.train, s.tokens) for s in kept
    ])  # fmt: skip
    named = "".join([f"{s.speaker}\0{row[0]}\0" for s, row in zip(kept, manifest, strict=True)])
    digest = hashlib.blake2b((template.name + named).encode(), digest_size=16).hexdigest()
    return Prompt(kept, template, tokens, digest, manifest)


def template_tokens(segments: tuple[Segment, ...], template: ChatTemplate, tokenizer: Tokenizer) -> int:
    """Tokens that the template itself takes for these segments."""
    speakers = [segment.speaker for segment in segments]
    return _template_tokens(template, tuple([who for who, _ in groupby(speakers)]), tokenizer)


@lru_cache(maxsize=1024)
def _template_tokens(template: ChatTemplate, speakers: tuple[Speaker, ...], tokenizer: Any) -> int:
    if template.overhead:
        return template.overhead * (len(speakers) + 1)
    turns = tuple(Segment("turn", "x", 1, who) for who in speakers)
    return sum(len(encode(tokenizer, text, True)) for text, special in template.pieces(turns) if special)


def text_digest(text: str) -> str:
    """The digest that bodies, spans and segments share: blake2b, 128 bits, hexadecimal."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@lru_cache(maxsize=4096)
def _encoded(tokenizer: Any, text: str, special: bool) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, special))


def encode(tokenizer: Tokenizer, text: str, special: bool = False) -> tuple[int, ...]:
    """Token ids of one piece; short pieces, which come back in prompt after prompt, are remembered."""
    return _encoded(tokenizer, text, special) if len(text) <= 2000 else tuple(tokenizer.encode(text, special))
