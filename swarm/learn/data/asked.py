"""Findings for many more kinds of question about Python code than `code` has, by the kinds of `asked.yaml`.

Owns what the rows of each kind are, values in the order of its columns. Where a value does not fit on a line, the kind
can't be asked there: a finding without values says so. It words nothing. What is kept for judging (with statements,
isinstance) is no kind here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial

from swarm.gold import FUNCTIONS, qualified_name, raised_name
from swarm.learn.data.code import Found, Module, dotted, in_function

LONGEST = 48
COMMENT = re.compile(r"(?<!\S)#+ +(\S[^\n]*)")
Owners = tuple[ast.AST, ...]
Values = Iterator[tuple[ast.AST, tuple[str, ...]]]
"""The node where the quote begins, and the values after the function's name."""


def _line(module: Module, node: ast.AST) -> str:
    return module.segment(node) or "\n"  # several lines fit no value


def _text(node: ast.AST | None) -> str:
    """The content of a string literal that is written as it is, else ""."""
    held = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return held if held.isprintable() and held.strip() == held and not set(held) & set("\\\"'") else ""


def _local(node: ast.AST) -> tuple[str, ast.expr] | None:
    """(name, value) of `name = value`."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    return None


def _own(node: ast.AST) -> str:
    """NAME of `self.NAME`."""
    mine = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if mine and isinstance(node, ast.Attribute) else ""


def _arguments(node: ast.AST) -> list[ast.arg]:
    if not isinstance(node, FUNCTIONS):
        return []
    return [arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if arg.arg not in ("self", "cls")]


def _inside(node: ast.AST, m: Module) -> Iterator[tuple[str, ast.AST, tuple[str, ...]]]:
    """(kind, where the quote begins, values) of one node that stands in a function, without the function's name."""
    cut = partial(_line, m)
    match node:
        case ast.For():
            yield "for_loops", node, (cut(node.target), cut(node.iter))
        case ast.While():
            yield "while_loops", node, (cut(node.test),)
        case ast.If():
            yield "conditions", node, (cut(node.test),)
        case ast.Compare(ops=[ast.Is() | ast.IsNot()], comparators=[ast.Constant(value=None)]):
            yield "none_checks", node, (cut(node.left),)
        case ast.Compare(ops=[ast.Eq() | ast.NotEq()]):
            yield "comparisons", node, (cut(node.left), cut(node.comparators[0]))
        case ast.Compare(ops=[ast.In() | ast.NotIn()]):
            yield "memberships", node, (cut(node.left), cut(node.comparators[0]))
        case ast.UnaryOp(op=ast.Not()):
            yield "negations", node, (cut(node.operand),)
        case ast.AugAssign():
            yield "augmented", node, (cut(node.target), cut(node.value))
        case ast.Assign(targets=[ast.Tuple() as names]):
            yield "tuple_targets", node, (cut(names), cut(node.value))
        case ast.Assign(targets=[ast.Attribute() as attribute]):
            yield "set_attributes", node, (_own(attribute), cut(node.value))
        case ast.Return(value=ast.Call() as call):
            yield "returned_calls", node, (dotted(call.func),)
        case ast.Return(value=ast.Name() as name):
            yield "returned_names", node, (name.id,)
        case ast.Yield(value=ast.expr() as given):
            yield "yielded", node, (cut(given),)
        case ast.Await(value=ast.Call() as call):
            yield "awaited", node, (dotted(call.func),)
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
            yield "comprehensions", node, (cut(node.elt), cut(node.generators[0].iter))
        case ast.Lambda():
            yield "lambdas", node, (cut(node)[7:].partition(":")[0],)
        case ast.IfExp():
            yield "ternaries", node, (cut(node.test), cut(node.orelse))
        case ast.Delete():
            for target in node.targets:
                yield "deleted", node, (cut(target),)
        case ast.Global() | ast.Nonlocal():
            for outer in node.names:
                yield "globals", node, (outer,)
        case ast.Subscript(slice=ast.Slice()):
            yield "slices", node, (cut(node.value), cut(node.slice))
        case ast.Raise():
            named = raised_name(node.exc)
            if named.lstrip("_")[:1].isupper():
                yield "raised_here", node, (named,)
            if isinstance(node.exc, ast.Call) and node.exc.args:
                yield "messages", node, (_text(node.exc.args[0]),)
        case ast.Call():
            called = dotted(node.func)
            yield "calls", node, (called,)
            if node.args:
                yield "first_arguments", node, (called, cut(node.args[0]))
            for keyword in node.keywords:
                yield "keywords", keyword, (called, keyword.arg or "", cut(keyword.value))
    local = _local(node)
    if local and isinstance(local[1], ast.Call):
        yield "assigned_calls", node, (local[0], dotted(local[1].func))
    if local and isinstance(local[1], ast.Constant | ast.List | ast.Dict):
        yield "assigned_literals", node, (local[0], cut(local[1]))


def _defined(node: ast.AST, m: Module) -> Iterator[tuple[str, ast.AST, tuple[str, ...]]]:
    """What a function's head says, without the function's name."""
    assert isinstance(node, FUNCTIONS)
    for arg in _arguments(node):
        yield "parameters", arg, (arg.arg,)
        if arg.annotation is not None:
            yield "typed_parameters", arg, (arg.arg, _line(m, arg.annotation))
    for rest in (node.args.vararg, node.args.kwarg):
        if rest is not None:
            yield "star_parameters", rest, (rest.arg,)
    for item in node.decorator_list:
        yield "decorated_with", item, (dotted(item.func if isinstance(item, ast.Call) else item),)
    first = node.body[0]
    if isinstance(first, ast.Expr):
        yield "summaries", first, (_text_of_first_line(first.value),)


def _text_of_first_line(node: ast.AST) -> str:
    held = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    line = held.strip().partition("\n")[0].rstrip(".")
    return "" if set(line) & set("\\\"") else line


def _anywhere(node: ast.AST, owners: Owners, m: Module) -> Iterator[tuple[str, ast.AST, tuple[str, ...]]]:
    """Kinds that do not ask for the function."""
    cut = partial(_line, m)
    in_class = bool(owners) and isinstance(owners[-1], ast.ClassDef)
    local = _local(node)
    if in_class and local:
        yield "class_attributes", node, (qualified_name(owners), local[0], cut(local[1]))
    if in_class and isinstance(node, FUNCTIONS):
        yield "methods", node, (qualified_name(owners), node.name)
    if in_function(owners) and isinstance(node, FUNCTIONS) and isinstance(owners[-1], FUNCTIONS):
        yield "inner_functions", node, (owners[-1].name, node.name)
    match node:
        case ast.AnnAssign(target=ast.Name() as name):
            yield "typed_variables", node, (name.id, cut(node.annotation))
        case ast.Call(args=[first, *_]):
            yield "text_arguments", node, (dotted(node.func), _text(first))
        case ast.Raise(cause=ast.expr() as cause):
            yield "causes", node, (raised_name(node.exc), cut(cause))
        case ast.ExceptHandler(name=str() as bound, type=ast.expr() as caught):
            yield "caught_as", node, (cut(caught), bound)
        case ast.Import():
            for alias in node.names:
                yield ("aliases", node, (alias.name, alias.asname)) if alias.asname else ("imported_modules", node, (alias.name,))
        case ast.ImportFrom():
            for alias in node.names if node.module else []:
                yield "relative_imports" if node.level else "import_of", node, (node.module or "", alias.name)
                if alias.asname:
                    yield "aliases", node, (alias.name, alias.asname)
        case ast.Dict():
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None:
                    yield "entries", key, (_text(key), cut(value))
        case ast.Subscript():
            yield "subscripts", node, (dotted(node.value), _text(node.slice))
        case ast.ClassDef():
            for base in node.bases:
                yield "derived_from", node, (qualified_name((*owners, node)), dotted(base))


def findings(module: Module) -> dict[str, list[Found]]:
    """All rows of a file, by kind. An empty value says that the node is not of the kind after all."""
    found: dict[str, list[Found]] = {}

    def add(kind: str, node: ast.AST, values: tuple[str, ...]) -> None:
        if all(values):
            fits = all(len(value) <= LONGEST and value.isprintable() for value in values)
            found.setdefault(kind, []).append(module.found(node, *(values if fits else ())))

    for node, owners in module.nodes:
        if in_function(owners):
            for kind, place, values in _inside(node, module):
                add(kind, place, (qualified_name(owners), *values))
        if isinstance(node, FUNCTIONS):
            for kind, place, values in _defined(node, module):
                add(kind, place, (qualified_name((*owners, node)), *values))
        for kind, place, values in _anywhere(node, owners, module):
            add(kind, place, values)
    for match in COMMENT.finditer(module.text):
        comment = match.group(1).rstrip()
        fits = len(comment) <= LONGEST and comment.isprintable()
        found.setdefault("comments", []).append(
            Found((comment,) if fits else (), match.start(), module.quote(match.start()))
        )
    return found


def finders(kinds: list[str]) -> list[Callable[[Module], Iterator[Found]]]:
    """One finder for each kind; a file is walked once for all of them."""
    last: dict[str, object] = {}

    def finder(kind: str) -> Callable[[Module], Iterator[Found]]:
        def find(module: Module) -> Iterator[Found]:
            if last.get("module") is not module:
                last.update(module=module, found=findings(module))
            held = last["found"]
            assert isinstance(held, dict)
            yield from held.get(kind, ())

        return find

    return [finder(kind) for kind in kinds]


