"""The `ray` shell: a JobMaster actor, one AgentHost actor a node, and the driver that owns them.

Owns how master and hosts become actors and find each other. They die with their driver; the log does not.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, TypeVar

import ray
from ray import _raylet

from swarm.corpus import Pinned
from swarm.errors import ClusterError, ModelError, ProtocolError
from swarm.models.choose import create_model
from swarm.models.interface import Model
from swarm.runtime.cluster import NAMESPACE, answer, is_gone
from swarm.runtime.collector import calm_collector
from swarm.runtime.fleet import SERVED_HERE, FleetModel, fleet_gate
from swarm.runtime.host import Host, serve
from swarm.runtime.local import first_error
from swarm.runtime.metrics import HostMetrics, MasterMetrics, reporting
from swarm.runtime.outside import outside
from swarm.runtime.prepare import Prepared, prepare
from swarm.runtime.session import Session
from swarm.runtime.wire import Batch, Pull, pack_batch, pack_pull, unpack_batch, unpack_pull
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder

HOST_LIVES = 3
"""How often a lost host is replaced before its node is given up; without any, the job is left to be resumed."""
T = TypeVar("T")


class MasterActor:
    """A JobMaster in an actor, on the node of its run folder."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._session: Session | None = None

    def __repr__(self) -> str:
        if self._session is None:
            return f"swarm:{self._run.id}:master"
        state = self._session.master.state
        return f"swarm:{self._run.id}:master ({state.phase}, {sum(state.finished.values())} steps, {len(state.board)} notes)"

    @property
    def session(self) -> Session:
        assert self._session is not None, "create or resume comes first"
        return self._session

    def create(self, spec: dict[str, Any], corpus: Pinned) -> None:
        self._session = Session.create(prepare(JobSpec.model_validate(spec)), corpus, self._run)

    def resume(self, pinned: bool, budget: tuple[str, ...], at: int | None, since: int | None) -> dict[str, Any]:
        self._session = Session.resume(self._run, pinned, budget, at, since)
        return self.session.job.spec.model_dump(mode="json")

    def role_texts(self) -> dict[str, str]:
        return dict(self.session.job.role_texts)

    def open(self, patient: bool) -> None:
        self.session.open("ray", patient)

    async def begin(self) -> None:
        await self.session.begin()

    async def tend(self) -> None:
        master = self.session.master
        metrics = MasterMetrics(master.job.spec, master.state)
        with calm_collector():
            async with reporting(lambda: metrics.report(master.state, time.time(), master.coordinator.disk)):
                await self.session.tend()

    async def pull(self, data: bytes) -> bytes:
        return pack_batch(await self.session.master.pull(unpack_pull(data)))

    async def lost(self, host: str, reason: str) -> None:
        self.session.master.lost(host, reason)

    async def reported(self, files: dict[str, str]) -> None:
        self.session.reported(files)

    async def raise_failed(self) -> None:
        self.session.raise_failed()

    async def left(self, error: ModelError | ProtocolError) -> None:
        self.session.left(error)

    async def told(self) -> None:
        await self.session.told()

    async def close(self) -> None:
        self.session.close()


class MasterHandle:
    """A master behind an actor handle, as a host sees it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def pull(self, pull: Pull) -> Batch:
        return unpack_batch(await answer(self._actor.pull.remote(pack_pull(pull))))


class HostActor:
    """A host in an actor. `run` returns when the job rests."""

    def __init__(
        self, run: RunFolder, name: str, spec: dict[str, Any], roles: dict[str, str], master: Any, agents: int
    ) -> None:
        self._job, self._name, self._runs = run.id, name, False
        job = prepare(JobSpec.model_validate(spec), roles)
        shared = outside(run.id, job.spec, run.root, fleet_gate)
        self._host = Host(name, job.spec, job.protocol, job.roles, self.model(job), agents, run.id, shared)
        self._master = MasterHandle(master)

    def model(self, job: Prepared) -> Model:
        """What answers this host's calls."""
        if job.spec.model.engine in SERVED_HERE:
            return FleetModel(self._job, job.spec.model, job.channels(), job.spec.weight)
        return create_model(job.spec.model, job.channels())

    def __repr__(self) -> str:
        """Ray asks once, before any work: what changes is left out until then, or it would stay wrong for ever."""
        busy = f", {self._host.busy} busy" if self._runs else ""
        return f"swarm:{self._job}:{self._name} ({self._host.agents} agents{busy})"

    async def run(self) -> None:
        self._runs, metrics = True, HostMetrics(self._host)

        def report() -> None:
            metrics.report()
            show(self)

        with calm_collector():
            async with reporting(report):
                await serve(self._host, self._master)

    def memory(self) -> int:
        """Bytes of this process that are in memory."""
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def show(actor: object) -> None:
    """Names this process after what its actor does now, as the dashboard's list of a node's processes and `ps` show it.

    Ray keeps the actor's own repr of the time when it was made. What names the process is not among Ray's public names, so
    that it may go.
    """
    name: Any = getattr(_raylet, "setproctitle", None)
    if name is not None:
        name(f"ray::{actor!r}")


class RayJob:
    """The driver's side of one job: makes the actors, waits, replaces hosts that are lost."""

    def __init__(
        self, run: RunFolder, agents: int, master: type[MasterActor] = MasterActor, host: type[HostActor] = HostActor
    ) -> None:
        self.run, self.agents = run, agents
        self._host_kind = host
        self.hosts: list[Any] = []
        """Handles of the hosts that were started, the lost ones included."""
        self._working = 0
        """Nodes whose host is not given up."""
        node = ray.get_runtime_context().get_node_id()
        self.master: Any = self._actor(master, f"swarm:{run.id}:master", node, 4096).remote(run)
        self.spec: dict[str, Any] = {}

    async def create(self, spec: JobSpec, corpus: Pinned) -> None:
        self.spec = spec.model_dump(mode="json")
        await self._answer(self.master.create.remote(self.spec, corpus))

    async def resume(
        self, pinned: bool, budget: tuple[str, ...] = (), at: int | None = None, since: int | None = None
    ) -> None:
        self.spec = await self._answer(self.master.resume.remote(pinned, budget, at, since))

    async def work(self, patient: bool = False) -> None:
        """Runs the job until it rests; `patient` is as in `Session.open`.

        Raises:
            SwarmError: what made it impossible to go on; the job is left to be resumed. A fault of the program comes out
                as itself, not in a group.
        """
        await self._answer(self.master.open.remote(patient))  # before who tends it finds a job that rests, and leaves
        roles = await self._answer(self.master.role_texts.remote())
        nodes = [node for node in ray.nodes() if node["Alive"]]
        await together(
            self._answer(self.master.begin.remote()),
            self._answer(self.master.tend.remote()),
            *[self._host(node["NodeID"], node["NodeManagerHostname"], roles) for node in nodes],
        )
        await self._answer(self.master.raise_failed.remote())

    async def _host(self, node: str, hostname: str, roles: dict[str, str]) -> None:
        """Keeps one host alive on a node. One that is lost again and again, or with its node, is given up while others work."""
        self._working += 1
        for life in range(1, HOST_LIVES + 1):
            name = f"host@{hostname}" if life == 1 else f"host@{hostname}#{life}"
            actor = self._actor(self._host_kind, f"swarm:{self.run.id}:{name}:{node[:6]}", node, 16).remote(
                self.run, f"{name}:{node[:6]}", self.spec, roles, self.master, self.agents
            )
            self.hosts.append(actor)
            try:
                await self._answer(actor.run.remote())
                return
            except ClusterError as error:
                lost = error
                await self._answer(self.master.lost.remote(f"{name}:{node[:6]}", error.message))
        self._working -= 1
        if not self._working:
            raise lost

    async def reported(self, files: Mapping[str, str]) -> None:
        await self._answer(self.master.reported.remote(dict(files)))

    async def left(self, error: ModelError | ProtocolError) -> None:
        await self._answer(self.master.left.remote(error))

    async def told(self) -> None:
        await self._answer(self.master.told.remote())

    async def close(self) -> None:
        """Leaves the job, and ends its actors: a resume from this same driver needs their names."""
        for host in self.hosts:
            ray.kill(host, no_restart=True)
        try:
            await answer(self.master.close.remote())
        except ClusterError:
            return  # the master is gone already; its log says where it stopped
        ray.kill(self.master, no_restart=True)

    async def _answer(self, reference: Awaitable[T]) -> T:
        """As `answer`; of an actor that is gone it says how to go on with this job."""
        try:
            return await answer(reference)
        except ClusterError as error:
            if not is_gone(error):
                raise
            cure = f"the log is safe: `swarm resume {self.run.id}{self.run.option}` goes on"
            raise ClusterError(error.message, error.where, cure) from error.__cause__

    def _actor(self, kind: type, name: str, node: str, concurrency: int) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return ray.remote(kind).options(
            name=name, namespace=NAMESPACE, num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=concurrency,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
        )  # fmt: skip


async def together(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs the parts until all are done or one fails, which ends the others. Raises its error as itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as several:
        error = first_error(several)
        raise error from error.__cause__
