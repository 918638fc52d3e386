"""Cutting: what every span keeps to, and where each kind of text is cut."""

from __future__ import annotations

import ast
import hashlib
import textwrap
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from swarm.corpus import Media, Span, cut_stream, cut_text, document_id
from swarm.errors import CorpusError
from swarm.testing.tokenizer import small_tokenizer
from swarm.window.tokens import ApproximateTokenizer, FileTokenizer, Tokenizer

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
        end = span.end
    assert not text[end:].strip()


def cut(source: str, tokenizer: Tokenizer, max_tokens: int = 320, merge: int = 96) -> list[tuple[str, str]]:
    """(breadcrumb, text) of each span of a Python source."""
    spans = list(cut_text(source, "m.py", Media.PYTHON, tokenizer, max_tokens=max_tokens, merge_tokens=merge))
    check(source, spans, tokenizer, max_tokens)
    return [(span.breadcrumb, source[span.start : span.end]) for span in spans]


def body(lines: int) -> str:
    return "".join(f"    value_{number} = compute(value_{number}, {number})\n" for number in range(lines))


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


# Python


def test_functions_methods_and_classes_have_their_names(tokenizer: FileTokenizer) -> None:
    source = (
        '"""Module."""\nimport os\n\n'
        f"def first(x):\n{body(5)}\n"
        f'class Queue(Base):\n    """A queue."""\n\n    size = 1\n\n'
        f"    async def get(self):\n{textwrap.indent(body(5), '    ')}\n"
        "    @property\n    @other(1,\n           2)\n"
        f"    def full(self):\n{textwrap.indent(body(5), '    ')}\n"
        f"    class Inner:\n        def deep(self):\n{textwrap.indent(body(5), '        ')}\n"
        "class Small(Exception):\n    pass\n"
    )
    spans = dict(cut(source, tokenizer, merge=40))
    assert list(spans) == [
        "m.py",
        "m.py > first",
        "m.py > class Queue",
        "m.py > Queue.get",
        "m.py > Queue.full",
        "m.py > Queue.Inner.deep",
        "m.py > class Small",
    ]
    assert spans["m.py > Queue.full"].startswith("    @property\n")
    assert spans["m.py > class Queue"] == 'class Queue(Base):\n    """A queue."""\n\n    size = 1'
    # A bare header is no passage of its own.
    assert spans["m.py > Queue.Inner.deep"].startswith("    class Inner:\n        def deep")


def test_small_neighbours_of_one_parent_are_merged_up_to_the_limit(tokenizer: FileTokenizer) -> None:
    methods = "".join(f"    def m{number}(self):\n        return {number}\n\n" for number in range(12))
    source = f"class A:\n{methods}\ndef f():\n    return 1\n\ndef g():\n    return 2\n"
    spans = list(cut_text(source, "m.py", Media.PYTHON, tokenizer))
    assert all(span.tokens <= 96 for span in spans)
    assert [span.breadcrumb for span in spans] == ["m.py > class A"] * (len(spans) - 1) + ["m.py"]
    # As much as fits: no two neighbours of the same parent could have been joined.
    for one, two in pairwise(spans[:-1]):
        assert tokenizer.count(source[one.start : two.end]) > 96
    whole = "class A:\n    def f(self):\n        pass\n\nx = 1\n"
    assert cut(whole, tokenizer) == [("m.py", whole.strip())]
    assert cut("class A:\n    def f(self):\n        pass\n", tokenizer)[0][0] == "m.py > class A"
    assert cut("def f():\n    pass\n", tokenizer)[0][0] == "m.py > f"


def test_a_function_that_fits_is_never_cut_and_a_longer_one_in_parts(tokenizer: FileTokenizer) -> None:
    source = f"def fits():\n{body(14)}\ndef long():\n    '''Text.'''\n{body(40)}"
    spans = cut(source, tokenizer)
    names = [name for name, _ in spans]
    assert names[:3] == ["m.py > fits", "m.py > long", "m.py > long (part 2)"]
    assert names[-1] == f"m.py > long (part {len(names) - 1})"
    assert all(text.startswith("    value_") for _, text in spans[2:]), "cut between statements"


def test_long_functions_are_cut_at_outer_statements_first(tokenizer: FileTokenizer) -> None:
    block = "    if ready:\n" + textwrap.indent(body(4), "    ")
    source = f"def long():\n{block * 8}"
    spans = cut(source, tokenizer, max_tokens=300)
    assert len(spans) > 2 and all(text.startswith("    if ready:") for _, text in spans[1:])


def test_a_big_function_inside_a_long_one_has_its_own_name(tokenizer: FileTokenizer) -> None:
    inner = textwrap.indent(f"# About inner.\nasync def inner(x):\n{body(8)}", "    ")
    small = "    def tiny():\n        return 1\n\n"
    after = f"def after():\n    return {'1 + ' * 60}1\n"
    source = f"def outer():\n{body(9)}\n{small}{inner}\n    return inner\n\n{after}"
    spans = cut(source, tokenizer)
    names = [name for name, _ in spans]
    assert names == ["m.py > outer", "m.py > outer.inner", "m.py > outer (part 2)", "m.py > after"]
    assert "def tiny" in spans[0][1]
    assert spans[1][1].startswith("    # About inner.\n")
    assert spans[2][1] == "    return inner"


def test_comments_go_with_the_definition_they_stand_above_or_in(tokenizer: FileTokenizer) -> None:
    source = (
        f"x = 1\n# About f.\n# More.\n@decorated\ndef f():\n{body(5)}    # still in f\n\n"
        f"# About g.\n\ndef g():\n{body(5)}\n# The end.\n"
    )
    assert [text for _, text in cut(source, tokenizer, merge=32)] == [
        "x = 1",
        f"# About f.\n# More.\n@decorated\ndef f():\n{body(5)}    # still in f",
        f"# About g.\n\ndef g():\n{body(5)}".rstrip(),
        "# The end.",
    ]


def test_a_comment_that_does_not_fit_stands_alone(tokenizer: FileTokenizer) -> None:
    comment = "# The agents read the text and write what they found.\n" * 8
    function = f"@decorated\ndef f():\n{body(7)}"
    assert cut(f"{comment}\n{function}", tokenizer, max_tokens=200) == [
        ("m.py", comment.rstrip()),
        ("m.py > f", function.rstrip()),
    ]
    # Right above the function it is cut off all the same, for the function must not be.
    assert cut(f"{comment}{function}", tokenizer, max_tokens=200)[-1] == ("m.py > f", function.rstrip())


def test_small_functions_inside_a_long_one_are_not_cut(tokenizer: FileTokenizer) -> None:
    inner = "".join(
        f"    def tiny_{number}(name):\n        if name is None:\n            raise ValueError\n"
        for number in range(40)
    )
    spans = cut(f"def outer():\n{inner}", tokenizer)
    assert len(spans) > 2 and all(text.startswith("    def tiny") for _, text in spans[1:])
    assert {name.split(" (")[0] for name, _ in spans} == {"m.py > outer"}


def test_definitions_inside_conditions_are_found(tokenizer: FileTokenizer) -> None:
    code = textwrap.indent(f"def f():\n{body(5)}", "    ")
    branches = f"if sys.platform == 'win32':\n{code}else:\n{code}"
    source = f"import sys\n{branches}\ntry:\n    import x\nexcept ImportError:\n{code}"
    spans = cut(source, tokenizer, merge=32)
    names = [name for name, _ in spans]
    assert names == ["m.py", "m.py > f", "m.py > f", "m.py", "m.py > f"]
    assert spans[1][1].startswith("if sys.platform") and spans[2][1].startswith("else:")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_all_kinds(tokenizer: FileTokenizer, end: str) -> None:
    method = textwrap.indent(f"def g(self):\n{body(6)}", "    ")
    source = f"x = '''a\x0cb\u2028c'''\n\x0c\ndef f():\n{body(6)}\nclass A:\n{method}"
    names = [name for name, _ in cut(source.replace("\n", end), tokenizer, merge=32)]
    assert names == ["m.py", "m.py > f", "m.py > A.g"]


BROKEN = (
    f"import os\n\nprint 'python 2'\n\n@decorated\ndef f(a,\n      b\n):\n{body(5)}\n"
    f"class A(B):\n    '''Doc.'''\n    def g(self):\n{textwrap.indent(body(5), '    ')}\n"
    f"    @staticmethod\n    async def h():\n{textwrap.indent(body(5), '    ')}\n"
    f"def long():\n{body(40)}"
)


def test_source_that_does_not_parse_is_cut_by_indentation(tokenizer: FileTokenizer) -> None:
    with pytest.raises(SyntaxError):
        ast.parse(BROKEN)
    spans = cut(BROKEN, tokenizer, merge=40)
    names = [name for name, _ in spans]
    assert names[:7] == [
        "m.py",
        "m.py > f",
        "m.py > class A",
        "m.py > A.g",
        "m.py > A.h",
        "m.py > long",
        "m.py > long (part 2)",
    ]
    assert spans[1][1].startswith("@decorated\ndef f(a,") and spans[4][1].startswith("    @staticmethod")
    assert [
        text for _, text in cut(BROKEN.replace("print 'python 2'", "print('python 2')"), tokenizer, merge=40)
    ][1:] == [text for _, text in spans][1:]


def test_deep_nesting_that_does_not_parse_ends(tokenizer: FileTokenizer) -> None:
    source = "".join(f"{' ' * depth}class C{depth}:\n" for depth in range(600)) + "oops oops\n"
    cut(source, tokenizer)
    cut("x = " + "(" * 5000 + "\n", tokenizer)
    chain = "if x == 0:\n    pass\n" + "".join(f"elif x == {at}:\n    pass\n" for at in range(1, 1500))
    cut(chain, tokenizer)


@st.composite
def python_sources(draw: st.DrawFn, indent: str = "", depth: int = 0) -> str:
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["code", "code", "comment", "blank", "if", "def", "class", "long"]))
        name = draw(st.sampled_from(["alpha", "beta", "gamma"]))
        if kind == "code":
            parts.append(f"{indent}{name} = [{draw(st.integers(0, 10**6))},\n{indent}  '''two\nlines''']\n")
        elif kind == "comment":
            parts.append(f"{indent}# {name} é\n")
        elif kind == "blank":
            parts.append("\n\n")
        elif kind == "long":
            parts.append(f"{indent}{name} = ({' + '.join(map(str, range(draw(st.integers(1, 60)))))} + 1)\n")
        elif depth < 4:
            inner = draw(python_sources(indent + "    ", depth + 1)) + f"{indent}    pass\n"
            header = {
                "if": f"if {name}:",
                "class": f"class {name}(object):",
                "def": f"async def {name}(self):",
            }[kind]
            decorator = f"{indent}@decorated\n" if kind != "if" and draw(st.booleans()) else ""
            parts.append(f"{decorator}{indent}{header}\n{inner}")
    return "".join(parts)


def functions(tree: ast.AST, outer: str = "") -> list[tuple[str, ast.AsyncFunctionDef]]:
    """(qualified name, node) of functions that are not inside another function."""
    found = []
    for node in ast.iter_child_nodes(tree):
        name = (
            f"{outer}.{node.name}".lstrip(".")
            if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef)
            else outer
        )
        if isinstance(node, ast.AsyncFunctionDef):
            found.append((name, node))
        else:
            found.extend(functions(node, name))
    return found


@settings(max_examples=40)
@given(source=python_sources(), max_tokens=st.sampled_from([64, 120, 320]))
def test_no_function_that_fits_is_cut_and_breadcrumbs_name_it(
    tokenizer: FileTokenizer, source: str, max_tokens: int
) -> None:
    """Against Python's own parser, on sources that hypothesis makes up."""
    merge = max_tokens // 3
    spans = list(cut_text(source, "m.py", Media.PYTHON, tokenizer, max_tokens=max_tokens, merge_tokens=merge))
    check(source, spans, tokenizer, max_tokens)
    lines = source.split("\n")
    for name, node in functions(ast.parse(source)):
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        text = "\n".join(lines[first - 1 : node.end_lineno])
        start = sum(len(line) + 1 for line in lines[: first - 1])
        holding = [span for span in spans if span.start < start + len(text) and span.end > start]
        if tokenizer.count(text) <= max_tokens:
            assert len(holding) == 1
            (span,) = holding
            label = span.breadcrumb.removeprefix("m.py").removeprefix(" > ").removeprefix("class ")
            assert name == label or name.startswith(f"{label}.") or not label
            assert label == name or span.tokens <= merge, "under another name only if merged with neighbours"
        else:
            # Its header may stand with the first definition inside.
            assert name in holding[0].breadcrumb


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
