"""A seeded simulator of the pure core: one job, a fake clock, some hosts, and everything that may befall them.

Owns hosts without a loop, a log without a disk, and a scheduler that decides by its seed what happens next: a host
pulls or plays, is lost, works on after its lease ended; a report comes late, twice or never; a call fails; the master
dies before or after a commit. It carries out the decisions of the real coordinator and the turns of the real protocol,
and checks what must hold after every step (`swarm.testing.invariants`). The same seed gives the same log.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from swarm import events as ev
from swarm.agents.roles import Role
from swarm.coordinator import Coordinator, Grant, JobState, Phase, Report
from swarm.events import Body, Event, body_hash, identity
from swarm.protocol import CallModel, Done, Failed, Material, NoteText, Passage, Said, SwarmProtocol, TaskBrief
from swarm.runtime.host import pack_note
from swarm.spec import JobSpec
from swarm.testing.invariants import LogWatch, again, check_counters, refold, state_digest

PROMPT_TOKENS = 60
"""What every call carries besides its working set."""
REFOLD_EVERY = 64
"""Steps after which the whole log is folded anew and compared."""


@dataclass(frozen=True)
class Faults:
    """How likely each mishap is, a step (0 to 1). `most` is how often one task fails at most."""

    lost: float = 0.0
    zombie: float = 0.0
    """A host's leases are taken back while it works on and knows nothing of it."""
    late: float = 0.0
    repeated: float = 0.0
    failed: float = 0.0
    refused: float = 0.0
    broken: float = 0.0
    """An output breaks its contract."""
    crashed: float = 0.0
    paused: float = 0.0
    most: int = 2


NONE = Faults()
STORM = Faults(0.03, 0.03, 0.1, 0.1, 0.1, 0.01, 0.1, 0.03, 0.01)


@dataclass
class Held:
    """One leased task on a host, as far as it got."""

    brief: TaskBrief
    token: int
    material: Material
    said: list[Said]
    samples: dict[int, int]
    broken: int = 0
    events: list[Body] = field(default_factory=list)


@dataclass
class SimHost:
    """A host: tasks in hand, and reports that it has not brought yet."""

    name: str
    held: list[Held] = field(default_factory=list)
    outbox: list[Report] = field(default_factory=list)


class Simulation:
    """One job under faults. `answer` is the model: the text an agent sends → the text that comes back."""

    def __init__(
        self,
        spec: JobSpec,
        protocol: SwarmProtocol,
        roles: Mapping[str, Role],
        passages: Sequence[Passage],
        answer: Callable[[str], str],
        seed: int = 0,
        faults: Faults = NONE,
        hosts: int = 3,
        agents: int = 3,
        job: str = "simulated",
    ) -> None:
        self.spec, self.protocol, self.roles, self.passages, self.answer = spec, protocol, roles, passages, answer
        self.job = job
        self.random, self.faults, self.agents = random.Random(seed), faults, agents
        self.now, self.steps, self.epoch, self.born = 1_000.0, 0, 0, 0
        self.log: list[Event] = []
        self.commits: list[int] = []
        """How many events were durable after each commit."""
        self.bodies: dict[str, bytes] = {}
        self.floating: list[tuple[str, Report]] = []
        """Reports that are still on their way, with the host that sent them."""
        self.failures: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.watch = LogWatch()
        self.crew = [self._host() for _ in range(hosts)]
        self.restart()
        self._decide(lambda: self.core.record(self.now, *self._corpus()))
        self._decide(lambda: self.core.start(self.now))

    @property
    def state(self) -> JobState:
        return self.core.state

    @property
    def ended(self) -> bool:
        return self.state.phase is Phase.ENDED

    def run(self, steps: int) -> JobState:
        """Runs until the job ends, or for so many steps.

        Raises:
            AssertionError: something does not hold that must.
        """
        while not self.ended and self.steps < steps:
            self.step()
            self.check()
        self._compare()
        return self.state

    def findings(self) -> list[Any]:
        """The content, cites and flags of each finding and headline."""
        notes = [note for kind in ("finding", "headline") for note in self.state.board.notes(kind)]
        return [(n.kind, msgpack.unpackb(self.bodies[n.body]), n.cites, dict(n.flags)) for n in notes]

    # ---- the scheduler ----

    def step(self) -> None:
        """One thing happens, and a little time passes."""
        self.steps += 1
        self.now += self.random.choice((0.0, 0.01, 0.1, 1.0))
        if self.state.phase is Phase.PAUSED and not self.state.leased:
            self._crash()  # the driver left; a person resumes the job
        host = self.random.choice(self.crew)
        if self._happens("crashed"):
            self._crash()
        elif self._happens("lost"):
            self._lose(host)
        elif self._happens("zombie"):
            self._decide(lambda: self.core.lost(self.now, host.name, "silent"))
        elif self._happens("paused"):
            self._decide(lambda: self.core.pause(self.now, "a person"))
        elif self.floating and self.random.random() < 0.2:
            sender, report = self.floating.pop(self.random.randrange(len(self.floating)))
            self._deliver(sender, [report], 0)
        elif host.held and self.random.random() < 0.6:
            self._play(host, self.random.choice(host.held))
        else:
            self._pull(host)

    def _happens(self, name: str) -> bool:
        chance: float = getattr(self.faults, name)
        happens = chance > 0 and self.random.random() < chance
        self.seen[name] += happens
        return happens

    def _lose(self, host: SimHost) -> None:
        """The host is gone; what it had sent may still arrive."""
        self.floating += [(host.name, report) for report in host.outbox]
        self.crew[self.crew.index(host)] = self._host()
        self._decide(lambda: self.core.lost(self.now, host.name, "gone"))

    def _crash(self) -> None:
        """The master dies and a new one folds the log. Hosts die with it, or find out only when they report."""
        for host in self.crew:
            self.floating += [(host.name, report) for report in host.outbox]
        if self.random.random() < 0.5:
            self.crew = [self._host() for _ in self.crew]
        self.restart()

    def restart(self) -> None:
        """A new master folds the log as far as it is durable, and takes the job."""
        self.epoch += 1
        overhead = dict.fromkeys(self.roles, PROMPT_TOKENS)
        self.core = Coordinator(self.spec, self.protocol, self.roles, overhead, refold(self.log), self.epoch)
        if self.core.state.created is None:
            self._decide(lambda: self.core.record(self.now, self._created()))
        self._decide(lambda: self.core.open(self.now, "here", 1, "simulator"))
        if self.core.state.pinned:
            self._decide(lambda: self.core.start(self.now))

    def _host(self) -> SimHost:
        self.born += 1
        return SimHost(f"host-{self.born}")

    # ---- the master's shell ----

    def _decide(self, call: Callable[[], list[Event]]) -> None:
        self._commit(call())

    def _commit(self, events: Sequence[Event]) -> None:
        self.bodies.update(self.core.texts)
        self.core.texts.clear()
        for event in events:
            self.watch.see(event)
            self.log.append(again(event))
        self.commits.append(len(self.log))

    def _pull(self, host: SimHost) -> None:
        brought: list[Report] = []
        if not self._happens("late"):  # a host's own reports keep their order
            brought, host.outbox = host.outbox, []
        self.floating += [(host.name, report) for report in brought if self._happens("repeated")]
        for grant in self._deliver(host.name, brought, self.agents - len(host.held)):
            host.held.append(self._work(grant))

    def _deliver(self, host: str, reports: Sequence[Report], want: int) -> list[Grant]:
        """One pull. The master may die between its decision and the commit: then nobody hears of either."""
        events, grants = self.core.pulled(self.now, host, reports, want)
        if events and self._happens("crashed"):
            self.floating += [(host, report) for report in reports]
            self._crash()
            return []
        self._commit(events)
        return grants

    def _work(self, grant: Grant) -> Held:
        last = {turn: (sample, output, finish) for turn, sample, output, finish in grant.said}
        said = [Said(turn, self.bodies[output].decode(), finish) for turn, (_, output, finish) in sorted(last.items())]
        facts = {"documents": 1, "spans": len(self.passages), "paths": ["simulated.py"]}
        notes = tuple(self._note(id) for id in grant.reads)
        words = tuple(self._note(id) for id in grant.words)
        material = Material(tuple(self.passages[number] for number in grant.spans), notes, facts, words)
        samples = {turn: sample + 1 for turn, (sample, _, _) in last.items()}
        brief = TaskBrief(grant.task, grant.role, grant.goal, grant.attempt)
        return Held(brief, grant.token, material, said, samples)

    def _note(self, id: str) -> NoteText:
        view = self.state.board.note(id)
        return NoteText(id, view.kind, msgpack.unpackb(self.bodies[view.body]), view.cites, view.flags, view.verdict)

    # ---- a host's shell ----

    def _play(self, host: SimHost, held: Held) -> None:
        """One action of one task."""
        role = self.roles[held.brief.role]
        action = self.protocol.turn(held.brief, held.material, held.said)
        if isinstance(action, Done):
            self._finish(held, action)
        elif isinstance(action, Failed):
            held.broken += 1
            if held.broken < role.attempts and held.said:
                held.said.pop()
                return
            held.events.append(self._failure(held, "_Malformed", action.reason))
        elif not self._call(held, role, action):
            if role.turns == 1:
                return
            host.outbox.append(Report(held.brief.id, held.token, tuple(held.events)))
            held.events = []
            return
        ending = held.events[-1]
        retryable = not (isinstance(ending, ev.TaskFailed) and ending.kind in ("refused", "_Malformed"))
        host.outbox.append(Report(held.brief.id, held.token, tuple(held.events), retryable))
        host.held.remove(held)

    def _call(self, held: Held, role: Role, action: CallModel) -> bool:
        """Asks the model; True if the task failed over it."""
        turn = len(held.said)
        assert turn < role.turns, f"{role.name} took more than {role.turns} turns"
        sample = held.samples.get(turn, 0)
        task, text = held.brief.id, "".join(part.text for part in action.parts if part.speaker == "user")
        held.events.append(
            ev.CallStarted(
                task=task,
                turn=turn,
                sample=sample,
                channel=role.weights,
                prompt=body_hash(text.encode()),
                tokens=PROMPT_TOKENS,
                manifest=(),
                sampling={},
            )
        )
        refused = self._happens("refused")
        if refused or (self.failures[task] < self.faults.most and self._happens("failed")):
            kind = "refused" if refused else self.random.choice(("overloaded", "broken", "unreachable", "timeout"))
            self.failures[task] += 1
            error = self._keep(kind.encode())
            held.events.append(ev.CallFailed(task=task, turn=turn, sample=sample, kind=kind, error=error))
            held.events.append(self._failure(held, kind, kind))
            return True
        held.samples[turn] = sample + 1
        output = "no JSON at all" if held.broken + 1 < role.attempts and self._happens("broken") else self.answer(text)
        held.said.append(Said(turn, output))
        spans = len(held.material.passages) if role.turns == 1 else 1
        held.events.append(
            ev.CallFinished(
                task=task,
                turn=turn,
                sample=sample,
                output=self._keep(output.encode()),
                finish="stop",
                weights="simulated",
                tokens_in=PROMPT_TOKENS + spans * self.protocol.span_tokens,
                tokens_out=role.max_tokens,
                seconds=0.1,
            )
        )
        return False

    def _finish(self, held: Held, action: Done) -> None:
        for index, post in enumerate(action.notes):
            content = self.protocol.note_kinds[post.kind].model_validate(post.content).__dict__
            held.events.append(
                ev.NotePosted(
                    note=identity(held.brief.id, index),
                    kind=post.kind,
                    task=held.brief.id,
                    status=post.status,
                    body=self._keep(pack_note(content)),
                    cites=post.cites,
                    links=post.links,
                    flags=dict(post.flags),
                )
            )
        finished = ev.TaskFinished(
            task=held.brief.id, token=held.token, outcome=action.outcome, notes=len(action.notes)
        )
        held.events.append(finished)

    def _failure(self, held: Held, kind: str, text: str) -> ev.TaskFailed:
        error = self._keep(text.encode())
        return ev.TaskFailed(task=held.brief.id, token=held.token, error=error, kind=kind, retry_at=None)

    def _keep(self, data: bytes) -> str:
        name = body_hash(data)
        self.bodies[name] = data
        return name

    # ---- what must hold ----

    def check(self) -> None:
        """Everything that must hold between two steps."""
        check_counters(self.state)
        assert self.state.seq == len(self.log) and self.state.time <= self.now
        budget, spent = self.spec.budget, self.state.total()
        assert budget.tokens is None or spent.tokens + self.state.reserved <= budget.tokens, "more tokens than allowed"
        assert budget.calls is None or spent.calls <= budget.calls, "more calls than allowed"
        if self.steps % REFOLD_EVERY == 0:
            self._compare()

    def _compare(self) -> None:
        assert state_digest(refold(self.log)) == state_digest(self.state), "the log and its fold differ"

    # ---- the job ----

    def _created(self) -> ev.JobCreated:
        return ev.JobCreated(
            job=self.job,
            name=self.spec.name,
            spec="",
            protocol=self.protocol.name,
            protocol_digest="",
            roles={},
            notes="",
            tokenizer="",
            seed=self.spec.seed,
            software="",
        )

    def _corpus(self) -> list[Body]:
        tokens, count = sum(passage.tokens for passage in self.passages), len(self.passages)
        return [
            ev.SpansPinned(document="d", first=0, count=count, tokens=tokens, block=""),
            ev.DocumentPinned(
                document="d",
                path="",
                media="text/plain",
                origin="",
                licence="",
                train=False,
                digest="",
                size=tokens,
                spans=count,
            ),
            ev.CorpusPinned(documents=1, spans=count, tokens=tokens),
        ]
