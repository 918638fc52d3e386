"""Generated records (logs, invoices, mails, orders, …) with the right rows known by construction.

Owns the drawing of passages from the templates of `records.yaml`. Templates with `kept` are never trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from swarm.learn.data.examples import Columns, Example, reader_example

QUOTE_LIMIT = 100
Draw = Callable[[random.Random], str]


@dataclass(frozen=True)
class Template:
    """One kind of document; see `records.yaml` for what the fields hold."""

    name: str
    path: str
    kinds: dict[str, tuple[str, str]]
    forms: tuple[str, ...]
    others: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]
    kept: bool = False


def _read() -> tuple[dict[str, list[str]], tuple[Template, ...]]:
    held = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    templates = [
        Template(
            name=one["name"],
            path=one["path"],
            kinds={field: (kind, description) for field, (kind, description) in one["kinds"].items()},
            forms=tuple(one["forms"]),
            others=tuple(one["others"]),
            questions=tuple((columns, question) for columns, question in one["questions"]),
            kept=one.get("kept", False),
        )
        for one in held["templates"]
    ]
    return held["words"], tuple(templates)


WORDS, TEMPLATES = _read()


def _word(kind: str) -> Draw:
    return lambda r: r.choice(WORDS[kind])


def _mail(r: random.Random) -> str:
    first, last, city = r.choice(WORDS["first"]), r.choice(WORDS["last"]), r.choice(WORDS["city"])
    return f"{first}.{last}@{city}.example".lower()


VALUES: dict[str, Draw] = {
    **{kind: _word(kind) for kind in ("item", "city", "firm", "service", "trouble", "calm")},
    "person": lambda r: f"{r.choice(WORDS['first'])} {r.choice(WORDS['last'])}",
    "amount": lambda r: f"{r.randint(3, 4800)}.{r.randint(0, 99):02d}",
    "count": lambda r: str(r.randint(2, 90)),
    "date": lambda r: f"20{r.randint(18, 26)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}",
    "time": lambda r: f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}:{r.randint(0, 59):02d}",
    "code": lambda r: f"{r.choice('ABCDEFGHKLMNPRST')}{r.choice('ABCDEFGHKLMNPRST')}-{r.randint(100, 9999)}",
    "phone": lambda r: f"+{r.randint(30, 49)} {r.randint(100, 999)} {r.randint(10000, 99999)}",
    "mail": _mail,
    "host": lambda r: f"node-{r.randint(1, 60)}.{r.choice(WORDS['city']).lower()}",
    "percent": lambda r: f"{r.randint(1, 99)}%",
    "room": lambda r: f"{r.choice('ABCD')}{r.randint(101, 499)}",
    "hour": lambda r: f"{r.randint(8, 18)}:{r.choice(('00', '15', '30', '45'))}",
    "degrees": lambda r: f"{r.randint(-9, 38)}.{r.randint(0, 9)}",
}


def record_group(
    templates: tuple[Template, ...], random_: random.Random, size: int, empty_share: float
) -> list[Example]:
    """`size` examples with one question: some passages hold rows, `empty_share` of them hold none."""
    template = random_.choice(templates)
    asked, question = random_.choice(template.questions)
    names = asked.split()
    if random_.random() < 0.3:
        random_.shuffle(names)
    columns: Columns = tuple((name, template.kinds[name][1]) for name in names)
    examples = []
    for _ in range(size):
        empty = random_.random() < empty_share
        path = _filled(template.path, {}, template, random_)[0]
        foreign = empty and random_.random() < 0.4
        shown = (
            random_.choice([other for other in templates if other is not template]) if foreign else template
        )
        text, rows = _passage(shown, names, random_, 0 if empty and not foreign else random_.randint(1, 5))
        examples.append(
            reader_example(
                f"records:{template.name}",
                template.name,
                question,
                columns,
                path,
                text,
                [] if empty else rows,
            )
        )
    return examples


def _passage(
    template: Template, names: list[str], random_: random.Random, records: int
) -> tuple[str, list[tuple[str, ...]]]:
    """A text with `records` records between other lines, and its rows in order of appearance."""
    form = random_.choice(template.forms)
    kinds = [True] * records + [False] * random_.randint(1 if records else 2, 6)
    random_.shuffle(kinds)
    lines: list[str] = []
    rows: dict[tuple[str, ...], tuple[str, ...]] = {}
    for is_record in kinds:
        line, values = _filled(form if is_record else random_.choice(template.others), {}, template, random_)
        lines.append(line)
        row = tuple(values.get(name, "") for name in names)
        if is_record and all(row):
            rows.setdefault(row, (*row, line[:QUOTE_LIMIT].rstrip()))
    return "\n".join(lines), list(rows.values())


def _filled(
    form: str, given: dict[str, str], template: Template, random_: random.Random
) -> tuple[str, dict[str, str]]:
    """The form with each `{field}` drawn, and what was drawn."""
    values = dict(given)
    for part in form.split("{")[1:]:
        name = part.partition("}")[0]
        if name not in values:
            values[name] = VALUES[template.kinds[name][0] if name in template.kinds else name](random_)
    return form.format_map(values), values
