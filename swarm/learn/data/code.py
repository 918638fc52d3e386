"""Gold answers about Python code, read from its syntax tree.

Owns the rules of what each question's rows are (which raise counts, how a function is named, what is quoted).
It does not know questions, prompts or passages: a finding carries the place in the file where its quote
begins.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from swarm import gold
from swarm.gold import FUNCTIONS, qualified_name, raised_name

QUOTE_LIMIT = 60


@dataclass(frozen=True, slots=True)
class Found:
    """One row: its values in column order, the character of the file where its quote begins, the quote."""

    values: tuple[str, ...]
    start: int
    quote: str


class Module:
    """A parsed file. Raises SyntaxError or ValueError when the text is not Python."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        # The parser counts lines as the tokenizer does; form feeds and others would shift the offsets.
        self._lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self.nodes: list[tuple[ast.AST, tuple[ast.AST, ...]]] = list(self._walk(self.tree, ()))

    def _walk(
        self, node: ast.AST, owners: tuple[ast.AST, ...]
    ) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
        inside = (*owners, node) if isinstance(node, (*FUNCTIONS, ast.ClassDef)) else owners
        for child in ast.iter_child_nodes(node):
            yield child, inside
            yield from self._walk(child, inside)

    def place(self, line: int, column: int) -> int:
        """Character offset of a line (from 1) and a column in UTF-8 bytes."""
        prefix = self._lines[line - 1].encode("utf-8", "replace")[:column].decode("utf-8", "replace")
        return self._starts[line - 1] + len(prefix)

    def start(self, node: ast.AST) -> int:
        return self.place(node.lineno, node.col_offset)  # type: ignore[attr-defined]

    def segment(self, node: ast.AST) -> str:
        """The node's own text, on one line, or "" when it spans several."""
        end_line, end_column = node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        text = self.text[self.start(node) : self.place(end_line, end_column)]
        return "" if "\n" in text else text

    def quote(self, start: int, limit: int = QUOTE_LIMIT) -> str:
        """From `start` to the end of its line, at most `limit` characters."""
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)][:limit].rstrip()

    def found(self, node: ast.AST, *values: str, start: int | None = None) -> Found:
        place = self.start(node) if start is None else start
        return Found(values, place, self.quote(place))


def in_function(owners: tuple[ast.AST, ...]) -> bool:
    return bool(owners) and isinstance(owners[-1], FUNCTIONS)


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a plain dotted name, else ""."""
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""


def raises(module: Module) -> Iterator[Found]:
    """(function, exception): the raise statements that count, by the rule that jobs are scored with."""
    for one in gold.raises(module.tree):
        yield module.found(one.node, one.function, one.exception)


def handlers(module: Module) -> Iterator[Found]:
    """(function, exception): except clauses inside functions; one row for each class named."""
    for node, owners in module.nodes:
        if isinstance(node, ast.ExceptHandler) and node.type is not None and in_function(owners):
            named = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            for name in map(raised_name, named):
                if name:
                    yield module.found(node, qualified_name(owners), name)


def decorators(module: Module) -> Iterator[Found]:
    """(function, decorator): decorators by their dotted name, without arguments."""
    for node, owners in module.nodes:
        if isinstance(node, FUNCTIONS):
            for item in node.decorator_list:
                name = dotted(item.func if isinstance(item, ast.Call) else item)
                if name:
                    yield module.found(
                        item, qualified_name((*owners, node)), name, start=module.start(item) - 1
                    )


def bases(module: Module) -> Iterator[Found]:
    """(class, base): base classes by their dotted name."""
    for node, owners in module.nodes:
        if isinstance(node, ast.ClassDef):
            for name in map(dotted, node.bases):
                if name:
                    yield module.found(node, qualified_name((*owners, node)), name)


def imports(module: Module) -> Iterator[Found]:
    """(module, name): `from MODULE import NAME` on one line, absolute."""
    for node, _ in module.nodes:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level and module.segment(node):
            for alias in node.names:
                if alias.name != "*":
                    yield module.found(node, node.module, alias.name)


def constants(module: Module) -> Iterator[Found]:
    """(constant, value): capital names set to a number or a short string, outside functions."""
    for node, owners in module.nodes:
        if isinstance(node, ast.Assign) and not in_function(owners) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, module.segment(node.value)
            literal = isinstance(node.value, ast.Constant) and isinstance(node.value.value, (int, float, str))
            if (
                name.isupper()
                and literal
                and 0 < len(value) <= 40
                and not isinstance(node.value, ast.JoinedStr)
            ):
                yield module.found(node, name, value)


def defaults(module: Module) -> Iterator[Found]:
    """(function, parameter, default): parameters with a constant for default, quoted from there on."""
    for node, owners in module.nodes:
        if isinstance(node, FUNCTIONS):
            positional = [*node.args.posonlyargs, *node.args.args]
            pairs = list(zip(reversed(positional), reversed(node.args.defaults), strict=False))[::-1]
            pairs += [
                (arg, value)
                for arg, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                if value
            ]
            for arg, value in pairs:
                text = module.segment(value)
                if isinstance(value, (ast.Constant, ast.UnaryOp)) and text and len(text) <= 30:
                    yield module.found(arg, qualified_name((*owners, node)), arg.arg, text)


def return_types(module: Module) -> Iterator[Found]:
    """(function, type): return annotations written on the line of the `def`."""
    for node, owners in module.nodes:
        if isinstance(node, FUNCTIONS) and node.returns is not None:
            text = module.segment(node.returns)
            start = module.start(node.returns)
            if text and len(text) <= 40:
                arrow = module.text.rfind("->", 0, start)
                yield module.found(node, qualified_name((*owners, node)), text, start=arrow)


def attributes(module: Module) -> Iterator[Found]:
    """(class, attribute): `self.NAME = …` in `__init__`."""
    for node, owners in module.nodes:
        if in_function(owners) and owners[-1].name == "__init__" and isinstance(node, ast.Assign):  # type: ignore[attr-defined]
            target = node.targets[0]
            if (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == "self"
            ):
                yield module.found(node, qualified_name(owners[:-1]), target.attr)


def returned(module: Module) -> Iterator[Found]:
    """(function, value): functions that return a literal."""
    for node, owners in module.nodes:
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and in_function(owners):
            text = module.segment(node.value)
            if text and len(text) <= 30:
                yield module.found(node, qualified_name(owners), text)


def yields(module: Module) -> Iterator[Found]:
    """(function): functions with a `yield`."""
    for node, owners in module.nodes:
        if isinstance(node, (ast.Yield, ast.YieldFrom)) and in_function(owners):
            yield module.found(node, qualified_name(owners))


def asserts(module: Module) -> Iterator[Found]:
    """(function, condition): assert statements with a short condition on one line."""
    for node, owners in module.nodes:
        if isinstance(node, ast.Assert) and in_function(owners):
            text = module.segment(node.test)
            if text and len(text) <= 45:
                yield module.found(node, qualified_name(owners), text)


def awaits(module: Module) -> Iterator[Found]:
    """(function): functions declared with `async def`."""
    for node, owners in module.nodes:
        if isinstance(node, ast.AsyncFunctionDef):
            yield module.found(node, qualified_name((*owners, node)))


def contexts(module: Module) -> Iterator[Found]:
    """(function, resource): what a with statement opens, by its dotted name."""
    for node, owners in module.nodes:
        if isinstance(node, (ast.With, ast.AsyncWith)) and in_function(owners):
            for item in node.items:
                called = (
                    item.context_expr.func if isinstance(item.context_expr, ast.Call) else item.context_expr
                )
                name = dotted(called)
                if name:
                    yield module.found(node, qualified_name(owners), name)


def type_checks(module: Module) -> Iterator[Found]:
    """(function, type): `isinstance(x, TYPE)` with one named type."""
    for node, owners in module.nodes:
        if (
            isinstance(node, ast.Call)
            and dotted(node.func) == "isinstance"
            and len(node.args) == 2
            and in_function(owners)
        ):
            name = dotted(node.args[1])
            if name:
                yield module.found(node, qualified_name(owners), name)


def calls_of(target: str) -> Callable[[Module], Iterator[Found]]:
    """A finder of (function): functions that call `target` by its plain or dotted name."""

    def calls(module: Module) -> Iterator[Found]:
        for node, owners in module.nodes:
            if isinstance(node, ast.Call) and in_function(owners) and dotted(node.func) == target:
                yield module.found(node, qualified_name(owners))

    return calls
