"""Questions put together anew for each group: seeded, right by the checks of a job, and none of those kept for judging."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import yaml

from swarm.learn.data import asked, asking, inventing, mixture, records, sources
from swarm.learn.data.code import Module
from swarm.learn.data.examples import Example
from swarm.learn.data.passages import Passage, passages
from swarm.learn.data.questions import SCHEMAS
from swarm.models.embedded import embedded_base
from swarm.window.tokens import FileTokenizer
from tests.test_learn_data import check_rows

SNIPPET = '''
import os.path as paths
from .near import helper

class Box(Base):
    size: int = 3
    label = "box"

    @cached
    def fill(self, item: str, *rest, loud=False):
        """Puts an item in. And more."""
        for number, one in enumerate(rest):  # every one of them
            if one is not None and item not in self.seen:
                self.count += number
        while not loud:
            del self.seen["x"]
        left, right = item.split(",", maxsplit=1)
        self.item = left if loud else right
        head = left[:2]
        names = [str(x) for x in rest]
        total = compute(
            head, names)
        try:
            log.info("filled up")
        except OSError as error:
            raise Full("no room left") from error
        return helper(total)
'''
LEXICON = Path(asked.__file__).with_name("asked.yaml")


@pytest.fixture(scope="module")
def code() -> list[Passage]:
    tokenizer = FileTokenizer(embedded_base().path)
    return list(passages(sources.held_out(("argparse", "shutil", "configparser")), mixture.all_finders(), tokenizer))


def groups_of(code: list[Passage], seed: int, size: int) -> list[list[Example]]:
    made = asking.Asking(code, len(mixture.all_schemas()), random.Random(seed))
    return [made.group() for _ in range(size)]


def test_findings_of_a_snippet() -> None:
    found = {kind: [item.values for item in items] for kind, items in asked.findings(Module(SNIPPET)).items()}
    assert found["for_loops"] == [("Box.fill", "number, one", "enumerate(rest)")]
    assert found["none_checks"] == [("Box.fill", "one")]
    assert found["memberships"] == [("Box.fill", "item", "self.seen")]
    assert found["negations"] == [("Box.fill", "loud")]
    assert found["augmented"] == [("Box.fill", "self.count", "number")]
    assert found["deleted"] == [("Box.fill", 'self.seen["x"]')]
    assert found["subscripts"] == [("self.seen", "x")]
    assert found["keywords"] == [("Box.fill", "item.split", "maxsplit", "1")]
    assert found["tuple_targets"] == [("Box.fill", "left, right", 'item.split(",", maxsplit=1)')]
    assert found["set_attributes"] == [("Box.fill", "item", "left if loud else right")]
    assert found["ternaries"] == [("Box.fill", "loud", "right")]
    assert found["slices"] == [("Box.fill", "left", ":2")]
    assert found["comprehensions"] == [("Box.fill", "str(x)", "rest")]
    assert found["assigned_calls"] == [("Box.fill", "total", "compute")]
    assert ("log.info", "filled up") in found["text_arguments"]
    assert found["messages"] == [("Box.fill", "no room left")]
    assert found["causes"] == [("Full", "error")]
    assert found["caught_as"] == [("OSError", "error")]
    assert found["returned_calls"] == [("Box.fill", "helper")]
    assert found["parameters"] == [("Box.fill", "item"), ("Box.fill", "loud")]
    assert found["typed_parameters"] == [("Box.fill", "item", "str")]
    assert found["star_parameters"] == [("Box.fill", "rest")]
    assert found["decorated_with"] == [("Box.fill", "cached")]
    assert found["summaries"] == [("Box.fill", "Puts an item in. And more")]
    assert found["class_attributes"] == [("Box", "label", '"box"')]
    assert found["typed_variables"] == [("size", "int")]
    assert found["methods"] == [("Box", "fill")]
    assert found["derived_from"] == [("Box", "Base")]
    assert found["aliases"] == [("os.path", "paths")]
    assert found["relative_imports"] == [("near", "helper")]
    assert found["comments"] == [("every one of them",)]


def test_what_does_not_fit_a_line_makes_its_kind_unaskable() -> None:
    found = asked.findings(Module("def f():\n    while (a and\n           b):\n        pass\n"))
    assert [item.values for item in found["while_loops"]] == [()]
    passage = Passage("p", "p.py", "", 0, ((), (("while (a and",),)))
    assert asking.Asked(1).rows(passage, 0) is None
    assert asking.Asked(0).rows(passage, 0) == []


@pytest.mark.model
def test_code_is_asked_in_seeded_groups_with_right_rows(code: list[Passage]) -> None:
    made = groups_of(code, 1, 300)
    assert made == groups_of(code, 1, 300) != groups_of(code, 2, 300)
    examples = [example for group in made for example in group]
    check_rows(examples)
    assert 0.35 < sum(example.rows > 0 for example in examples) / len(examples) < 0.6
    assert all(len({example.shared for example in group}) == 1 for group in made)
    assert len({example.shared for example in examples}) > 280
    assert len({example.family for example in examples}) > 35


@pytest.mark.model
def test_the_same_passages_are_asked_again_with_another_answer(code: list[Passage]) -> None:
    answers: dict[tuple[str, ...], set[bool]] = {}
    for example in (example for group in groups_of(code, 1, 300) for example in group):
        answers.setdefault(example.own, set()).add(example.rows > 0)
    assert sum(len(seen) == 2 for seen in answers.values()) > 50


def test_invented_questions_are_seeded_and_their_rows_stand_the_checks_of_a_job() -> None:
    random_, again = random.Random(1), random.Random(1)
    made = [inventing.invented_group(random_) for _ in range(500)]
    assert made == [inventing.invented_group(again) for _ in range(500)]
    examples = [example for group in made for example in group]
    check_rows(examples)
    assert 0.4 < sum(example.rows > 0 for example in examples) / len(examples) < 0.6
    assert len({example.shared for example in examples}) > 480


@pytest.mark.model
def test_what_is_kept_for_judging_is_nowhere_asked(code: list[Passage]) -> None:
    kept = [schema for schema in SCHEMAS if schema.kept]
    held = yaml.safe_load(LEXICON.read_text(encoding="utf-8"))
    assert set(held["kinds"]) == {kind.name for kind in asking.KINDS}
    assert not set(held["kinds"]) & {schema.name for schema in kept}
    lexicon = LEXICON.read_text(encoding="utf-8").partition("\ngeneral:")[2]
    assert not re.search(r"isinstance|context manager|with statement|type check", lexicon)
    examples = [example for group in groups_of(code, 3, 300) for example in group]
    assert any("isinstance" in item.text for item in code)
    assert not any("isinstance" in text for example in examples for text in (*example.shared, *example.own))
    questions = {question for schema in kept for question in schema.held_out}
    assert not questions & {example.shared[0].removeprefix("Question: ").strip() for example in examples}


def test_templates_kept_for_judging_are_not_invented() -> None:
    kept = [template for template in records.TEMPLATES if template.kept]
    random_ = random.Random(1)
    examples = [example for _ in range(500) for example in inventing.invented_group(random_)]
    asked_for = "\n".join({example.shared[0] + example.shared[1] for example in examples}).lower()
    for template in kept:
        assert template.name not in asked_for
        assert not any(question.lower() in asked_for for _, question in template.questions)
        assert not any(description.lower() in asked_for for _, description in template.kinds.values())
    assert not re.search(r"borrow|lent|ticket|degrees|temperature|measured|report", asked_for)
