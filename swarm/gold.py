"""Gold answers that a parser computes, for scoring a job and for making training data.

Owns the rule of which `raise` statements count, and how the function and the exception are named. It reads syntax trees
and nothing else: no file, no job, no passage.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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
