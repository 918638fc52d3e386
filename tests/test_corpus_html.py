"""HTML: what a reader of a page sees, on which line of the file it stands, and that no page takes long."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgpack
import pytest
from hypothesis import example, given, settings, strategies as st

from swarm.corpus import Source, Span, document_of, is_streamed, open_spans, text_of_html
from swarm.corpus.html_text import LONGEST_BLOCK, LONGEST_TAG, HtmlText
from swarm.corpus.spans import FORGOTTEN, FileLines
from swarm.report import gather
from swarm.report.passages import References, passages
from swarm.report.texts import SpanRow, Texts
from swarm.runtime.pins import pack_block, unpack_block
from swarm.store.interface import Reader
from swarm.window.tokens import ApproximateTokenizer
from tests.jobs import job, run, state_of

TAGS = (
    ["<p>", "</p>", "<h2>", "</h2>", "<pre>", "</pre>", "<script>", "</script>", "<td>", "<br", "</", "<"]
    + ["<![x[", "]]>", "<!--", "-->", "<!DOCTYPE", "&", "&amp;", "&#0;", "\r\n", "\n", "<a b='", "'", ">"]
)  # fmt: skip


@settings(max_examples=200)
@given(
    parts=st.lists(
        st.one_of(
            st.text(max_size=12),
            st.sampled_from(TAGS),
        ),
        max_size=14,
    ),
    size=st.integers(1, 20),
)
@example(parts=["<p>a <b title='", "> and so on it goes", "'>bold</b>"], size=32)
@example(parts=["<a b='", ">", "x" * 20, "'>y"], size=7)
def test_any_page_gives_text_and_blocks_give_the_same(parts: list[str], size: int) -> None:
    page = "".join(parts)
    reader_lines, whole_lines = FileLines(), FileLines()
    reader, whole = HtmlText(reader_lines), HtmlText(whole_lines)
    for at in range(0, len(page), size):
        reader.feed(page[at : at + size])
    whole.feed(page)
    reader.close()
    whole.close()
    text = whole.take()
    assert reader.take() == text == text_of_html(page)
    if text:
        span = Span("", 0, len(text), 0, "", "", 0)
        assert reader_lines.of(span) == whole_lines.of(span)


def test_what_a_reader_of_a_page_sees() -> None:
    page = (
        "<html><head><title>no</title><style>p{}</style><body><h1>A  <i>b</i></h1><script>if (a<b) x</script>"
        "<p>one &lt;two&gt;<br>three<table><tr><th>x<th>y<tr><td>1<td>2</table><pre>\n# code\n  x\n</pre>"
        '<img alt="a picture"><svg><text>no</text></svg> end<div><noscript>no</noscript>last'
    )
    assert text_of_html(page) == "# A b\n\none <two>\nthree\n\nx | y\n1 | 2\n\n```\n# code\n  x\n```\n\na picture end\n\nlast"


@pytest.mark.parametrize(
    ("tag", "seen"),
    [
        ("<svg/>", True),
        ("<svg a='b'/>", True),
        ("<svg a=b />", True),
        ('<svg viewBox="0 0 1 1" aria-hidden/>', True),
        ("<svg a=b/c aria-hidden/>", True),
        ("<svg a=b/>", False),
        ("<svg a=/>", False),
        ("<svg a='b' c = d/>", False),
    ],
)
def test_the_stroke_at_the_end_of_a_tag_may_belong_to_a_value(tag: str, seen: bool) -> None:
    assert text_of_html(f"<p>a{tag}<p>b") == ("a\n\nb" if seen else "a")


def test_the_text_for_a_picture_is_its_first_alt() -> None:
    assert text_of_html("<p><img src='alt=x' data-alt=y ALT = 'a > b' alt=z>") == "a > b"


# Lines

PAGE = """<html>
<head><title>T</title></head>
<body>
<!-- comment
over
lines -->
<p>Filler that
goes on.</p>

<pre>

def f():
    raise ZeroDivisionError("x")
</pre>
</body></html>"""


def lines_of(file: Path) -> dict[str, int | None]:
    """Word → the line of the file that a cite of it would name, for each word of a page's spans."""
    found: dict[str, int | None] = {}
    source = Source(file.name, "text/html", "", "", False, file=file)
    for span, text in open_spans(source, ApproximateTokenizer()):
        (pinned,) = unpack_block(pack_block([span]))
        row = SpanRow(0, "", pinned.start, pinned.end, 0, "", "", pinned.line, pinned.turns)
        found |= {word[0]: row.line_at(text, span.start + word.start()) for word in re.finditer("w[0-9]+z", text)}
    return found


BETWEEN = [
    "\n", "\r\n", "\r", " ", "\t", "<p>", "</p>\n", "<h1>", "</h1>", "<li>", "<pre>", "</pre>", "<table><tr><td>", "<td>\n",
    "<br>", "<b>", "</b>", "<a href='x>\ny'>", "<!-- a\n\nb -->", "<script>\nx\n</script>", "<svg>\n", "</svg>", "&#10;",
    "&amp;", "&lt;p&gt;", "<img\nalt='", "'>", "<!DOCTYPE\nx>", "<", "> ", "\n\n    ", "# ", "<![CDATA[\n]]>",
]  # fmt: skip


@settings(max_examples=200)
@given(between=st.lists(st.lists(st.sampled_from(BETWEEN), max_size=4).map("".join), max_size=20))
def test_the_line_of_a_word_is_the_one_on_which_it_stands_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, between: list[str]
) -> None:
    page = "Words: " + "".join(f"{markup}w{number}z" for number, markup in enumerate(between))
    file = tmp_path_factory.getbasetemp() / "page.html"
    file.write_bytes(page.encode())
    lines = re.split("\r\n|\r|\n", page)
    for word, line in lines_of(file).items():
        assert line is not None and word in lines[line - 1]


def test_lines_of_a_page_that_is_too_long_to_be_read_whole(tmp_path: Path) -> None:
    file, hidden = tmp_path / "long.html", "<!--" + 800 * "\n" + "-->"
    file.write_text("".join(f"{hidden}<p>w{number}z and\r\nw{number + 1}z</p>" for number in range(0, 2 * FORGOTTEN, 2)))
    with file.open("a") as more:
        more.write("<!--" + "x" * (4 << 20))
    assert is_streamed(document_of(Source(file.name, "text/html", "", "", False, file=file)))
    found = lines_of(file)
    assert found == {f"w{number}z": 1 + 800 * (number // 2 + 1) + (number + 1) // 2 for number in range(2 * FORGOTTEN)}


def test_an_answer_names_the_line_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    ran = run(job(tmp_path / "a.html"), tmp_path / "runs")
    with ran.reader() as reader:
        (row,) = gather(reader).rows or ()
        (cite,) = row.cites
        assert PAGE.splitlines()[12] == f"    {cite.quote}" and (cite.line, cite.last_line) == (13, 13)
        references = References()
        references.number(cite)
        (passage,) = passages(references, Texts(reader, state_of(ran)))
    shown = [(line.number, "".join(piece.text for piece in line.pieces).strip()) for line in passage.lines]
    assert [line for line in shown if line[1]] == [
        (7, "Filler that"), (8, "goes on."), (12, "```"), (None, "def f():"), (13, cite.quote), (None, "```"),
    ]  # fmt: skip


@dataclass
class Replaced:
    """A reader that finds another body under one hash."""

    reader: Reader
    hash: str
    data: bytes

    def bodies(self, hashes: Iterable[str]) -> dict[str, bytes]:
        return {**self.reader.bodies(hashes), self.hash: self.data}


def test_a_log_from_before_lines_of_html_were_kept_names_no_line(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    ran = run(job(tmp_path / "a.html"), tmp_path / "runs")
    state = state_of(ran)
    with ran.reader() as reader:
        ((_, block),) = state.block_rows
        old = [row[:6] for row in unpack_block(reader.body(block))]
        texts = Texts(cast(Reader, Replaced(reader, block, msgpack.packb(old))), state)
        span = texts.span(0)
        (cite,) = texts.cites([(0, span.start, span.start + 6)]).values()
    assert cite.quote == "Filler" and cite.line is None and cite.last_line is None


# Pages that would take long


@pytest.mark.parametrize(
    "page",
    [
        "<a " * 300_000,
        "<a " * 300_000 + ">x",
        '<a b="' * 300_000,
        "<a b=\"'" + "<a b='" * 300_001,
        '<a x=">"' * 300_000,
        "<a x='>' y=\">\"" * 300_000,
        "<a x='" + '<a x=">"' * 300_000 + ' y="',
        "<a = " * 300_000,
        "</a " * 300_000,
        "<!--" * 300_000,
        "<![x" * 300_000,
        "<script>" * 300_000,
        "<script>" + "</script" * 300_000,
        "<table><tr>" + "<td>x" * 300_000,
        "<img " + "alt " * 300_000 + ">",
        "<img " + "alt= " * 300_000 + ">",
        "&" * 300_000,
        "<" * 300_000,
    ],
    ids=lambda page: page[:16],
)
def test_no_page_takes_time_that_grows_with_the_square_of_its_length(page: str) -> None:
    """Each of them is read in a second or so; by the square of their length it would be hours."""
    assert len(text_of_html(page)) <= len(page)


def test_what_does_not_end_is_no_tag_and_a_long_picture_is_one() -> None:
    picture = "x" * (LONGEST_TAG - 100)
    assert text_of_html(f"<p>a<img src='{picture}' alt=b><p>c") == "ab\n\nc"
    assert text_of_html("a <b and c") == "a <b and c"
    assert text_of_html("<a href='x>a</a> <b title=\"1>2\">b") == "a b", "what is ahead of such a quote is read as ever"
    assert text_of_html("<a href='x>a</a> <b>b") == "a b", "a quote that does not end does not hide the page"
    reader, taken = HtmlText(), 0
    for _ in range(12):
        reader.feed("<a " * (1 << 18))
        taken += len(reader.take())
    assert taken > LONGEST_TAG, "it is not held until the page ends"


def most_memory(file: Path, mib: int) -> int:
    """The most bytes that are held at a time while a page with many lines is looked through."""
    line = f"<p>a<!--{'-' * 200}-->\n"
    file.write_text(line * ((mib << 20) // len(line)))
    tracemalloc.start()
    try:
        document_of(Source(file.name, "text/html", "", "", False, file=file))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_looking_through_a_page_holds_no_more_of_a_longer_one(tmp_path: Path) -> None:
    shorter, longer = (most_memory(tmp_path / "a.html", mib) for mib in (3, 9))
    assert longer - shorter < 100_000, "where lines of the file stand is kept by nobody who does not ask"


@pytest.mark.parametrize("unit", ["<br>", "<td>", "<b>&#1;</b>"])
def test_a_block_ends_whatever_it_is_made_of(unit: str) -> None:
    reader = HtmlText()
    reader.feed("<p>x" + unit * (LONGEST_BLOCK + 100))
    assert reader.take().startswith("x")
