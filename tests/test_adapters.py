"""Adapters behind vLLM: none is ever loaded in the place of another, which requests in flight may still use."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from swarm.models.liveness import probe_request
from swarm.models.vllm import VllmModel, _lora
from swarm.models.vllm_engine import Engine
from swarm.models.weights import Served
from swarm.spec import ModelSpec
from swarm.window.pack import CHATML
from swarm.window.tokens import ApproximateTokenizer

pytest.importorskip("vllm")
pytestmark = pytest.mark.model


def number(name: str) -> int:
    served = Served(Path("base"), hashlib.blake2b(name.encode(), digest_size=16).hexdigest(), Path(name))
    request = _lora(served)
    assert request is not None and request.lora_name == served.digest and request.lora_path == name
    return int(request.lora_int_id)


def test_each_adapter_has_a_number_of_its_own_that_depends_on_its_digest_alone() -> None:
    numbers = [number(name) for name in "abcdefgh"]
    assert len(set(numbers)) == 8 and min(numbers) > 0
    code = "from tests.test_adapters import number; print([number(name) for name in 'abcdefgh'])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300).stdout
    assert said.split("\n")[-2] == str(numbers), "in another process as well"


def test_weights_without_an_adapter_need_no_number() -> None:
    assert _lora(Served(Path("base"), "0" * 32)) is None


class Slots:
    """vLLM's adapters in small, loaded in place: what came last under a number answers whoever names it, also what is under way.
    It answers with the place of the adapter, once so many requests are under way."""

    def __init__(self, together: int) -> None:
        self.loaded: dict[int, str] = {}
        self.all = asyncio.Barrier(together)

    async def generate(self, prompt: object, parameters: object, name: str, lora_request: Any) -> AsyncIterator[Any]:
        from vllm import CompletionOutput, RequestOutput

        self.loaded[lora_request.lora_int_id] = lora_request.lora_path
        await self.all.wait()
        said = CompletionOutput(0, self.loaded[lora_request.lora_int_id], [1], None, None, finish_reason="stop")
        yield RequestOutput(name, None, [1], None, [said], finished=True)


class Beside(VllmModel):
    """One engine with adapters beside its base, as on a GPU, in which no weights are loaded."""

    async def start(self) -> None:
        base, slots = Path("base"), Slots(len(self._adapters))
        for channel, adapter in self._adapters.items():
            self._served[channel] = Served(base, hashlib.blake2b(channel.encode(), digest_size=16).hexdigest(), adapter)
        nothing: Any = None
        llm: Any = slots
        self._engines[base] = Engine(llm, set(), nothing)


def test_requests_under_way_at_once_are_answered_by_their_own_adapters() -> None:
    channels = ("reader", "verifier", "writer")
    tokenizer, template = ApproximateTokenizer(), CHATML
    model = Beside(ModelSpec(name="any"), {name: Path(name) for name in channels}, tokenizer, template)

    async def together() -> list[str]:
        await model.start()
        asked = [model.complete(probe_request(template, tokenizer, channel)) for channel in channels]
        return [said.text for said in await asyncio.wait_for(asyncio.gather(*asked), 60)]

    assert tuple(asyncio.run(together())) == channels
