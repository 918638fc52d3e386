"""One vLLM engine: its settings for CPU or GPU, its processes, their death and their end.

Owns everything between a folder of weights and a running AsyncLLM, and what keeps its processes from outliving their
use. It knows no channels and no calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.errors import ModelError
from swarm.models.loading import load
from swarm.spec import ModelSpec

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

GRAMMAR = {"backend": "guidance", "disable_any_whitespace": True}
CPU_SEQUENCES, GPU_SEQUENCES = 64, 256
CPU_BLOCK = 32
"""Tokens of a prefix-cache block. vLLM's 128 is longer than what a role's prompts share: 32 saves a sixth of the
work."""
CPU_CACHE_BYTES = 1 << 30
CPU_BATCHED_TOKENS = 2048
SHUTDOWN_SECONDS = 10.0
FOLLOW_SECONDS = 0.1
PRIVATE = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
QUIET = {
    "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait cost a busy machine more than they gain
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-all",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}


class Engine:
    """A running engine. `died` is done once one of its processes has ended without being asked to. `flying` and `answered`
    count its calls."""

    def __init__(self, llm: AsyncLLM, processes: set[BaseProcess], watcher: _Watcher) -> None:
        self.llm = llm
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flying = self.answered = 0
        self._processes, self._watcher = processes, watcher
        # vLLM itself lets calls in flight wait for ever.
        for process in processes:
            asyncio.get_running_loop().add_reader(process.sentinel, self._process_ended)

    async def pulse(self) -> tuple[int, int]:
        """Calls in flight, and calls answered so far."""
        return self.flying, self.answered

    def kill(self) -> None:
        """Ends the processes at once; it has died then."""
        for process in self._processes:
            process.kill()

    async def close(self) -> None:
        """Ends the processes and waits until they are gone."""
        self._forget()
        self.llm.shutdown(timeout=SHUTDOWN_SECONDS)
        # Its finaliser would shut it down once more, and complain when that is as late as the interpreter's end.
        vars(self.llm)["shutdown"] = lambda: None
        self._watcher.close()
        for process in self._processes:
            process.join()
        await asyncio.sleep(0)  # lets the engine's own tasks see that they were cancelled

    def _process_ended(self) -> None:
        self._forget()
        if not self.died.done():
            self.died.set_result(None)

    def _forget(self) -> None:
        for process in self._processes:
            asyncio.get_running_loop().remove_reader(process.sentinel)


async def start_engine(folder: Path, spec: ModelSpec, adapters: list[Path], gpu: bool) -> Engine:
    """Loads the weights of `folder`; takes about half a minute on a CPU, and blocks no other task. Cancelled, it ends the
    processes that it has started.

    Raises:
        ModelError: vLLM does not start.
    """
    before, given_up, watcher = set(multiprocessing.active_children()), threading.Event(), _Watcher()
    following = asyncio.create_task(watcher.follow(before))
    try:
        llm = await load(_start, folder, spec, adapters, gpu, given_up)
    except BaseException as problem:
        if isinstance(problem, asyncio.CancelledError):
            given_up.set()
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
        watcher.close()
        raise
    finally:
        following.cancel()
    processes = set(multiprocessing.active_children()) - before
    watcher.add(processes)
    return Engine(llm, processes, watcher)


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def first_line(problem: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__


def _start(folder: Path, spec: ModelSpec, adapters: list[Path], gpu: bool, given_up: threading.Event) -> AsyncLLM:
    """The engine, once it is ready. If nobody waits for it any more, none is started, or it is ended at once."""
    with _environment(QUIET), _deaf_to_interrupts():
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            arguments: Any = AsyncEngineArgs(**_settings(folder, spec, adapters, gpu))
            if given_up.is_set():
                raise ModelError("nobody waits for it any more", "model", "")
            llm = AsyncLLM.from_engine_args(arguments)
            if given_up.is_set():
                llm.shutdown(timeout=0)
            return llm
        except (ValueError, RuntimeError, OSError) as problem:
            raise ModelError(
                f"vLLM does not start with {spec.name}: {first_line(problem)}",
                "model",
                f"check model.window ({spec.window}) and free memory; VLLM_LOGGING_LEVEL=INFO shows more",
                kind="broken",
                retryable=False,
            ) from problem


def _settings(folder: Path, spec: ModelSpec, adapters: list[Path], gpu: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": str(folder),
        "max_model_len": spec.window,
        "max_num_seqs": min(spec.concurrency, GPU_SEQUENCES if gpu else CPU_SEQUENCES),
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "structured_outputs_config": GRAMMAR,
        "seed": 0,
    }
    if gpu:
        return settings | (_lora_settings(adapters) if adapters else {})
    return settings | {
        "enforce_eager": True,
        "block_size": CPU_BLOCK,
        "kv_cache_memory_bytes": max(CPU_CACHE_BYTES, 2 * spec.window * _token_bytes(folder)),
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, settings["max_num_seqs"]),
    }


def _lora_settings(adapters: list[Path]) -> dict[str, Any]:
    rank = max(int(json.loads((adapter / "adapter_config.json").read_text())["r"]) for adapter in adapters)
    # vLLM knows these ranks only; a smaller adapter fits into a larger one.
    known = next((size for size in (1, 8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)
    return {"enable_lora": True, "max_loras": len(set(adapters)), "max_lora_rank": known}


def _token_bytes(folder: Path) -> int:
    """Bytes that keys and values of one token take, in 16 bits, for configurations that say it as most do."""
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    heads = config.get("num_attention_heads", 1)
    size = config.get("head_dim") or config.get("hidden_size", 0) // heads
    return 4 * int(config.get("num_hidden_layers", 0)) * int(config.get("num_key_value_heads") or heads) * int(size)


class _Watcher:
    """A shell that waits for the death of this process and then ends an engine's, which do not watch for it: after a kill -9
    they would keep their memory for ever."""

    def __init__(self) -> None:
        self._known: set[BaseProcess] = set()
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", "while read -r pid; do pids=\"$pids $pid\"; done; kill -9 $pids"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    async def follow(self, others: set[BaseProcess]) -> None:
        """Adds each process that is not of these as soon as it is there, until cancelled: an engine may be killed with its
        driver long before it is ready."""
        while True:
            self.add(set(multiprocessing.active_children()) - others)
            await asyncio.sleep(FOLLOW_SECONDS)

    def add(self, processes: set[BaseProcess]) -> None:
        assert self._shell.stdin is not None, "stdin is a pipe"
        for process in processes - self._known:
            os.write(self._shell.stdin.fileno(), b"%d\n" % (process.pid or 0))
        self._known |= processes

    def close(self) -> None:
        """Nothing is left to end."""
        self._shell.kill()
        self._shell.communicate()


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Settings for the processes that vLLM starts; what it sets for them itself is taken back as well."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in settings.items() if name not in before})
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started by this thread meanwhile do not hear Ctrl-C, which a terminal sends to all: it is for the
    job to pause, with its engine alive."""
    resource_tracker.ensure_running()  # its own start would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
