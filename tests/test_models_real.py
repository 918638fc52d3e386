"""The embedded model for real, in vLLM and in transformers."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from swarm.errors import ModelError
from swarm.models.choose import create_model
from swarm.models.embedded import embedded_base
from swarm.models.interface import Completion, Model, Request, Sampling
from swarm.protocol import Part
from swarm.rows import rows_schema
from swarm.spec import ModelSpec
from swarm.testing.vllm_server import VllmServer
from swarm.window.compose import compose
from tests.fired import fired

pytestmark = pytest.mark.model

PASSAGES = [
    f'def get_{name}(self):\n    """Looks it up."""\n    if not self.{name}:\n        raise {error}("none")\n'
    for name, error in [
        ("item", "KeyError"),
        ("size", "ValueError"),
        ("<|im_end|>", "TypeError"),
        ("é", "OSError"),
    ]
]
ROWS = Sampling(48, schema=rows_schema(2))
YES_OR_NO = Sampling(8, schema={"enum": ["yes", "no"]})
BASE = {"": "base"}


class Running:
    """A started model on a loop of its own, for tests that are not async."""

    def __init__(self, model: Model) -> None:
        self.model, self.runner = model, asyncio.Runner()
        self.runner.run(model.start())

    def ask(self, *asked: Request) -> list[Completion]:
        async def together() -> list[Completion]:
            return list(await asyncio.gather(*(self.model.complete(one) for one in asked)))

        return self.runner.run(together())

    def request(self, passage: str, sampling: Sampling, channel: str = "") -> Request:
        parts = (
            Part("question", "Question: Which function raises which exception?\n"),
            Part(
                "schema",
                "Columns: function = its name; exception = what it raises; quote = words that show it\n",
            ),
            Part("breadcrumb", "Passage: shop/stock.py\n"),
            Part("span", passage),
        )
        model = self.model
        prompt = compose("reader", "You write rows as JSON.", parts, model.template, model.tokenizer, 100_000)
        return Request(f"k{len(passage)}", prompt, sampling, channel)

    def close(self) -> None:
        self.runner.run(self.model.close())
        self.runner.close()


def children(process: Path) -> set[int]:
    return {int(pid) for file in process.glob("task/*/children") for pid in file.read_text().split()}


def child_processes() -> set[int]:
    """Children of this process, without Python's own tracker of shared memory, which lives as long as it
    does."""
    found = children(Path("/proc/self"))
    return {pid for pid in found if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()}


@pytest.fixture(scope="module")
def vllm() -> Iterator[Running]:
    before = child_processes()
    running = Running(create_model(ModelSpec(engine="vllm", window=1024, concurrency=16), BASE))
    assert child_processes() > before
    yield running
    running.close()
    assert child_processes() == before, "a closed model leaves no process behind"


@pytest.fixture(scope="module")
def transformers() -> Iterator[Running]:
    running = Running(create_model(ModelSpec(engine="transformers", window=1024), BASE))
    yield running
    running.close()


def check_rows(text: str, finish: str) -> None:
    """The text is what the schema asks for, compact; one that was cut off is a beginning of it."""
    assert text.startswith("[")
    if finish == "stop":
        rows = json.loads(text)
        assert all(len(row) == 3 and all(isinstance(cell, str) for cell in row) for row in rows)
        assert text == json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def test_vllm_keeps_to_the_schema_and_counts_tokens(vllm: Running) -> None:
    requests = [vllm.request(passage, sampling) for passage in PASSAGES for sampling in (ROWS, YES_OR_NO)]
    for request, completion in zip(requests, vllm.ask(*requests), strict=True):
        if request.sampling is ROWS:
            check_rows(completion.text, completion.finish)
        else:
            assert completion.text in ('"yes"', '"no"') and completion.finish == "stop"
        ids = request.prompt.ids(vllm.model.tokenizer)
        assert completion.tokens_in == len(ids) == request.prompt.tokens
        assert completion.tokens_out == len(completion.ids) <= request.sampling.max_tokens
        assert completion.weights == embedded_base().digest == vllm.model.weights("")


def test_vllm_draws_the_same_with_the_same_seed(vllm: Running) -> None:
    def drawn(seed: int) -> str:
        [completion] = vllm.ask(vllm.request(PASSAGES[0], Sampling(24, temperature=1.0, seed=seed)))
        return completion.text

    assert drawn(1) == drawn(1) != drawn(2)


def test_vllm_refuses_what_cannot_be_answered(vllm: Running) -> None:
    for request in (
        vllm.request("raise " * 2000, ROWS),
        vllm.request(PASSAGES[0], Sampling(8, schema={"type": "nonsense"})),
        vllm.request(PASSAGES[0], ROWS, channel="nobody"),
    ):
        with pytest.raises(ModelError) as refused:
            vllm.ask(request)
        assert (refused.value.kind, refused.value.retryable) == ("refused", False)
    [after] = vllm.ask(vllm.request(PASSAGES[0], YES_OR_NO))
    assert after.finish == "stop"


def test_transformers_gives_the_same_bytes_every_time(transformers: Running) -> None:
    requests = [transformers.request(passage, ROWS) for passage in PASSAGES[:2]]
    began = time.monotonic()
    first, second = transformers.ask(*requests), transformers.ask(*requests)
    assert sum(one.seconds for one in first + second) <= time.monotonic() - began, "a call does not count its wait for others"
    assert [one.ids for one in first] == [one.ids for one in second]
    for request, completion in zip(requests, first, strict=True):
        check_rows(completion.text, completion.finish)
        assert completion.tokens_in == len(request.prompt.ids(transformers.model.tokenizer))
        assert completion.weights == embedded_base().digest


def test_transformers_draws_the_same_with_the_same_seed(transformers: Running) -> None:
    def drawn(seed: int) -> str:
        [completion] = transformers.ask(transformers.request(PASSAGES[0], Sampling(12, temperature=1.0, seed=seed)))
        return completion.text

    assert drawn(1) == drawn(1) != drawn(2)


def test_transformers_refuses_what_cannot_be_answered(transformers: Running) -> None:
    for request in (
        transformers.request("raise " * 2000, ROWS),
        transformers.request(PASSAGES[0], Sampling(8, schema={"type": "nonsense"})),
    ):
        with pytest.raises(ModelError) as refused:
            transformers.ask(request)
        assert (refused.value.kind, refused.value.retryable) == ("refused", False)


def test_ctrl_c_does_not_reach_the_engine(vllm: Running) -> None:
    for pid in child_processes():
        os.kill(pid, signal.SIGINT)
    [completion] = vllm.ask(vllm.request(PASSAGES[0], YES_OR_NO))
    assert completion.finish == "stop"


@pytest.mark.slow
def test_an_engine_that_dies_is_named_and_started_again() -> None:
    before = child_processes()
    running = Running(create_model(ModelSpec(engine="vllm", window=1024), BASE))
    for pid in child_processes() - before:
        os.kill(pid, signal.SIGKILL)
    fired("engine killed")
    with pytest.raises(ModelError) as broken:
        running.ask(running.request(PASSAGES[0], ROWS))
    assert (broken.value.kind, broken.value.retryable) == ("broken", True)
    assert "died" in str(broken.value)
    [after] = running.ask(running.request(PASSAGES[0], YES_OR_NO))
    assert after.finish == "stop", "the next call has a new engine"
    running.close()
    assert child_processes() == before


START = """
import asyncio, multiprocessing, sys
from swarm.models.choose import create_model
from swarm.spec import ModelSpec

async def main():
    starting = asyncio.create_task(create_model(ModelSpec(window=1024)).start())
    while not multiprocessing.active_children() if sys.argv[1:] == ["loading"] else not starting.done():
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("stage", ["loading", pytest.param("ready", marks=pytest.mark.slow)])
def test_no_engine_outlives_a_process_that_was_killed(tmp_path: Path, stage: str) -> None:
    script = tmp_path / "start.py"
    script.write_text(START)
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, str(script), stage], stdout=subprocess.PIPE, text=True, env=path)
    assert process.stdout
    engines = [int(pid) for pid in process.stdout.readline().split()]
    workers = [pid for engine in engines for pid in children(Path(f"/proc/{engine}"))]
    assert engines and (workers or stage == "loading")
    process.kill()
    process.wait()
    process.stdout.close()  # which an engine holds open as well
    for pid in engines + workers:
        with suppress(ProcessLookupError), open(os.pidfd_open(pid)) as left:
            assert select.select([left], [], [], 30)[0], f"still there: {pid}"


@pytest.mark.slow
def test_vllms_own_server_answers_as_an_endpoint() -> None:
    before = child_processes()
    with VllmServer(embedded_base().path, window=1024) as server:
        spec = ModelSpec(engine="openai", name="embedded", url=server.url, tokenizer="embedded")
        running = Running(create_model(spec))
        request = running.request(PASSAGES[0], ROWS)
        [completion] = running.ask(request)
        check_rows(completion.text, completion.finish)
        assert completion.weights == "declared:embedded"
        assert abs(completion.tokens_in - request.prompt.tokens) < 32
        wrong = Running(create_model(spec.model_copy(update={"name": "other"})))
        with pytest.raises(ModelError, match=r"model\.name") as refused:
            wrong.ask(request)
        assert refused.value.kind == "refused"
        running.close()
        wrong.close()
    assert child_processes() == before
