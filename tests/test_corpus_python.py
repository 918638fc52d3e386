"""Cutting Python: functions stay whole, and breadcrumbs name them."""

from __future__ import annotations

import ast
import textwrap
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from swarm.corpus import Media, cut_text
from swarm.testing.tokenizer import small_tokenizer
from swarm.window.tokens import FileTokenizer, Tokenizer
from tests.spans import check


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def cut(source: str, tokenizer: Tokenizer, max_tokens: int = 320, merge: int = 96) -> list[tuple[str, str]]:
    """(breadcrumb, text) of each span of a Python source."""
    spans = list(cut_text(source, "m.py", Media.PYTHON, tokenizer, max_tokens=max_tokens, merge_tokens=merge))
    check(source, spans, tokenizer, max_tokens)
    return [(span.breadcrumb, source[span.start : span.end]) for span in spans]


def body(lines: int) -> str:
    return "".join(f"    value_{number} = compute(value_{number}, {number})\n" for number in range(lines))


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
    assert cut(source, tokenizer)
    assert cut("x = " + "(" * 5000 + "\n", tokenizer)
    chain = "if x == 0:\n    pass\n" + "".join(f"elif x == {at}:\n    pass\n" for at in range(1, 1500))
    assert cut(chain, tokenizer)


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
