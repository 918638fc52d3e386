"""Two runs side by side: what was asked for, what was found, and what it cost.

Owns the comparison of two answers and their specs. Rows are the same claim when their values are; a claim that both runs
have differs if its count, its verdict or its sources do. Costs are shown and make no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from swarm.report.shapes import Answer, Cite, Row, Statement
from swarm.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Claim:
    """A row or statement, reduced to what is compared. `cites` are `path:start-end` in order."""

    values: Mapping[str, str]
    count: int
    verdict: str
    cites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`spec` maps a setting's dotted name to its two values, None where it is not set. `changed` are claims of both runs,
    as they stand in each. `costs` maps a figure's name to its two values."""

    spec: Mapping[str, tuple[Any, Any]]
    only_first: tuple[Claim, ...]
    only_second: tuple[Claim, ...]
    changed: tuple[tuple[Claim, Claim], ...]
    same: int
    costs: Mapping[str, tuple[Any, Any]]

    @property
    def differs(self) -> bool:
        return bool(self.spec or self.only_first or self.only_second or self.changed)

    def document(self) -> dict[str, Any]:
        """The comparison as plain data, for `--json`."""
        return {"same": not self.differs, **asdict(self), "rows_alike": self.same}


def compare(first: Answer, second: Answer, first_spec: JobSpec, second_spec: JobSpec) -> Comparison:
    """What differs between two runs."""
    one, two = _claims(first), _claims(second)
    both = [(one[key], two[key]) for key in one if key in two]
    changed = tuple((a, b) for a, b in both if a != b)
    return Comparison(
        spec=differences(first_spec, second_spec),
        only_first=tuple(claim for key, claim in one.items() if key not in two),
        only_second=tuple(claim for key, claim in two.items() if key not in one),
        changed=changed,
        same=len(both) - len(changed),
        costs={name: (a, b) for (name, a), b in zip(_costs(first).items(), _costs(second).values(), strict=True)},
    )


def differences(first: JobSpec, second: JobSpec) -> dict[str, tuple[Any, Any]]:
    """Dotted name → the two values, of each setting that differs."""
    one, two = (dict(_flat("", spec.model_dump(mode="json"))) for spec in (first, second))
    names = dict.fromkeys([*one, *two])
    return {name: (one.get(name), two.get(name)) for name in names if one.get(name) != two.get(name)}


def _flat(name: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for at, inner in enumerate(value):
            yield from _flat(f"{name}.{at}", inner)
    else:
        yield name, value


def _claims(answer: Answer) -> dict[tuple[tuple[str, str], ...], Claim]:
    rows: tuple[Row | Statement, ...] = answer.rows if answer.rows is not None else answer.statements or ()
    found = {}
    for row in rows:
        values = dict(row.values) if isinstance(row, Row) else {"statement": row.text}
        # How often a row was found is compared, and is no part of what it says.
        key = tuple(sorted((name, value) for name, value in values.items() if name != "count"))
        count = int(values.get("count", row.count)) if str(values.get("count", row.count)).isdigit() else row.count
        found[key] = Claim(values, count, row.verdict, tuple(map(_place, row.cites)))
    return found


def _place(cite: Cite) -> str:
    return f"{cite.document}:{cite.start}-{cite.end}"


def _costs(answer: Answer) -> dict[str, Any]:
    return {
        "status": answer.status, "passages read": answer.coverage.spans_read, "calls": answer.calls,
        "tokens in": answer.tokens_in, "tokens out": answer.tokens_out, "seconds": answer.seconds, "cost": answer.cost,
        "retries": answer.retries,
    }  # fmt: skip
