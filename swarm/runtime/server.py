"""A model server: an engine in an actor, and what the fleet knows of it.

Owns the starting of the engine and the question whether a server lives. Which servers there are, the fleet says.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

from swarm.errors import ClusterError
from swarm.models.choose import create_model
from swarm.models.fair import Account, FairQueue
from swarm.models.interface import Completion, Request
from swarm.models.liveness import Pulse, probe_request
from swarm.runtime.cluster import answer
from swarm.spec import ModelSpec

PING_SECONDS = 30.0
"""How long a server that has started may take to say that it lives."""


class ModelServer:
    """An engine in an actor. It answers many calls at once."""

    def __init__(self, label: str, spec: dict[str, Any], channels: dict[str, str]) -> None:
        self._label = label
        made = ModelSpec.model_validate(spec)
        self._model = create_model(made, channels)
        self._queue = FairQueue(made.concurrency)
        self._calls = self._answered = 0
        self._probe = probe_request(self._model.template, self._model.tokenizer, next(iter(channels), ""))
        self._starting = asyncio.Lock()
        self._started = False

    def __repr__(self) -> str:
        """Ray asks once, before any call: how many are in flight is left out until then, or it would stay wrong for ever."""
        return f"{self._label} ({self._calls} calls in flight)" if self._started else self._label

    async def start(self) -> None:
        """Starts the engine, once: a fleet that finds this server at work asks again."""
        async with self._starting:
            if not self._started:
                await self._model.start()
                self._started = True

    async def ping(self) -> int:
        """The id of this process. That it comes says that the server lives."""
        return os.getpid()

    async def complete(self, request: Request, job: str = "", weight: float = 1.0) -> Completion:
        """Answers a call of a job when its turn comes; the jobs here share the engine by their weights."""
        tokens = request.prompt.tokens + request.sampling.max_tokens
        async with self._queue.turn(job, weight, tokens):
            self._calls += 1
            try:
                completion = await self._model.complete(request)
                self._answered += 1  # a call that runs out of time says nothing of whether the server lives
                return completion
            finally:
                self._calls -= 1

    def waits(self) -> dict[str, Account]:
        """What each job has had here, and how long its calls waited at most."""
        return self._queue.accounts()

    async def pulse(self) -> Pulse:
        """Calls in flight, and calls answered so far."""
        return self._calls, self._answered

    async def probe(self) -> None:
        """Generates one token."""
        await self._model.complete(self._probe)

    def weights(self, channel: str) -> str:
        return self._model.weights(channel)

    async def close(self) -> None:
        await self._model.close()


@dataclass(frozen=True, slots=True)
class Server:
    """A server that the fleet keeps. `starting` is over when it can be called, or has failed to start."""

    name: str
    actor: Any
    starting: asyncio.Task[None]

    async def alive(self) -> bool:
        """Whether it can be called, or may yet be."""
        if not self.starting.done():
            return True
        if self.starting.cancelled() or self.starting.exception() is not None:
            return False
        return await answers(self.actor)

    async def pulse(self) -> Pulse:
        """See `ModelServer.pulse`.

        Raises:
            ClusterError: it is gone.
            TimeoutError: it does not even say this.
        """
        return await asyncio.wait_for(answer(self.actor.pulse.remote()), PING_SECONDS)

    async def probe(self) -> None:
        """See `ModelServer.probe`."""
        await answer(self.actor.probe.remote())


async def answers(actor: Any) -> bool:
    """Whether a server says that it lives."""
    try:
        await asyncio.wait_for(answer(actor.ping.remote()), PING_SECONDS)
    except (ClusterError, TimeoutError):
        return False
    return True
