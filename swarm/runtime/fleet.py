"""The fleet: the model servers of a cluster, shared by its jobs.

Owns which servers exist, starting them once for each set of weights, replacing those that died, and ending those that no
job has held for a while; and the turnstiles of endpoints, which jobs share. One named, detached actor for a cluster. It answers
no calls itself.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
from ray.util import list_named_actors

from swarm.errors import ClusterError, ModelError, SwarmError
from swarm.events import identity
from swarm.models.choose import create_tokenizer
from swarm.models.fair import Account
from swarm.models.interface import Completion, Request
from swarm.models.liveness import PROBE_SECONDS, Pulse, hangs
from swarm.models.rate import NAMED_SECONDS, Asked, Bucket, Gate, Let, Turnstile
from swarm.runtime.cluster import NAMESPACE, answer, is_gone
from swarm.runtime.holds import Holds
from swarm.runtime.server import ModelServer, Server, answers
from swarm.spec import ModelSpec, Rate
from swarm.window.pack import ChatTemplate
from swarm.window.tokens import Tokenizer

FLEET = "swarm:fleet"
REAP_SECONDS = 30.0
"""How often the fleet looks for servers that nobody needs."""
RENEW_SECONDS = 60.0
"""How often a job says that it still needs its server."""
CLOSE_SECONDS = 30.0
"""How long a server may take to end its engines by itself."""
STARTS = 3
"""How many servers in a row a host waits for before it gives up starting."""
SERVED_HERE = ("vllm", "transformers")
"""Engines that load weights, and so run behind a server; the others are called from the host."""


class Fleet:
    """Keeps the servers. Whoever uses one holds it under a name of its own, and renews its hold. `ticks` gives monotonic
    seconds; `probe_seconds` is how long a server may take over one token."""

    def __init__(self, ticks: Callable[[], float] = time.monotonic, probe_seconds: float = PROBE_SECONDS) -> None:
        self._ticks, self._probe_seconds = ticks, probe_seconds
        self._pulses: dict[str, Pulse] = {}
        self._servers: dict[str, Server] = {}
        self._changing: dict[str, asyncio.Lock] = {}
        self._holds = Holds()
        self._ended: set[str] = set()
        self._reaping: asyncio.Task[None] | None = None
        self._turnstiles: dict[str, Turnstile] = {}

    async def enter(self, endpoint: str, rate: dict[str, Any], holds: float, asked: Asked) -> Let:
        """Which calls of a host go out to an endpoint that every job of the cluster shares; see `swarm.models.rate`. What the
        job takes to be the endpoint's limits holds for so many seconds."""
        turnstile, now = self._turnstiles.setdefault(endpoint, Turnstile(Bucket(Rate()))), self._ticks()
        turnstile.bucket.name(now, Rate.model_validate(rate), now + holds)
        return turnstile.ask(now, asked)

    async def acquire(self, holder: str, spec: dict[str, Any], channels: dict[str, str], gpus: float) -> str:
        """The name of a server for these weights, started if there is none that lives."""
        if self._reaping is None or self._reaping.done():
            self._reaping = asyncio.create_task(self._tend())
        own = {key: spec[key] for key in ("engine", "name", "weights", "window", "tokenizer")}
        key = identity(sorted(own.items(), key=str), sorted(channels.items()))
        base = f"swarm:model:{spec['name'].rsplit('/', 1)[-1]}:{key[:8]}"
        async with self._changing.setdefault(base, asyncio.Lock()):
            server = self._servers.get(base)
            if server is not None and not await server.alive():
                await self._end(base, server, kindly=False)
                server = None
            if server is None:
                server = self._servers[base] = await self._make(base, spec, channels, gpus)
            self._holds.hold(holder, server.name, self._ticks())
        await asyncio.wait([server.starting])  # and not the task itself: a caller that leaves must not end it for the others
        if server.starting.cancelled() or server.starting.exception() is not None:
            async with self._changing[base]:
                await self._end(base, server, kindly=False)
        server.starting.result()
        self.hold(holder, server.name)  # a start may take longer than a hold lasts
        return server.name

    def hold(self, holder: str, name: str) -> bool:
        """Renews a hold. False where this fleet has no such server any more."""
        known = any(server.name == name for server in self._servers.values())
        if known:
            self._holds.hold(holder, name, self._ticks())
        return known

    async def release(self, holder: str) -> None:
        """A holder needs its server no more; a server that nobody holds ends after a while."""
        self._holds.release(holder, self._ticks())

    async def waits(self) -> dict[str, Account]:
        """What each job of late has had at these servers and endpoints, and how long its calls waited at most."""
        out: dict[str, Account] = {}
        for server in list(self._servers.values()):
            if server.starting.done():
                with suppress(ClusterError):  # it ended just now
                    out |= await answer(server.actor.waits.remote())
        for turnstile in self._turnstiles.values():
            out |= turnstile.accounts()
        return out

    async def reap(self) -> None:
        """Ends the servers that nobody needs."""
        for base, server in list(self._servers.items()):
            async with self._changing[base]:
                if server.starting.done() and server.name in self._holds.needless(self._ticks()):
                    await self._end(base, server)

    async def look(self) -> None:
        """Ends the servers that have calls and have answered none since the last look, nor answer a probe: a server may say
        that it is well and generate nothing. Its calls fail as those of one that died, and go back."""
        await asyncio.gather(*[self._look(base, server) for base, server in list(self._servers.items())])

    async def _look(self, base: str, server: Server) -> None:
        if not server.starting.done():
            return
        try:
            before, now = self._pulses.get(server.name), await server.pulse()
            self._pulses[server.name] = now
            hung = before is not None and await hangs(before, server.pulse, server.probe, self._probe_seconds)
        except (ClusterError, TimeoutError):
            hung = True
        if hung:
            async with self._changing[base]:
                await self._end(base, server, kindly=False)

    async def close(self) -> None:
        """Ends every server."""
        if self._reaping is not None:
            self._reaping.cancel()
            self._reaping = None
        for base, server in list(self._servers.items()):
            async with self._changing[base]:
                await self._end(base, server)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(REAP_SECONDS)
            await self.reap()
            await self.look()

    async def _make(self, base: str, spec: dict[str, Any], channels: dict[str, str], gpus: float) -> Server:
        """A new server, or one that a fleet before this one has left. Each has a name of its own, since Ray may still keep
        the name of one that has just died."""
        actors = list_named_actors(all_namespaces=True)
        taken = {row["name"] for row in actors if row["namespace"] == NAMESPACE} | self._ended
        for name in sorted(taken - self._ended):
            if name == base or name.startswith(f"{base}#"):
                with suppress(ValueError):  # it ended just now
                    left = ray.get_actor(name, namespace=NAMESPACE)
                    if await answers(left):
                        return Server(name, left, asyncio.create_task(answer(left.start.remote())))
                    ray.kill(left, no_restart=True)  # it hangs, and may hold the GPU that the new one needs
        numbered = (base if number == 1 else f"{base}#{number}" for number in count(1))
        name = next(name for name in numbered if name not in taken)
        kind: Any = ray.remote(ModelServer)
        actor = kind.options(
            name=name, namespace=NAMESPACE, lifetime="detached", num_cpus=0, num_gpus=gpus, max_concurrency=4096
        ).remote(name, spec, channels)
        return Server(name, actor, asyncio.create_task(answer(actor.start.remote())))

    async def _end(self, base: str, server: Server, kindly: bool = True) -> None:
        """Ends a server for good; `kindly` lets it end its engines first."""
        if self._servers.get(base) is not server:
            return  # someone else has ended it already
        del self._servers[base]
        self._ended.add(server.name)
        self._holds.forget(server.name)
        self._pulses.pop(server.name, None)
        if kindly:
            with suppress(SwarmError, TimeoutError):  # whatever it says, it is killed next
                await asyncio.wait_for(answer(server.actor.close.remote()), CLOSE_SECONDS)
        ray.kill(server.actor, no_restart=True)


@dataclass(frozen=True, slots=True)
class Held:
    """A server that a host has acquired, and the weights of each channel on it."""

    name: str
    actor: Any
    weights: Mapping[str, str]


class FleetModel:
    """A model behind a server of the fleet, as a host sees it. Implements `Model`.

    When the server dies, the calls that were on it fail as broken, which they may be tried after, and the next call
    acquires another server, which all calls after it wait for.
    """

    def __init__(self, job: str, spec: ModelSpec, channels: Mapping[str, str], weight: float = 1.0) -> None:
        self._spec, self._channels = spec, dict(channels)
        self._job, self._weight = job, weight
        self._holder = f"{job}:{secrets.token_hex(4)}"
        self._tokenizer, self._template = create_tokenizer(spec)
        self._acquiring: asyncio.Task[Held] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._weights: Mapping[str, str] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def template(self) -> ChatTemplate:
        return self._template

    async def start(self) -> None:
        for last in (*[False] * (STARTS - 1), True):
            try:
                await asyncio.shield(self._acquired())
                break
            except ClusterError as error:
                self._acquiring = None
                if last:
                    raise _broken(error) from error
        self._renewing = asyncio.create_task(self._renew())

    async def complete(self, request: Request) -> Completion:
        acquired = self._acquired()
        try:
            held = await asyncio.shield(acquired)  # a call that runs out of time leaves the start to the others
        except ModelError:
            self._lose(acquired)
            raise
        except SwarmError as error:
            self._lose(acquired)
            raise _broken(error) from error
        try:
            call = held.actor.complete.remote(request, self._job, self._weight)
            completion: Completion = await answer(call)
        except ClusterError as error:
            if is_gone(error):
                self._lose(acquired)
            raise _broken(error) from error
        check_weights(request.channel, held.weights[request.channel], completion.weights)
        return completion

    async def close(self) -> None:
        for task in (self._renewing, self._acquiring):
            if task is not None:
                task.cancel()
        with suppress(ClusterError):  # without a fleet there is nothing to release
            await answer(fleet().release.remote(self._holder))

    def weights(self, channel: str) -> str:
        return self._weights[channel]

    def _acquired(self) -> asyncio.Task[Held]:
        """The one acquisition that every call waits for, begun if there is none."""
        if self._acquiring is None:
            self._acquiring = asyncio.create_task(self._acquire())
        return self._acquiring

    def _lose(self, acquired: asyncio.Task[Held]) -> None:
        """The next call acquires anew. Of many calls that lose one server, only the first finds it still there to lose."""
        if self._acquiring is acquired:
            self._acquiring = None

    async def _acquire(self) -> Held:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        spec = self._spec.model_dump(mode="json")
        name = await answer(fleet().acquire.remote(self._holder, spec, self._channels, gpus))
        try:
            actor = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            raise ClusterError("ended as soon as it had started", name) from None
        weights: dict[str, str] = {channel: await answer(actor.weights.remote(channel)) for channel in ("", *self._channels)}
        for channel, pinned in self._weights.items():
            check_weights(channel, pinned, weights[channel])
        self._weights = weights
        return Held(name, actor, weights)

    async def _renew(self) -> None:
        """Says again and again that the server is needed."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            acquired = self._acquiring
            if acquired is None or not acquired.done() or acquired.cancelled() or acquired.exception() is not None:
                continue
            try:
                known = await answer(fleet().hold.remote(self._holder, acquired.result().name))
            except ClusterError:
                continue  # the fleet is being replaced; the next one is told next time
            if not known:
                self._lose(acquired)


def check_weights(channel: str, pinned: str, answering: str) -> None:
    """Refuses other weights than those that the job's calls began with.

    Raises:
        ModelError: they are others. It is not retryable: what answers must be set right by a person.
    """
    if pinned != answering:
        raise ModelError(
            f"the calls of channel {channel!r} began with weights {pinned} and are now answered by {answering}",
            f"model.weights.{channel}" if channel else "model", "put the weights back, or start a new run",
            kind="refused", retryable=False,
        )  # fmt: skip


def _broken(error: SwarmError) -> ModelError:
    return ModelError(
        f"the model server failed: {error.message}", error.where, "another is started; its log says more", kind="broken"
    )


def fleet_gate(job: str, weight: float, spec: ModelSpec) -> Gate:
    """The way to an endpoint whose turnstile the fleet keeps for all jobs of the cluster."""
    endpoint, rate, holds = identity(spec.url, spec.key), spec.rate.model_dump(), spec.timeout_s + NAMED_SECONDS

    async def send(asked: Asked) -> Let:
        try:
            return await answer(fleet().enter.remote(endpoint, rate, holds, asked))
        except ClusterError:  # the fleet has died, and its turnstiles with it: the next one begins anew
            return await answer(fleet().enter.remote(endpoint, rate, holds, asked))

    return Gate(job, weight, send)


def fleet() -> Any:
    """The cluster's fleet, made if there is none."""
    return ray.remote(Fleet).options(
        name=FLEET, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0, max_concurrency=1024
    ).remote()  # fmt: skip
