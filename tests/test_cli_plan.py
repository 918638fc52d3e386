"""What a plan says, and that real jobs fall inside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm import plan
from swarm.cli.driving import plan_lines
from swarm.corpus import pin
from swarm.plan import Range, amounts, measure, plan_job
from swarm.runtime.prepare import prepare
from swarm.spec import BudgetSpec, ModelSpec, Price
from tests.commands import job_file, swarm
from tests.jobs import job, run, state_of, write_sources


def test_a_job_falls_inside_its_plan(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 6))
    planned = plan_job(spec)
    state = state_of(run(spec, tmp_path / "runs"))
    assert planned.input.exact and planned.input.spans == state.spans and planned.input.tokens == state.span_tokens
    spent = state.total()
    assert planned.total_calls is not None and planned.tokens is not None
    assert planned.total_calls.low <= spent.calls <= planned.total_calls.high
    assert planned.tokens.low <= spent.tokens <= planned.tokens.high


def test_calls_follow_the_protocols_options(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path))
    assert set(plan_job(spec).calls or ()) == {"planner", "reader", "verifier", "writer"}
    options = {"span_tokens": 160, "verify": False, "headlines": 0}
    bare = spec.model_copy(update={
        "protocol": spec.protocol.model_copy(update={"options": options}),
        "answer": spec.answer.model_copy(update={"merge": "set"}),
    })  # fmt: skip
    assert set(plan_job(bare).calls or ()) == {"reader"}


@pytest.mark.parametrize("passages", [3, 200])
@pytest.mark.parametrize("copies", [1, 6, 16])
def test_a_rolling_job_falls_inside_its_plan(tmp_path: Path, passages: int, copies: int) -> None:
    options = {"span_tokens": 160, "passages": passages}
    spec = job(write_sources(tmp_path, copies), protocol={"name": "rolling", "options": options})
    planned = plan_job(spec)
    assert set(planned.calls or ()) == {"notetaker"} and planned.total_calls is not None and planned.tokens is not None
    spent = state_of(run(spec, tmp_path / "runs")).total()
    assert planned.total_calls.low <= spent.calls <= planned.total_calls.high
    assert planned.tokens.low <= spent.tokens <= planned.tokens.high < 3 * planned.tokens.low


MUTE = '''"""Rolling, which does not say what it takes."""
from swarm.protocol import find_protocol

Rolling = find_protocol("rolling")[0].Rolling


class Mute:
    name, roles, note_kinds = "mute", Rolling.roles, Rolling.note_kinds

    def __init__(self, inner):
        self.span_tokens, self.start, self.react, self.turn = inner.span_tokens, inner.start, inner.react, inner.turn


def create(spec):
    return Mute(find_protocol("rolling")[0].create(spec))
'''


def test_a_protocol_that_does_not_say_what_it_takes_has_an_unknown_plan(tmp_path: Path) -> None:
    (tmp_path / "mute.py").write_text(MUTE)
    model = {"engine": "scripted", "name": "raises", "price": {"input": 1, "output": 2}}
    path = job_file(
        tmp_path, write_sources(tmp_path), protocol={"name": str(tmp_path / "mute.py")}, model=model,
        budget={"tokens": 50_000, "money": 1},
    )  # fmt: skip
    said = swarm("plan", path)
    assert said.code == 0 and "unknown calls" in said.out and "protocol mute does not say" in said.out
    assert " 0 calls" not in said.out and "budget.tokens" not in said.out
    document = swarm("plan", path, "--json").document
    unknown = ("calls", "total_calls", "tokens", "tokens_in", "tokens_out", "seconds", "money")
    assert [document[name] for name in unknown] == [None] * len(unknown) and document["input"]["spans"] > 0
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--json")
    assert said.code == 0 and "unknown calls" in said.err and "planned" not in said.err
    assert said.document["plan"]["total_calls"] is None and said.document["calls"] > 0


def test_a_protocol_that_fails_to_say_what_it_takes_is_named(tmp_path: Path) -> None:
    wrong = "def expects(self, spans, tokens):\n        return {'cook': 1}\n\n    def __init__"
    (tmp_path / "wrong.py").write_text(MUTE.replace("def __init__", wrong))
    said = swarm("plan", job_file(tmp_path, write_sources(tmp_path), protocol={"name": str(tmp_path / "wrong.py")}))
    assert said.code == 2 and "'cook'" in said.err and "Traceback" not in said.err


def test_money_and_what_the_budget_may_not_cover(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path))
    priced = spec.model_copy(update={
        "model": ModelSpec(engine="scripted", name="raises", price=Price(input=1.0, output=4.0)),
        "budget": BudgetSpec(tokens=2500, money=50.0),
    })  # fmt: skip
    planned = plan_job(priced)
    assert planned.money is not None and 0 < planned.money.low < planned.money.high < 1
    assert len(planned.over) == 1 and "budget.tokens = 2,500 may not be enough" in planned.over[0]
    text = "\n".join(plan_lines(planned))
    assert "USD" in text and "budget: budget.tokens" in text


def test_a_small_budget_of_money_is_held_against_cents_and_less(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 12))
    priced = spec.model_copy(update={
        "model": ModelSpec(engine="scripted", name="raises", price=Price(input=1.0, output=4.0)),
        "budget": BudgetSpec(money=0.0095),
    })  # fmt: skip
    planned = plan_job(priced)
    assert planned.money is not None
    money = f"{planned.money.low:.4f} to {planned.money.high:.4f}"
    assert planned.over == (f"budget.money = 0.0095 is not enough: {money} are likely needed",) and "0.0000" not in money
    assert f", {money} USD" in "\n".join(plan_lines(planned))
    assert amounts(Range(0, 1234.5)) == "0.00 to 1,234.50"


@pytest.mark.parametrize(
    "setting",
    [
        "budget.money=5", "budget.roles.nosuch.calls=5", "budget.tokens=5", "answer.gold=nowhere.jsonl",
    ],
)  # fmt: skip
def test_what_a_run_is_refused_for_its_plan_is_refused_for_alike(setting: str, tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path))
    planned = swarm("plan", path, "--set", setting)
    began = swarm("run", path, "--set", setting, "--local", "--runs", tmp_path / "runs")
    errors = began.err[began.err.index("error: ") :]
    assert planned.code == began.code == 2 and planned.err == errors
    assert errors.startswith(f"error: {setting.partition('=')[0].removesuffix('.calls')}: ")
    assert not planned.out and not (tmp_path / "runs").exists()


def test_one_call_is_one_call_in_the_account(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one line\n")
    protocol = {"name": "map_reduce", "options": {"verify": False, "headlines": 0}}
    answer = {"columns": {"thing": "what it is"}, "merge": "set"}
    path = job_file(tmp_path, tmp_path / "a.txt", protocol=protocol, answer=answer, model={"engine": "scripted", "name": "null"})
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs")
    assert said.code == 0 and "against the plan: 1 call (1" in said.err


def test_an_endpoints_time_is_an_assumption_and_says_so(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path)).model_copy(
        update={"model": ModelSpec(engine="openai", name="any", url="http://127.0.0.1:1/v1")}
    )
    planned = plan_job(spec)
    assert planned.seconds is not None and "assuming" in planned.rate


@pytest.mark.model
def test_the_embedded_models_time_comes_from_the_table(tmp_path: Path) -> None:
    planned = plan_job(job(write_sources(tmp_path)).model_copy(update={"model": ModelSpec()}))
    if planned.seconds is not None:  # no rate is claimed for a GPU
        assert planned.seconds.low < planned.seconds.high and "vLLM" in planned.rate


def test_large_input_is_reckoned_from_its_beginning(tmp_path: Path) -> None:
    text = "".join(f"Line {number} says that nothing is to be found here.\n" for number in range(60_000))
    (tmp_path / "large.txt").write_text(text)
    assert len(text) > plan.EXACT_BYTES
    spec = job(tmp_path / "large.txt")
    prepared = prepare(spec)
    size = measure(prepared, pin(spec.inputs))
    whole = [span.tokens for span, _ in pin(spec.inputs).spans(prepared.tokenizer, prepared.protocol.span_tokens)]
    assert not size.exact
    assert size.spans == pytest.approx(len(whole), rel=0.05) and size.tokens == pytest.approx(sum(whole), rel=0.05)
    assert "about" in "\n".join(plan_lines(plan.estimate(prepared, size)))


def test_ranges_add_and_scale() -> None:
    assert Range(1, 2) + Range(3, 4) == Range(4, 6)
    assert Range(1, 2).times(2, 3) == Range(2, 6)
