"""From a JSON schema to what keeps a model inside it.

Owns the one grammar that the engines running here share (compact JSON: no white space between tokens, as the
roles' prompts and the training data have it), and the step-by-step mask that transformers needs. vLLM builds
the same grammar from the same library in its own process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.errors import ModelError

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from torch import Tensor


def compact_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of a schema, in llguidance's form.

    Raises:
        ModelError: the schema cannot be made a grammar; not retryable.
    """
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
    if problem := LLMatcher.validate_grammar(grammar):
        raise ModelError(
            f"the output's JSON schema makes no grammar: {problem.splitlines()[0]}",
            "schema",
            "change what the protocol asks for",
            kind="refused",
            retryable=False,
        )
    return grammar


def grammar_tokenizer(tokenizer_file: Path, vocabulary: int, ends: tuple[int, ...]) -> LLTokenizer:
    """The tokenizer in the grammar library's form. `vocabulary` is the width of the model's output, `ends`
    its stops."""
    from llguidance import LLTokenizer

    return LLTokenizer(str(tokenizer_file), n_vocab=vocabulary, eos_token=list(ends))


class GrammarMask:
    """Forbids what the grammar forbids, one token after the other; a transformers logits processor for one
    completion."""

    def __init__(self, tokenizer: LLTokenizer, grammar: str, prompt_tokens: int) -> None:
        from llguidance import LLMatcher
        from llguidance.torch import allocate_token_bitmask

        self._matcher = LLMatcher(tokenizer, grammar)
        self._mask = allocate_token_bitmask(1, tokenizer.vocab_size)
        self._seen = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch
        from llguidance.torch import fill_next_token_bitmask

        for token in input_ids[0, self._seen :].tolist():
            self._matcher.consume_token(token)
        self._seen = input_ids.shape[1]
        fill_next_token_bitmask(self._matcher, self._mask)
        # Plain tensor operations: the library's own kernel would start a compiler.
        bits = torch.arange(32, dtype=torch.int32)
        allowed = ((self._mask[0].unsqueeze(1) >> bits) & 1).bool().flatten()[: scores.shape[1]]
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))
