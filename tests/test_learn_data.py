"""The reader's data: what is learnt from and what is judged on never meet; right answers stand the checks."""

from __future__ import annotations

import json
import platform
import random
from itertools import islice
from pathlib import Path

import pytest

from swarm.learn.data import mixture, pairs, prose, sources, storing
from swarm.learn.data.examples import Example, encode, role_text
from swarm.learn.data.mixture import Material
from swarm.learn.data.passages import passages
from swarm.learn.data.planning import plan_example
from swarm.learn.data.prose import prose_passages
from swarm.learn.data.questions import SCHEMAS
from swarm.learn.data.records import TEMPLATES, record_group
from swarm.learn.evaluating import kept_rows
from swarm.models.embedded import embedded_base
from swarm.window.tokens import FileTokenizer

PAIRS = Path(__file__).parent / "data" / "verifier_pairs.jsonl"
SMALL = ("argparse", "configparser", "json", "shutil", "tomllib")
JUDGED = {
    *("asyncio", "concurrent", "email", "http", "importlib", "logging", "multiprocessing", "pydoc_data"),
    *("tarfile", "unittest", "zipfile"),
}


@pytest.fixture(scope="module")
def tokenizer() -> FileTokenizer:
    return FileTokenizer(embedded_base().path)


@pytest.fixture(scope="module")
def material(tokenizer: FileTokenizer) -> Material:
    files = list(sources.held_out(SMALL))
    schemas = mixture.all_schemas()
    code = list(passages(files, [schema.find for schema in schemas], tokenizer))
    return Material(code, list(prose_passages(files, tokenizer)), schemas)


def test_packages_are_apart() -> None:
    assert set(sources.HELD_OUT) >= JUDGED
    learnt = {file.path for file in sources.training()}
    assert not {path.split("/")[0].removesuffix(".py") for path in learnt} & JUDGED
    assert len(learnt) > 1000


def test_a_copy_of_a_held_out_passage_is_told_wherever_it_stands() -> None:
    original = next(file for file in sources.held_out(["tarfile"]))
    guarded = frozenset(sources.telling_lines(original.text))
    part = original.text[20_000:22_000]
    assert sources.is_copy(part.replace("    ", "\t"), guarded)
    assert not sources.is_copy("def something_else_entirely(argument):\n    return argument + 1", guarded)


def test_wordings_schemas_and_templates_are_apart() -> None:
    wordings = [(schema.questions, schema.held_out) for schema in SCHEMAS]
    wordings += [(schema.questions, schema.held_out) for schema in prose.SCHEMAS]
    for learnt, judged in wordings:
        assert judged and not set(learnt) & set(judged)
    main = SCHEMAS[0]
    assert (len(main.questions), len(main.held_out)) >= (10, 3)
    assert [schema.name for schema in SCHEMAS if schema.kept] == ["contexts", "type_checks"]
    assert all(not schema.questions for schema in SCHEMAS if schema.kept)
    assert len([schema for schema in SCHEMAS if not schema.kept]) >= 9
    assert sum(template.kept for template in TEMPLATES) >= 2
    seen = {plan_example(random.Random(seed)).own[0] for seed in range(300)}
    kept = {plan_example(random.Random(seed), kept=True).own[0] for seed in range(300)}
    assert len(kept - seen) > 50


def test_rows_of_records_stand_the_checks_of_a_job() -> None:
    random_ = random.Random(1)
    examples = [item for _ in range(200) for item in record_group(TEMPLATES, random_, 3, 0.62)]
    check_rows(examples)
    assert 0.55 < sum(example.rows == 0 for example in examples) / len(examples) < 0.7


def check_rows(examples: list[Example]) -> None:
    for example in examples:
        gold = json.loads(example.answer)
        kept = kept_rows(example, example.answer)
        assert [row[:-1] for row in kept] == [tuple(row[:-1]) for row in gold], (example.own, example.answer)
        quotes = [(row[-1], asked[-1]) for row, asked in zip(kept, gold, strict=True)]
        assert all(one.startswith(other) or other.startswith(one) for one, other in quotes), quotes
        assert example.rows == len(gold)


def test_outputs_that_are_cut_off_or_wrong_give_only_what_stands_the_checks() -> None:
    example = record_group(TEMPLATES, random.Random(1), 1, 0.0)[0]
    rows = json.loads(example.answer)
    assert kept_rows(example, example.answer[:-1] + ',["half') == tuple(tuple(row) for row in rows)
    assert kept_rows(example, json.dumps([[*rows[0][:-1], "words that are not there"]])) == ()
    assert kept_rows(example, json.dumps([["invented", *rows[0][1:]]])) == ()
    for nonsense in ("", "none", "{}", "[1]", '[["a"]]', "null", "[[[]]]"):
        assert kept_rows(example, nonsense) == ()


def test_datasets_survive_their_file(tmp_path: Path) -> None:
    random_ = random.Random(3)
    made = storing.dataset_of("x", [record_group(TEMPLATES, random_, 3, 0.6) for _ in range(5)])
    storing.write(made, tmp_path / "data.jsonl")
    assert storing.read("x", tmp_path / "data.jsonl") == made


@pytest.mark.model
def test_the_mixture_is_seeded_grouped_mostly_empty_and_right(
    tokenizer: FileTokenizer, material: Material
) -> None:
    groups = list(islice(mixture.stream(material, tokenizer, seed=4), 250))
    assert groups == list(islice(mixture.stream(material, tokenizer, seed=4), 250))
    assert groups != list(islice(mixture.stream(material, tokenizer, seed=5), 250))
    examples = [example for group in groups for example in group]
    read = [example for example in examples if example.role == "reader"]
    assert sum(example.rows == 0 for example in read) / len(read) >= 0.6
    check_rows(read)
    assert {example.role for example in examples} == {"reader", "verifier", "planner", "writer"}
    for group in groups:
        assert len({encode(example, tokenizer).shared for example in group}) == 1
    judged = [example for example in examples if example.role == "verifier"]
    assert 0.4 < sum(example.rows for example in judged) / len(judged) < 0.6
    longest = max(
        len(ids.shared) + len(ids.own) + len(ids.answer)
        for ids in (encode(example, tokenizer) for example in examples)
    )
    assert longest <= mixture.LONGEST_EXAMPLE


@pytest.mark.model
def test_a_prompt_is_cut_into_the_segments_of_a_window(tokenizer: FileTokenizer) -> None:
    example = record_group(TEMPLATES, random.Random(1), 1, 0.0)[0]
    ids = encode(example, tokenizer)
    texts = ["<|im_start|>system\n", role_text("reader"), "<|im_end|>\n<|im_start|>user\n", *example.shared]
    assert ids.shared == tuple(
        token for text in texts for token in tokenizer.encode(text, text.startswith("<|im"))
    )
    assert ids.own[-6:] == tuple(tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", True))
    assert ids.answer == (*tokenizer.encode(example.answer), *tokenizer.encode("<|im_end|>", True))


MADE_ON = "3.11.7"
"""The Python whose standard library the committed pairs were made from; another one has other sources."""


@pytest.mark.model
def test_the_committed_pairs_are_what_their_script_makes(tokenizer: FileTokenizer) -> None:
    known = pairs.read_pairs(PAIRS)
    assert (
        sum(pair["supported"] for pair in known)
        == len(known) - sum(pair["supported"] for pair in known)
        == 200
    )
    assert {pair["source"] for pair in known} <= JUDGED
    made = pairs.lines_of(pairs.verifier_pairs(mixture.held_out_material(tokenizer)))
    if platform.python_version() == MADE_ON:
        assert made == PAIRS.read_text(encoding="utf-8")
    assert len(made.splitlines()) == len(known) == made.count('"supported": true') * 2
    for pair in known:
        assert " ".join(pair["quote"].split()) in " ".join(pair["excerpt"].split())
