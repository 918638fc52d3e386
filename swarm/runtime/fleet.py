"""The fleet: the model servers of a cluster, shared by its jobs.

Owns which servers exist, starting them once for each set of weights, and ending them when no job has used them for a
while. One named, detached actor for a cluster. It answers no calls itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import ray

from swarm.events import identity
from swarm.models.choose import create_model, create_tokenizer
from swarm.models.interface import Completion, Request
from swarm.runtime.cluster import NAMESPACE, answer
from swarm.spec import ModelSpec
from swarm.window.pack import ChatTemplate
from swarm.window.tokens import Tokenizer

FLEET = "swarm:fleet"
IDLE_SECONDS = 600.0
"""How long a server without a job is kept, in case the next job wants the same weights."""
CLOSE_SECONDS = 30.0
"""How long a server may take to end its engines by itself."""
SERVED_HERE = ("vllm", "transformers")
"""Engines that load weights, and so run behind a server; the others are called from the host."""


class ModelServer:
    """An engine in an actor. It answers many calls at once."""

    def __init__(self, label: str, spec: dict[str, Any], channels: dict[str, str]) -> None:
        self._label = label
        self._model = create_model(ModelSpec.model_validate(spec), channels)
        self._calls = 0

    def __repr__(self) -> str:
        return f"{self._label} ({self._calls} calls in flight)"

    async def start(self) -> None:
        await self._model.start()

    async def complete(self, request: Request) -> Completion:
        self._calls += 1
        try:
            return await self._model.complete(request)
        finally:
            self._calls -= 1

    def weights(self, channel: str) -> str:
        return self._model.weights(channel)

    async def close(self) -> None:
        await self._model.close()


class Fleet:
    """Keeps the servers. Jobs acquire and release them by name."""

    def __init__(self) -> None:
        self._servers: dict[str, Any] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._jobs: dict[str, set[str]] = {}
        self._idle: dict[str, float] = {}

    async def acquire(self, job: str, spec: dict[str, Any], channels: dict[str, str], gpus: float) -> str:
        """The name of a server for these weights, started if there is none."""
        own = {key: spec[key] for key in ("engine", "name", "weights", "window", "tokenizer")}
        key = identity(sorted(own.items(), key=str), sorted(channels.items()))
        name = f"swarm:model:{spec['name'].rsplit('/', 1)[-1]}:{key[:8]}"
        if name not in self._servers:
            actor = ray.remote(ModelServer)
            self._servers[name] = actor.options(
                name=name, namespace=NAMESPACE, lifetime="detached", num_cpus=0, num_gpus=gpus, max_concurrency=4096
            ).remote(name, spec, channels)
            self._starting[name] = asyncio.create_task(answer(self._servers[name].start.remote()))
        self._jobs.setdefault(name, set()).add(job)
        self._idle.pop(name, None)
        try:
            await asyncio.shield(self._starting[name])
        except BaseException:
            await self._end(name)
            raise
        return name

    async def release(self, job: str) -> None:
        """A job needs its servers no more; those that nobody uses are ended after a while."""
        for name, jobs in self._jobs.items():
            jobs.discard(job)
            if not jobs:
                self._idle.setdefault(name, time.monotonic())
        for name, since in list(self._idle.items()):
            if time.monotonic() - since > IDLE_SECONDS:
                await self._end(name)

    async def close(self) -> None:
        """Ends every server."""
        for name in list(self._servers):
            await self._end(name)

    async def _end(self, name: str) -> None:
        server = self._servers.pop(name, None)
        for table in (self._starting, self._jobs, self._idle):
            table.pop(name, None)
        if server is None:
            return
        try:
            await asyncio.wait_for(answer(server.close.remote()), CLOSE_SECONDS)
        except Exception:  # noqa: BLE001  it is being ended: whatever it says, it is killed next
            pass
        ray.kill(server, no_restart=True)


class FleetModel:
    """A model behind a server of the fleet, as a host sees it. Implements `Model`."""

    def __init__(self, job: str, spec: ModelSpec, channels: Mapping[str, str]) -> None:
        self._job, self._spec, self._channels = job, spec, dict(channels)
        self._tokenizer, self._template = create_tokenizer(spec)
        self._server: Any = None
        self._weights: dict[str, str] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def template(self) -> ChatTemplate:
        return self._template

    async def start(self) -> None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        spec = self._spec.model_dump(mode="json")
        name = await answer(fleet().acquire.remote(self._job, spec, self._channels, gpus))
        self._server = ray.get_actor(name, namespace=NAMESPACE)
        for channel in ("", *self._channels):
            self._weights[channel] = await answer(self._server.weights.remote(channel))

    async def complete(self, request: Request) -> Completion:
        return await answer(self._server.complete.remote(request))

    async def close(self) -> None:
        await answer(fleet().release.remote(self._job))

    def weights(self, channel: str) -> str:
        return self._weights[channel]


def fleet() -> Any:
    """The cluster's fleet, made if there is none."""
    return ray.remote(Fleet).options(
        name=FLEET, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0, max_concurrency=1024
    ).remote()  # fmt: skip
