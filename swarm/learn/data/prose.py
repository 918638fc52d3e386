"""Documentation prose: sentences that say something asked for, found in docstrings of installed packages.

Owns the patterns that tell such sentences (an exception is raised, something is deprecated since a version, a
default is stated) and the cutting of docstrings into passages. The quote is the part of the sentence on the
line that shows the value, so that it is always a single line of the passage.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from swarm.corpus import Media, cut_text
from swarm.learn.data.sources import SourceFile
from swarm.window.tokens import Tokenizer

QUOTE_LIMIT = 120
SHORTEST = 60
CAPITALISED = r"[A-Z]\w*(?:Error|Exception|Warning|Interrupt|Exit|Iteration|Timeout|Empty|Full)"
SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n\s*\n|\n\s*[-*] ")
RAISING = re.compile(r"\b(?:rais(?:e|es|ed|ing)|throws?|thrown)\b", re.IGNORECASE)
EXCEPTION = re.compile(rf"(?<![\w]){CAPITALISED}\b")
SINCE = re.compile(
    r"(?:\bdeprecated(?:::| since| in|:)?|\bremoved in)\s*(?:[Vv]ersion|v)?\s*(\d+\.\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
DEFAULT = re.compile(r"\b[Dd]efaults? (?:to|is|value is)\s+[`'\"]*([\w.\-]+[\w])")


@dataclass(frozen=True)
class ProseSchema:
    """A question about prose with one column; `find` gives (value, start of the value) pairs in a text."""

    name: str
    columns: tuple[tuple[str, str], ...]
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    find: Callable[[str], Iterator[tuple[str, int]]]


@dataclass(frozen=True, slots=True)
class ProsePassage:
    """A passage of a docstring and its rows (value, quote) for each schema of `SCHEMAS`."""

    package: str
    breadcrumb: str
    text: str
    tokens: int
    rows: tuple[tuple[tuple[str, str], ...], ...]


def raised_in_prose(text: str) -> Iterator[tuple[str, int]]:
    """Exceptions in sentences that speak of raising."""
    for start, end in sentences(text):
        if RAISING.search(text, start, end):
            for match in EXCEPTION.finditer(text, start, end):
                yield match.group(), match.start()


def deprecations(text: str) -> Iterator[tuple[str, int]]:
    for match in SINCE.finditer(text):
        yield match.group(1), match.start(1)


def stated_defaults(text: str) -> Iterator[tuple[str, int]]:
    for match in DEFAULT.finditer(text):
        if match.group(1).lower() not in ("the", "a", "an", "that", "to", "use", "using"):
            yield match.group(1), match.start(1)


SCHEMAS: tuple[ProseSchema, ...] = (
    ProseSchema(
        "prose:raised",
        (
            ("exception", "name of the exception that is raised"),
            ("exception", "class name of the exception"),
            ("error", "the exception it speaks of"),
        ),
        (
            "Which sentences say that an exception is raised?",
            "When is an exception raised, and which one?",
            "Which exceptions does the text say are raised?",
            "What does the documentation say about exceptions being raised?",
            "Which exception is raised in which situation?",
            "Find the statements that name a raised exception.",
        ),
        (
            "Which sentence names an exception that gets raised?",
            "Quote what is said about raising exceptions.",
        ),
        raised_in_prose,
    ),
    ProseSchema(
        "prose:deprecated",
        (("version", "version of the deprecation or removal"), ("since", "the version number")),
        (
            "Since which version is something deprecated?",
            "What is deprecated or removed, and in which version?",
        ),
        ("In which version was something deprecated?",),
        deprecations,
    ),
    ProseSchema(
        "prose:default",
        (("default", "the default value"), ("value", "the default as written")),
        (
            "Which default values are stated?",
            "What does the text say a default is?",
            "Quote the statements about default values.",
        ),
        ("What are the defaults, according to the text?",),
        stated_defaults,
    ),
)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Ranges of the sentences of a text."""
    start = 0
    for match in SENTENCE_END.finditer(text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)


def quote_of(text: str, at: int) -> str:
    """The part of the sentence around character `at` that lies on the same line, at most 120 characters."""
    start, end = next((start, end) for start, end in sentences(text) if at < end or end == len(text))
    start = max(start, text.rfind("\n", 0, at) + 1)
    line_end = text.find("\n", at)
    end = min(end, line_end if line_end >= 0 else len(text))
    line = text[start:end]
    start += len(line) - len(line.lstrip())
    if at - start > QUOTE_LIMIT - 40:  # keep the value inside the quote
        start = text.rfind(" ", start, at - QUOTE_LIMIT // 2) + 1
    return text[start:end][:QUOTE_LIMIT].rstrip()


def rows_of(text: str, find: Callable[[str], Iterator[tuple[str, int]]]) -> tuple[tuple[str, str], ...]:
    """(value, quote) pairs, the first of each value and quote."""
    rows: dict[tuple[str, str], None] = {}
    for value, at in find(text):
        quote = quote_of(text, at)
        if value in quote and len(quote.split()) > 1:
            rows[(value, quote)] = None
    return tuple(rows)


def docstrings(file: SourceFile) -> Iterator[tuple[str, str]]:
    """(qualified name, cleaned docstring) of a file's module, classes and functions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(file.text)
    except (SyntaxError, ValueError, RecursionError):
        return
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    stack: list[tuple[str, ast.AST]] = [("", tree)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, (*documented, ast.Module)):
            text = ast.get_docstring(node)
            if text and len(text) >= SHORTEST:
                yield name, text
        for child in ast.iter_child_nodes(node):
            if isinstance(child, documented):
                stack.append((f"{name}.{child.name}".lstrip("."), child))


def prose_passages(files: Iterable[SourceFile], tokenizer: Tokenizer) -> Iterator[ProsePassage]:
    """Docstrings cut as plain text, as a corpus of documentation would be."""
    for file in files:
        for name, text in docstrings(file):
            path = f"{file.package}/{name or 'index'}"
            for span in cut_text(text, path, Media.PLAIN, tokenizer):
                part = text[span.start : span.end]
                rows = tuple(rows_of(part, schema.find) for schema in SCHEMAS)
                yield ProsePassage(file.package, span.breadcrumb, part, span.tokens, rows)


def topic_passages(tokenizer: Tokenizer) -> Iterator[ProsePassage]:
    """`pydoc_data.topics`, the language documentation: judged on, never trained on."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        for span in cut_text(text, f"topics/{name}", Media.RST, tokenizer):
            part = text[span.start : span.end]
            rows = tuple(rows_of(part, schema.find) for schema in SCHEMAS)
            yield ProsePassage("pydoc_data", span.breadcrumb, part, span.tokens, rows)
