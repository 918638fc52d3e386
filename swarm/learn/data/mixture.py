"""The whole mixture: every kind of example in its share of the tokens, as an endless, seeded stream of
groups.

Owns the shares and the wiring of the generators to installed sources. A stream of the same seed, tokenizer
and installed packages is the same, group by group.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from swarm.learn.data import asked, asking, inventing, prose, records, sources
from swarm.learn.data.code import Found, Module
from swarm.learn.data.examples import Example, encode
from swarm.learn.data.passages import Passage, Row, passages
from swarm.learn.data.planning import plan_example, write_example
from swarm.learn.data.prose import ProsePassage, prose_passages
from swarm.learn.data.questions import CALLED, SCHEMAS, Schema, call_schema
from swarm.learn.data.reading import (
    Reading,
    Shown,
    Wordings,
    code_wordings,
    prose_wordings,
    shown_code,
    shown_prose,
)
from swarm.learn.data.verifying import Verifying
from swarm.window.tokens import Tokenizer

LONGEST_EXAMPLE = 480
SHARES: dict[str, float] = {
    "main": 0.42,
    "code": 0.12,
    "records": 0.06,
    "prose": 0.05,
    "verify:main": 0.21,
    "verify:other": 0.10,
    "plan": 0.015,
    "write": 0.025,
}
EMPTY_SHARE = 0.62

LONG, LONG_KEPT = 650, 0.35
"""Passages of more characters teach no more than short ones and cost more: a third is kept."""

Group = list[Example]


@dataclass(frozen=True)
class Material:
    """Passages of installed sources with their rows: of the `schemas` in order, then of `asking.KINDS` unless only judged."""

    code: list[Passage]
    prose: list[ProsePassage]
    schemas: tuple[Schema, ...]


def all_schemas() -> tuple[Schema, ...]:
    return (*SCHEMAS, *(call_schema(name) for name in CALLED))


def all_finders() -> list[Callable[[Module], Iterator[Found]]]:
    """What finds the rows of passages to learn from, in their order."""
    return [*(schema.find for schema in all_schemas()), *asked.finders([kind.name for kind in asking.KINDS])]


def training_material(tokenizer: Tokenizer) -> Material:
    """Passages that may be learnt from; takes about two minutes of one core."""
    guarded = sources.guarded_lines()
    schemas = all_schemas()
    files = list(sources.training())
    code = [
        item for item in passages(files, all_finders(), tokenizer)
        if not sources.is_copy(item.text, guarded)
    ]  # fmt: skip
    text = [item for item in prose_passages(files, tokenizer) if not sources.is_copy(item.text, guarded)]
    return Material(code, text, schemas)


def held_out_material(tokenizer: Tokenizer, packages: Sequence[str] = sources.HELD_OUT) -> Material:
    """Passages of the packages that are judged on."""
    schemas = SCHEMAS
    code = list(passages(sources.held_out(packages), [schema.find for schema in schemas], tokenizer))
    return Material(code, list(prose.topic_passages(tokenizer)), schemas)


def stream(
    material: Material, tokenizer: Tokenizer, seed: int, shares: dict[str, float] | None = None
) -> Iterator[Group]:
    """Endless groups, each kind as often as its share of the tokens asks for."""
    wanted = shares or SHARES
    makers = _makers(material, random.Random(seed))
    if "asked" in wanted:
        makers |= _invented(material, random.Random(seed))
    spent = dict.fromkeys(wanted, 0.0)
    while True:
        kind = min(wanted, key=lambda name: spent[name] / wanted[name])
        group = []
        for example in makers[kind]():
            ids = encode(example, tokenizer)
            tokens = len(ids.shared) + len(ids.own) + len(ids.answer)
            if tokens <= LONGEST_EXAMPLE:
                group.append(example)
                spent[kind] += tokens - (len(ids.shared) if len(group) > 1 else 0)
        if group:
            yield group


def _makers(material: Material, random_: random.Random) -> dict[str, Callable[[], Group]]:
    names = [schema.name for schema in material.schemas]
    trained = [schema for schema in material.schemas if not schema.kept]
    code = [item for item in material.code if len(item.text) <= LONG or random_.random() < LONG_KEPT]
    text = [item for item in material.prose if len(item.text) <= LONG or random_.random() < LONG_KEPT]
    shown = {schema.name: shown_code(code, names.index(schema.name)) for schema in trained}
    readers = {
        schema.name: Reading(code_wordings(schema), shown[schema.name], schema.hints, random_)
        for schema in trained
    }
    for index, schema in enumerate(prose.SCHEMAS):
        hints = ("Error", "rais") if index == 0 else ("version", "default")
        readers[schema.name] = Reading(prose_wordings(schema), shown_prose(text, index), hints, random_)
    checkers = {
        schema.name: _verifying(code_wordings(schema), shown[schema.name], shown, random_)
        for schema in trained
    }
    for index, schema in enumerate(prose.SCHEMAS):
        checkers[schema.name] = _verifying(prose_wordings(schema), shown_prose(text, index), shown, random_)
    templates = tuple(template for template in records.TEMPLATES if not template.kept)
    plain = [
        schema.name for schema in trained if schema.name != "raises" and not schema.name.startswith("calls:")
    ]
    called = [name for name in readers if name.startswith("calls:")]
    prose_names, prose_weights = [schema.name for schema in prose.SCHEMAS], (0.7, 0.1, 0.2)
    checked = [name for name in (*plain, *prose_names, prose_names[0]) if checkers[name]]

    def other_code() -> Group:
        return readers[random_.choice(called) if random_.random() < 0.1 else random_.choice(plain)].group(
            3, 1
        )

    def written() -> Group:
        name = random_.choice([name for name in ("raises", *plain) if checkers[name]])
        question, columns, order = checkers[name].wordings.draw(random_)
        rows = [tuple(row[index] for index in order) for row in random_.choices(checkers[name].rows, k=10)]
        return [
            write_example(random_, question, columns, rows, name if order == tuple(range(len(order))) else "")
        ]

    return {
        "main": readers["raises"].group,
        "code": other_code,
        "records": lambda: records.record_group(templates, random_, 3, EMPTY_SHARE),
        "prose": lambda: readers[random_.choices(prose_names, prose_weights)[0]].group(3, 1),
        "verify:main": checkers["raises"].group,
        "verify:other": lambda: checkers[random_.choice(checked)].group(),
        "plan": lambda: [plan_example(random_) for _ in range(2)],
        "write": written,
    }


def _invented(material: Material, random_: random.Random) -> dict[str, Callable[[], Group]]:
    """Questions put together anew for each group; drawn apart, so that stages without them stay what they were."""
    code = asking.Asking(material.code, len(material.schemas), random_)
    return {"asked": code.group, "invented": lambda: inventing.invented_group(random_)}


def _verifying(
    wordings: Wordings, shown: Sequence[Shown], all_shown: dict[str, list[Shown]], random_: random.Random
) -> Verifying:
    """The verifier's examples of one schema; what is caught looks like what is raised, and vice versa."""
    twin = {"raises": "handlers", "handlers": "raises"}.get(wordings.name)
    lures: dict[str, tuple[Row, ...]] = (
        {item[2]: item[3] for item in all_shown[twin] if item[3]} if twin else {}
    )
    return Verifying(wordings, shown, lures, random_)
