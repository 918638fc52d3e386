"""An endpoint that answers, and one that fails in every way: over real HTTP on this machine."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from swarm.errors import ModelError
from swarm.models.choose import create_model
from swarm.models.grammar import plain_schema
from swarm.models.interface import Completion, Model, Request, Sampling
from swarm.models.openai import MOST_SECONDS, EndpointModel, compact
from swarm.protocol import Part
from swarm.rows import rows_schema
from swarm.spec import ModelSpec
from swarm.testing.endpoint import NESTED, SILENT, Endpoint
from swarm.window.compose import compose
from swarm.window.tokens import ApproximateTokenizer

PASSAGE = "def get(self):\n    raise QueueEmpty\n"
SECRET = "sk-very-secret-1234"


async def call(spec: ModelSpec, sampling: Sampling) -> Completion:
    return await call_on(create_model(spec), spec, sampling)


async def call_on(model: Model, spec: ModelSpec, sampling: Sampling) -> Completion:
    parts = (
        Part("question", "Question: which?\n"),
        Part("schema", "Columns: function = its name; exception = what it raises; quote = words that show it\n"),
        Part("breadcrumb", "Passage: queues.py > Queue.get\n"),
        Part("span", PASSAGE),
    )
    prompt = compose("reader", "You read.", parts, model.template, model.tokenizer, spec.window)
    await model.start()
    try:
        return await model.complete(Request("k", prompt, sampling, "reader"))
    finally:
        await model.close()


def ask(endpoint: Endpoint | str, **settings: Any) -> Completion:
    url = endpoint if isinstance(endpoint, str) else endpoint.url
    spec = ModelSpec(**{"engine": "openai", "name": "tiny", "url": url, "timeout_s": 5, **settings})
    return asyncio.run(call(spec, Sampling(64, seed=7, schema=rows_schema(2))))


def refused(endpoint: Endpoint | str, **settings: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        ask(endpoint, **settings)
    assert SECRET not in str(caught.value)
    return caught.value


def test_an_answer_comes_back_as_the_engines_here_write_it() -> None:
    with Endpoint() as endpoint:
        completion = ask(endpoint)
    assert completion.text == '[["Queue.get","QueueEmpty","raise QueueEmpty"]]'
    assert completion.weights == "declared:tiny"
    assert completion.finish == "stop"
    assert completion.tokens_in > 0 and completion.tokens_out > 0


def test_a_count_of_tokens_that_cannot_be_is_not_believed() -> None:
    with Endpoint(behaviour="miscounts") as endpoint:
        completion = ask(endpoint)
    assert 0 < completion.tokens_in < 1000 and 0 < completion.tokens_out < 1000


def test_one_call_is_one_request_in_openais_form() -> None:
    with Endpoint() as endpoint:
        ask(endpoint)
        [sent] = endpoint.requests
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert sent["messages"][1]["content"].endswith(PASSAGE)
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["seed"]) == ("tiny", 64, 0.0, 7)
    form = sent["response_format"]["json_schema"]
    assert form["strict"] is True
    assert form["schema"]["properties"] == {"value": plain_schema(rows_schema(2))}


def test_a_server_built_on_vllm_gets_the_schema_as_it_is() -> None:
    with Endpoint(models="vllm") as endpoint:
        assert ask(endpoint).text == '[["Queue.get","QueueEmpty","raise QueueEmpty"]]'
        [sent] = endpoint.requests
    assert sent["response_format"]["json_schema"]["schema"] == plain_schema(rows_schema(2))


def test_an_endpoint_without_a_list_of_models_is_taken_as_it_is() -> None:
    with Endpoint(models="") as endpoint:
        assert json.loads(ask(endpoint).text)


def test_an_output_that_was_cut_off_says_so_and_loses_the_wrapper() -> None:
    with Endpoint(behaviour="length") as endpoint:
        completion = ask(endpoint)
    assert completion.finish == "length"
    assert completion.text.startswith("[")


def test_an_output_nested_ten_thousand_deep_is_no_json_and_left_to_the_agent() -> None:
    with Endpoint(behaviour="nested-answer") as endpoint:
        assert ask(endpoint).text == NESTED


def test_half_a_character_goes_neither_into_an_answer_nor_into_a_request() -> None:
    with Endpoint(behaviour="half-character") as endpoint:
        assert ask(endpoint).text == '[["Queue.get","Empty ?"]]'
        spec = ModelSpec(engine="openai", name="tiny", url=endpoint.url)
        model = create_model(spec)
        prompt = compose("reader", "You read.", (Part("span", "cut \ud83d"),), model.template, model.tokenizer, spec.window)

        async def said() -> None:
            await model.start()
            await model.complete(Request("k", prompt, Sampling(64), "reader"))
            await model.close()

        asyncio.run(said())
        assert endpoint.requests[-1]["messages"][-1]["content"].rstrip().endswith("cut ?")


@pytest.mark.parametrize("after", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "inf", "nan", "soon", "-7", "1e999"])
def test_a_wait_that_is_none_is_a_refusal_like_others(after: str) -> None:
    with Endpoint(behaviour=f"429:{after}") as endpoint:
        error = refused(endpoint)
    assert error.kind == "overloaded" and 0 <= error.after <= MOST_SECONDS


def test_the_key_is_read_from_the_environment_and_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", SECRET)
    with Endpoint(key=SECRET) as endpoint:
        assert ask(endpoint, key="env:TEST_ENDPOINT_KEY").finish == "stop"


def test_a_key_that_is_not_set_is_named_before_any_call() -> None:
    error = refused("http://127.0.0.1:1/v1", key="env:NO_SUCH_KEY_HERE")
    assert "NO_SUCH_KEY_HERE is not set" in str(error)
    assert (error.kind, error.retryable, error.where) == ("refused", False, "model.key")


@pytest.mark.parametrize(
    ("behaviour", "kind", "retryable", "says"),
    [
        ("401", "refused", False, "TEST_ENDPOINT_KEY"),
        ("403", "refused", False, "TEST_ENDPOINT_KEY"),
        ("404", "refused", False, "'tiny'"),
        ("402", "refused", False, "told to answer 402"),
        ("400", "rejected", False, "told to answer 400"),
        ("413", "rejected", False, "told to answer 413"),
        ("422", "rejected", False, "told to answer 422"),
        ("filtered", "rejected", False, "content filter"),
        ("429", "overloaded", True, "too many requests"),
        ("429:7", "overloaded", True, "wait 7 s"),
        ("500", "broken", True, "told to answer 500"),
        ("503", "broken", True, "told to answer 503"),
        ("nonsense", "broken", True, "nonsense"),
        ("empty", "broken", True, "nonsense"),
        ("no-choices", "broken", True, "nonsense"),
        ("nested", "broken", True, "nonsense"),
        ("close", "broken", True, "broke off"),
        ("floods", "broken", True, "more than 8 MiB"),
    ],
)
def test_each_failure_is_named(
    behaviour: str, kind: str, retryable: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", SECRET)
    with Endpoint(key=SECRET, behaviour=behaviour) as endpoint:
        error = refused(endpoint, key="env:TEST_ENDPOINT_KEY")
        assert len(endpoint.requests) == 1, "a call is sent once; trying again is the coordinator's decision"
    assert (error.kind, error.retryable) == (kind, retryable)
    assert says in str(error)
    assert error.where.startswith("model")


def test_a_wrong_key_is_found_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", SECRET)
    with Endpoint(key="another") as endpoint:
        error = refused(endpoint, key="env:TEST_ENDPOINT_KEY")
        assert not endpoint.requests
    assert (error.kind, error.retryable) == ("refused", False)


def test_an_endpoint_that_says_nothing_is_a_timeout() -> None:
    with Endpoint(behaviour="hang") as endpoint:
        error = refused(endpoint, timeout_s=0.3)
    assert (error.kind, error.retryable, error.where) == ("timeout", True, "model.timeout_s")


class Impatient(EndpointModel):
    start_s = 0.3


def test_an_endpoint_that_is_silent_when_asked_for_its_models_is_taken_as_it_is() -> None:
    async def asked(endpoint: Endpoint) -> Completion:
        spec = ModelSpec(engine="openai", name="tiny", url=endpoint.url, timeout_s=600)
        return await call_on(Impatient(spec, ApproximateTokenizer()), spec, Sampling(64, seed=7, schema=rows_schema(2)))

    with Endpoint(models=SILENT) as endpoint:
        assert json.loads(asyncio.run(asyncio.wait_for(asked(endpoint), 60)).text)


def test_an_address_where_nobody_listens_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        error = refused(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert (error.kind, error.where) == ("unreachable", "model.url")


def test_an_address_that_is_none_is_unreachable() -> None:
    assert refused("http://no-such-host.invalid/v1").kind == "unreachable"


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ("scripted", True),
        ("provider/scripted", True),
        ("scripted-2024-08-06", True),
        ("scripted-20241022-v2:0", True),
        ("scripted-08-2024", True),
        ("scripted@20240620", True),
        ("scripted-0613", True),
        ("scripted-002", True),
        ("scripted-v0.2", True),
        ("scripted:latest", True),
        ("scripted-mini", False),
        ("scripted-mini-2024-07-18", False),
        ("scripted-4-5", False),
        ("scripted.1", False),
        ("scripted2", False),
    ],
)
def test_a_dated_name_is_the_same_model_and_a_longer_one_is_another(said: str, same: bool) -> None:
    with Endpoint(behaviour=f"other-model:{said}") as endpoint:
        if same:
            assert ask(endpoint, name="scripted").finish == "stop"
        else:
            error = refused(endpoint, name="scripted")
            assert error.kind == "broken" and error.where == "model.name" and repr(said) in str(error)


def test_an_endpoint_recovers() -> None:
    with Endpoint() as endpoint:
        endpoint.then("500")
        assert refused(endpoint).kind == "broken"
        assert ask(endpoint).finish == "stop"


@pytest.mark.parametrize(
    ("text", "wrapped", "result"),
    [
        ('{"value": [ ["a", "é"] ]}', True, '[["a","é"]]'),
        ('[["a"]]', True, '[["a"]]'),
        ('{"a": 1}', False, '{"a":1}'),
        ('{"value": [["a",', True, '[["a",'),
        ("no JSON", True, "no JSON"),
    ],
)
def test_replies_are_made_compact(text: str, wrapped: bool, result: str) -> None:
    assert compact(text, wrapped) == result
