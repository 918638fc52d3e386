"""The price table: found, read, put into jobs; what is wrong with one is said by file, model and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.errors import SpecError
from swarm.prices import priced, read_prices
from swarm.runtime.session import check
from swarm.spec import JobSpec, Price
from tests.commands import swarm
from tests.jobs import job, run, state_of, write_sources

TABLE = "raises: {input: 1.0, output: 4.0, currency: EUR}\nother: {input: 0, output: 0}\n"


def table(folder: Path, text: str = TABLE) -> Path:
    path = folder / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_job_gets_the_price_of_its_model_and_keeps_its_own(tmp_path: Path) -> None:
    named = {"SWARM_PRICES": str(table(tmp_path))}
    assert priced(job(tmp_path), named).model.price == Price(input=1, output=4, currency="EUR")
    own = {"engine": "scripted", "name": "raises", "price": {"input": 9, "output": 9}}
    assert priced(job(tmp_path, model=own), named).model.price == Price(input=9, output=9)
    assert priced(job(tmp_path, model={**own, "price": None, "name": "unlisted"}), named).model.price is None
    assert priced(job(tmp_path), {}).model.price is None


def test_the_table_of_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert priced(job(tmp_path), {}).model.price is not None


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("raises: {input: -1, output: 1}", "raises.input", "or more"),
        ("raises: {input: .nan, output: 1}", "raises.input", "finite"),
        ("raises: {input: .inf, output: 1}", "raises.input", "finite"),
        ("raises: {input: 1e300, output: 1}", "raises.input", "or less"),
        ("raises: {input: 1}", "raises.output", "is missing"),
        ("raises: {input: cheap, output: 1}", "raises.input", "number"),
        ("raises: {input: 1, output: 1, currency: '€'}", "raises.currency", "must match"),
        ("raises: {input: 1, output: 1, per: call}", "raises.per", "is no setting"),
        ("raises: 3", "raises", "settings by name"),
        ("- raises", "prices.yaml", "no table"),
        ("3: {input: 1, output: 1}", "prices.yaml", "no table"),
        ("a: [", "prices.yaml", "is not YAML"),
        ("", "prices.yaml", "no table"),
    ],
)
def test_what_is_wrong_with_a_price_is_said_by_name(tmp_path: Path, text: str, place: str, problem: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(SpecError, match=problem) as raised:
        read_prices(path)
    assert place in raised.value.where and str(path) in raised.value.where and raised.value.cure


def test_a_table_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        priced(job(tmp_path), {"SWARM_PRICES": str(tmp_path / "none.yaml")})


@pytest.mark.parametrize(
    ("limits", "name"), [({"money": 5}, "budget.money"), ({"roles": {"reader": {"money": 5}}}, "budget.roles.reader.money")]
)
def test_money_needs_a_known_price_unless_it_is_allowed_to_lack(tmp_path: Path, limits: dict[str, object], name: str) -> None:
    source = write_sources(tmp_path)
    with pytest.raises(SpecError, match="the price of model 'raises' is not known") as raised:
        check(job(source, budget=limits))
    assert raised.value.where == name and "unpriced: allow" in raised.value.cure
    spec = job(source, budget={**limits, "unpriced": "allow"})
    assert state_of(run(spec, tmp_path / "runs")).status == "done"


def test_the_command_line_reads_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job.yaml"
    spec: JobSpec = job(write_sources(tmp_path), budget={"money": 5})
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    monkeypatch.setenv("SWARM_PRICES", str(table(tmp_path)))
    said = swarm("plan", str(path))
    assert said.code == 0 and "EUR" in said.out
    monkeypatch.setenv("SWARM_PRICES", str(table(tmp_path, "raises: {input: -1, output: 1}")))
    said = swarm("plan", str(path))
    assert said.code == 2 and "prices.yaml: raises.input" in said.err
