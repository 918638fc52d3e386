"""What a cluster of several nodes may do to a job: its master's process is killed, a node is lost with its host.

One cluster of three nodes on this machine serves all of them; the head, where driver and master are, is never lost here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.coordinator.coordinator import LEASE_SECONDS
from swarm.errors import ClusterError
from swarm.events import Event, LeaseEnded, RangeLeased, TaskFailed, TaskFinished, TaskLeased
from swarm.runtime.session import check
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder
from tests.fired import fired, measured
from tests.jobs import answered, contents, events_of, finished, job, resume, run, state_of, write_sources

pytestmark = pytest.mark.ray

SLOW = {"engine": "scripted", "name": "raises+slow:0.05"}
SLOWER = {"engine": "scripted", "name": "raises+slow:0.3"}
NODE_LOSS = "from the loss of a node to its leases' next holder"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
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


def leases(events: list[Event]) -> dict[int, str]:
    """Token → host, of those that have not ended."""
    held: dict[int, str] = {}
    for event in events:
        if isinstance(event.body, TaskLeased | RangeLeased):
            held.update((token, event.body.host) for *_, token in event.body.leases())
        elif isinstance(event.body, LeaseEnded | TaskFinished | TaskFailed):
            held.pop(event.body.token, None)
    return held


async def holding(nodes: Any, folder: RunFolder, working: asyncio.Task[None]) -> Any:
    """A node, other than the head, whose host holds a lease."""
    while not working.done():
        hosts = {host.rpartition(":")[2] for host in leases(events_of(folder)).values()}
        for node in nodes.worker_nodes:
            if node.node_id[:6] in hosts:
                return node
        await asyncio.sleep(0.01)
    raise AssertionError("no node but the head ever held a lease")


def test_ray_neither_restarts_a_master_nor_repeats_its_calls(nodes: Any, tmp_path: Path) -> None:
    """A call that came to no answer may have been carried out: only the log knows, and only a resume reads it."""
    folder = RunFolder(tmp_path, "killed")

    async def scene() -> None:
        driver, working = await begin(job(write_sources(tmp_path, 8), model=SLOW), folder)
        try:
            await answers(folder, 6, working)
            opened = next(event.body for event in events_of(folder) if event.kind == "JobOpened")
            os.kill(opened.pid, signal.SIGKILL)
            fired("master killed")
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
    """And its leases end, and are another host's, within the time that is promised."""
    spec, folder = job(write_sources(tmp_path, 24), model=SLOWER), RunFolder(tmp_path, "node-lost")
    lost: dict[str, float] = {}

    async def scene() -> None:
        driver, working = await begin(spec, folder)
        try:
            await answers(folder, 20, working)
            victim = await holding(nodes, folder, working)
            lost[victim.node_id[:6]] = time.time()
            await asyncio.to_thread(nodes.remove_node, victim, allow_graceful=False)
            await asyncio.wait_for(working, 300)
        finally:
            await driver.close()

    asyncio.run(scene())
    events, ((node, at),) = events_of(folder), lost.items()
    assert state_of(folder).status == "done" and state_of(folder).epoch == 1
    leased = [event.body for event in events if isinstance(event.body, TaskLeased | RangeLeased)]
    assert len({lease.host.rpartition(":")[2] for lease in leased}) >= 2, f"several nodes worked: {leased}"
    tokens = {token for lease in leased if lease.host.rpartition(":")[2] == node for *_, token in lease.leases()}
    ended = [event for event in events if isinstance(event.body, LeaseEnded) and event.body.token in tokens]
    assert ended, "the node held leases when it was lost, and none of them ended for it"
    fired("node lost")
    for event in ended:
        again = next(one for one in events[event.seq :] if isinstance(one.body, TaskLeased) and one.body.task == event.body.task)
        assert again.body.token not in tokens
        measured(NODE_LOSS, again.time - at)
        assert again.time - at <= LEASE_SECONDS + 10
    assert max(Counter(finished(events)).values()) == 1 and max(Counter(answered(events)).values()) == 1
    undisturbed = run(spec, tmp_path, id="undisturbed")
    assert contents(folder, "finding") == contents(undisturbed, "finding")
