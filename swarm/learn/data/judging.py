"""The examples that a reader is judged on: held-out packages, wordings, schemas and templates; nothing it
learnt from.

Owns how these sets are drawn, each from a fixed seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from swarm.learn.data import prose, records
from swarm.learn.data.examples import Columns, Example
from swarm.learn.data.mixture import Material
from swarm.learn.data.planning import plan_example, write_example
from swarm.learn.data.questions import RAISES, SCHEMAS, Schema
from swarm.learn.data.reading import Shown, example_of, shown_code, shown_prose

DEMO_PACKAGE = "multiprocessing"
SEED = 7


def demo(material: Material) -> list[Example]:
    """Every passage of the demo's package under the demo's question."""
    return [item for item in natural(material, RAISES, RAISES.questions[0]) if item.source == DEMO_PACKAGE]


def other_packages(material: Material, size: int) -> list[Example]:
    """Passages of the other held-out packages, as they come."""
    examples = [
        item
        for item in natural(material, RAISES, RAISES.questions[0])
        if item.source not in (DEMO_PACKAGE, "pydoc_data")
    ]
    return random.Random(SEED).sample(examples, size)


def natural(material: Material, schema: Schema, question: str) -> Iterator[Example]:
    """Every passage under one question with the usual columns."""
    columns = usual_columns(schema)
    for shown in shown_code(material.code, material.schemas.index(schema)):
        yield example_of(schema.name, question, columns, range(len(columns)), shown)


def usual_columns(schema: Schema) -> Columns:
    return tuple(ways[0] for ways in schema.columns)


def held_out_wordings(material: Material, size: int) -> list[Example]:
    """The main question in wordings that were not trained on; a third of the passages hold rows."""
    random_ = random.Random(SEED)
    shown = shown_code(material.code, material.schemas.index(RAISES))
    columns = usual_columns(RAISES)
    questions = RAISES.held_out
    return [
        example_of("raises", questions[at % len(questions)], columns, range(len(columns)), item)
        for at, item in enumerate(_third_filled(shown, size, random_))
    ]


def held_out_schemas(material: Material, size: int) -> list[Example]:
    """Questions of kinds that were not trained on; a third of the passages hold rows."""
    random_ = random.Random(SEED)
    kept = [schema for schema in SCHEMAS if schema.kept]
    examples = []
    for schema in kept:
        shown = shown_code(material.code, material.schemas.index(schema))
        columns = usual_columns(schema)
        for at, item in enumerate(_third_filled(shown, size // len(kept), random_)):
            question = schema.held_out[at % len(schema.held_out)]
            examples.append(example_of(schema.name, question, columns, range(len(columns)), item))
    return examples


def held_out_records(size: int) -> list[Example]:
    """Generated records of templates that were not trained on."""
    random_ = random.Random(SEED)
    kept = tuple(template for template in records.TEMPLATES if template.kept)
    return [item for _ in range(size // 6) for item in records.record_group(kept, random_, 6, 0.62)]


def held_out_prose(material: Material, size: int) -> list[Example]:
    """The language documentation, asked which exceptions it says are raised; a third hold rows."""
    schema = prose.SCHEMAS[0]
    columns = (schema.columns[0],)
    shown = _third_filled(shown_prose(material.prose, 0), size, random.Random(SEED))
    return [example_of(schema.name, schema.questions[0], columns, (0,), item) for item in shown]


def plans(size: int) -> list[Example]:
    """Planner examples in wordings that were not trained on."""
    random_ = random.Random(SEED)
    return [plan_example(random_, kept=True) for _ in range(size)]


def writings(material: Material, size: int) -> list[Example]:
    """Writer examples over values of the held-out packages."""
    random_ = random.Random(SEED)
    rows = [row[:-1] for item in material.code for row in item.rows[material.schemas.index(RAISES)]]
    columns = usual_columns(RAISES)
    return [
        write_example(random_, RAISES.questions[0], columns, random_.sample(rows, 10), RAISES.name)
        for _ in range(size)
    ]


def _third_filled(shown: Sequence[Shown], size: int, random_: random.Random) -> list[Shown]:
    """A fixed draw of which a third hold rows (of at most nine)."""
    filled = [item for item in shown if 0 < len(item[3]) <= 9]
    empty = [item for item in shown if not item[3]]
    picked = random_.sample(filled, min(len(filled), size // 3)) + random_.sample(empty, size - size // 3)
    random_.shuffle(picked)
    return picked
