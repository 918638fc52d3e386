"""Gold answers: rows of a file, or what a parser computes, for scoring a job and for making training data.

Owns the form of such a file, the rule of which `raise` statements count, and how the function and the exception are named.
It knows no job and no passage.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Pair = tuple[str, tuple[str, ...]]
"""(path of the document, values in the order of the columns); the path is "" where the gold names no document."""


class NoGold(ValueError):
    """Why there is nothing to score against."""


def gold_rows(path: Path, columns: Sequence[str]) -> set[Pair]:
    """The rows of a file: one JSON object a line, with a value for each column, and `document` where rows are to be found in
    a certain one.

    Raises:
        NoGold: it can't be read, holds no row, a line is no such row, or only some name a document.
    """
    gold: set[Pair] = set()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold what else ends a line, such as U+2028
    except OSError as error:
        raise NoGold(f"the gold {path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NoGold(f"the gold {path.name} cannot be read: it is not UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise NoGold(f"line {number} of the gold {path.name} is no row: it is not JSON: {error}") from error
        wrong = [name for name in columns if not isinstance(row, dict) or not isinstance(row.get(name), str)]
        if wrong:
            raise NoGold(f"line {number} of the gold {path.name} is no row: it has no text for {', '.join(wrong)}")
        values = tuple(row[name].strip() for name in columns)
        place = str(row["document"]).strip() if "document" in row and "document" not in columns else ""
        gold.add((place, values))
    if not gold:
        raise NoGold(f"the gold {path.name} holds no row")
    if len({bool(place) for place, _ in gold}) > 1:
        raise NoGold(f"some rows of the gold {path.name} name a document and some do not")
    return gold


@dataclass(frozen=True, slots=True)
class Raise:
    """`function` is the qualified name of the innermost enclosing def (`Class.method`, `outer.inner`, without
    `<locals>`), `exception` the last part of the class that is raised or called, `node` the statement."""

    function: str
    exception: str
    node: ast.Raise


def raises(tree: ast.AST) -> Iterator[Raise]:
    """The raise statements inside functions whose exception is named by its class, in order of the text.

    Left out: a bare `raise`, a raised variable (its last name part begins with a small letter), and what stands in a
    class body or at module level.
    """
    waiting: list[tuple[ast.AST, tuple[ast.AST, ...]]] = [(tree, ())]
    while waiting:
        node, owners = waiting.pop()
        if isinstance(node, ast.Raise) and owners and isinstance(owners[-1], FUNCTIONS):
            name = raised_name(node.exc)
            if name.lstrip("_")[:1].isupper():
                yield Raise(qualified_name(owners), name, node)
        inside = (*owners, node) if isinstance(node, (*FUNCTIONS, ast.ClassDef)) else owners
        waiting.extend((child, inside) for child in reversed(list(ast.iter_child_nodes(node))))


def raises_in(text: str) -> list[tuple[str, str]]:
    """(function, exception) of each raise statement that counts, in order of the text, repeats included.

    Raises:
        ValueError: the text is not Python that this interpreter can parse.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"is not Python that can be parsed: {error}") from error
    return [(one.function, one.exception) for one in raises(tree)]


def raised_name(node: ast.expr | None) -> str:
    """The last part of a (dotted) name, of what is called, or of what is subscripted; "" for anything else."""
    if isinstance(node, ast.Call):
        return "" if isinstance(node.func, ast.Call) else raised_name(node.func)
    if isinstance(node, ast.Subscript):
        return raised_name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def qualified_name(owners: tuple[ast.AST, ...]) -> str:
    """Names of the enclosing classes and functions, outermost first, joined by dots."""
    return ".".join(owner.name for owner in owners if isinstance(owner, (*FUNCTIONS, ast.ClassDef)))
