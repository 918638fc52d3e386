"""What a job tells Prometheus: the numbers, read from its fold, and their export from a real cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from swarm.runtime.environment import settle
from swarm.runtime.server import ModelServer
from tests.commands import job_file
from tests.jobs import job, run, state_of, write_sources
from tests.ray_head import RayHead


def test_the_numbers_are_those_of_the_log(tmp_path: Path) -> None:
    settle()  # before anything loads ray
    from swarm.runtime.metrics import budget_left, counts

    spec = job(write_sources(tmp_path), budget={"tokens": 100_000, "calls": 40, "disk": 1 << 30})
    state = state_of(run(spec, tmp_path / "runs"))
    found, spent = counts(state), state.total()
    assert {name[1]: count for name, count in found.items() if name[0] == "steps"} == dict(state.finished)
    assert sum(count for name, count in found.items() if name[0] == "tokens") == spent.tokens
    left = dict(budget_left(spec, state, state.time, 1 << 28))
    assert left == {"tokens": 1 - spent.tokens / 100_000, "calls": 1 - spent.calls / 40, "disk": 0.75}


@pytest.fixture
def head() -> Iterator[RayHead]:
    head = RayHead()
    yield head
    head.stop()


def lines(text: str) -> dict[tuple[str, str], float]:
    """(metric, the tags that are ours) → value, summed over processes."""
    found: dict[tuple[str, str], float] = {}
    for name, tags, value in re.findall(r"^ray_(swarm_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        own = ",".join(re.findall(r'\b(?:role|direction|limit)="\w+"', tags))
        found[name, own] = found.get((name, own), 0) + float(value)
    return found


def titles(head: RayHead) -> Iterator[str]:
    """How the processes of a head name themselves."""
    for process in head.processes():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            yield Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8")


WANTED = {
    ("swarm_steps_total", 'role="reader"'), ("swarm_tokens_total", 'direction="in",role="reader"'),
    ("swarm_tokens_total", 'direction="out",role="verifier"'), ("swarm_retries_total", ""), ("swarm_open_questions", ""),
    ("swarm_open_tasks", 'role="reader"'), ("swarm_budget_left", 'limit="tokens"'), ("swarm_queue_wait_seconds_count", ""),
    ("swarm_agents_busy", ""),
}  # fmt: skip


@pytest.mark.ray
def test_a_running_jobs_numbers_are_scraped_and_the_dashboard_reads_like_the_job(head: RayHead, tmp_path: Path) -> None:
    async def scraped() -> str:
        """What Prometheus gets, once it is all there and a host's process has been seen under its name."""
        named = False
        async with asyncio.timeout(90), httpx.AsyncClient() as client:
            while True:
                text = (await client.get(head.metrics)).text
                named |= any(re.match(r"ray::swarm:measured:host@.* \(8 agents, \d busy\)", title) for title in titles(head))
                if named and lines(text).keys() >= WANTED:
                    return text
                await asyncio.sleep(0.2)

    model = {"engine": "scripted", "name": "raises+slow:0.5+flaky:6"}
    file = job_file(tmp_path, write_sources(tmp_path, 60), model=model, budget={"tokens": 400_000})
    said = head.submit(tmp_path, file, "--id", "measured", "--agents", 8)
    assert said.code == 0, said.err
    text = asyncio.run(scraped())
    found = lines(text)
    assert 0 < found["swarm_budget_left", 'limit="tokens"'] < 1 and found["swarm_agents_busy", ""] <= 8
    assert found["swarm_retries_total", ""] >= 1 and found["swarm_open_questions", ""] == 0
    assert not [line for line in text.splitlines() if line.startswith("ray_swarm_") and "measured" in line]
    shown = {actor["name"]: actor["reprName"] for actor in head.ask("/logical/actors")["data"]["actors"].values()}
    assert shown["swarm:measured:master"] == "swarm:measured:master"
    host = next(name for name in shown if name.startswith("swarm:measured:host@"))
    assert shown[host] == f"{host} (8 agents)", "Ray keeps the repr of the beginning"


def test_a_server_that_has_not_begun_says_nothing_of_calls() -> None:
    server = ModelServer("swarm:model:any", {"engine": "scripted", "name": "raises"}, {})
    assert repr(server) == "swarm:model:any", "Ray keeps it"
    asyncio.run(server.start())
    assert repr(server) == "swarm:model:any (0 calls in flight)", "the title of its process changes"
