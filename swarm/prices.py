"""The price table: what the tokens of each model cost, from a file of the user's.

Owns finding and reading that file, and putting a price into a job that names none. A job's own `model.price` comes first;
the price that a job was started with is pinned in its log, and a table that changes later does not change what it cost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from swarm.errors import SpecError
from swarm.people_yaml import read_yaml
from swarm.spec import Frozen, JobSpec, Price
from swarm.wording import explain

FILE = "prices.yaml"
VARIABLE = "SWARM_PRICES"


class PriceTable(Frozen):
    """Prices by model name, as `model.name` of a job has it."""

    models: dict[str, Price] = Field(default_factory=dict)


def price_file(environment: Mapping[str, str]) -> Path | None:
    """The file of prices: the one that $SWARM_PRICES names, else `prices.yaml` of the working folder; None if there is none."""
    named = environment.get(VARIABLE, "")
    if named:
        return Path(os.path.expanduser(named))
    return Path(FILE) if Path(FILE).is_file() else None


def read_prices(path: Path) -> PriceTable:
    """Reads a file of `NAME: {input: …, output: …, currency: …}`, money a million tokens.

    Raises:
        SpecError: it is missing or no YAML, or a price in it is missing, negative, not finite or out of all measure.
    """
    cure = "write one line a model: NAME: {input: 0.15, output: 0.60, currency: USD}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", str(path), f"check the file, or ${VARIABLE}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"is not YAML: {error}", str(path), cure) from None
    data = read_yaml(text, str(path), cure)
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise SpecError("holds no table of prices by model name", str(path), cure)
    try:
        return PriceTable.model_validate({"models": data})
    except ValidationError as error:
        message, where, advice = explain(error, PriceTable, str(path))
        raise SpecError(message, where.replace(": models.", ": "), advice or cure) from None


def priced(spec: JobSpec, environment: Mapping[str, str]) -> JobSpec:
    """The job with the price of its model, if the table has it and the job does not say one itself.

    Raises:
        SpecError: there is a table, and it cannot be read.
    """
    path = price_file(environment)
    if spec.model.price is not None or path is None:
        return spec
    price = read_prices(path).models.get(spec.model.name)
    return spec if price is None else spec.model_copy(update={"model": spec.model.model_copy(update={"price": price})})
