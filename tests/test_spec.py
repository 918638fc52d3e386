"""Jobs as people write them: the short forms, where paths start, and what is said of a wrong one."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from swarm.errors import SpecError
from swarm.spec import AnswerSpec, Column, InputSpec, JobSpec, ModelSpec, anchored, load_spec, parse_spec

LEAST: dict[str, Any] = {
    "name": "least",
    "question": "What is it?",
    "inputs": ["a.txt"],
    "answer": {"columns": {"thing": "what it is"}},
}


def wrong(**changes: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_spec({**LEAST, **changes}, "job.yaml")
    return caught.value


@pytest.mark.parametrize(
    "change", [{"inputs": []}, {"seed": "x"}, {"colour": 1}, {"weight": 0}, {"answer": {"columns": {}}}, {"name": None}], ids=str
)
def test_a_job_made_in_python_is_refused_in_the_words_of_a_job_file(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        JobSpec(**{**LEAST, **change})
    from_file = wrong(**change)
    assert (caught.value.message, caught.value.cure) == (from_file.message, from_file.cure)
    assert caught.value.where == from_file.where.replace("job.yaml", "job")


def test_a_job_is_pickled_and_checked_again_as_it_was() -> None:
    spec = JobSpec(**LEAST)
    assert pickle.loads(pickle.dumps(spec)) == spec == JobSpec.model_validate(spec.model_dump()) == parse_spec(LEAST)


def test_a_folder_is_no_job_file_and_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a folder, not a job file"):
        load_spec(tmp_path)


def test_the_least_job_has_every_default() -> None:
    spec = parse_spec(LEAST)
    assert spec.inputs == (InputSpec(source="a.txt"),)
    assert spec.answer == AnswerSpec(columns=(Column(name="thing", description="what it is"),))
    assert (spec.protocol.name, spec.model.engine, spec.model.name) == ("map_reduce", "vllm", "embedded")
    assert spec.budget.tokens is None and spec.seed == 0


def test_short_forms_mean_the_long_ones() -> None:
    short = {
        **LEAST,
        "inputs": "a.txt",
        "protocol": "map_reduce",
        "answer": {"columns": {"thing": {"description": "x"}}},
    }
    long = {
        **LEAST,
        "inputs": [{"source": "a.txt"}],
        "protocol": {"name": "map_reduce", "options": {}},
        "answer": {"columns": [{"name": "thing", "description": "x"}]},
    }
    assert parse_spec(short) == parse_spec(long)


def test_a_spec_survives_yaml_and_has_one_digest() -> None:
    spec = parse_spec(LEAST)
    again = parse_spec(yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json"))))
    assert again == spec and again.digest() == spec.digest()
    assert parse_spec({**LEAST, "seed": 1}).digest() != spec.digest()
    shuffled = dict(reversed(list(LEAST.items())))
    assert parse_spec(shuffled).digest() == spec.digest()


def test_a_spec_never_changes() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_spec(LEAST).name = "other"


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"colour": 1}, "job.yaml: colour", "known settings there: answer, budget"),
        ({"model": {"engin": "vllm"}}, "job.yaml: model.engin", "engine"),
        ({"inputs": [{"source": "a", "licens": "x"}]}, "job.yaml: inputs.0.licens", "licence"),
        ({"question": None}, "job.yaml: question", "must be text"),
        ({"seed": "many"}, "job.yaml: seed", "many"),
        ({"budget": {"reserve": 1.0}}, "job.yaml: budget.reserve", "less than 1"),
        ({"model": {"price": {"input": -1, "output": 1}}}, "job.yaml: model.price.input", "or more"),
        ({"model": {"price": {"input": 1}}}, "job.yaml: model.price.output", "is missing"),
        ({"model": {"price": {"input": float("nan"), "output": 1}}}, "job.yaml: model.price.input", "finite"),
        ({"model": {"price": {"input": 1e13, "output": 1}}}, "job.yaml: model.price.input", "or less"),
        ({"budget": {"money": -5}}, "job.yaml: budget.money", "more than 0"),
        ({"budget": {"money": 1e13}}, "job.yaml: budget.money", "or less"),
        ({"budget": {"money": "a lot"}}, "job.yaml: budget.money", "number"),
        ({"budget": {"seconds": float("nan")}}, "job.yaml: budget.seconds", "finite"),
        ({"budget": {"disk": 0}}, "job.yaml: budget.disk", "more than 0"),
        ({"budget": {"roles": {"reader": {"tokens": -1}}}}, "job.yaml: budget.roles.reader.tokens", "more than 0"),
        ({"budget": {"roles": {"reader": {"disk": 1}}}}, "budget.roles.reader.disk", "there: calls, money, tokens"),
        ({"model": {"price": {"input": 1, "output": 1, "inpt": 1}}}, "model.price.inpt", "there: currency, input, output"),
        ({"answer": {"columns": [{"name": "x", "description": "y", "nam": 1}]}}, "columns.0.nam", "there: description, found_in"),
        ({"budget": {"tokens": True}}, "job.yaml: budget.tokens", "is a truth value, not a number"),
        ({"weight": False}, "job.yaml: weight", "is a truth value, not a number"),
        ({"budget": {"agent": {"calls": 0}}}, "job.yaml: budget.agent.calls", "more than 0"),
        ({"budget": {"unpriced": "maybe"}}, "job.yaml: budget.unpriced", "allow"),
        ({"weight": 0}, "job.yaml: weight", "0.001 or more"),
        ({"weight": 1e-18}, "job.yaml: weight", "0.001 or more"),
        ({"budget": {"money": float("inf")}}, "job.yaml: budget.money", "finite"),
        ({"budget": {"tokens": 2**63}}, "job.yaml: budget.tokens", "or less"),
        ({"budget": {"calls": 10**30}}, "job.yaml: budget.calls", "or less"),
        ({"seed": 2**63}, "job.yaml: seed", "or less"),
        ({"seed": -(2**63) - 1}, "job.yaml: seed", "or more"),
        ({"seed": 2**99999}, "job.yaml: seed", "a number of 100000 bits"),
        ({"answer": {"columns": {"thing": "x"}, "top": 2**64}}, "job.yaml: answer.top", "or less"),
        ({"model": {"window": 2**70}}, "job.yaml: model.window", "or less"),
        ({"model": {"concurrency": 2**70}}, "job.yaml: model.concurrency", "or less"),
        ({"protocol": {"options": {"a": {"b": [2**64]}}}}, "job.yaml: protocol.options", "64 bits"),
        ({"inputs": ["a\0b"]}, "job.yaml: inputs.0", "NUL"),
        ({"roles": {"reader": "a\0b"}}, "job.yaml: roles.reader", "NUL"),
        ({"model": {"engine": "openai", "url": "http://[::1/v1"}}, "job.yaml: model.url", "is no address"),
        ({"model": {"engine": "openai", "url": "http://h:port/v1"}}, "job.yaml: model.url", "is no address"),
        ({"model": {"engine": "openai", "url": "http://a..b/v1"}}, "job.yaml: model.url", "is no address"),
        ({"notify": {"webhook": f"http://{'a' * 64}/v1"}}, "job.yaml: notify.webhook", "is no address"),
        ({"model": {"engine": "openai", "url": "h/v1"}}, "job.yaml: model.url", "http://127.0.0.1:8000/v1"),
        ({"model": {"url": "http://x/v1"}}, "job.yaml: model", "only `engine: openai` uses"),
        ({"answer": {"columns": {"thing": "x"}, "statements": True}}, "job.yaml: answer", "keep one of the two"),
        ({"answer": {"columns": {"quote": "x"}}}, "job.yaml: answer", "choose another"),
        ({"answer": {"columns": {"item": "x", "count": "how many"}}}, "job.yaml: answer", "choose another"),
        ({"answer": {"columns": {"Thing": "x"}}}, "job.yaml: answer.columns.Thing", "must be lower-case letters, digits and _"),
        ({"answer": {"columns": {"thing": None}}}, "job.yaml: answer.columns.thing", "is missing"),
        ({"answer": {"columns": {"thing": {"patern": "x"}}}}, "job.yaml: answer.columns.thing.description", "is missing"),
        ({"answer": {"columns": ["thing", "other"]}}, "job.yaml: answer.columns", "such as `columns: {exception: name of"),
        ({"answer": {"columns": "thing"}}, "job.yaml: answer.columns", "must be columns by name"),
        ({"inputs": []}, "job.yaml: inputs", "holds nothing\n  name at least one"),
        ({"inputs": {"source": "a", "licens": "x"}}, "job.yaml: inputs.0.licens", "licence"),
        ({"question": ""}, "job.yaml: question", "is empty"),
        ({"budget": {"tokens": "many"}}, "job.yaml: budget.tokens", "must be a whole number, got 'many'"),
        ({"answer": {"columns": {"thing": {"description": "x", "pattern": "["}}}}, "pattern", "regular expression"),
        ({"answer": {"columns": {"thing": "x"}, "quote_pattern": "("}}, "quote_pattern", "regular expression"),
        ({"answer": {"columns": {"thing": "x"}, "key": ["other"]}}, "job.yaml: answer", "columns are thing"),
        ({"answer": {"columns": {"thing": "x"}, "merge": "sort"}}, "answer.merge", "group"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(changes: dict[str, Any], where: str, words: str) -> None:
    error = wrong(**changes)
    assert where in error.where and words in str(error), str(error)


def test_a_secret_in_an_address_is_refused_and_not_repeated() -> None:
    error = wrong(model={"engine": "openai", "url": "http://me:s3cret@host/v1"})
    assert error.where == "job.yaml: model.url" and "key: env:NAME" in str(error)
    assert "s3cret" not in str(error) and "me:" not in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"engine": "openai", "name": "m", "url": "http://h/v1", "key": ["sk-s3cret"]}},
        {"model": {"engine": "openai", "name": "m", "url": "http://h/v1", "key": "sk-s3cret"}},
        {"model": {"engine": "openai", "name": "m", "url": "http://h/v1", "api_key": "sk-s3cret"}},
        {"model": {"headers": {"Authorization": "Bearer s3cret"}}},
        {"notify": {"webhookToken": "s3cret"}},
        {"model": {"endpoint": "http://me:s3cret@h/v1"}},
    ],
)  # fmt: skip
def test_what_may_be_a_secret_is_not_repeated(changes: dict[str, Any]) -> None:
    assert "s3cret" not in str(wrong(**changes))


@pytest.mark.parametrize("wrong", [{"url": "http://h/v1", "key": "sk-s3cret"}, {"url": "http://me:s3cret@h/v1"}])
def test_a_secret_is_not_repeated_to_python_either(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"key|password") as caught:
        ModelSpec.model_validate({"engine": "openai", **wrong})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"inputs": ["loop"]}, {"roles": {"reader": "./loop"}}, {"model": {"tokenizer": "./loop/x"}}])
def test_a_link_that_leads_to_itself_is_left_to_whoever_opens_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert f"{tmp_path}/loop" in str(anchored(parse_spec({**LEAST, **changes}), tmp_path))


def test_a_few_lines_of_aliases_make_no_long_message() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10)]
    bomb = yaml.safe_load("\n".join(lines))["l9"]
    for changes in ({"question": bomb}, {"colour": bomb}):
        assert len(str(wrong(**changes))) < 2000
    assert "more than 10000 values" in str(wrong(protocol={"options": {"a": bomb}}))


@pytest.mark.parametrize("text", [f"seed: {'9' * 5000}", "a: " + "[" * 3000], ids=["digits", "deep"])
def test_yaml_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(SpecError, match="is not YAML"):
        load_spec(tmp_path / "job.yaml")


def test_yaml_that_is_none_is_named_by_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: least\nquestion: What is it?\ninputs: [a.txt\nanswer: x\n")
    with pytest.raises(SpecError, match=r"job\.yaml, line 4, column 7: is not YAML: while parsing a flow sequence, expected ','"):
        load_spec(tmp_path / "job.yaml")


def test_missing_settings_are_counted() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({"name": "x"}, "job.yaml")
    assert caught.value.where == "job.yaml: question" and "2 more problems" in caught.value.cure


def test_a_job_that_is_no_mapping() -> None:
    with pytest.raises(SpecError, match="list, not a mapping"):
        parse_spec([LEAST])


def test_relative_paths_start_from_the_job_file(tmp_path: Path) -> None:
    data = {
        **LEAST,
        "inputs": ["a.txt", "/b.txt", "python:json", "text:hello", "docs/*.md"],
        "roles": {"reader": "mine.md"},
        "protocol": "ways/mine.py",
        "answer": {**LEAST["answer"], "gold": "gold.jsonl"},
        "model": {"name": "../base", "tokenizer": "org/name", "weights": {"reader": "./mine", "writer": "shipped:reader"}},
        "notify": {"command": ["./tell.sh", "./loud"]},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(data))
    spec = load_spec(tmp_path / "job.yaml")
    assert [item.source for item in spec.inputs] == [
        f"{tmp_path}/a.txt", "/b.txt", "python:json", "text:hello", f"{tmp_path}/docs/*.md",
    ]  # fmt: skip
    assert load_spec(str(tmp_path / "job.yaml")) == spec, "a path may be plain text"
    assert spec.roles == {"reader": f"{tmp_path}/mine.md"} and spec.protocol.name == f"{tmp_path}/ways/mine.py"
    assert spec.answer.gold == f"{tmp_path}/gold.jsonl"
    assert (spec.model.name, spec.model.tokenizer) == (f"{tmp_path.parent}/base", "org/name")
    assert spec.model.weights == {"reader": f"{tmp_path}/mine", "writer": "shipped:reader"}
    assert spec.notify.command == (f"{tmp_path}/tell.sh", "./loud"), "arguments are its own business"
    assert anchored(spec, Path("/elsewhere")) == spec


def test_gold_that_is_computed_is_no_path(tmp_path: Path) -> None:
    spec = anchored(JobSpec.model_validate({**LEAST, "answer": {**LEAST["answer"], "gold": "ast:raises"}}), tmp_path)
    assert spec.answer.gold == "ast:raises"
