"""Rows: how they are asked for, read from an output, checked against their passage, and merged. Pure code, no model.

Owns the text forms that prompts and training share (columns, claims, excerpts), the checks of quotes and values, and the
exact merges. It decides nothing about which agent does what; that is the protocol's.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import regex

from swarm.protocol import COPIED_LAST, WORD, Failed, Material, Part, Passage, Post
from swarm.spec import AnswerSpec, Column, Frozen

Cite = tuple[int, int, int]
NotedRow = tuple[str, Mapping[str, str], tuple[Cite, ...]]
"""(note id, values, cites)"""

EXCERPT_ASK = "Does the passage support the claim?"
QUOTE_WORDS, QUOTE_CHARACTERS, QUOTE_SHARE = 2, 14, 2 / 3
"""What must be left of a quote that is cut back to what stands in the text: the share is that of its characters."""
LINE_CHARACTERS = 120
"""How long a line may be that a quote is told to the end of."""
PATTERN_SECONDS = 1.0
"""How long a job's pattern may be tried on one text."""
_LINE_END = re.compile("[\r\n]")
_UNPARTED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
EXCERPT_BEFORE, EXCERPT_AFTER, EXCERPT_CHARACTERS = 12, 2, 600

USUAL_BREADCRUMB = 16
CLAIM_TOKENS = 48
EXCERPT_TOKENS = (60, 160)
"""What a breadcrumb, a claim with its quote, and an excerpt around a quote are reckoned at."""
READER_OUTPUT = (3.0, 30.0)
"""Tokens that are written for a passage, on average: most passages hold nothing."""
SAMPLES = 1.05
"""Calls for each needed one at most: outputs that break their contract are drawn again."""


# ---- what the notes about rows hold ----


class Row(Frozen):
    """One row with its quote, or a statement of prose."""

    values: dict[str, str]
    quote: str


class Rejected(Frozen):
    """A row that code refused, and why."""

    values: dict[str, str]
    quote: str
    reason: str


class Finding(Frozen):
    """A merged row, or a merged statement. `count` is how many rows it rests on."""

    values: dict[str, str]
    count: int


# ---- text forms ----


def columns_text(columns: Sequence[Column]) -> str:
    """The schema as readers see it."""
    listed = "; ".join(f"{column.name} = {column.description}" for column in columns)
    return f"Columns: {listed}; quote = words copied from the passage that show it\n"


def claim_text(values: Mapping[str, str]) -> str:
    """A row as a claim: `function = Queue.get; exception = QueueEmpty`."""
    return "; ".join(f"{name} = {value}" for name, value in values.items())


def excerpt(text: str, start: int, end: int) -> str:
    """The lines around text[start:end]: up to 12 before and 2 after, fewer where they pass 600 characters."""
    lines = text.split("\n")
    at, until = text.count("\n", 0, start), text.count("\n", 0, end)
    first, last = max(0, at - EXCERPT_BEFORE), min(len(lines), until + EXCERPT_AFTER + 1)

    def size() -> int:
        return sum(len(line) + 1 for line in lines[first:last])

    while first < at and size() > EXCERPT_CHARACTERS:
        first += 1
    while last > until + 1 and size() > EXCERPT_CHARACTERS:
        last -= 1
    if size() > 2 * EXCERPT_CHARACTERS:  # a very long line
        return text[max(0, start - EXCERPT_CHARACTERS // 2) : end + EXCERPT_CHARACTERS // 2]
    return "\n".join(lines[first:last])


def word_parts(material: Material) -> tuple[Part, ...]:
    """What people said, each as a part of its own; those that do not fit into the window are left out of it."""
    return tuple(
        Part(WORD, f"A person says: {note.content['text']}\n", "person", note.id, train=False) for note in material.words
    )


def passage_parts(passage: Passage) -> tuple[Part, Part]:
    """A passage as a reader sees it: where it stands, and its text."""
    origin = f"s:{passage.number}"
    return (
        Part("breadcrumb", f"Passage: {passage.breadcrumb}\n", "corpus", origin, passage.train),
        Part("span", passage.text, "corpus", origin, passage.train, passage.tokens),
    )


def rows_schema(columns: int) -> dict[str, Any]:
    """JSON schema of a reader's output: an array of rows, each `columns` strings and the quote, which is copied from the
    passage."""
    row = {"type": "array", "items": {"type": "string"}, "minItems": columns + 1, "maxItems": columns + 1}
    return {"type": "array", "items": {**row, COPIED_LAST: "span"}}


# ---- outputs ----


def parsed(text: str) -> Any:
    """What a JSON text holds; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # thousands of open brackets are no JSON either
        return None


def read_rows(
    passage: Passage, text: str, finish: str, columns: Sequence[Column], quote_pattern: str, verdict: str = "",
    once: bool = False,
) -> tuple[Post, ...] | Failed:
    """The notes that a reader's output amounts to: `row` where code finds nothing wrong, else `rejected` with the reason.
    `verdict` is what rows carry that nobody will judge. A row that comes again with another quote is a note of its own, so
    that each quote is judged, unless it is to be told `once`; with the same quote it says nothing new.

    An output that was cut off (`finish` is `length`) gives the rows that are whole in it.
    """
    answer = parsed(text) if finish == "stop" else _complete_rows(text)
    if not isinstance(answer, list):
        return Failed(f"is no list of rows: {text[:80]}")
    notes: list[Post] = []
    again: list[list[str]] = []
    refused: set[tuple[str, ...]] = set()
    rows: dict[tuple[str, ...], list[Cite]] = {}
    places: set[int] = set()

    def note_down(cells: list[str]) -> None:
        if tuple(cells) in refused:
            return
        note = _row(passage, cells, columns, quote_pattern, verdict, places)
        if note.kind == "rejected":
            refused.add(tuple(cells))
        else:
            cites = rows.setdefault(tuple(cells[:-1]), [])
            if _overlap(note.cites[0], cites):
                return
            cites.extend(note.cites)
        notes.append(note)

    for cells in answer:
        if not isinstance(cells, list) or len(cells) != len(columns) + 1 or not all(isinstance(c, str) for c in cells):
            return Failed(f"has a row that does not fit the columns: {json.dumps(cells)[:80]}")
        cells = [cell.strip() for cell in cells]
        if tuple(cells[:-1]) in rows:
            again.append(cells)
        else:
            note_down(cells)
    for cells in () if once else again:  # last, so that no row's first quote depends on them
        note_down(cells)
    return tuple(notes)


def _overlap(place: Cite, places: Iterable[Cite]) -> bool:
    return any(place[1] < end and start < place[2] for _, start, end in places)


def _row(
    passage: Passage, cells: list[str], columns: Sequence[Column], quote_pattern: str, verdict: str, places: set[int]
) -> Post:
    *values, quote = cells
    content = dict(zip((column.name for column in columns), values, strict=True))
    at = find_quote(passage.text, quote, places)
    at = at and (at[0], _line_end(passage.text, *at))
    stands = passage.text[at[0] : at[1]] if at else ""
    reason = _fault(passage, content, stands, columns, quote_pattern) if at else "the quote does not stand in the passage"
    if reason or at is None:
        whole = (passage.number, passage.start, passage.start + len(passage.text))
        return Post("rejected", {"values": content, "quote": quote, "reason": reason}, cites=(whole,))
    places.add(at[0])
    cite = (passage.number, passage.start + at[0], passage.start + at[1])
    return Post("row", {"values": content, "quote": stands}, verdict=verdict, cites=(cite,))


def _line_end(text: str, start: int, end: int) -> int:
    """Where a quote ends that is told to the end of its line, unless that is far off: half a line is hard to judge by."""
    found = _LINE_END.search(text, end)
    line = found.start() if found else len(text)
    return end + len(text[end:line].rstrip()) if line - start <= LINE_CHARACTERS else end


def _fault(
    passage: Passage, content: Mapping[str, str], quote: str, columns: Sequence[Column], quote_pattern: str
) -> str:
    """Why a row is refused; empty if nothing is wrong."""
    if quote_pattern and (fault := _mismatch(quote_pattern, quote, whole=False)):
        return f"the quote {fault}"
    for column in columns:
        value = content[column.name]
        if not value.strip():
            return f"{column.name} is empty"
        if column.pattern and (fault := _mismatch(column.pattern, value, whole=True)):
            return f"{column.name} {value!r} {fault}"
        if not grounded(value, column.found_in, quote, passage):
            return f"{column.name} {value!r} does not stand in the {column.found_in}"
    return ""


def _mismatch(pattern: str, text: str, whole: bool) -> str:
    """How a text fails a job's pattern; empty if it does not. Some patterns would try for years, and nothing else could go on."""
    try:
        found = (regex.fullmatch if whole else regex.search)(pattern, text, timeout=PATTERN_SECONDS)
    except TimeoutError:
        return f"could not be matched with {pattern} in {PATTERN_SECONDS:g} s"
    return "" if found else f"does not match {pattern}"


def _complete_rows(text: str) -> Any:
    """The rows of an output that was cut off, in the middle of one or just at its end; None if not one is whole."""
    answer, end = parsed(text), len(text)
    while answer is None and (end := text.rfind("]", 0, end)) > 0:  # a bracket may also stand inside a string
        answer = parsed(text[: end + 1] + "]")
    return answer


# ---- checks ----


def find_quote(text: str, quote: str, taken: Iterable[int] = ()) -> tuple[int, int] | None:
    """Where a quote stands in a text: word for word, white space aside; a place not taken yet if there is one.

    A quote whose end slipped is cut back to the words that do stand there, as long as they are most of it and enough to
    know the place by: what is kept as evidence is always the text's own. One of mere punctuation shows nothing.
    Returns (start, end) in characters, or None.
    """
    words, used = quote.split(), set(taken)
    if not any(letter.isalnum() or unicodedata.category(letter)[0] == "S" for letter in quote):
        return None
    if (place := _free_place(text, [quote.strip()], used)) is not None and place[0] not in used:
        return place  # letter by letter goes before a place where only the words are the same
    least = max(QUOTE_CHARACTERS, QUOTE_SHARE * len(" ".join(words)))
    for kept in range(len(words), 0, -1):
        if kept < len(words) and (kept < QUOTE_WORDS or len(" ".join(words[:kept])) < least):
            return None
        if (place := _free_place(text, words[:kept], used)) is not None:
            return place
    return None


def _free_place(text: str, words: Sequence[str], used: set[int]) -> tuple[int, int] | None:
    """The first place of the words that is not used yet, else the first one."""
    past = 0
    first: tuple[int, int] | None = None
    for start, end in _places(text, words):
        if _cuts_word(text, start) or (_cuts_word(text, end) and end - start < QUOTE_CHARACTERS):
            continue  # a letter inside a word is no evidence; only a long quote may end in the middle of one
        if start < past:
            continue
        if start not in used:
            return start, end
        first, past = first or (start, end), end
    return first


def grounded(value: str, found_in: str, quote: str, passage: Passage) -> bool:
    """Whether a value stands where its column says: as a whole, or, if it is made of dotted names, part by part."""
    if found_in == "anywhere":
        return True
    place = quote if found_in == "quote" else f"{passage.breadcrumb}\n{passage.text}"
    if _stands(value, place):
        return True
    parts = value.split(".")
    return len(parts) > 1 and all(part and _stands(part, place) for part in parts)


def _stands(value: str, text: str) -> bool:
    """Whether the value stands in the text and is not a piece of a longer word there."""
    words = value.split()
    begins, ends = _in_word(value[:1]), _in_word(value[-1:])
    return not words or any(
        not (begins and start and _in_word(text[start - 1])) and not (ends and _in_word(text[end : end + 1]))
        for start, end in _places(text, words)
    )


def _cuts_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and _in_word(text[at - 1]) and _in_word(text[at])


def _in_word(letter: str) -> bool:
    """Whether a letter is one of those that words are made of which white space parts. Some scripts have none between words."""
    return (letter.isalnum() or letter == "_") and not (letter > "\u0dff" and _UNPARTED.match(letter))


def _places(text: str, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where the words stand one after another with white space between, from left to right.

    Written out because a regular expression for each quote costs a hundred times as much to compile as to use.
    """
    start, plain = (text.find(words[0]), " ".join(words)) if words else (-1, "")
    while start >= 0:
        plainly = text.startswith(plain, start)
        end = start + len(plain if plainly else words[0])
        for word in () if plainly else words[1:]:
            at = end
            while text[at : at + 1].isspace():
                at += 1
            if at == end or not text.startswith(word, at):
                break
            end = at + len(word)
        else:
            yield start, end
        start = text.find(words[0], start + 1)


def stated(text: str, values: Mapping[str, str], question: str) -> bool:
    """Whether a sentence states these values and no other: each stands in it, and every other word that looks like a
    name or a number stands in the question or is a column's name."""
    if not text.strip() or not all(_stands(value, text) for value in values.values()):
        return False
    rest = text
    for value in sorted(values.values(), key=len, reverse=True):
        rest = rest.replace(value, " ")
    known = f"{question} {' '.join(values)}".lower()
    words = re.findall(r"[^\s,;:()\"'`]+", rest)
    suspects = [word.strip(".?!") for at, word in enumerate(words) if _looks_like_a_name(word.strip(".?!"), at == 0)]
    return all(word.lower() in known for word in suspects)


def _looks_like_a_name(word: str, first: bool) -> bool:
    if re.search(r"[0-9_.]", word):
        return True
    return any(letter.isupper() for letter in (word[1:] if first else word))


# ---- merges ----


@dataclass(frozen=True, slots=True)
class Merged:
    """One merged row, the notes it rests on in order of the text, and where they point."""

    values: dict[str, str]
    rows: tuple[str, ...]
    cites: tuple[Cite, ...]


def merge_rows(rows: Sequence[NotedRow], answer: AnswerSpec, merge: str) -> list[Merged]:
    """Merges rows exactly. The order of `rows` (that of the text) decides ties, so completion order never shows.

    `set` keeps each distinct row, `group` the same ordered by the values of the `by` column, `count` gives one row for
    each value of it with how many rows that differ in the key have it, `top-k` the most frequent of those, and `join` puts
    the rows that share a value of it together, their other columns' distinct values joined.
    """
    names = tuple(column.name for column in answer.columns)
    by, key = answer.by or names[-1], answer.key or names
    if merge == "set":
        return _grouped(rows, key)
    if merge == "group":
        merged = _grouped(rows, key)
        order = {value: rank for rank, value in enumerate(dict.fromkeys(one.values[by] for one in merged))}
        return sorted(merged, key=lambda one: order[one.values[by]])
    groups = _grouped(rows, (by,))  # not of merged rows, in which a column may hold several values
    if merge == "join":
        return groups
    distinct = Counter(one.values[by] for one in _grouped(rows, (by, *key)))
    counted = [_counted(one, by, distinct[one.values[by]]) for one in groups]
    return _most_frequent(counted, answer.top) if merge == "top-k" else counted


def headlines(rows: Sequence[NotedRow], answer: AnswerSpec, most: int) -> list[Merged]:
    """The values of the `by` column that are quoted in most places, with the number of those: what a writer puts first."""
    by = answer.by or answer.columns[-1].name
    return _most_frequent([_counted(one, by, len(set(one.cites))) for one in _grouped(rows, (by,))], most)


def _grouped(rows: Sequence[NotedRow], key: tuple[str, ...]) -> list[Merged]:
    groups: dict[tuple[str, ...], list[NotedRow]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[1][name] for name in key)].append(row)
    return [
        Merged(
            _united([values for _, values, _ in members]),
            tuple(id for id, _, _ in members),
            tuple(cite for _, _, cites in members for cite in cites),
        )
        for members in groups.values()
    ]


def _united(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """One row for several: each column's distinct values side by side, so that every quote still supports what is shown."""
    return {name: ", ".join(dict.fromkeys(row[name] for row in rows)) for name in rows[0]}


def _counted(group: Merged, by: str, count: int) -> Merged:
    return replace(group, values={by: group.values[by], "count": str(count)})


def _most_frequent(counted: list[Merged], most: int) -> list[Merged]:
    return sorted(counted, key=lambda one: -int(one.values["count"]))[:most]
