"""A desk to try the coordinator at: a plain protocol, its corpus pinned, a clock that stands, and reports to bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from swarm import events as ev
from swarm.agents.roles import Role
from swarm.coordinator import Coordinator, Grant, JobState, Report
from swarm.events import Body, Event, body_hash
from swarm.protocol import Action, AddRange, Decision, Done, Finish, Material, Said, TaskBrief, View
from swarm.spec import JobSpec
from swarm.testing.invariants import again, check_counters, refold, state_digest
from tests.simulated import spec

SPANS = 8
FAULT = body_hash(b"fault")


class Plain:
    """A protocol that says what it was made with, and finishes when nothing is open."""

    name: str = "plain"
    roles: tuple[str, ...] = ("reader", "writer", "clerk")
    note_kinds: Mapping[str, type[BaseModel]] = {}
    span_tokens = 100

    def __init__(self, *first: Any, then: Callable[[View, Event], Decision] | None = None) -> None:
        self.first, self.then = first, then
        self.seen: list[tuple[str, str]] = []

    def start(self, view: View) -> Decision:
        return Decision({"phase": "work"}, self.first)

    def react(self, state: Mapping[str, Any], event: Event, view: View) -> Decision:
        self.seen.append((event.kind, view.ended.outcome if view.ended else ""))
        if self.then:
            return self.then(view, event)
        return Decision() if any(view.open.values()) else Decision({}, [Finish()])

    def turn(self, task: TaskBrief, material: Material, transcript: Sequence[Said]) -> Action:
        return Done()


ROLES = {
    "reader": Role(name="reader", about="reads", max_tokens=50, window=1000, attempts=3),
    "writer": Role(name="writer", about="writes", max_tokens=50, window=1000, attempts=1, reserve=True),
    "clerk": Role(name="clerk", about="counts", weights="none", reserve=True),
}


class Desk:
    """A coordinator with its corpus pinned and its work opened, a clock that stands until it is moved, and the log."""

    def __init__(self, protocol: Plain, roles: Mapping[str, Role] = ROLES, **changes: Any) -> None:
        self.protocol, self.roles, self.spec = protocol, roles, spec(**changes)
        self.now, self.log = 100.0, list[Event]()
        self.core = self.coordinator(JobState(), 1)
        self.keep(self.core.record(self.now, created(self.spec)))
        self.keep(self.core.open(self.now, "here", 1, "test"))
        block = ev.SpansPinned(document="d", first=0, count=SPANS, tokens=SPANS * 100, block="")
        self.keep(self.core.record(self.now, block, ev.CorpusPinned(documents=1, spans=SPANS, tokens=SPANS * 100)))
        self.keep(self.core.start(self.now))

    @property
    def state(self) -> JobState:
        return self.core.state

    def coordinator(self, state: JobState, epoch: int) -> Coordinator:
        return Coordinator(self.spec, self.protocol, self.roles, dict.fromkeys(self.roles, 0), state, epoch)

    def keep(self, events: Sequence[Event]) -> list[Event]:
        self.log.extend(again(event) for event in events)
        check_counters(self.state)
        assert state_digest(refold(self.log)) == state_digest(self.state)
        return list(events)

    def resumed(self) -> Desk:
        self.core = self.coordinator(refold(self.log), self.state.epoch + 1)
        self.keep(self.core.open(self.now, "here", 2, "test"))
        return self

    def pull(self, *reports: Report, want: int = 1, host: str = "h") -> list[Grant]:
        events, grants = self.core.pulled(self.now, host, reports, want)
        self.keep(events)
        return grants

    def one(self, **how: Any) -> Grant:
        (grant,) = self.pull(**how)
        return grant

    def kinds(self) -> list[str]:
        return [event.kind for event in self.log]

    def last(self, kind: type[Body]) -> Any:
        return next(event.body for event in reversed(self.log) if isinstance(event.body, kind))


def created(job: JobSpec) -> ev.JobCreated:
    return ev.JobCreated(job="j", name=job.name, spec="", protocol="plain", protocol_digest="", roles={}, notes="",
                         tokenizer="", seed=job.seed, software="")  # fmt: skip


def called(grant: Grant, tokens: int = 100, turn: int = 0, sample: int = 0, out: int = 0) -> tuple[Body, Body]:
    began = ev.CallStarted(task=grant.task, turn=turn, sample=sample, channel="", prompt="", tokens=tokens, manifest=(),
                           sampling={})  # fmt: skip
    ended = ev.CallFinished(task=grant.task, turn=turn, sample=sample, output="", tokens_in=tokens, tokens_out=out,
                                  finish="stop", weights="w", seconds=0.5)  # fmt: skip
    return began, ended


def done(grant: Grant, *before: Body, outcome: str = "ok") -> Report:
    end = ev.TaskFinished(task=grant.task, token=grant.token, outcome=outcome, notes=0)
    return Report(grant.task, grant.token, (*before, end))


def failed(grant: Grant, *before: Body, kind: str = "broken", retryable: bool = True) -> Report:
    end = ev.TaskFailed(task=grant.task, token=grant.token, error=FAULT, kind=kind, retry_at=None)
    return Report(grant.task, grant.token, (*before, end), retryable)


def readers(count: int = SPANS) -> AddRange:
    return AddRange("reader", 0, count)
