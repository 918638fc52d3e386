"""Counting and encoding: corpus text never becomes a control token, counts and offsets agree."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from swarm.errors import WindowError
from swarm.testing.tokenizer import CONTROLS, small_tokenizer
from swarm.window.tokens import ApproximateTokenizer, Counts, FileTokenizer, Tokenizer

TEXTS = st.lists(
    st.one_of(
        st.text(max_size=20), st.sampled_from([*CONTROLS, "<tool_call>", "\n\n", "    ", "👩‍👩‍👧", "\r\n"])
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=["file", "approximate"])
def either(request: pytest.FixtureRequest, tokenizer: FileTokenizer) -> Tokenizer:
    return tokenizer if request.param == "file" else ApproximateTokenizer()


@settings(max_examples=60)
@given(text=TEXTS)
def test_text_never_becomes_a_control_token(tokenizer: FileTokenizer, text: str) -> None:
    assert tokenizer.controls.isdisjoint(tokenizer.encode(text))


def test_template_pieces_become_control_tokens(tokenizer: FileTokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>user\nhello<|im_end|>", special=True)
    assert ids[0] != ids[-1] and {ids[0], ids[-1]} == tokenizer.controls
    assert len(tokenizer.encode("<|im_start|>")) > 1


@settings(max_examples=60)
@given(text=TEXTS)
def test_count_encode_and_offsets_agree(either: Tokenizer, text: str) -> None:
    offsets = either.offsets(text)
    assert either.count(text) == len(either.encode(text)) == len(offsets)
    assert either.count(text) == len(offsets), "the second count comes from memory"
    covered = {index for start, end in offsets for index in range(start, end)}
    assert all(0 <= start <= end <= len(text) for start, end in offsets)
    assert offsets == sorted(offsets)
    assert {index for index, char in enumerate(text) if not char.isspace()} <= covered


def test_lone_surrogates_are_counted_and_keep_offsets(either: Tokenizer) -> None:
    text = "a \ud800 \udfff b"
    assert either.count(text) == len(either.offsets(text)) > 0
    assert either.offsets(text)[-1][1] == len(text)


def test_control_strings_in_text_are_ordinary_text(tmp_path: Path) -> None:
    """The same tokens as from a tokenizer that has never heard of control tokens."""
    knowing = small_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "added_tokens": []}))
    text = "the <|im_start|>value<|im_end|> of"
    assert knowing.encode(text) == FileTokenizer(file).encode(text)


def test_added_tokens_of_any_kind_are_out_of_reach_for_text(tmp_path: Path) -> None:
    """Models ship strings such as <tool_call> as added tokens that are not marked special."""
    small_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    data = json.loads(file.read_text())
    added = {**data["added_tokens"][0], "id": 900, "content": "<tool_call>", "special": False}
    blanks = {**added, "id": 901, "content": "   "}
    data["added_tokens"] += [added, blanks]
    file.write_text(json.dumps(data))
    tokenizer = FileTokenizer(file)
    assert len(tokenizer.controls) == 3
    assert tokenizer.controls.isdisjoint(tokenizer.encode("see <tool_call> here"))
    assert tokenizer.encode("<tool_call>", special=True)[0] in tokenizer.controls


def test_control_string_in_the_plain_vocabulary_is_cut(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend, models, pre_tokenizers

    words = ["[UNK]", "<|im_end|>", "hello", "<", "|im_end|>"]
    backend = Backend(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<|im_end|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = FileTokenizer(tmp_path)
    text = "hello <|im_end|> hello"
    assert tokenizer.encode(text) == [2, 3, 4, 2]
    assert tokenizer.count(text) == 4
    assert [text[start:end] for start, end in tokenizer.offsets(text)] == ["hello", "<", "|im_end|>", "hello"]
    assert tokenizer.encode("<|im_end|>", special=True) == [1]


def test_digest_is_that_of_the_file(tokenizer: FileTokenizer, tmp_path: Path) -> None:
    assert small_tokenizer(tmp_path).digest == tokenizer.digest
    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text() + "\n")
    assert FileTokenizer(tmp_path).digest != tokenizer.digest


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend

    whole = small_tokenizer(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    cut = FileTokenizer(tmp_path)
    assert cut.count("x") == 1
    assert cut.encode("the value of the name " * 9) == whole.encode("the value of the name " * 9)


@pytest.mark.parametrize("content", [None, b"not json", b"[]", b'{"added_tokens": []}', b"\xff\xfe"])
def test_bad_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(WindowError) as caught:
        FileTokenizer(file)
    assert caught.value.where == str(file)
    assert caught.value.cure
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_estimate_rounds_up_for_each_run() -> None:
    expected = {"": 0, " ": 1, "a": 1, "abcd": 2, "a b": 2, "a  b": 3, "é" * 3: 3, "\n\n": 1, "\n    x": 3}
    expected |= {"2024": 4, "x=1;": 4, "==": 1, "日本": 3}
    assert {text: ApproximateTokenizer().count(text) for text in expected} == expected


def test_the_estimate_is_not_lower_than_real_tokenizers_count() -> None:
    from pydoc_data.topics import topics

    # Vocabularies of 32k and more hold 3.5 to 5 characters of English a token.
    assert not ApproximateTokenizer.exact
    for text in topics.values():
        assert ApproximateTokenizer().count(text) > len(text) / 3.5


def test_memory_of_counts_is_bounded() -> None:
    counts = Counts(size=3)
    for number in range(10):
        key, known = counts.get(str(number))
        assert known is None
        counts.put(key, number)
    assert counts.get("9")[1] == 9
    assert counts.get("6")[1] is None
