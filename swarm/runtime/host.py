"""A host: runs many agents at once on one event loop.

Owns playing a task turn by turn, and bringing results to the master in batches, which is also how it gets new work. How a
call is made, `calls` knows. It holds nothing that is not in the log or lost with its lease: a window is only a cache.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgpack

from swarm import events as ev
from swarm.agents.roles import Role
from swarm.coordinator import Report
from swarm.coordinator.tables import AGENT_BUDGET, MALFORMED
from swarm.errors import FencedError, ModelError, ProtocolError, SpecError, SwarmError
from swarm.events import identity
from swarm.models.interface import Model
from swarm.protocol import Done, Failed, Post, Said, SwarmProtocol
from swarm.runtime.calls import ALONE, Brought, Calls, Doing, Intents, Outside
from swarm.runtime.purse import OutOfBudget, Purse
from swarm.runtime.wire import Batch, Master, Order, Pull, Work
from swarm.spec import JobSpec

HEARTBEAT_SECONDS = 1.0
"""How often a host lets its master hear of it while it has nothing to bring, and hears of calls that nobody waits for."""
START_LOOK_SECONDS = 1.0
"""How often a host whose model is starting asks whether it is still needed."""
AHEAD = 2
"""Pulls that may be under way at once."""
REMEMBERED = 4096
"""Waits of calls that a host keeps."""
_PACKER = msgpack.Packer(unicode_errors="surrogatepass")


class Host:
    """One host of one job."""

    def __init__(
        self,
        name: str,
        spec: JobSpec,
        protocol: SwarmProtocol,
        roles: Mapping[str, Role],
        model: Model,
        agents: int,
        job: str = "",
        outside: Outside = ALONE,
        heartbeat: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.name, self.spec, self.protocol, self.roles, self.model = name, spec, protocol, roles, model
        self.job, self.outside = job, outside
        self.agents = min(agents, 2 * spec.model.concurrency)
        """How many tasks this host works on at once: no more than keep the model busy, so that what becomes urgent does not
        queue behind tasks that were taken long before their calls can go out."""
        self.busy = 0
        self.waits: deque[float] = deque(maxlen=REMEMBERED)
        """Seconds that calls waited for their turn; whoever counts them takes them out."""
        self._heartbeat = heartbeat
        self._done: list[tuple[Report, dict[str, bytes]]] = []
        self._news = asyncio.Event()
        self._running: dict[int, asyncio.Task[None]] = {}
        """Token → the work on its lease."""
        self._pulls: dict[asyncio.Task[Batch], Pull] = {}
        """Pulls that are not answered yet, in the order in which they were sent."""
        self._more = True
        """Whether the master had work to give when it was last asked for some."""
        self._dropped: set[int] = set()

    async def run(self, master: Master) -> None:
        """Works until the master says stop. Raises what the master raises.

        The next pull is on its way before the work of the last one begins, and a second one behind it when it has as much to
        bring or to ask for as one batch: so master and host are busy at once, and neither waits for a message to travel.
        """
        running, pulls, brought = self._running, self._pulls, Brought()
        intents = Intents(self.name, master, brought)
        calls = Calls(self.job, self.spec, self.model, self.outside, intents, brought, self.waits)
        got: Sequence[Batch] = ()
        silent, stop = True, False
        try:
            while not stop or pulls:
                while not stop and self._due(silent):
                    pull = self._pull()
                    pulls[asyncio.create_task(master.pull(pull))] = pull
                    silent = False
                for batch in got:
                    for work in batch.work:
                        running[work.token] = asyncio.create_task(self._work(work, calls))
                silent = not await self._wait()
                got = [self._answered(task, brought) for task in list(pulls) if task.done()]
                stop = any(batch.order is Order.STOP and not batch.work for batch in got) or stop
        finally:
            intents.close()
            left = [*pulls, *running.values()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _due(self, silent: bool) -> bool:
        """Whether a pull should go out: `silent` says that nothing has happened for a heartbeat."""
        want = self._want() if self._more else 0
        if not self._pulls:
            return bool(silent or self._done or want or not self.busy)
        if len(self._pulls) == AHEAD or max(want, len(self._done)) < self._share:
            return False
        return want >= self._share or len(self._ready()) >= self._share

    def _want(self) -> int:
        return min(self.agents - self.busy - sum([pull.want for pull in self._pulls.values()]), self._share)

    @property
    def _share(self) -> int:
        """What one batch takes at most of all that this host can do: the rest is with the pulls under way, or worked on."""
        return -(-self.agents // (AHEAD + 1))

    def _pull(self) -> Pull:
        """What is ready, and a wish for more."""
        ready = self._ready()
        tokens = {report.token for report, _ in ready}
        self._done = [one for one in self._done if one[0].token not in tokens]
        bodies = {name: data for _, kept in ready for name, data in kept.items()}
        return Pull(self.name, self._want(), tuple([report for report, _ in ready]), bodies)

    def _ready(self) -> list[tuple[Report, dict[str, bytes]]]:
        """What can be brought. What a task did next waits until its master has heard what it did before: two messages may
        overtake each other."""
        travelling = {report.token for pull in self._pulls.values() for report in pull.reports}
        return [one for one in self._done if one[0].token not in travelling]

    async def _wait(self) -> bool:
        """Until a pull is answered or something is done, and then once around the loop, so that what ends together travels
        together. False: nothing has happened for a heartbeat."""
        news = asyncio.create_task(self._news.wait())
        try:
            happened, _ = await asyncio.wait((news, *self._pulls), timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        self._news.clear()
        await asyncio.sleep(0)
        return bool(happened)

    def _answered(self, pulling: asyncio.Task[Batch], brought: Brought) -> Batch:
        pull, batch = self._pulls.pop(pulling), pulling.result()
        brought.add(pull.bodies)
        if pull.want:
            self._more = bool(batch.work)
        self._drop(batch.dropped)
        self.busy += len(batch.work)
        return batch

    def _drop(self, tokens: Iterable[int]) -> None:
        """Breaks off work whose lease was ended; each says so with a last report."""
        for token in self._running.keys() & set(tokens) - self._dropped:
            self._dropped.add(token)
            self._running[token].cancel()

    def _bring(self, doing: Doing, retryable: bool = True, after: float = 0.0) -> None:
        self._done.append(doing.take(retryable, after))
        self._news.set()

    # ---- one task ----

    async def _work(self, work: Work, calls: Calls) -> None:
        doing, retryable, after = Doing(work), True, 0.0
        try:
            await self._play(doing, calls)
        except asyncio.CancelledError:
            if work.token not in self._dropped:
                raise
            self._fail(doing, "dropped", "")  # refused, and what it has cost until now is accounted for
        except FencedError:
            doing = Doing(work)  # another host has the task; the master has heard all that there is to account for
        except ModelError as error:
            retryable, after = error.retryable, error.after
            self._fail(doing, error.kind, str(error))
        except OutOfBudget as error:
            retryable = False
            self._fail(doing, AGENT_BUDGET, str(error))
        except _Malformed as error:
            retryable = error.retryable
            self._fail(doing, MALFORMED, str(error))
        except SwarmError as error:
            retryable = False
            self._fail(doing, type(error).__name__, str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001  a fault of a protocol or an engine is data, and costs one task only
            self._fail(doing, "crashed", f"{type(error).__name__}: {error}")
        self.busy -= 1
        self._dropped.discard(work.token)
        del self._running[work.token]
        self._bring(doing, retryable, after)

    def _fail(self, doing: Doing, kind: str, text: str) -> None:
        error = doing.keep(text.encode("utf-8", "backslashreplace"))
        doing.events.append(
            ev.TaskFailed(task=doing.work.brief.id, token=doing.work.token, error=error, kind=kind, retry_at=None)
        )

    async def _play(self, doing: Doing, calls: Calls) -> None:
        """Turn after turn until the task ends. An output that breaks its contract is drawn again, as a further sample: so often
        for each turn, and so often under one lease, for which no more is reserved. The next one goes on from there."""
        brief, role = doing.work.brief, self.roles[doing.work.brief.role]
        said, samples, broken = list(doing.work.said), dict(doing.work.samples), Counter[int]()
        purse = Purse(doing.work.left)
        while True:
            action = self.protocol.turn(brief, doing.work.material, said)
            if isinstance(action, Done):
                self._finish(doing, action)
                return
            if isinstance(action, Failed):
                turns = len(said)
                broken[turns] += 1
                if broken.total() >= role.attempts or not said:
                    further = turns > len(doing.work.said) and broken[turns] < role.attempts
                    raise _Malformed(f"the output {action.reason}", f"roles.{role.name}", retryable=further)
                said.pop()
                continue
            turn = len(said)
            if role.weights == "none":
                raise SpecError("its role never calls a model, and the protocol has it call one", f"roles.{role.name}.weights")
            if turn >= role.turns:
                raise _Malformed(f"the task took more than {role.turns} turns", f"roles.{role.name}.turns")
            sample = samples.get(turn, 0)
            samples[turn] = sample + 1
            completion = await calls.make(doing, role, action, turn, sample, purse)
            said.append(Said(turn, completion.text, completion.finish))
            if role.turns > 1 and not calls.billed:  # else it travels with the next intent, which must not overtake it
                self._bring(doing)  # each turn is recorded as it happens: another host can take up where this one stops

    def _finish(self, doing: Doing, action: Done) -> None:
        task, role = doing.work.brief.id, self.roles[doing.work.brief.role]
        for post in action.notes:
            if role.writes is not None and post.kind not in role.writes:
                problem = f"its task posts a note of kind {post.kind!r}, and the role writes {', '.join(role.writes) or 'none'}"
                cure = "name that kind in the role's file, or mend the protocol"
                raise ProtocolError(problem, f"roles.{role.name}.writes", cure)
        notes = [self._note(doing, task, index, post) for index, post in enumerate(action.notes)]
        end = ev.TaskFinished(task=task, token=doing.work.token, outcome=action.outcome, notes=len(action.notes))
        doing.events.extend((*notes, end))  # all or none: an attempt that fails over one of them must leave none behind

    def _note(self, doing: Doing, task: str, index: int, post: Post) -> ev.NotePosted:
        content: dict[str, Any] = self.protocol.note_kinds[post.kind].model_validate(post.content).__dict__
        return ev.NotePosted(
            note=identity(task, index), kind=post.kind, task=task, body=doing.keep(pack_note(content)),
            status=post.status, verdict=post.verdict, cites=post.cites, links=post.links, flags=dict(post.flags),
        )  # fmt: skip


class _Malformed(SwarmError):
    """An output that still breaks its contract after every attempt; `retryable` where the lease had no more of them, though
    the turn has, and turns were added under it."""

    def __init__(self, message: str, where: str, retryable: bool = False) -> None:
        super().__init__(message, where)
        self.retryable = retryable


def pack_note(content: Mapping[str, Any]) -> bytes:
    """A note's content as its body holds it."""
    packed: bytes = _PACKER.pack(dict(content))
    return packed


async def serve(host: Host, master: Master) -> None:
    """Starts the host's model, works until told to stop, and closes the model whatever happens. If the job comes to rest
    before the model has started, nobody waits for that any more."""
    starting = asyncio.create_task(host.model.start())
    try:
        while not (await asyncio.wait([starting], timeout=START_LOOK_SECONDS))[0]:
            if (await master.pull(Pull(host.name, 0))).order is Order.STOP:
                return
        await starting
        await host.run(master)
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await host.model.close()
