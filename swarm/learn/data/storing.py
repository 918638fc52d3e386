"""Datasets as files: one JSON line for each group, so that a long training can go on without making its data
again.

Owns reading, writing and the digest of a dataset. Writing is in one rename.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from swarm.learn import Dataset
from swarm.learn.data.examples import Example, encode
from swarm.learn.data.mixture import Group
from swarm.window.tokens import Tokenizer


def take(name: str, groups: Iterator[Group], tokenizer: Tokenizer, tokens: int) -> Dataset:
    """The first groups of a stream, with at least `tokens` tokens to compute."""
    taken: list[Group] = []
    seen = 0
    for group in groups:
        encoded = [encode(example, tokenizer) for example in group]
        seen += len(encoded[0].shared) + sum(len(one.own) + len(one.answer) for one in encoded)
        taken.append(group)
        if seen >= tokens:
            break
    return dataset_of(name, taken)


def dataset_of(name: str, groups: Iterable[Group]) -> Dataset:
    kept = tuple(tuple(group) for group in groups)
    return Dataset(name, kept, _digest(_line(group) for group in kept))


def write(dataset: Dataset, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.write_text("".join(_line(group) for group in dataset.groups), encoding="utf-8")
    os.replace(draft, file)


def read(name: str, file: Path, limit: int | None = None) -> Dataset:
    with file.open(encoding="utf-8") as lines:
        groups = [[_example(fields) for fields in json.loads(line)] for line in islice(lines, limit)]
    return dataset_of(name, groups)


def _line(group: Iterable[Example]) -> str:
    fields = [[e.role, e.family, e.source, e.shared, e.own, e.answer, e.rows] for e in group]
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")) + "\n"


def _example(fields: list[object]) -> Example:
    role, family, source, shared, own, answer, rows = fields
    assert isinstance(shared, list) and isinstance(own, list) and isinstance(rows, int)
    return Example(str(role), str(family), str(source), tuple(shared), tuple(own), str(answer), rows)


def _digest(lines: Iterable[str]) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for line in lines:
        hashed.update(line.encode())
    return hashed.hexdigest()
