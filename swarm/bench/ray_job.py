"""The jobs of `swarm bench overhead` and `overload` on Ray: the product's actors, with a null model or a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarm.bench.overload import LOOK_SECONDS, Watch
from swarm.bench.timing import TimedStore
from swarm.corpus import Pinned
from swarm.models.interface import Model
from swarm.runtime import cluster
from swarm.runtime.actors import HostActor, MasterActor, RayJob
from swarm.runtime.cluster import answer
from swarm.runtime.fleet import FleetModel, fleet
from swarm.runtime.prepare import Prepared
from swarm.runtime.session import check
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder
from swarm.testing.null import NullModel


class TimedMaster(MasterActor):
    """A master whose store takes times."""

    def create(self, spec: dict[str, Any], corpus: Pinned) -> None:
        super().create(spec, corpus)
        self._timed = TimedStore(self.session.store, self._run.log)
        self.session.master.store = self._timed

    def figures(self) -> dict[str, Any]:
        return self._timed.figures()


class NullHost(HostActor):
    """A host that calls a null model in its own process."""

    def model(self, job: Prepared) -> Model:
        return NullModel(job.tokenizer, job.template)


class ServedHost(HostActor):
    """A host that calls the job's scripted model behind a ModelServer, one remote call for each call."""

    def model(self, job: Prepared) -> Model:
        return FleetModel(self._job, job.spec.model, job.channels(), job.spec.weight)


async def work_on_ray(spec: JobSpec, run: RunFolder, agents: int, served: bool) -> dict[str, Any]:
    """Runs the job on a cluster that is started for it; returns its figures."""
    _, corpus = check(spec)
    await asyncio.to_thread(cluster.connect, "", False)
    try:
        job = RayJob(run, agents, TimedMaster, ServedHost if served else NullHost)
        await job.create(spec, corpus)
        try:
            await job.work()
            figures: dict[str, Any] = await answer(job.master.figures.remote())
            memory = [await answer(host.memory.remote()) for host in job.hosts]
            return {**figures, "host_mb": round(max(memory) / 1e6, 1)}
        finally:
            await job.close()
            if served:
                await answer(fleet().close.remote())
    finally:
        await asyncio.to_thread(cluster.disconnect)


async def crowd_on_ray(specs: Mapping[str, JobSpec], root: Path, agents: int) -> Watch:
    """Runs all jobs at once on a cluster that is started for them, before one server or endpoint; what was seen of its queue.

    The memory watched is the largest of any host's.
    """
    await asyncio.to_thread(cluster.connect, "", False)
    watch = Watch(len(specs))
    try:
        looking = asyncio.create_task(_look(watch))
        jobs = [asyncio.create_task(_one_of_many(spec, RunFolder(root, id), agents)) for id, spec in specs.items()]
        watch.peak = max(await asyncio.gather(*jobs))
        looking.cancel()
        watch.accounts = await answer(fleet().waits.remote())
        await answer(fleet().close.remote())
    finally:
        await asyncio.to_thread(cluster.disconnect)
    return watch


async def _one_of_many(spec: JobSpec, run: RunFolder, agents: int) -> int:
    _, corpus = check(spec)
    job = RayJob(run, agents, MasterActor, HostActor if spec.model.engine == "openai" else ServedHost)
    await job.create(spec, corpus)
    try:
        await job.work()
        return max([int(await answer(host.memory.remote())) for host in job.hosts])
    finally:
        await job.close()


async def _look(watch: Watch) -> None:
    while True:
        watch.look(await answer(fleet().waits.remote()))
        await asyncio.sleep(4 * LOOK_SECONDS)
