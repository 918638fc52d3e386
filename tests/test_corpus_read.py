"""Reading: what inputs lead to, what is refused or skipped and how that is said, and what stays in memory."""

from __future__ import annotations

import codecs
import hashlib
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from swarm.corpus import (
    Document,
    Media,
    Skipped,
    Source,
    cut_text,
    document_id,
    document_of,
    is_streamed,
    media_of,
    open_spans,
    pin,
    read_text,
    resolve,
)
from swarm.errors import CorpusError
from swarm.spec import InputSpec
from swarm.window.tokens import ApproximateTokenizer

TOKENIZER = ApproximateTokenizer()


def wanted(source: object, **fields: object) -> InputSpec:
    return InputSpec.model_validate({"source": str(source), **fields})


def paths(*inputs: InputSpec, folder: Path | None = None) -> list[str]:
    return [found.path for found in resolve(inputs, folder)]


def the_source(file: Path) -> Source:
    (source,) = resolve([wanted(file)])
    assert isinstance(source, Source)
    return source


def refused(source: object, folder: Path | None = None) -> CorpusError:
    """The error that pinning the input ends with. It names a place and a cure, and survives pickling."""
    with pytest.raises(CorpusError) as caught:
        pin([wanted(source)], folder)
    assert caught.value.where and caught.value.cure and caught.value.exit_code == 2
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return caught.value


# Finding


def test_a_file_a_folder_and_a_literal(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.py", "a.md", "a/.hidden", ".git/config", "a/__pycache__/x.py", "a/b/c.html"):
        file = tmp_path / "docs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"text of {name}")
    found = list(resolve([wanted("docs", origin="ours", licence="MIT", train=True)], tmp_path))
    *read, left_out = found
    assert [one.path for one in read] == ["docs/a/b/c.html", "docs/a/z.py", "docs/a.md", "docs/b.txt"]
    why = "holds what is hidden or a cache of Python's (3): .git, a/.hidden, a/__pycache__"
    assert left_out == Skipped("docs", why), "what is not read is said"
    first = found[0]
    assert isinstance(first, Source)
    assert (first.media, first.origin, first.licence, first.train) == (Media.HTML, "ours", "MIT", True)
    literal, file_source = resolve([wanted("text: hello:\nworld"), wanted(tmp_path / "docs" / "b.txt")])
    assert isinstance(literal, Source) and isinstance(file_source, Source)
    assert read_text(literal) == " hello:\nworld" and literal.path == "text:1"
    assert (file_source.path, file_source.origin) == ("b.txt", str(tmp_path / "docs" / "b.txt"))


def test_names_do_not_depend_on_where_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("x")
    absolute = paths(wanted(tmp_path / "docs"))
    monkeypatch.chdir(tmp_path / "docs")
    assert (
        absolute
        == paths(wanted("."))
        == paths(wanted("../docs/"))
        == paths(wanted("../docs/*.md"))
        == ["docs/a.md"]
    )


def test_each_file_is_read_once_and_inputs_keep_their_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    inputs = [wanted("b.txt"), wanted("."), wanted("*.txt")]
    assert paths(*inputs, folder=tmp_path) == ["b.txt", f"{tmp_path.name}/a.txt"]


def test_globs(tmp_path: Path) -> None:
    for name in ("x/one.py", "x/y/two.py", "x/y/three.txt", "x/__pycache__/no.py", "[odd].py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    root = tmp_path.name
    assert paths(wanted("x/*.py"), folder=tmp_path) == ["x/one.py"]
    assert paths(wanted("**/*.py"), folder=tmp_path) == [
        f"{root}/[odd].py",
        f"{root}/x/one.py",
        f"{root}/x/y/two.py",
    ]
    assert paths(wanted("x/?"), folder=tmp_path) == ["x/y/three.txt", "x/y/two.py"]
    assert paths(wanted("[odd].py"), folder=tmp_path) == ["[odd].py"], "a file of that very name comes first"
    assert "matches no file" in refused("x/*.rs", tmp_path).message


def test_python_packages_are_found_and_not_imported() -> None:
    assert "xmlrpc" not in sys.modules
    found = paths(wanted("python:xmlrpc"))
    assert found == ["xmlrpc/__init__.py", "xmlrpc/client.py", "xmlrpc/server.py"]
    assert paths(wanted("python:xmlrpc.client")) == ["xmlrpc/client.py"]
    assert paths(wanted("python:queue")) == ["queue.py"]
    assert paths(wanted("python:os")) == ["os.py"], (
        "a module that is frozen into the interpreter has its file still"
    )
    assert not {"xmlrpc", "xmlrpc.client"} & set(sys.modules)


@pytest.mark.parametrize(
    "name", ["sys", "no_such_package_here", "xmlrpc.nothing", "queue.nothing", "", "a b", "__main__"]
)
def test_python_names_without_sources_are_refused(name: str) -> None:
    assert refused(f"python:{name}").where == f"python:{name}"


def test_python_documentation_topics() -> None:
    pinned = pin([wanted("pydoc:topics", licence="PSF-2.0")])
    assert len(pinned.documents) > 70
    assert pinned.documents[0].path == "pydoc:topics/assert"
    spans = list(open_spans(pinned.sources[0], TOKENIZER, document=pinned.documents[0]))
    assert spans[0][0].breadcrumb == 'pydoc:topics/assert > The "assert" statement'
    assert "topics" in refused("pydoc:other").cure


def test_media_come_from_names() -> None:
    names = {
        "a.PY": Media.PYTHON,
        "b.md": Media.MARKDOWN,
        "c.htm": Media.HTML,
        "d.rst": Media.RST,
        "e.rs": Media.CODE,
    }
    names |= {"README": Media.PLAIN, "data.csv": Media.PLAIN, ".py": Media.PLAIN, "x.tar.gz": Media.PLAIN}
    assert {name: media_of(name) for name in names} == names


@pytest.mark.parametrize("name", ["two\nlines.txt", "bad\udcff.txt"])
def test_odd_file_names_stay_one_sound_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("some text")
    (document,) = pin([wanted(tmp_path)]).documents
    assert "\n" not in document.path and document.path.encode()


# What is wrong with an input


def test_a_missing_file(tmp_path: Path) -> None:
    error = refused("notes/none.txt", tmp_path)
    assert error.where == "notes/none.txt" and str(tmp_path) in error.cure
    assert "address" in refused("https://example.org/a.txt").message
    assert "neither" in refused("/dev/null").message


@pytest.mark.parametrize("content", ["", " \n\t\r\n", "\ufeff\n"])
def test_an_empty_input(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    assert refused("a.txt", tmp_path).message == "holds no text"
    assert refused(".", tmp_path).message == (
        f"no text was found ({tmp_path.name}/a.txt holds no text. Leave it out, or put text into it.)"
    )
    (tmp_path / "empty").mkdir()
    assert "holds no files" in refused("empty", tmp_path).message
    (tmp_path / "a.html").write_text("<html><script>code()</script></html>")
    assert refused("a.html", tmp_path).message == "holds no text"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"text\0more", "zero byte at offset 4"),
        (b"a" * 3_000_000 + b"\0", "zero byte at offset 3000000"),
        (b"%PDF-1.7 \xff", "is a PDF"),
        (b"\x7fELF\x02\x01", "is a program"),
        (bytes(range(256)) * 40, "is"),
        (b"caf\xe9 au lait", "not UTF-8 text: the byte 0xe9 at offset 3"),
        ("é".encode() * 600_000 + b"\xc3", "not UTF-8 text: the byte 0xc3 at offset 1200000"),
        (b"x" + "é".encode() * 600_000 + b"\xff", "the byte 0xff at offset 1200001"),
        (codecs.BOM_UTF16_LE + b"a", "not UTF-16-LE text"),
        (codecs.BOM_UTF8 + b"ab\xff", "not UTF-8 text: the byte 0xff at offset 5"),
        (b"\xed\xa0\x80", "the byte 0xed at offset 0"),
    ],
)
def test_binary_garbage_and_wrong_encodings(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    error = refused("a.txt", tmp_path)
    assert said in error.message and error.where == str(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("fine")
    pinned = pin([wanted(tmp_path)])
    assert [document.path for document in pinned.documents] == [f"{tmp_path.name}/b.txt"]
    (skipped,) = pinned.skipped
    assert skipped.path == f"{tmp_path.name}/a.txt" and said in skipped.reason


def test_a_folder_with_things_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "fine.txt").write_text("fine")
    (folder / "broken").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    (folder / "image.png").write_bytes(b"\x89PNG\r\n")
    (folder / "copy.txt").write_text("no permission")
    (folder / "copy.txt").chmod(0)
    unreadable = [] if os.access(folder / "copy.txt", os.R_OK) else ["docs/copy.txt"]
    pinned = pin([wanted(folder)])
    assert "docs/fine.txt" in [document.path for document in pinned.documents]
    assert [one.path for one in pinned.skipped] == ["docs/loop", "docs/broken", *unreadable, "docs/image.png", "docs/pipe"]
    reasons = {one.path: one.reason for one in pinned.skipped}
    assert reasons["docs/loop"] == "is a link to a folder, and those are not followed"
    assert reasons["docs/broken"] == "No such file or directory"
    assert reasons["docs/pipe"] == "is not a regular file"
    assert all(reasons.values())


def test_a_file_that_fails_while_it_is_read(tmp_path: Path) -> None:
    """Linux gives a file that opens and then fails: a process's memory at offset 0."""
    memory = Path("/proc/self/mem")
    if not memory.exists():
        pytest.skip("needs /proc")
    (tmp_path / "fine.txt").write_text("fine")
    (tmp_path / "mem").symlink_to(memory)
    (skipped,) = pin([wanted(tmp_path)]).skipped
    assert skipped.path.endswith("/mem") and "cannot be read" in skipped.reason
    assert "cannot be read" in refused(tmp_path / "mem").message


def test_the_same_text_twice_is_one_document(tmp_path: Path) -> None:
    for top in ("one", "two", "three"):
        (tmp_path / top / "docs").mkdir(parents=True)
        (tmp_path / top / "docs" / "a.txt").write_text("other" if top == "three" else "same")
    pinned = pin([wanted(tmp_path / top / "docs") for top in ("one", "two", "three")])
    assert len(pinned.documents) == 2 == len({document.id for document in pinned.documents})
    assert pinned.skipped == (Skipped("docs/a.txt", "has the name and the content of another document"),)


def test_two_documents_of_one_name_have_more_of_their_paths(tmp_path: Path) -> None:
    for name in ("p/x/src/a.py", "p/x/src/b.py", "p/y/src/a.py", "q/y/src/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    two = pin([wanted(tmp_path / "p/x/src"), wanted(tmp_path / "p/y/src")])
    assert [document.path for document in two.documents] == ["x/src/a.py", "src/b.py", "y/src/a.py"]
    assert [span.breadcrumb for span, _ in two.spans(TOKENIZER)] == ["x/src/a.py", "src/b.py", "y/src/a.py"]
    three = pin([wanted(tmp_path / "p/x/src"), wanted(tmp_path / "p/y/src"), wanted(tmp_path / "q/y/src")])
    assert [document.path for document in three.documents] == ["x/src/a.py", "src/b.py", "p/y/src/a.py", "q/y/src/a.py"]
    assert [document.path for document in pin([wanted(tmp_path / "p/y/src")]).documents] == ["src/a.py"]


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_encodings_are_told_apart(tmp_path: Path, encoding: str) -> None:
    text = "Plain words, naïve 日本 👩‍👩‍👧\r\nnext\r" * 50_000
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_text(the_source(tmp_path / "a.txt")) == text


def test_declared_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes("# -*- coding: latin-1 -*-\nname = 'café'\n".encode("latin-1"))
    (tmp_path / "a.html").write_bytes('<meta charset="windows-1252"><p>café “x”'.encode("windows-1252"))
    assert "café" in read_text(the_source(tmp_path / "a.py"))
    assert read_text(the_source(tmp_path / "a.html")) == "café “x”"
    (tmp_path / "b.html").write_text('<meta charset="utf-16"><p>café')
    assert read_text(the_source(tmp_path / "b.html")) == "café"
    for name in ("klingon", "hex", "rot13"):
        (tmp_path / "c.html").write_text(f"<meta charset={name}><p>x")
        assert repr(name) in refused("c.html", tmp_path).message


# Documents and their spans


def test_a_document_is_named_by_path_and_content(tmp_path: Path) -> None:
    raw = b"a\r\nb" * 1_000_000
    (tmp_path / "a.md").write_bytes(raw)
    document = document_of(the_source(tmp_path / "a.md"))
    digest = hashlib.sha256(raw).hexdigest()
    assert document == Document(
        id=hashlib.sha256(b"a.md\0" + digest.encode()).hexdigest()[:16],
        path="a.md",
        media=Media.MARKDOWN,
        origin=str(tmp_path / "a.md"),
        licence="unknown",
        train=False,
        digest=digest,
        size=len(raw),
    )
    assert document.id == document_id("a.md", digest)


def test_spans_of_a_corpus_are_in_order_and_name_their_documents(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("def f():\n    return 1\n")
    (tmp_path / "a.html").write_text("<h1>Top</h1><p>hello <b>world</b></p><h2>Sub</h2><ul><li>x<li>y</ul>")
    (tmp_path / "c.txt").write_text("words " * 1000)
    pinned = pin([wanted(tmp_path)])
    found = list(pinned.spans(TOKENIZER))
    order = [document.id for document in pinned.documents]
    assert [(order.index(span.document), span.start) for span, _ in found] == sorted(
        (order.index(span.document), span.start) for span, _ in found
    )
    texts = {
        document.id: read_text(source)
        for source, document in zip(pinned.sources, pinned.documents, strict=True)
    }
    assert all(texts[span.document][span.start : span.end] == text for span, text in found)
    assert texts[order[0]] == "# Top\n\nhello world\n\n## Sub\n\n- x\n- y"
    assert found[0][0].breadcrumb == f"{tmp_path.name}/a.html > Top"


def test_an_error_calls_a_file_as_it_is_called_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text(" ")
    monkeypatch.chdir(tmp_path)
    assert refused(tmp_path / "deep" / "a.txt").where == refused("deep/a.txt").where == "deep/a.txt"


def test_an_input_that_changed_or_went_is_named(tmp_path: Path) -> None:
    for name in ("a.py", "b.txt"):
        (tmp_path / name).write_text("x = 1\n" * 100)
    pinned = pin([wanted(tmp_path / "a.py"), wanted(tmp_path / "b.txt")])
    (tmp_path / "a.py").write_text("x = 2\n" * 100)
    (tmp_path / "b.txt").write_text("x = 2\n" * 100)
    for source, document in zip(pinned.sources, pinned.documents, strict=True):
        with pytest.raises(CorpusError, match="has changed since the job began") as caught:
            list(open_spans(source, TOKENIZER, document=document))
        assert caught.value.where == str(tmp_path / document.path)
    (tmp_path / "a.py").unlink()
    with pytest.raises(CorpusError, match="No such file"):
        list(pinned.spans(TOKENIZER))


def test_large_structured_files_are_cut_as_plain_text_and_that_is_said(tmp_path: Path) -> None:
    code = "def f():\n    return 1\n\n\n" * 200_000
    (tmp_path / "big.py").write_text(code)
    pinned = pin([wanted(tmp_path / "big.py")])
    assert is_streamed(pinned.documents[0])
    assert pinned.remarks == ("big.py has 4.6 MiB, more than 4, and is cut as plain text",)
    first, _ = next(pinned.spans(TOKENIZER))
    assert first.breadcrumb == "big.py"


def test_blocks_of_a_file_are_cut_as_the_whole(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {number}: the agents read. They write é.\r\n\r\n" for number in range(25_000))
    (tmp_path / "a.txt").write_bytes(text.encode())
    source = the_source(tmp_path / "a.txt")
    document = document_of(source)
    streamed = [span for span, _ in open_spans(source, TOKENIZER, document=document)]
    assert document.size > 2**20
    assert streamed == list(cut_text(text, "a.txt", Media.PLAIN, TOKENIZER, document=document.id))


def test_a_long_line_does_not_stay_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "line.txt"
    file.write_text("word " * 2_400_000)
    tracemalloc.start()
    spans = open_spans(the_source(file), TOKENIZER)
    for _ in range(150):
        next(spans)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 9 * 2**20 < file.stat().st_size


SLOW_LINE = """
import resource, sys
from pathlib import Path
from swarm.corpus import Source, open_spans
from swarm.window.tokens import ApproximateTokenizer
tokens = 0
source = Source("line.txt", "text/plain", "", "", False, file=Path(sys.argv[1]))
start = resource.getrusage(resource.RUSAGE_SELF)
for span, _ in open_spans(source, ApproximateTokenizer()):
    tokens += span.tokens
end = resource.getrusage(resource.RUSAGE_SELF)
print(tokens, end.ru_maxrss - start.ru_maxrss, int(end.ru_utime))
"""


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["x", "a line of words, ", "日本"])
def test_fifty_megabytes_in_one_line(tmp_path: Path, unit: str) -> None:
    file = tmp_path / "line.txt"
    file.write_text(unit * (50_000_000 // len(unit.encode())), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SLOW_LINE, str(file)], check=True, capture_output=True, text=True
    )
    tokens, kibibytes, seconds = map(int, done.stdout.split())
    assert tokens > 10_000_000
    assert kibibytes < 40_000
    assert seconds < 400
