"""From a JSON schema to what keeps a model inside it.

Owns the one grammar that the engines running here share (compact JSON: no white space between tokens, as the
roles' prompts and the training data have it; quotes that can only be copied), and the step-by-step mask that
transformers needs. vLLM builds the same grammar from the same library in its own process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.errors import ModelError
from swarm.names import plain
from swarm.protocol import COPIED_LAST
from swarm.window.pack import Prompt, Segment

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from torch import Tensor


PIECE = re.compile(r"\w+|\W")


def plain_schema(schema: Any) -> Any:
    """The schema without what only the grammars here understand, and no text that a request cannot hold."""
    if isinstance(schema, dict):
        return {plain(key): plain_schema(value) for key, value in schema.items() if key != COPIED_LAST}
    if isinstance(schema, list):
        return [plain_schema(item) for item in schema]
    return plain(schema) if isinstance(schema, str) else schema


def copying_grammar(schema: Mapping[str, Any], parts: Iterable[Segment]) -> str:
    """The Lark grammar of an array of arrays of strings, the last of each copied from the prompt; empty for any other schema.

    A copied string is any run of whole words and signs of the parts of that kind, as JSON writes them.
    """
    row = schema.get("items")
    if not isinstance(row, dict) or COPIED_LAST not in row:
        return ""
    text = "\n".join(part.text for part in parts if part.kind == row[COPIED_LAST])
    pieces = [json.dumps(piece, ensure_ascii=False)[1:-1] for piece in PIECE.findall(text.encode(errors="ignore").decode())]
    cells = "cell \",\" " * (row["maxItems"] - 1)
    return (
        'start: "[" ( row ("," row)* )? "]"\n'
        f'row: "[" {cells}quote "]"\n'
        'cell: %json {"type": "string"}\n'
        'quote: "\\"" COPIED "\\""\n'
        f'COPIED: %regex {json.dumps({"substring_chunks": pieces})}\n'
    )


def compact_grammar(schema: Mapping[str, Any], prompt: Prompt) -> str:
    """The grammar of a schema for the answer to a prompt, in llguidance's form.

    Raises:
        ModelError: the schema cannot be made a grammar; not retryable.
    """
    from llguidance import LLMatcher

    grammar = copying_grammar(schema, prompt.segments)
    if not grammar:
        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(plain_schema(schema)), defaults={"whitespace_flexible": False}
        )
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
    """Forbids what the grammars forbid, one token after the other; a transformers logits processor for a batch of
    completions, each with its own grammar, whose prompts are `prompt_tokens` wide."""

    def __init__(self, tokenizer: LLTokenizer, grammars: Sequence[str], prompt_tokens: int) -> None:
        from llguidance import LLMatcher
        from llguidance.torch import allocate_token_bitmask

        self._matchers = [LLMatcher(tokenizer, grammar) for grammar in grammars]
        self._mask = allocate_token_bitmask(len(grammars), tokenizer.vocab_size)
        self._seen = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch
        from llguidance.torch import fill_next_token_bitmask

        for at, matcher in enumerate(self._matchers):
            for token in input_ids[at, self._seen :].tolist():
                if not matcher.is_stopped():  # what follows an end is padding
                    matcher.consume_token(token)
            fill_next_token_bitmask(matcher, self._mask, at)
        self._seen = input_ids.shape[1]
        # Plain tensor operations: the library's own kernel would start a compiler.
        bits = torch.arange(32, dtype=torch.int32)
        allowed = ((self._mask.unsqueeze(2) >> bits) & 1).bool().flatten(1)[:, : scores.shape[1]]
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))
