"""A seeded simulator of the pure core: one job, fake clocks, some hosts, and everything that may befall them.

Owns hosts without a loop, a log without a disk, and a scheduler that decides by its seed what happens next: a host
pulls or plays, or one of `swarm.testing.faults` befalls it, the master, the disk or the clock. It carries out the
decisions of the real coordinator and the turns of the real protocol, and checks what must hold after every step
(`swarm.testing.invariants`). The same seed gives the same log. A safety run (`run`) may have faults without end; in a
liveness run (`run_live`) they cease, and the job must then end in time.
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
from swarm.coordinator.coordinator import LEASE_SECONDS
from swarm.coordinator.tables import AGENT_BUDGET, MALFORMED
from swarm.events import Body, Event, body_hash, identity
from swarm.protocol import CallModel, Done, Failed, Material, NoteText, Passage, Said, SwarmProtocol, TaskBrief
from swarm.runtime.clock import LogClock
from swarm.runtime.host import pack_note
from swarm.runtime.purse import OutOfBudget, Purse
from swarm.spec import JobSpec
from swarm.testing.faults import NONE, STORM, Faults
from swarm.testing.invariants import LogWatch, again, check_counters, check_limits, folded, state_digest

__all__ = ["NONE", "STORM", "Faults", "Simulation"]
UNMENDABLE = ("refused", MALFORMED, AGENT_BUDGET)
"""Kinds of failures of which another attempt makes nothing better."""
PROMPT_TOKENS = 60
"""What every call carries besides its working set."""
REFOLD_EVERY = 64
"""Steps after which the whole log is folded anew and compared."""
LIVE_SECONDS = 90.0
"""In which a job ends once faults have ceased, and the leases of hosts that died unnoticed have lapsed: the longest that a task
waits before it is tried again."""
JUMPS = (-86400.0, -3600.0, -5.0, 5.0, 3600.0, 86400.0)
IDLE_SECONDS = 2.0
"""What passes when there is nothing to do."""


@dataclass
class Held:
    """One leased task on a host, as far as it got."""

    brief: TaskBrief
    token: int
    material: Material
    said: list[Said]
    samples: dict[int, int]
    purse: Purse
    broken: int = 0
    events: list[Body] = field(default_factory=list)


@dataclass
class SimHost:
    """A host: tasks in hand, and reports that it has not brought yet."""

    name: str
    held: list[Held] = field(default_factory=list)
    outbox: list[Report] = field(default_factory=list)
    stands_until: float = 0.0
    """Ticks until which it stands still."""


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
        self.random, self.agents = random.Random(seed), agents
        self.wall, self.ticks = 1_000_000.0, 0.0
        """What the clock on the wall says, and how many seconds have truly passed."""
        self.steps, self.epoch, self.born = 0, 0, 0
        self.log: list[Event] = []
        self.commits: list[int] = []
        """How many events were durable after each commit."""
        self.bodies: dict[str, bytes] = {}
        self.floating: list[tuple[str, Report]] = []
        """Reports that are still on their way, with the host that sent them."""
        self.failures: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.heard: dict[str, float] = {}
        """Ticks at which the present master last heard of each host."""
        self.charged = 0
        """Calls that somebody had to pay for."""
        self.watch = LogWatch()
        self.crew = [self._host() for _ in range(hosts)]
        self.faults = NONE  # nothing befalls a job before its corpus is pinned
        self.restart()
        self._decide(lambda: self.core.record(self.now, *self._corpus()))
        self._decide(lambda: self.core.start(self.now))
        self.faults = faults

    @property
    def now(self) -> float:
        """Log time, as the present master stamps it."""
        return self.clock()

    @property
    def state(self) -> JobState:
        return self.core.state

    @property
    def ended(self) -> bool:
        return self.state.settled

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

    def run_live(self, steps: int) -> JobState:
        """Runs so many steps under faults; then nothing goes wrong any more, and the job must end in time.

        Raises:
            AssertionError: it does not, or something does not hold that must.
        """
        self.run(steps)
        self.faults, healed = NONE, self.ticks
        for host in self.crew:
            host.stands_until = 0.0
        names = {host.name for host in self.crew}
        lapsing = any(row.token and row.host not in names for row in self.state.tasks.values())
        allowed = LIVE_SECONDS + (LEASE_SECONDS if lapsing else 0.0)
        while not self.ended:
            assert self.ticks - healed <= allowed, f"{self.ticks - healed:.0f} s without faults, and no end"
            self.step()
            self.check()
        self._compare()
        return self.state

    def give(self, more: Mapping[str, float | None]) -> None:
        """A person resumes the job with other limits of its budget, until that is durable."""
        while any(self.state.raised.get(name, 0) != value for name, value in more.items()):
            self.restart()
            self._decide(lambda: self.core.change_budget(self.now, "a person", more))

    def findings(self) -> list[Any]:
        """The content, cites and flags of each finding and headline."""
        notes = [note for kind in ("finding", "headline") for note in self.state.board.notes(kind)]
        return [(n.kind, msgpack.unpackb(self.bodies[n.body]), n.cites, dict(n.flags)) for n in notes]

    # ---- the scheduler ----

    def step(self) -> None:
        """One thing happens, and a little time passes."""
        self.steps += 1
        self._pass(self.random.choice((0.0, 0.01, 0.1, 1.0) if self.faults != NONE else (0.0, 0.01, 0.1)))
        self._expire()
        if self.state.phase is Phase.PAUSED and not self.state.leased:
            self._crash()  # the driver left; a person resumes the job
        host = self.random.choice(self.crew)
        if self._happens("crashed"):
            self._crash()
        elif self._happens("lost"):
            self._lose(host)
        elif self._happens("silent"):
            self._vanish(host)
        elif self._happens("zombie"):
            self._decide(lambda: self.core.lost(self.now, host.name, "silent"))
        elif self._happens("frozen"):
            host.stands_until = self.ticks + self.random.choice((0.5, 1.5)) * LEASE_SECONDS
        elif self._happens("jumped"):
            self.wall += self.random.choice(JUMPS)
        elif self._happens("paused"):
            self._decide(lambda: self.core.pause(self.now, "a person"))
        elif self.floating and self.random.random() < 0.2:
            sender, report = self.floating.pop(self.random.randrange(len(self.floating)))
            self._deliver(sender, [report], 0)
        elif host.stands_until > self.ticks:
            self._idle()
        elif host.held and self.random.random() < 0.6:
            self._play(host, self.random.choice(host.held))
        else:
            self._pull(host)

    def _pass(self, seconds: float) -> None:
        self.wall += seconds
        self.ticks += seconds

    def _happens(self, name: str) -> bool:
        chance: float = getattr(self.faults, name)
        happens = chance > 0 and self.random.random() < chance
        self.seen[name] += happens
        return happens

    def _lose(self, host: SimHost) -> None:
        """The host is gone, as the master is told."""
        self._replace(host)
        self.heard.pop(host.name, None)
        self._decide(lambda: self.core.lost(self.now, host.name, "gone"))

    def _vanish(self, host: SimHost) -> None:
        """The host is gone, and nobody says so. What it had not sent is lost; it may have sent it all, and asked for more."""
        brought, host.outbox = host.outbox, []
        if self.random.random() < 0.5:
            self._deliver(host.name, brought, self.agents - len(host.held))
        self._replace(host)

    def _replace(self, host: SimHost) -> None:
        """The host is gone; what it had sent may still arrive."""
        self.floating += [(host.name, report) for report in host.outbox]
        if host in self.crew:  # else the master died meanwhile, and its hosts with it
            self.crew[self.crew.index(host)] = self._host()

    def _expire(self) -> None:
        """What the master's shell does now and then. Hosts do not hear which of their calls were broken off over the time."""
        self._decide(lambda: self.core.look(self.now)[0])
        for name, last in list(self.heard.items()):
            if self.ticks - last > LEASE_SECONDS and self.heard.pop(name, None) is not None:
                self._decide(lambda name=name: self.core.lost(self.now, name, "silent"))  # type: ignore[misc]

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
        self.heard.clear()
        overhead, state = dict.fromkeys(self.roles, PROMPT_TOKENS), self.reopened()
        self.clock = LogClock(state.time, lambda: self.wall, lambda: self.ticks)
        self.core = Coordinator(self.spec, self.protocol, self.roles, overhead, state, self.epoch)
        if self.core.state.created is None:
            self._decide(lambda: self.core.record(self.now, self._created()))
        self._decide(lambda: self.core.open(self.now, "here", 1, "simulator"))
        if self.core.state.pinned:
            self._decide(lambda: self.core.start(self.now))

    def reopened(self) -> JobState:
        """The state at which a new master takes the job up."""
        return folded(self.log)

    def _host(self) -> SimHost:
        self.born += 1
        return SimHost(f"host-{self.born}")

    # ---- the master's shell ----

    def _decide(self, call: Callable[[], list[Event]]) -> None:
        self._commit(call())

    def _commit(self, events: Sequence[Event]) -> bool:
        """Makes events durable; False if nobody heard whether they are, and another master has taken the job."""
        if events and self._happens("slow"):
            self._pass(self.random.choice((1.0, 30.0, 1.2 * LEASE_SECONDS)))
        self.bodies.update(self.core.texts)
        self.core.texts.clear()
        unheard = bool(events) and self._happens("unknown")
        if not unheard or self.random.random() < 0.5:
            for event in events:
                self.watch.see(event)
                self.log.append(again(event))
            self.commits.append(len(self.log))
        if unheard:
            self._crash()
        return not unheard

    def _pull(self, host: SimHost) -> None:
        brought: list[Report] = []
        if not self._happens("late"):  # a host's own reports keep their order
            brought, host.outbox = host.outbox, []
        self.floating += [(host.name, report) for report in brought if self._happens("repeated")]
        dropped = self._happens("dropped")
        if dropped and self.random.random() < 0.5:
            self._lose(host)
            return
        grants = self._deliver(host.name, brought, self.agents - len(host.held))
        if dropped:
            self._lose(host)
            return
        for grant in grants:
            host.held.append(self._work(grant))
        if not grants:
            self._idle()

    def _idle(self) -> None:
        """Lets time go by if no host has anything to do now."""
        if not any((host.held or host.outbox) and host.stands_until <= self.ticks for host in self.crew):
            self._pass(IDLE_SECONDS)

    def _deliver(self, host: str, reports: Sequence[Report], want: int) -> list[Grant]:
        """One pull. The master may die between its decision and the commit: then nobody hears of either."""
        self.heard[host], before = self.ticks, len(self.log)
        events, grants = self.core.pulled(self.now, host, reports, want)
        refused = self.core.refused
        if events and self._happens("crashed"):
            self.floating += [(host, report) for report in reports]
            self._crash()
            return []
        if not self._commit(events):
            self.floating += [(host, report) for report in reports]
            return []
        self._check_recorded([report for report in reports if report.token not in refused], before)
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
        return Held(brief, grant.token, material, said, samples, Purse(grant.left))

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
            held.events.append(self._failure(held, MALFORMED, action.reason))
        elif (failed := self._call(host, held, role, action)) is None:
            if held in host.held:
                host.held.remove(held)
            return
        elif not failed:
            if role.turns > 1 and not self.spec.model.billed:
                host.outbox.append(Report(held.brief.id, held.token, tuple(held.events)))
                held.events = []
            return
        ending = held.events[-1]
        retryable = not (isinstance(ending, ev.TaskFailed) and ending.kind in UNMENDABLE)
        host.outbox.append(Report(held.brief.id, held.token, tuple(held.events), retryable))
        host.held.remove(held)

    def _let_out(self, host: SimHost, held: Held) -> bool:
        """Brings what was done so far with the intent of the call that is next; whether it may go out."""
        report, epoch = Report(held.brief.id, held.token, tuple(held.events)), self.epoch
        held.events = []
        self._deliver(host.name, [report], 0)
        return self.epoch == epoch and held.token not in self.core.refused

    def _call(self, host: SimHost, held: Held, role: Role, action: CallModel) -> bool | None:
        """Asks the model; True if the task failed over it, None if its lease has ended and the call was not let out."""
        turn = len(held.said)
        assert turn < role.turns, f"{role.name} took more than {role.turns} turns"
        sample = held.samples.get(turn, 0)
        spans = len(held.material.passages) if role.turns == 1 else 1
        prompt = PROMPT_TOKENS + spans * self.protocol.span_tokens
        try:
            held.purse.check(prompt + role.max_tokens)
        except OutOfBudget as over:
            held.events.append(self._failure(held, AGENT_BUDGET, str(over)))
            return True
        task, text = held.brief.id, "".join(part.text for part in action.parts if part.speaker == "user")
        held.events.append(
            ev.CallStarted(task=task, turn=turn, sample=sample, channel=role.weights, prompt=body_hash(text.encode()),
                           tokens=prompt, manifest=(), sampling={"max_tokens": role.max_tokens},
                           key=identity(task, turn, sample) if self.spec.model.billed else "")
        )  # fmt: skip
        if self.spec.model.billed:
            if not self._let_out(host, held):
                return None
            self.charged += 1
        refused = self._happens("refused")
        if refused or (self.failures[task] < self.faults.most and self._happens("failed")):
            kind = "refused" if refused else self.random.choice(("overloaded", "broken", "unreachable", "timeout"))
            self.failures[task] += 1
            error, doubt = self._keep(kind.encode()), self.spec.model.billed and kind in ("broken", "timeout")
            self.charged -= self.spec.model.billed and not doubt
            held.events.append(
                ev.CallFailed(task=task, turn=turn, sample=sample, kind=kind, error=error, doubt=doubt)
            )
            held.events.append(self._failure(held, kind, kind))
            return True
        held.samples[turn] = sample + 1
        output = "no JSON at all" if held.broken + 1 < role.attempts and self._happens("broken") else self.answer(text)
        held.said.append(Said(turn, output))
        held.purse.settle(prompt + role.max_tokens)
        held.events.append(
            ev.CallFinished(
                task=task,
                turn=turn,
                sample=sample,
                output=self._keep(output.encode()),
                finish="stop",
                weights="simulated",
                tokens_in=prompt,
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
                    verdict=post.verdict,
                    body=self._keep(pack_note(content)),
                    cites=post.cites,
                    links=post.links,
                    flags=dict(post.flags),
                )
            )
        finished = ev.TaskFinished(task=held.brief.id, token=held.token, outcome=action.outcome, notes=len(action.notes))
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
        check_limits(self.core.budget, self.spec.model.price, self.state)
        open = sum(row.intent is not None for row in self.state.tasks.values())
        known = self.state.total().calls + self.state.ledger.doubt().calls + open
        assert self.charged <= known, f"{self.charged} calls were charged, and the log knows of {known}"
        if self.steps % REFOLD_EVERY == 0:
            self._compare()

    def _check_recorded(self, reports: Sequence[Report], before: int) -> None:
        """All of what was just acknowledged stands in the log, after event `before`."""
        recorded = [event.body for event in self.log[before:]]
        ends = [(body.task, body.token) for body in recorded if isinstance(body, ev.TaskFailed)]
        for body in [body for report in reports for body in report.events]:
            if isinstance(body, ev.TaskFailed):  # when it is tried again, the coordinator says
                assert (body.task, body.token) in ends, f"the failure of {body.task} was acknowledged, and is not in the log"
            else:
                assert body in recorded, f"{body!r} was acknowledged, and is not in the log"

    def _compare(self) -> None:
        assert state_digest(folded(self.log)) == state_digest(self.state), "the log and its fold differ"

    # ---- the job ----

    def _created(self) -> ev.JobCreated:
        return ev.JobCreated(job=self.job, name=self.spec.name, spec="", protocol=self.protocol.name, protocol_digest="",
                             roles={}, notes="", tokenizer="", seed=self.spec.seed, software="")  # fmt: skip

    def _corpus(self) -> list[Body]:
        tokens, count = sum(passage.tokens for passage in self.passages), len(self.passages)
        return [
            ev.SpansPinned(document="d", first=0, count=count, tokens=tokens, block=""),
            ev.DocumentPinned(document="d", path="", media="text/plain", origin="", licence="", train=False, digest="",
                              size=tokens, spans=count),
            ev.CorpusPinned(documents=1, spans=count, tokens=tokens),
        ]  # fmt: skip
