"""The outline of a Python file: its functions and classes, line by line.

Owns the reading of Python source, by Python's own parser where that succeeds and by indentation where it does
not. It knows nothing of tokens and cuts nothing.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass, field
from typing import Literal

from swarm.corpus.boundaries import split_lines

Kind = Literal["module", "class", "function"]
DEEPEST = 50
"""Text that does not parse is not followed into more definitions inside each other than this."""
Definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(slots=True)
class Definition:
    """A module, class or function; lines count from 0, `first` with its decorators, `after` behind its last
    line.

    `statements` are (first line, depth) of every statement in it that is not inside an inner definition;
    `leaves` are the lines behind each of those that hold no other statement.
    """

    kind: Kind
    name: str
    indent: int
    first: int
    after: int
    inner: list[Definition] = field(default_factory=list)
    statements: list[tuple[int, int]] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)


def outline(text: str) -> Definition:
    """The module's definition, with all others inside."""
    _, lines = split_lines(text)
    tree = _parsed(text)
    module = Definition("module", "", -1, 0, len(lines))
    if tree is None:
        _by_indentation(lines, module)
    else:
        _by_syntax(tree.body, module)
        _take_trailing_comments(lines, module)
    return module


def _parsed(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _by_syntax(body: list[ast.stmt], owner: Definition) -> None:
    """Fills `owner` from its statements. Uses its own stack: chains of `elif` are deeper than Python's."""
    waiting: list[tuple[ast.stmt, Definition, int]] = [(node, owner, 0) for node in reversed(body)]
    while waiting:
        node, owner, depth = waiting.pop()
        first = node.lineno - 1
        if isinstance(node, Definitions):
            first = min([first, *(decorator.lineno - 1 for decorator in node.decorator_list)])
            kind: Kind = "class" if isinstance(node, ast.ClassDef) else "function"
            after = node.end_lineno or node.lineno
            inner = Definition(kind, node.name, node.col_offset, first, after)
            owner.inner.append(inner)
            owner.statements.append((first, depth))
            waiting.extend((child, inner, 0) for child in reversed(node.body))
            continue
        owner.statements.append((first, depth))
        children = _children(node)
        if not children:
            owner.leaves.append(node.end_lineno or node.lineno)
        waiting.extend((child, owner, depth + 1) for child in reversed(children))


def _children(node: ast.stmt) -> list[ast.stmt]:
    """The statements directly inside a statement, in the order of the text."""
    found: list[ast.stmt] = list(getattr(node, "body", []))
    for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
        found.extend(part.body)
    found.extend(getattr(node, "orelse", []))
    found.extend(getattr(node, "finalbody", []))
    return found


def _take_trailing_comments(lines: list[str], owner: Definition) -> None:
    """Comments that follow a definition's last statement and stand deeper than its header belong to it."""
    waiting = [owner]
    while waiting:
        definition = waiting.pop()
        waiting.extend(definition.inner)
        if definition.kind == "module":
            continue
        for at in range(definition.after, len(lines)):
            stripped = lines[at].strip()
            if stripped and not (stripped.startswith("#") and _indent(lines[at]) > definition.indent):
                break
            if stripped:
                definition.after = at + 1


_HEADER = re.compile(r"[ \t\f]*(?:(?P<function>async\s+def|def)|class)\s+(?P<name>[^\W\d]\w*)")


def _by_indentation(lines: list[str], module: Definition) -> None:
    """For text that does not parse: a definition goes on while lines stand deeper than its header."""
    open_definitions = [module]
    decorators: int | None = None
    for at, line in enumerate(lines):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        indent = _indent(line)
        while indent <= open_definitions[-1].indent and stripped[0] not in ")]}":
            open_definitions.pop()
        owner = open_definitions[-1]
        header = _HEADER.match(line)
        if header and len(open_definitions) <= DEEPEST:
            kind: Kind = "function" if header["function"] else "class"
            first = at if decorators is None else decorators
            inner = Definition(kind, header["name"], indent, first, at + 1)
            owner.inner.append(inner)
            owner.statements.append((first, indent))
            open_definitions.append(inner)
            decorators = None
        elif stripped.startswith("@"):
            decorators = at if decorators is None else decorators
        else:
            decorators = None
            owner.statements.append((at, indent))
            owner.leaves.append(at + 1)
        for definition in open_definitions[1:]:
            definition.after = at + 1
    _take_trailing_comments(lines, module)


def _indent(line: str) -> int:
    """Width of the white space that a line begins with; a tab goes on to the next multiple of eight."""
    expanded = line.expandtabs(8)
    return len(expanded) - len(expanded.lstrip(" \f"))
