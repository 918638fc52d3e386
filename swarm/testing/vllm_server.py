"""vLLM's own OpenAI-compatible server on this machine, for tests and for the example that needs an endpoint.

Owns the server's process: its command line, its start until it says it is well, and its end with all its
children.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO

from swarm.errors import ModelError
from swarm.models.vllm_engine import CPU_BLOCK, CPU_CACHE_BYTES, GRAMMAR, PRIVATE, QUIET

START_SECONDS = 300.0


class VllmServer:
    """Use as `with VllmServer(folder) as server: … server.url …`; CPU only. Starting takes 40 to 60 seconds.

    Args:
        folder: weights in the layout of Hugging Face, with tokenizer and chat template.
        name: the model's name for callers.
        window: tokens of prompt and output together.
        key: the key that callers must send; empty takes any.

    Raises (on entering):
        ModelError: the server ended, or said nothing for five minutes; with the end of its log.
    """

    def __init__(self, folder: Path, name: str = "embedded", window: int = 2048, key: str = "") -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--model", str(folder), "--served-model-name", name, "--max-model-len", str(window)),
            *("--enforce-eager", "--block-size", str(CPU_BLOCK), "--max-num-seqs", "32"),
            *("--kv-cache-memory-bytes", str(CPU_CACHE_BYTES)),
            *("--structured-outputs-config", json.dumps(GRAMMAR)),
            *("--disable-log-stats", "--no-use-tqdm-on-load", "--disable-uvicorn-access-log"),
        ]
        self._environment = {**os.environ, **PRIVATE, **QUIET, "HF_HUB_OFFLINE": "1"}
        if key:
            self._environment["VLLM_API_KEY"] = key
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)

    def __enter__(self) -> VllmServer:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C for the test does not reach it; __exit__ ends it
        )
        try:
            self._wait(self._process)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        self._log.close()

    def log(self) -> str:
        """What the server has said so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ModelError(f"vLLM's server ended at once:\n{self.log()[-3000:]}", "vllm", retryable=False)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)
        raise ModelError(f"vLLM's server did not come up:\n{self.log()[-3000:]}", "vllm", retryable=False)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the server to end; whatever of its process group is left after that is killed."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
