"""Judging a reader on examples it was not trained on: rows found, rows invented, claims accepted and
rejected.

Owns the measures and an economical way to take them: whether a passage is empty is decided by the answer's
first token, computed for many passages at once; only the others are written out. It trains nothing and
chooses no examples.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from swarm.learn.data.examples import Encoded, Example, encode, excerpt_around, verifier_example
from swarm.learn.packed import PackedLlama, batch_of
from swarm.models.embedded import WeightsFolder
from swarm.models.grammar import GrammarMask, copying_grammar, grammar_tokenizer
from swarm.protocol import Failed, Passage
from swarm.rows import claim_text, parsed, read_rows, rows_schema
from swarm.spec import Column
from swarm.window.pack import Segment
from swarm.window.tokens import FileTokenizer

LONGEST_ANSWER = 256
AT_ONCE = 16
PACKED_TOKENS = 3000


@dataclass(frozen=True)
class Score:
    """Counts and what follows from them. `samples` passages, of which `filled` hold rows."""

    samples: int
    filled: int
    gold: int
    found: int
    right: int
    false_alarms: int
    """Empty passages for which rows were kept."""

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    def facts(self) -> dict[str, Any]:
        rates = {name: round(getattr(self, name), 3) for name in ("precision", "recall", "f1")}
        return {**rates, **asdict(self)}


@dataclass(frozen=True)
class Reading:
    """What the model wrote for one example, and the rows that code keeps of it."""

    example: Example
    text: str
    kept: tuple[tuple[str, ...], ...]
    gold: tuple[tuple[str, ...], ...]


class Judge:
    """A model and its tokenizer, ready to answer examples greedily."""

    def __init__(self, weights: WeightsFolder) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._tokenizer = FileTokenizer(weights.path)
        self._packed = PackedLlama(weights.path)
        self._writer: Any = AutoModelForCausalLM.from_pretrained(weights.path, dtype=torch.bfloat16)
        self._grammars = grammar_tokenizer(
            weights.path / "tokenizer.json", self._writer.config.vocab_size, (self._writer.generation_config.eos_token_id,)
        )
        self._empty = self._tokenizer.encode("[]")
        self._decode = _decoder(weights)

    def readings(self, examples: Sequence[Example]) -> list[Reading]:
        """Reader examples with what was written; code checks quotes and values as a job does."""
        encoded = [encode(example, self._tokenizer) for example in examples]
        texts = ["[]"] * len(examples)
        # "[]" and rows begin with the same token: what follows it decides.
        opened = [Encoded(one.shared, (*one.own, self._empty[0]), one.answer[1:]) for one in encoded]
        unsure = [at for at, token in self._firsts(examples, opened) if token != self._empty[1]]
        grammars = [self._grammar(examples[at]) for at in unsure]
        for at, text in zip(unsure, self.written([encoded[at] for at in unsure], grammars), strict=True):
            texts[at] = text
        return [
            Reading(example, text, kept_rows(example, text), tuple(map(tuple, json.loads(example.answer))))
            for example, text in zip(examples, texts, strict=True)
        ]

    def verdicts(self, examples: Sequence[Example]) -> list[bool]:
        """Whether each claim is accepted."""
        encoded = [encode(example, self._tokenizer) for example in examples]
        yes, no = (self._tokenizer.encode(f'"{word}"') for word in ("yes", "no"))
        lead = next(at for at, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b)
        shifted = [Encoded(one.shared, one.own + tuple(yes[:lead]), one.answer[lead:]) for one in encoded]
        answers = dict(self._firsts(examples, shifted))
        return [answers[at] == yes[lead] for at in range(len(examples))]

    def verified(self, readings: Sequence[Reading]) -> list[Reading]:
        """The readings with only those rows that the verifier accepts, as in a job."""
        claims = [
            (at, row, claim_example(reading.example, row))
            for at, reading in enumerate(readings)
            for row in reading.kept
        ]
        said = self.verdicts([claim for _, _, claim in claims])
        kept: dict[int, list[tuple[str, ...]]] = defaultdict(list)
        for (at, row, _), supported in zip(claims, said, strict=True):
            if supported:
                kept[at].append(row)
        return [Reading(one.example, one.text, tuple(kept[at]), one.gold) for at, one in enumerate(readings)]

    def exact(self, examples: Sequence[Example]) -> list[bool]:
        """Whether each answer is exactly the expected one."""
        texts = self.written([encode(example, self._tokenizer) for example in examples])
        return [text == example.answer for text, example in zip(texts, examples, strict=True)]

    def _firsts(self, examples: Sequence[Example], encoded: Sequence[Encoded]) -> Iterator[tuple[int, int]]:
        """(number of the example, first token of its answer), groups together so that openings are shared."""
        groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for at, example in enumerate(examples):
            groups[example.group].append(at)
        for members in groups.values():
            batch: list[int] = []
            tokens = 0
            for at in [*members, -1]:
                if at >= 0:
                    batch.append(at)
                    tokens += len(encoded[at].own)
                if batch and (at < 0 or tokens >= PACKED_TOKENS):
                    yield from zip(
                        batch, self._packed.first_tokens(batch_of([[encoded[i] for i in batch]])), strict=True
                    )
                    batch, tokens = [], 0

    def _grammar(self, example: Example) -> str:
        """What a job holds the reader to."""
        span = Segment("span", example.own[1], 0)
        return copying_grammar(rows_schema(len(column_names(example))), [span])

    def written(self, encoded: Sequence[Encoded], grammars: Sequence[str] = ()) -> list[str]:
        """Greedy answers, each within its grammar if there are any, in batches of prompts of like length."""
        import torch

        texts = [""] * len(encoded)
        order = sorted(range(len(encoded)), key=lambda at: len(encoded[at].shared) + len(encoded[at].own))
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            prompts = [[*encoded[at].shared, *encoded[at].own] for at in part]
            width = max(map(len, prompts))
            ids = torch.tensor([[0] * (width - len(one)) + one for one in prompts])
            mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
            held = [GrammarMask(self._grammars, [grammars[at] for at in part], width)] if grammars else []
            out = self._writer.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=LONGEST_ANSWER,
                do_sample=False,
                logits_processor=held,
            )
            for at, tokens in zip(part, out[:, width:].tolist(), strict=True):
                texts[at] = self._decode(tokens)
        return texts


def _decoder(weights: WeightsFolder) -> Any:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(weights.path / "tokenizer.json"))
    return lambda tokens: backend.decode(tokens, skip_special_tokens=True)


def kept_rows(example: Example, text: str) -> tuple[tuple[str, ...], ...]:
    """The rows of an output that stand a job's checks: quote and values stand in the passage."""
    breadcrumb = example.own[0].removeprefix("Passage: ").rstrip("\n")
    passage = Passage(0, "", "", 0, example.own[1], 0, breadcrumb, False)
    columns = [Column(name=name, description=name) for name in column_names(example)]
    notes = read_rows(passage, text, "length" if parsed(text) is None else "stop", columns, "")
    if isinstance(notes, Failed):
        return ()
    return tuple((*note.content["values"].values(), note.content["quote"]) for note in notes if note.kind == "row")


def column_names(example: Example) -> list[str]:
    return [part.partition(" = ")[0] for part in example.shared[1].removeprefix("Columns: ").split("; ")][:-1]


def claim_example(example: Example, row: Sequence[str]) -> Example:
    """What a job's verifier is asked about a row that the reader wrote."""
    question = example.shared[0].removeprefix("Question: ").rstrip("\n")
    breadcrumb = example.own[0].removeprefix("Passage: ").rstrip("\n")
    claim = claim_text(dict(zip(column_names(example), row, strict=False)))
    excerpt = excerpt_around(example.own[1], row[-1])
    return verifier_example(
        example.family, example.source, question, claim, row[-1], breadcrumb, excerpt, True
    )


def score(readings: Iterable[Reading]) -> Score:
    """Precision and recall over rows of values, each passage for itself."""
    samples = filled = gold = found = right = alarms = 0
    for reading in readings:
        wanted = {row[:-1] for row in reading.gold}
        kept = {row[:-1] for row in reading.kept}
        samples, filled = samples + 1, filled + bool(wanted)
        gold, found, right = gold + len(wanted), found + len(kept), right + len(wanted & kept)
        alarms += bool(kept and not wanted)
    return Score(samples, filled, gold, found, right, alarms)


def raise_checked(reading: Reading) -> Reading:
    """With the checks that the demo's job adds: the quote is a raise statement that names the exception."""
    kept = tuple(
        row for row in reading.kept if re.search(r"\braise\b.*\b" + re.escape(row[-2]) + r"\b", row[-1])
    )
    return Reading(reading.example, reading.text, kept, reading.gold)
