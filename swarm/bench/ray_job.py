"""The job of `swarm bench overhead` on Ray: the product's actors, with a null model and a store that takes times."""

from __future__ import annotations

import asyncio
from typing import Any

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
        return FleetModel(self._job, job.spec.model, job.channels())


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
