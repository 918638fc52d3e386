"""What a cluster of several nodes may do to a job: its master's process is killed, a node is lost with its host.

One cluster of three nodes on this machine serves all of them; the head, where driver and master are, is never lost here.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import ClusterError
from swarm.runtime.environment import settle
from swarm.runtime.session import check
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder
from tests.jobs import answered, contents, events_of, finished, job, resume, run, state_of, write_sources

pytestmark = pytest.mark.ray

SLOW = {"engine": "scripted", "name": "raises+slow:0.05"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    settle()
    from ray.cluster_utils import Cluster

    from swarm.runtime import cluster

    cluster._ensure_token()
    several = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
    try:
        for _ in range(2):
            several.add_node(num_cpus=1, object_store_memory=80_000_000)
        cluster.connect(several.address)
        several.wait_for_nodes()
        yield several
    finally:
        cluster.disconnect()
        several.shutdown()


async def begin(spec: JobSpec, folder: RunFolder) -> tuple[Any, asyncio.Task[None]]:
    from swarm.runtime.actors import RayJob

    driver = RayJob(folder, agents=2)
    prepared, corpus = check(spec)
    await driver.create(prepared.spec, corpus)
    return driver, asyncio.create_task(driver.work())


async def answers(folder: RunFolder, count: int, working: asyncio.Task[None]) -> None:
    while len(answered(events_of(folder))) < count and not working.done():
        await asyncio.sleep(0.01)


def test_ray_neither_restarts_a_master_nor_repeats_its_calls(nodes: Any, tmp_path: Path) -> None:
    """A call that came to no answer may have been carried out: only the log knows, and only a resume reads it."""
    folder = RunFolder(tmp_path, "killed")

    async def scene() -> None:
        driver, working = await begin(job(write_sources(tmp_path, 8), model=SLOW), folder)
        try:
            await answers(folder, 6, working)
            opened = next(event.body for event in events_of(folder) if event.kind == "JobOpened")
            os.kill(opened.pid, signal.SIGKILL)
            with pytest.raises(ClusterError, match="gone"):
                await asyncio.wait_for(working, 300)
        finally:
            await driver.close()

    asyncio.run(scene())
    before = events_of(folder)
    assert state_of(folder).epoch == 1
    resume(folder)
    events = events_of(folder)
    assert events[: len(before)] == before and state_of(folder).status == "done" and state_of(folder).epoch == 2
    assert max(Counter(finished(events)).values()) == 1 and max(Counter(answered(events)).values()) == 1


def test_a_node_that_is_lost_costs_nothing_but_its_leases(nodes: Any, tmp_path: Path) -> None:
    spec, folder = job(write_sources(tmp_path, 24), model=SLOW), RunFolder(tmp_path, "node-lost")
    lost: list[str] = []

    async def scene() -> None:
        driver, working = await begin(spec, folder)
        try:
            await answers(folder, 20, working)
            victim = nodes.worker_nodes and next(iter(nodes.worker_nodes))
            lost.append(victim.node_id[:6])
            await asyncio.to_thread(nodes.remove_node, victim, allow_graceful=False)
            await asyncio.wait_for(working, 300)
        finally:
            await driver.close()

    asyncio.run(scene())
    events = events_of(folder)
    assert state_of(folder).status == "done" and state_of(folder).epoch == 1
    hosts = {event.body.host for event in events if event.kind == "TaskLeased"}
    assert len({host.rpartition(":")[2] for host in hosts}) >= 2, f"several nodes worked: {hosts}"
    assert max(Counter(finished(events)).values()) == 1 and max(Counter(answered(events)).values()) == 1
    undisturbed = run(spec, tmp_path, id="undisturbed")
    assert contents(folder, "finding") == contents(undisturbed, "finding")
