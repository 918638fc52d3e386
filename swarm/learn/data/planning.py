"""Planner and writer examples, generated from small sets of wordings.

Owns what a question's task and merge are, and how findings are put into sentences. Wordings with `kept` are
for judging.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from swarm.learn.data.examples import Columns, Example, schema_text
from swarm.learn.data.questions import SCHEMAS
from swarm.learn.data.records import TEMPLATES
from swarm.rows import claim_text

PLANS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "aggregate",
        "count",
        (
            "How many {things} are there?",
            "Count the {things}.",
            "How often does each {thing} occur?",
            "Number of {things} per {other}?",
            "How many {things} for each {other}?",
            "For each {other}, count the {things}.",
            "What is the number of {things}?",
        ),
    ),
    (
        "aggregate",
        "top-k",
        (
            "Which {thing} is the most frequent?",
            "What are the five most common {things}?",
            "Top 10 {things}?",
            "Which {things} occur most often?",
            "Name the most frequent {things}.",
            "What is the most common {thing}?",
        ),
    ),
    (
        "classify",
        "group",
        (
            "Group the {things} by {other}.",
            "Sort the {things} into groups by {other}.",
            "Which {things} belong to which group of {other}?",
            "Classify each {thing} by {other}.",
            "List the {things} grouped by {other}.",
            "Collect the {things} for each {other}.",
        ),
    ),
    (
        "summarise",
        "group",
        (
            "Summarise what is said about {things}.",
            "What is said about {things} in general?",
            "Give a summary of the {things}.",
            "Describe the {things} in a few sentences.",
            "Sum up the {things} by {other}.",
        ),
    ),
)
SENTENCES: dict[str, tuple[str, ...]] = {
    "raises": ("{0} raises {1}.",),
    "handlers": ("{0} catches {1}.",),
    "bases": ("{0} inherits from {1}.",),
    "decorators": ("{0} is decorated with {1}.",),
    "imports": ("{1} is imported from {0}.",),
    "constants": ("{0} is set to {1}.",),
    "defaults": ("In {0}, {1} defaults to {2}.",),
    "annotations": ("{0} returns {1}.",),
    "attributes": ("{0} has the attribute {1}.",),
}


def plan_example(random_: random.Random, kept: bool = False) -> Example:
    """A question with columns and input, and the task and merge it calls for; half are searches."""
    columns, questions, paths, source = _subject(random_)
    if random_.random() < 0.5:
        task, merge, question = "search", "set", random_.choice(questions)
    else:
        task, merge, forms = random_.choice(PLANS)
        form = forms[-1] if kept else random_.choice(forms[:-1])
        thing = random_.choice(columns)[0]
        other = random_.choice([name for name, _ in columns if name != thing] or ["file"])
        question = form.format(thing=thing, things=_plural(thing), other=other)
    documents = random_.randint(1, 400)
    spans = documents * random_.randint(1, 30)
    named = ", ".join(random_.sample(paths, min(len(paths), random_.randint(1, 3))))
    line = f"Input: {documents} documents, {spans} passages, such as {named}\n"
    own = (f"Question: {question}\n", schema_text(columns), line)
    return Example("planner", "plan", source, (), own, json.dumps([task, merge], separators=(",", ":")), 1)


def _subject(random_: random.Random) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], list[str], str]:
    if random_.random() < 0.6:
        schema = random_.choice([schema for schema in SCHEMAS if not schema.kept])
        stems = random_.sample(("queue", "client", "server", "parser", "core", "types", "main", "errors"), 3)
        package = random_.choice(("shop", "store", "webkit", "mailer", "lexer", "parts"))
        columns = tuple(random_.choice(ways) for ways in schema.columns)
        return columns, schema.questions, [f"{package}/{stem}.py" for stem in stems], schema.name
    template = random_.choice([template for template in TEMPLATES if not template.kept])
    asked, _ = random_.choice(template.questions)
    columns = tuple((name, template.kinds[name][1]) for name in asked.split())
    questions = tuple(question for _, question in template.questions)
    return columns, questions, [template.path.replace("{", "").replace("}", "")], template.name


def _plural(thing: str) -> str:
    return thing[:-1] + "ies" if thing.endswith("y") else thing + ("es" if thing.endswith("s") else "s")


def write_example(
    random_: random.Random, question: str, columns: Columns, rows: Sequence[tuple[str, ...]], name: str
) -> Example:
    """1 to 8 findings and a sentence for each: whole rows or, as in most jobs, values with their counts."""
    picked = random_.sample(list(rows), min(len(rows), random_.randint(1, 8)))
    counted = random_.random() < 0.7
    if counted:
        column = columns[-1][0] if random_.random() < 0.7 else random_.choice(columns)[0]
        place = [name for name, _ in columns].index(column)
        counts = sorted((random_.choice((1, 2, 3, random_.randint(4, 120))) for _ in picked), reverse=True)
        distinct = list(dict.fromkeys(row[place] for row in picked))
        findings = [
            {column: value, "count": str(count)} for value, count in zip(distinct, counts, strict=False)
        ]
        sentences = [f"The {column} {one[column]} occurs {_times(one['count'])}." for one in findings]
    else:
        findings = [
            {column: value for (column, _), value in zip(columns, row, strict=False)} for row in picked
        ]
        sentences = [_sentence(name, columns, list(one.values())) for one in findings]
    lines = "".join(f"[{number}] {claim_text(one)}\n" for number, one in enumerate(findings, 1))
    answer = [[sentence, number] for number, sentence in enumerate(sentences, 1)]
    own = (f"Question: {question}\n", f"Findings:\n{lines}")
    return Example(
        "writer",
        "write",
        name,
        (),
        own,
        json.dumps(answer, ensure_ascii=False, separators=(",", ":")),
        len(answer),
    )


def _times(count: str) -> str:
    return f"{count} time" if count == "1" else f"{count} times"


def _sentence(name: str, columns: Columns, values: Sequence[str]) -> str:
    forms = SENTENCES.get(name)
    if forms and len(values) >= forms[0].count("{"):
        return forms[0].format(*values)
    rest = " and ".join(
        f"{column} {value}" for (column, _), value in list(zip(columns, values, strict=True))[1:]
    )
    return f"The {columns[0][0]} {values[0]} has {rest}." if rest else f"One {columns[0][0]} is {values[0]}."
