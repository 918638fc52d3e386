"""The grammar of a reader's output: compact JSON whose quotes can only be copied from the passage."""

from __future__ import annotations

import json

import pytest

from swarm.models.embedded import embedded_base
from swarm.models.grammar import copying_grammar, grammar_tokenizer, plain_schema
from swarm.protocol import COPIED_LAST
from swarm.rows import rows_schema
from swarm.window.pack import Segment

pytestmark = pytest.mark.model

TEXT = '    def get(self):\n        raise Empty("né\\t%s" % self)\n'


def taken(text: str, passage: str = TEXT, columns: int = 2) -> int:
    """How many of an output's tokens the grammar lets pass, less those that there are: 0 for all of them."""
    from llguidance import LLMatcher

    folder = embedded_base().path
    tokenizer = grammar_tokenizer(folder / "tokenizer.json", 49152, (2,))
    ids = tokenizer.tokenize_str(text)
    parts = [Segment("question", "raise Other", 0), Segment("span", passage, 0)]
    grammar = copying_grammar(rows_schema(columns), parts)
    assert not LLMatcher.validate_grammar(grammar)
    return LLMatcher(tokenizer, grammar).validate_tokens(ids) - len(ids)


def row(*cells: str) -> str:
    return json.dumps([list(cells)], ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("quote", ['raise Empty("né\\t%s" % self)', "def get(self):\n        raise", "self", "%"])
def test_what_stands_in_the_passage_may_be_quoted(quote: str) -> None:
    assert quote in TEXT
    assert taken(row("get", "Empty", quote)) == 0


@pytest.mark.parametrize("quote", ["raise Other", "raise empty", "raise Emp", "self)self", "raise  Empty"])
def test_what_does_not_stand_there_word_for_word_may_not(quote: str) -> None:
    assert taken(row("get", "Empty", quote)) < 0


def test_nothing_found_and_other_numbers_of_columns() -> None:
    assert taken("[]") == 0
    assert taken(row("one", "self"), columns=1) == 0
    assert taken(row("one", "two", "three", "self"), columns=2) < 0


def test_values_are_free() -> None:
    assert taken(row('any "thing" at all', "né\n", "self")) == 0


def test_an_empty_passage_and_half_a_character_make_a_grammar() -> None:
    assert taken("[]", "") == 0
    assert taken(row("a", "b", "fine"), "fine \ud83d") == 0


def test_a_schema_without_copies_has_no_such_grammar() -> None:
    assert copying_grammar({"enum": ["yes", "no"]}, ()) == ""
    assert copying_grammar({"type": "array", "items": {"type": "string"}}, ()) == ""


def test_endpoints_get_the_plain_schema() -> None:
    assert COPIED_LAST in json.dumps(rows_schema(2))
    assert COPIED_LAST not in json.dumps(plain_schema(rows_schema(2)))
    assert plain_schema(rows_schema(2))["items"] == {
        "type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 3,
    }  # fmt: skip
    assert plain_schema({"enum": ["half \ud83d"], "\ud83d": True}) == {"enum": ["half ?"], "?": True}, "what can be sent"
