"""A host: runs many agents at once on one event loop.

Owns playing a task turn by turn, calling the model, and bringing results to the master in batches, which is also how it
gets new work. It holds nothing that is not in the log or lost with its lease: a window is only a cache.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgpack

from swarm import events as ev
from swarm.agents.roles import Role
from swarm.coordinator import Report
from swarm.coordinator.state import AGENT_BUDGET
from swarm.errors import ModelError, SwarmError
from swarm.events import Body, body_hash, identity
from swarm.models.interface import Completion, Model, Request, Sampling
from swarm.protocol import CallModel, Done, Failed, Post, Said, SwarmProtocol
from swarm.runtime.wire import Master, Order, Pull, Work
from swarm.spec import JobSpec
from swarm.window.compose import compose
from swarm.window.pack import Prompt

HEARTBEAT_SECONDS = 5.0
ENGINE_SECONDS = 5.0
"""What an engine may take beyond its own limit: its error says more than the host's."""
REMEMBERED = 4096
"""Digests of prompt segments that a host has brought already, and waits of calls, that it keeps."""
RESAMPLE_TEMPERATURE = 0.7
"""Temperature of a further sample after an output that did not hold its contract; the first is the role's own."""


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


class Purse:
    """What one agent may still spend: (tokens, calls), or None for no limit."""

    def __init__(self, left: tuple[int, int] | None) -> None:
        self._left = left

    def check(self, tokens: int) -> None:
        """Looks before a call whether the agent may spend so much.

        Raises:
            _OutOfBudget: it might pass a limit.
        """
        if self._left is None:
            return
        for limit, needed, left in (("tokens", tokens, self._left[0]), ("calls", 1, self._left[1])):
            if needed > left:
                problem = f"its agent may spend {max(0, left):,} {limit} more, and the next call may take {needed:,}"
                raise _OutOfBudget(problem, f"budget.agent.{limit}")

    def settle(self, tokens: int) -> None:
        """Counts a call that was answered."""
        if self._left is not None:
            self._left = (self._left[0] - tokens, self._left[1] - 1)


class Host:
    """One host of one job."""

    def __init__(
        self, name: str, spec: JobSpec, protocol: SwarmProtocol, roles: Mapping[str, Role], model: Model, agents: int
    ) -> None:
        self.name, self.spec, self.protocol, self.roles, self.model = name, spec, protocol, roles, model
        self.agents = agents
        """How many tasks this host works on at once."""
        self.busy = 0
        self.waits: deque[float] = deque(maxlen=REMEMBERED)
        """Seconds that calls waited for their turn; whoever counts them takes them out."""
        self._calls = asyncio.Semaphore(spec.model.concurrency)
        self._done: list[tuple[Report, dict[str, bytes]]] = []
        self._news = asyncio.Event()
        self._brought: set[str] = set()

    async def run(self, master: Master) -> None:
        """Works until the master says stop. Raises what the master raises.

        The next pull is on its way before the work of the last one begins, so that master and host are busy at once.
        """
        running: set[asyncio.Task[None]] = set()
        pulling = asyncio.create_task(master.pull(self._pull()))
        try:
            while True:
                batch = await pulling
                if batch.order is Order.STOP and not batch.work:
                    return
                self.busy += len(batch.work)
                room = self.busy < self.agents and batch.work
                if room:
                    pulling = asyncio.create_task(master.pull(self._pull()))
                for work in batch.work:
                    task = asyncio.create_task(self._work(work))
                    running.add(task)
                    task.add_done_callback(running.discard)
                if not room:
                    if running:
                        await self._wait()
                    pulling = asyncio.create_task(master.pull(self._pull()))
        finally:
            pulling.cancel()
            for task in running:
                task.cancel()
            await asyncio.gather(pulling, *running, return_exceptions=True)

    def _pull(self) -> Pull:
        """What is done, and a wish for more: at most half of what this host can do, which leaves the other half to work on
        while the master answers."""
        done, self._done = self._done, []
        self._news.clear()
        bodies = {name: data for _, kept in done for name, data in kept.items()}
        want = min(self.agents - self.busy, (self.agents + 1) // 2)
        return Pull(self.name, want, tuple([report for report, _ in done]), bodies)

    async def _wait(self) -> None:
        """Until something is done, and then once around the loop, so that what ends together travels together."""
        try:
            await asyncio.wait_for(self._news.wait(), HEARTBEAT_SECONDS)
        except TimeoutError:
            return
        await asyncio.sleep(0)

    def _bring(self, doing: Doing, retryable: bool = True) -> None:
        report = Report(doing.work.brief.id, doing.work.token, tuple(doing.events), retryable)
        self._done.append((report, doing.bodies))
        doing.events, doing.bodies = [], {}
        self._news.set()

    # ---- one task ----

    async def _work(self, work: Work) -> None:
        doing, retryable = Doing(work), True
        try:
            await self._play(doing)
        except ModelError as error:
            retryable = error.retryable
            self._fail(doing, error.kind, str(error))
        except _OutOfBudget as error:
            retryable = False
            self._fail(doing, AGENT_BUDGET, str(error))
        except SwarmError as error:
            retryable = False
            self._fail(doing, type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001  a fault of a protocol or an engine is data, and costs one task only
            self._fail(doing, "crashed", f"{type(error).__name__}: {error}")
        self.busy -= 1
        self._bring(doing, retryable)

    def _fail(self, doing: Doing, kind: str, text: str) -> None:
        error = doing.keep(text.encode("utf-8", "backslashreplace"))
        doing.events.append(
            ev.TaskFailed(task=doing.work.brief.id, token=doing.work.token, error=error, kind=kind, retry_at=None)
        )

    async def _play(self, doing: Doing) -> None:
        """Turn after turn until the task ends. An output that breaks its contract is drawn again, as a further sample."""
        brief, role = doing.work.brief, self.roles[doing.work.brief.role]
        said, samples, broken = list(doing.work.said), dict(doing.work.samples), 0
        purse = Purse(doing.work.left)
        while True:
            action = self.protocol.turn(brief, doing.work.material, said)
            if isinstance(action, Done):
                self._finish(doing, action)
                return
            if isinstance(action, Failed):
                broken += 1
                if broken >= role.attempts or not said:
                    raise _Malformed(f"the output {action.reason}", f"roles.{role.name}")
                said.pop()
                continue
            turn = len(said)
            if turn >= role.turns:
                raise _Malformed(f"the task took more than {role.turns} turns", f"roles.{role.name}.turns")
            sample = samples.get(turn, 0)
            samples[turn] = sample + 1
            completion = await self._call(doing, role, action, turn, sample, purse)
            said.append(Said(turn, completion.text, completion.finish))
            if role.turns > 1:
                self._bring(doing)  # each turn is recorded as it happens: another host can take up where this one stops

    async def _call(self, doing: Doing, role: Role, action: CallModel, turn: int, sample: int, purse: Purse) -> Completion:
        task = doing.work.brief.id
        prompt = self._window(role, action)
        purse.check(prompt.tokens + role.max_tokens)
        sampling = self._sampling(role, action, prompt.digest, turn, sample)
        self._keep_window(doing, prompt)
        doing.events.append(_started(task, turn, sample, role.weights, prompt, sampling))
        key = identity(task, turn, sample, prompt.digest)
        asked = time.monotonic()
        try:
            async with self._calls, asyncio.timeout(self.spec.model.timeout_s + ENGINE_SECONDS):
                self.waits.append(time.monotonic() - asked)
                completion = await self.model.complete(Request(key, prompt, sampling, role.weights))
        except TimeoutError:
            error = ModelError(
                f"a call took longer than {self.spec.model.timeout_s:g} s", "model.timeout_s",
                "raise it, or lower model.concurrency", kind="timeout",
            )  # fmt: skip
            self._call_failed(doing, turn, sample, error)
            raise error from None
        except ModelError as error:
            self._call_failed(doing, turn, sample, error)
            raise
        purse.settle(completion.tokens_in + completion.tokens_out)
        doing.events.append(
            ev.CallFinished(
                task=task, turn=turn, sample=sample, output=doing.keep(completion.text.encode("utf-8", "surrogatepass")),
                tokens_in=completion.tokens_in, tokens_out=completion.tokens_out, finish=completion.finish,
                weights=completion.weights, seconds=round(completion.seconds, 4),
            )
        )
        return completion

    def _window(self, role: Role, action: CallModel) -> Prompt:
        limit = min(role.window, self.spec.model.window) - role.max_tokens
        return compose(role.name, role.prompt, action.parts, self.model.template, self.model.tokenizer, limit)

    def _keep_window(self, doing: Doing, prompt: Prompt) -> None:
        """Brings the text of each segment once; a passage's is a body of the corpus already."""
        for segment, (digest, *_) in zip(prompt.segments, prompt.manifest, strict=True):
            if segment.kind != "span" and digest not in self._brought:
                if len(self._brought) >= REMEMBERED:
                    self._brought.clear()
                self._brought.add(digest)
                doing.bodies[digest] = segment.text.encode("utf-8", "surrogatepass")

    def _sampling(self, role: Role, action: CallModel, prompt: str, turn: int, sample: int) -> Sampling:
        """The draw's seed comes from the job's and the prompt, so that the same job draws the same under another id."""
        temperature = max(role.temperature, RESAMPLE_TEMPERATURE) if sample else role.temperature
        seed = int(identity(self.spec.seed, prompt, turn, sample), 16) >> 33
        return Sampling(role.max_tokens, temperature, 1.0, seed, dict(action.schema))

    def _call_failed(self, doing: Doing, turn: int, sample: int, error: ModelError) -> None:
        text = doing.keep(str(error).encode("utf-8", "backslashreplace"))
        doing.events.append(
            ev.CallFailed(task=doing.work.brief.id, turn=turn, sample=sample, kind=error.kind, error=text)
        )

    def _finish(self, doing: Doing, action: Done) -> None:
        task = doing.work.brief.id
        notes = [self._note(doing, task, index, post) for index, post in enumerate(action.notes)]
        doing.events.extend(notes)  # all or none: an attempt that fails over one of them must leave none behind
        doing.events.append(
            ev.TaskFinished(task=task, token=doing.work.token, outcome=action.outcome, notes=len(action.notes))
        )

    def _note(self, doing: Doing, task: str, index: int, post: Post) -> ev.NotePosted:
        content: dict[str, Any] = self.protocol.note_kinds[post.kind].model_validate(post.content).__dict__
        return ev.NotePosted(
            note=identity(task, index), kind=post.kind, task=task, body=doing.keep(pack_note(content)),
            status=post.status, cites=post.cites, links=post.links, flags=dict(post.flags),
        )  # fmt: skip


class _OutOfBudget(SwarmError):
    """An agent that has spent what it may."""


class _Malformed(SwarmError):
    """An output that still breaks its contract after every attempt."""


def pack_note(content: Mapping[str, Any]) -> bytes:
    """A note's content as its body holds it."""
    packed: bytes = msgpack.packb(dict(content), unicode_errors="surrogatepass")
    return packed


def _started(task: str, turn: int, sample: int, channel: str, prompt: Prompt, sampling: Sampling) -> ev.CallStarted:
    return ev.CallStarted(
        task=task, turn=turn, sample=sample, channel=channel, prompt=prompt.digest, tokens=prompt.tokens,
        manifest=prompt.manifest, sampling=_settings(sampling),
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _schema_digest(canonical: bytes) -> str:
    return body_hash(canonical)


def _settings(sampling: Sampling) -> dict[str, Any]:
    schema = _schema_digest(msgpack.packb(sampling.schema)) if sampling.schema else ""
    return {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "seed": sampling.seed, "schema": schema}


async def serve(host: Host, master: Master) -> None:
    """Starts the host's model, works until told to stop, and closes the model whatever happens."""
    await host.model.start()
    try:
        await host.run(master)
    finally:
        await host.model.close()
