"""The verifier's committed pairs; `python -m swarm.learn.data.pairs FILE` makes them again.

Owns their drawing, from a fixed seed and the held-out packages, and their file: one JSON object a line with
question, columns, row, quote, breadcrumb, excerpt and whether the row is supported. Every quote stands in its
excerpt.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swarm.learn.data import prose
from swarm.learn.data.examples import Example
from swarm.learn.data.mixture import Material, held_out_material
from swarm.learn.data.questions import RAISES
from swarm.learn.data.reading import code_wordings, prose_wordings, shown_code, shown_prose
from swarm.learn.data.verifying import Claim, Verifying

SEED = 11
EACH = 200


def verifier_pairs(material: Material, each: int = EACH) -> list[Claim]:
    """`each` supported and as many unsupported claims; 6 in 10 are of the main question."""
    random_ = random.Random(SEED)
    shown = {schema.name: shown_code(material.code, at) for at, schema in enumerate(material.schemas)}
    caught = {item[2]: item[3] for item in shown["handlers"] if item[3]}
    checkers = {
        schema.name: Verifying(
            code_wordings(schema, held_out=schema.kept),
            shown[schema.name],
            caught if schema is RAISES else {},
            random_,
        )
        for schema in material.schemas
    }
    first = prose.SCHEMAS[0]
    checkers[first.name] = Verifying(prose_wordings(first), shown_prose(material.prose, 0), {}, random_)
    others = [name for name, checker in checkers.items() if checker and name != RAISES.name]
    claims = []
    for at in range(2 * each):
        checker = checkers[RAISES.name if at % 10 < 6 else others[(at // 10) % len(others)]]
        question, columns, order = checker.wordings.draw(random_, vary=False)
        claims.append(checker.claim(question, columns, order, supported=(at // 2 + at) % 2 == 0))
    return claims


def pair_example(pair: dict[str, Any]) -> Example:
    """A line of the file as the verifier sees it."""
    return Claim(**(pair | {"columns": tuple(pair["columns"].items())})).example()


def lines_of(claims: Iterable[Claim]) -> str:
    pairs = (asdict(claim) | {"columns": dict(claim.columns)} for claim in claims)
    return "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)


def read_pairs(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    from swarm.models.embedded import embedded_base
    from swarm.window.tokens import FileTokenizer

    material = held_out_material(FileTokenizer(embedded_base().path))
    Path(sys.argv[1]).write_text(lines_of(verifier_pairs(material)), encoding="utf-8")


if __name__ == "__main__":
    main()
