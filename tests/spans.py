"""The promises that hold for the spans of every text, as one check."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from swarm.corpus import Span
from swarm.window.tokens import Tokenizer


def check(text: str, spans: Sequence[Span], tokenizer: Tokenizer, max_tokens: int) -> None:
    """The promises of `cut_text`."""
    end = 0
    for span in spans:
        body = text[span.start : span.end]
        assert end <= span.start < span.end <= len(text)
        assert not text[end : span.start].strip(), "only white space lies between spans"
        assert body.strip() and body == body.rstrip()
        assert span.tokens == tokenizer.count(body) <= max_tokens
        assert span.digest == hashlib.blake2b(body.encode(), digest_size=16).hexdigest()
        assert span.line == 1 + len(re.findall("\r\n|\r|\n", text[: span.start]))
        end = span.end
    assert not text[end:].strip()
