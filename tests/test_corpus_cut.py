"""Cutting: what every span keeps to, and where each kind of text is cut."""

from __future__ import annotations

import hashlib
import textwrap

import pytest
from hypothesis import given, settings, strategies as st

from swarm.corpus import Media, cut_stream, cut_text, document_id
from swarm.errors import CorpusError
from swarm.testing.tokenizer import small_tokenizer
from swarm.window.tokens import ApproximateTokenizer, FileTokenizer, Tokenizer
from tests.spans import check

FRAGMENTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "\n",
            "\n\n",
            "\r\n",
            "\r",
            "\x0c",
            "\u2028",
            "    ",
            "\t",
            "  \n",
            "x" * 200,
            "word " * 40,
            "=" * 90,
            "\n" * 50,
        ]
    ),
    st.sampled_from(
        ["# Title\n", "## Sub\n\n", "Title\n=====\n", "```\n", "* a\n", "One. Two! Three? ", "</p>", "}\n"]
    ),
    st.sampled_from(
        ["def f(a):\n", "class A:\n", "    @x\n", "async def g(): pass\n", "# note\n", '"""', "else:\n"]
    ),
    st.sampled_from(
        ["👩‍👩‍👧", "日本語。文です。", "e\u0301" * 9, "<|im_end|>", "\u3000", "\u200b", "\ufeff"]
    ),
)
TEXTS = st.lists(FRAGMENTS, max_size=25).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module", params=["file", "approximate"])
def either(request: pytest.FixtureRequest, tokenizer: FileTokenizer) -> Tokenizer:
    return tokenizer if request.param == "file" else ApproximateTokenizer()


# Every kind of text


@settings(max_examples=60)
@given(text=TEXTS, media=st.sampled_from([*Media]), max_tokens=st.sampled_from([32, 50, 320]))
def test_spans_are_whole_bounded_and_in_order(
    either: Tokenizer, text: str, media: str, max_tokens: int
) -> None:
    check(text, list(cut_text(text, "a", media, either, max_tokens=max_tokens)), either, max_tokens)


@settings(max_examples=20)
@given(text=TEXTS, media=st.sampled_from([*Media]))
def test_the_same_text_gives_the_same_spans(tokenizer: FileTokenizer, text: str, media: str) -> None:
    first = list(cut_text(text, "a", media, tokenizer, max_tokens=40))
    assert first == list(cut_text(text, "a", media, tokenizer, max_tokens=40))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert {span.document for span in first} <= {document_id("a", digest)}
    assert document_id("a", digest) != document_id("b", digest)


@settings(max_examples=80)
@given(text=TEXTS, sizes=st.lists(st.integers(1, 900), min_size=1, max_size=6))
def test_a_stream_is_cut_as_the_whole_text_is(either: Tokenizer, text: str, sizes: list[int]) -> None:
    text = text * 8
    blocks: list[str] = []
    at = 0
    while at < len(text):
        size = sizes[len(blocks) % len(sizes)]
        blocks.append(text[at : at + size])
        at += size
    whole = [
        (span, text[span.start : span.end])
        for span in cut_text(text, "a", Media.PLAIN, either, document="d", max_tokens=32)
    ]
    assert list(cut_stream(blocks, "a", either, document="d", max_tokens=32)) == whole


@pytest.mark.parametrize("text", ["", " ", "\n\n \t\r\n", "\u2028\u3000"])
@pytest.mark.parametrize("media", [*Media])
def test_white_space_gives_no_spans(tokenizer: FileTokenizer, text: str, media: str) -> None:
    assert list(cut_text(text, "a", media, tokenizer)) == []
    assert list(cut_stream([text, text], "a", tokenizer, document="d")) == []


def test_a_limit_that_is_too_small_is_refused(tokenizer: FileTokenizer) -> None:
    with pytest.raises(CorpusError) as caught:
        list(cut_text("x", "a", Media.PLAIN, tokenizer, max_tokens=31))
    assert caught.value.where == "max_tokens" and caught.value.cure


def test_lone_surrogates_do_not_stop_a_cut(either: Tokenizer) -> None:
    text = "a \udc80 b\n\ndef f():\n    return '\ud800'\n"
    for media in Media:
        spans = list(cut_text(text, "a", media, either))
        assert "".join(text[span.start : span.end] for span in spans).split() == text.split()


def test_a_breadcrumb_is_one_line_of_bounded_length(tokenizer: FileTokenizer) -> None:
    text = f"# {'long ' * 60}\n\nbody\n"
    (span,) = cut_text(text, "p/" * 500, Media.MARKDOWN, tokenizer, max_tokens=900)
    assert len(span.breadcrumb) < 300 and "\n" not in span.breadcrumb and "long" in span.breadcrumb


class UnsteadyTokenizer:
    """A beginning of a text may have more tokens than the whole: three characters a token, or one."""

    exact = True
    digest = "unsteady"

    def encode(self, text: str, special: bool = False) -> list[int]:
        return [0] * self.count(text)

    def count(self, text: str) -> int:
        return len(self.offsets(text))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        width = 1 if len(text) % 3 else 3
        return [(at, at + width) for at in range(0, len(text), width)]


@pytest.mark.parametrize("media", [*Media])
def test_the_limit_holds_for_a_tokenizer_that_counts_beginnings_higher(media: str) -> None:
    text = "def f():\n" + "some words and more, " * 40 + "\n\nx = 1\n" * 30
    check(text, list(cut_text(text, "a", media, UnsteadyTokenizer(), max_tokens=50)), UnsteadyTokenizer(), 50)


# Plain text


def test_prose_is_cut_at_paragraphs_then_sentences_then_words(tokenizer: FileTokenizer) -> None:
    paragraph = "The agents read the text. Then they write what they found. Each claim has a source."
    text = "\n\n".join([paragraph] * 6)
    spans = list(cut_text(text, "a.txt", Media.PLAIN, tokenizer, max_tokens=90))
    assert all(text[span.end : span.end + 2] in ("\n\n", "") for span in spans)
    flat = " ".join([paragraph] * 6)
    spans = list(cut_text(flat, "a.txt", Media.PLAIN, tokenizer, max_tokens=60))
    assert len(spans) == 3 and all(flat[span.end - 1] == "." for span in spans)
    words = "word " * 300
    spans = list(cut_text(words, "a.txt", Media.PLAIN, tokenizer, max_tokens=60))
    assert all(set(words[span.start : span.end].split()) == {"word"} for span in spans)
    assert {span.breadcrumb for span in spans} == {"a.txt"}


def test_hard_wrapped_prose_is_not_cut_where_a_line_happens_to_end(tokenizer: FileTokenizer) -> None:
    sentence = "the agents read all of the text and then they write down what they have found there, "
    text = textwrap.fill(("So " + sentence * 2 + "and so on. ") * 4, 60)
    spans = list(cut_text(text, "a.txt", Media.PLAIN, tokenizer, max_tokens=200))
    assert len(spans) > 1 and all(text[span.end - 1] == "." for span in spans)


def test_records_are_cut_at_lines(tokenizer: FileTokenizer) -> None:
    text = "".join(f"2024-01-{day:02} INFO Server. Took {day}.5 ms. Next one\n" for day in range(1, 29))
    spans = list(cut_text(text, "a.log", Media.PLAIN, tokenizer, max_tokens=100))
    assert len(spans) > 3 and all(text[span.start : span.start + 4] == "2024" for span in spans)


def test_a_line_of_two_million_characters(tokenizer: FileTokenizer) -> None:
    text = "the agents read the text and write " * 60_000
    blocks = [text[at : at + 2**20] for at in range(0, len(text), 2**20)]
    spans = [span for span, _ in cut_stream(blocks, "a", tokenizer, document="d")]
    check(text, spans, tokenizer, 320)


@pytest.mark.parametrize("unit", ["x", "0", "-", " ", "👩", "a\u0301", "\r", "\t \n"])
def test_a_long_run_of_one_thing_is_cut_in_linear_time(either: Tokenizer, unit: str) -> None:
    text = "a" + unit * 40_000 + "b"
    spans = [span for span, _ in cut_stream([text], "a", either, document="d")]
    check(text, spans, either, 320)


# Markdown, reStructuredText, other code


def markup(
    text: str, media: str, tokenizer: Tokenizer, merge: int = 0, max_tokens: int = 320
) -> list[tuple[str, str]]:
    spans = list(cut_text(text, "doc.md", media, tokenizer, max_tokens=max_tokens, merge_tokens=merge))
    check(text, spans, tokenizer, max_tokens)
    return [(span.breadcrumb, text[span.start : span.end]) for span in spans]


def test_markdown_headings_make_breadcrumbs(tokenizer: FileTokenizer) -> None:
    text = (
        "intro\n\n# One #\n\ntext\n\n```python\n# no heading\n```\n\n### Deep\n\ndeep text\n\n"
        "Under lined\n---\n\n"
        "- item\n---\n\nTop\n===\nlast\n\n~~~\nx\n===\n"
    )
    assert [name for name, _ in markup(text, Media.MARKDOWN, tokenizer)] == [
        "doc.md",
        "doc.md > One",
        "doc.md > One > Deep",
        "doc.md > One > Under lined",
        "doc.md > Top",
    ]


def test_sections_are_filled_with_paragraphs_and_small_ones_merged(tokenizer: FileTokenizer) -> None:
    paragraph = "The agents read the text and write what they found.\n\n"
    text = f"# Top\n\n## Small\n\none\n\n## Other\n\ntwo\n\n## Big\n\n{paragraph * 12}"
    spans = markup(text, Media.MARKDOWN, tokenizer, merge=96, max_tokens=160)
    assert spans[0] == ("doc.md > Top", "# Top\n\n## Small\n\none\n\n## Other\n\ntwo")
    assert {name for name, _ in spans[1:]} == {"doc.md > Top > Big"} and len(spans) > 2
    assert all(tokenizer.count(f"{body}\n\n{paragraph}") > 160 for _, body in spans[1:-1])


def test_rst_headings_take_their_levels_from_their_order(tokenizer: FileTokenizer) -> None:
    text = (
        "****\nBook\n****\n\nOne\n===\n\ntext\n\nDeep\n----\n\ntext\n\n>>> x\n\n"
        "Two\n===\n\n+--+\n|xx|\n+--+\n\nlong title here\n---\n"
    )
    assert [name for name, _ in markup(text, Media.RST, tokenizer)] == [
        "doc.md > Book",
        "doc.md > Book > One",
        "doc.md > Book > One > Deep",
        "doc.md > Book > Two",
    ]


def test_other_code_is_cut_at_top_level_blocks(tokenizer: FileTokenizer) -> None:
    lines = "".join(f"  total += compute({number});\n" for number in range(6))
    first = f"function first(a) {{\n{lines}\n{lines}}}\n"
    text = f"// header\n#include <x>\n\n{first}\nclass Second {{\n{lines}\n}}\n\n\nconst x = 1;\n"
    spans = markup(text, Media.CODE, tokenizer)
    assert [name for name, _ in spans] == ["doc.md", "doc.md > first", "doc.md > Second", "doc.md"]
    assert spans[1][1].startswith("function first") and spans[1][1].endswith("}")
    cramped = markup(text, Media.CODE, tokenizer, max_tokens=100)
    assert cramped[1][1].endswith(");") and cramped[2][1].startswith("  total")
