"""The calls of a host: each from its window to its result, as events.

Owns what stands between an agent's wish and the model's answer: the packed window, the key in the ledger, the answer that
is on record already, the turn at the endpoint's gate, and for calls that somebody may have to pay for the intent that is
durable before they go out. Whether a call that failed is made again is the coordinator's decision.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgpack

from swarm import events as ev
from swarm.agents.roles import Role
from swarm.coordinator import Report
from swarm.errors import FencedError, ModelError
from swarm.events import Body, body_hash, identity
from swarm.models.interface import Completion, Model, Request, Sampling
from swarm.models.rate import Gate
from swarm.protocol import CallModel
from swarm.runtime.limit import Limit
from swarm.runtime.purse import Purse
from swarm.runtime.wire import Master, Pull, Work
from swarm.spec import JobSpec
from swarm.store.responses import Responses
from swarm.window.compose import compose
from swarm.window.pack import Prompt

ENGINE_SECONDS = 5.0
"""What an engine may take beyond its own limit: its error says more than the host's."""
REMEMBERED = 4096
"""Names of texts that a host knows to be durable."""
RESAMPLE_TEMPERATURE = 0.7
"""Temperature of a further sample after an output that did not hold its contract; the first is the role's own."""
SEEDED = ("vllm", "transformers", "scripted")
"""Engines that draw the same for the same seed; an endpoint may or may not."""


@dataclass(slots=True)
class Doing:
    """What one task has produced and not yet brought to the master."""

    work: Work
    events: list[Body] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)

    def keep(self, data: bytes) -> str:
        name = body_hash(data)
        self.bodies[name] = data
        return name

    def take(self, retryable: bool = True, after: float = 0.0) -> tuple[Report, dict[str, bytes]]:
        """All of it, as a report; what comes next begins anew."""
        report = Report(self.work.brief.id, self.work.token, tuple(self.events), retryable, after)
        bodies = self.bodies
        self.events, self.bodies = [], {}
        return report, bodies


@dataclass(frozen=True, slots=True)
class Outside:
    """What a host's calls share with those of other hosts and jobs: the gate of the endpoint, and the answers on record."""

    gate: Gate | None = None
    responses: Responses | None = None


ALONE = Outside()
"""A host that shares nothing."""


class Brought:
    """Which of the texts that windows are made of a host knows to be durable: its master has answered the message that brought
    them.

    What is only on its way does not count. Another message may overtake it, and then a call would be on record before the
    texts that it names.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lacking: set[str] = set()

    def lacks(self, name: str) -> bool:
        """Whether a text that a window needs is still to be brought."""
        if name in self._names:
            return False
        self._lacking.add(name)
        return True

    def add(self, names: Iterable[str]) -> None:
        """These are durable. Only what was lacking is kept: answers and notes, which are many, are never asked for."""
        came = self._lacking.intersection(names)
        if len(self._names) + len(self._lacking) >= REMEMBERED:
            self._names.clear()
            self._lacking.clear()
        self._names |= came
        self._lacking -= came


class Intents:
    """Brings the intents of a host's calls to its master: all that there are at a time in one message and one commit."""

    def __init__(self, host: str, master: Master, brought: Brought) -> None:
        self._host, self._master, self._brought = host, master, brought
        self._waiting: list[tuple[Report, Mapping[str, bytes], asyncio.Future[bool]]] = []
        self._bringing: asyncio.Task[None] | None = None

    async def declare(self, report: Report, bodies: Mapping[str, bytes]) -> bool:
        """Returns when the report is durable; False if it was refused, because its lease has ended."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((report, bodies, future))
        if self._bringing is None or self._bringing.done():
            self._bringing = asyncio.create_task(self._bring())
        return await future

    def close(self) -> None:
        if self._bringing is not None:
            self._bringing.cancel()

    async def _bring(self) -> None:
        await asyncio.sleep(0)  # whoever is ready in this round of the loop comes along
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            bodies = {name: data for _, kept, _ in waiting for name, data in kept.items()}
            pull = Pull(self._host, 0, tuple([report for report, _, _ in waiting]), bodies)
            try:
                refused = (await self._master.pull(pull)).refused
            except Exception as error:  # noqa: BLE001  whatever the master raises, each call must hear of it
                for _, _, future in waiting:
                    if not future.done():
                        future.set_exception(error)
                continue
            self._brought.add(bodies)
            for report, _, future in waiting:
                if not future.done():
                    future.set_result(report.token not in refused)


class Calls:
    """Makes the calls of one host of one job."""

    def __init__(
        self, job: str, spec: JobSpec, model: Model, outside: Outside, intents: Intents, brought: Brought, waits: deque[float]
    ) -> None:
        self._brought, self._waits = brought, waits
        self._job, self._spec, self._model, self._outside, self._intents = job, spec, model, outside, intents
        self.billed = spec.model.billed
        self._slots = asyncio.Semaphore(spec.model.concurrency)
        self._limit = Limit(spec.model.timeout_s + ENGINE_SECONDS)

    async def make(
        self, doing: Doing, role: Role, action: CallModel, turn: int, sample: int, purse: Purse
    ) -> Completion:
        """The answer to an agent's call, which is then among the events of `doing`, as a failure is.

        Raises:
            ModelError: the call failed.
            FencedError: the lease has ended, and the call was not let out.
            WindowError: it does not fit its window.
            OutOfBudget: the agent may not spend so much any more.
        """
        prompt = self._window(role, action)
        sampling = self._sampling(role, action, prompt.digest, turn, sample)
        self._keep_window(doing, prompt)
        asked = time.monotonic()
        async with self._slots:
            self._waits.append(time.monotonic() - asked)
            recorded = self._recorded(prompt, sampling, role.weights, sample)
            if recorded is None:
                purse.check(prompt.tokens + role.max_tokens)
            completion = recorded or await self._answered(doing, role.weights, prompt, sampling, turn, sample)
        if recorded is None:
            purse.settle(completion.tokens_in + completion.tokens_out)
        else:
            doing.events.append(_started(doing, turn, sample, role.weights, prompt, sampling, ""))
        doing.events.append(
            ev.CallFinished(
                task=doing.work.brief.id, turn=turn, sample=sample,
                output=doing.keep(completion.text.encode("utf-8", "surrogatepass")),
                tokens_in=completion.tokens_in, tokens_out=completion.tokens_out, finish=completion.finish,
                weights=completion.weights, seconds=round(completion.seconds, 4), cached=recorded is not None,
            )
        )  # fmt: skip
        return completion

    async def _answered(
        self, doing: Doing, channel: str, prompt: Prompt, sampling: Sampling, turn: int, sample: int
    ) -> Completion:
        """The model's answer. A billed call goes out only when its intent is durable."""
        task = doing.work.brief.id
        key = identity(task, turn, sample, prompt.digest)
        if self._outside.gate is not None:
            await self._outside.gate.enter(prompt.tokens + sampling.max_tokens)
        if self.billed:
            key = call_key(self._job, task, turn, sample, prompt, sampling, self._model.weights(channel))
            doing.events.append(_started(doing, turn, sample, channel, prompt, sampling, key))
            if not await self._intents.declare(*doing.take()):
                raise FencedError("the lease of this task has ended", f"task {task}", "another host has it")
        else:
            doing.events.append(_started(doing, turn, sample, channel, prompt, sampling, ""))
        try:
            completion = await self._completed(Request(key, prompt, sampling, channel))
        except ModelError as error:
            if self._outside.gate is not None and error.kind == "overloaded":
                self._outside.gate.refused(error.after)
            text = doing.keep(str(error).encode("utf-8", "backslashreplace"))
            doubt = self.billed and error.doubt
            doing.events.append(
                ev.CallFailed(task=task, turn=turn, sample=sample, kind=error.kind, error=text, doubt=doubt)
            )
            raise
        if self._outside.gate is not None:
            self._outside.gate.answered()
        if self._outside.responses is not None and self._repeats(sampling, sample):
            self._outside.responses.put(self._cache_key(prompt, sampling, channel), _pack(completion))
        return completion

    async def _completed(self, request: Request) -> Completion:
        try:
            return await self._limit.hold(self._model.complete(request))
        except TimeoutError:
            raise ModelError(
                f"a call took longer than {self._spec.model.timeout_s:g} s", "model.timeout_s",
                "raise it, or lower model.concurrency", kind="timeout", doubt=True,
            ) from None  # fmt: skip

    # ---- answers on record ----

    def _repeats(self, sampling: Sampling, sample: int) -> bool:
        """Whether the answer depends on the request alone. A further sample or vote must never be an earlier one."""
        return sample == 0 and (sampling.temperature == 0 or self._spec.model.engine in SEEDED)

    def _recorded(self, prompt: Prompt, sampling: Sampling, channel: str, sample: int) -> Completion | None:
        if self._outside.responses is None or not self._repeats(sampling, sample):
            return None
        began = time.monotonic()
        data = self._outside.responses.get(self._cache_key(prompt, sampling, channel))
        if data is None:
            return None
        text, tokens_in, tokens_out, finish, weights = msgpack.unpackb(data, unicode_errors="surrogatepass")
        return Completion(text, tokens_in, tokens_out, finish, weights, time.monotonic() - began)

    def _cache_key(self, prompt: Prompt, sampling: Sampling, channel: str) -> str:
        model = self._spec.model
        seed = sampling.seed if sampling.temperature else None
        return _digest(model.engine, model.url, self._model.weights(channel), *_canonical(prompt, sampling, seed))

    # ---- the window ----

    def _window(self, role: Role, action: CallModel) -> Prompt:
        limit = min(role.window, self._spec.model.window) - role.max_tokens
        return compose(role.name, role.prompt, action.parts, self._model.template, self._model.tokenizer, limit)

    def _keep_window(self, doing: Doing, prompt: Prompt) -> None:
        """Brings the text of each segment until it is durable; a passage's is a body of the corpus already."""
        for segment, (digest, *_) in zip(prompt.segments, prompt.manifest, strict=True):
            if segment.kind != "span" and self._brought.lacks(digest):
                doing.bodies[digest] = segment.text.encode("utf-8", "surrogatepass")

    def _sampling(self, role: Role, action: CallModel, prompt: str, turn: int, sample: int) -> Sampling:
        """The draw's seed comes from the job's and the prompt, so that the same job draws the same under another id."""
        temperature = max(role.temperature, RESAMPLE_TEMPERATURE) if sample else role.temperature
        seed = int(identity(self._spec.seed, prompt, turn, sample), 16) >> 33
        return Sampling(role.max_tokens, temperature, 1.0, seed, dict(action.schema))


def call_key(
    job: str, task: str, turn: int, sample: int, prompt: Prompt, sampling: Sampling, weights: str
) -> str:
    """A call's key in the ledger, 32 hexadecimal digits. No attempt is in it: whoever makes the call again, under whatever
    lease, makes the same call, and an endpoint that knows keys can tell."""
    return _digest(job, task, turn, sample, weights, *_canonical(prompt, sampling, sampling.seed))


def _canonical(prompt: Prompt, sampling: Sampling, seed: int | None) -> tuple[Any, ...]:
    """A request, as far as its answer depends on it."""
    schema = _schema_digest(msgpack.packb(sampling.schema)) if sampling.schema else ""
    return prompt.digest, sampling.max_tokens, sampling.temperature, sampling.top_p, seed, schema


def _digest(*parts: Any) -> str:
    return body_hash(msgpack.packb(parts))


def _pack(completion: Completion) -> bytes:
    row = (completion.text, completion.tokens_in, completion.tokens_out, completion.finish, completion.weights)
    packed: bytes = msgpack.packb(row, unicode_errors="surrogatepass")
    return packed


def _started(
    doing: Doing, turn: int, sample: int, channel: str, prompt: Prompt, sampling: Sampling, key: str
) -> ev.CallStarted:
    return ev.CallStarted(
        task=doing.work.brief.id, turn=turn, sample=sample, channel=channel, prompt=prompt.digest, tokens=prompt.tokens,
        manifest=prompt.manifest, sampling=_settings(sampling), key=key,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _schema_digest(canonical: bytes) -> str:
    return body_hash(canonical)


def _settings(sampling: Sampling) -> dict[str, Any]:
    schema = _schema_digest(msgpack.packb(sampling.schema)) if sampling.schema else ""
    return {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "seed": sampling.seed, "schema": schema}
