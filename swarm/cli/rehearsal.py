"""Running a protocol's decisions once more over a log, and comparing.

Owns the comparison. The log is only read: folding never calls a protocol, so a difference means that the protocol, a
role or the coordinator decides otherwise now than it did then.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from swarm import events as ev
from swarm.coordinator import Coordinator, JobState
from swarm.errors import StoreError
from swarm.events import Event
from swarm.protocol import TaskView
from swarm.runtime.prepare import prepare
from swarm.runtime.session import read_pinned
from swarm.store.interface import Reader


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many decisions were compared, and the first difference: what it is, and at which event."""

    decisions: int
    difference: str = ""
    at: int = 0


def rehearse(reader: Reader) -> Outcome:
    """Asks the protocol again, at each event that it was asked at, and compares its answers with the log.

    Raises:
        SwarmError: the job's protocol or model cannot be made here.
    """
    state, again = JobState(), None
    waiting: deque[Event] = deque()
    """What the protocol says comes next."""
    decisions, tended = 0, False
    for event in reader.read():
        if isinstance(event.body, ev.JobOpened):
            tended = event.body.shell == ev.CARETAKER  # who asks no protocol
        if waiting:
            expected = waiting.popleft()
            if (expected.body, expected.cause) != (event.body, event.cause):
                return Outcome(decisions, _difference(expected, event), event.seq)
            continue  # the rehearsal has folded it already
        asked = again.asked(event) if again is not None and not tended else None
        if again is None or asked is None:
            state.apply(event)
            if isinstance(event.body, ev.JobCreated):  # a fork goes on under a spec of its own
                again = _again(reader, event.body, state)
            continue
        decisions += 1
        waiting.extend(again.decide(event, asked))
    if again is None:
        raise StoreError("holds no job", "log", "the run stopped before it began; remove it with `swarm rm`")
    if waiting:
        return Outcome(decisions, f"the log ends where the protocol says {_said(waiting[0])}", state.seq)
    return Outcome(decisions)


def _again(reader: Reader, created: ev.JobCreated, state: JobState) -> _Again:
    spec, roles = read_pinned(reader, created)
    job = prepare(spec, roles)
    return _Again(spec, job.protocol, job.roles, job.overhead, state, 0)


class _Again(Coordinator):
    """A coordinator that takes its events from a log and answers only with what the protocol decides on them."""

    def asked(self, event: Event) -> TaskView | str | None:
        """What the protocol was asked at this event: about a task's end, to start, about the budget, or nothing."""
        body = event.body
        if isinstance(body, ev.Decided) and not event.cause and body.state.get("started"):
            return "start"
        if isinstance(body, ev.ApprovalAnswered) and self.state.questions[body.question].tasks:
            return None  # the coordinator asked, and the protocol hears of what becomes of the tasks
        if isinstance(body, ev.BudgetReached | ev.PersonSaid | ev.ApprovalAnswered):
            return "event"
        if isinstance(body, ev.Stuck) and body.times == 1:
            return "event"
        if isinstance(body, ev.TaskFinished):
            return self._brief(body.task, body.outcome)
        if isinstance(body, ev.TaskFailed) and body.retry_at is None:
            return self._brief(body.task, "failed")
        return None

    def _brief(self, task: str, outcome: str) -> TaskView:
        row = self.state.tasks[task]
        return TaskView(row.id, row.role, row.goal, row.spans, row.reads, outcome)

    def decide(self, event: Event, asked: TaskView | str) -> list[Event]:
        """Folds the event in, asks, and gives the events that the answer makes."""
        self.state.apply(event)
        self._begin(event.time)
        if isinstance(asked, TaskView):
            self._ended(asked, event)
        elif asked == "start":
            self._carry_out(lambda: self.protocol.start(self._view(None)), event)
        else:
            self._carry_out(lambda: self.protocol.react(self.state.memory, event, self._view(None)), event)
        return list(self._out)


def _difference(expected: Event, found: Event) -> str:
    return f"the protocol says {_said(expected)}, and the log has {_said(found)}"


def _said(event: Event) -> str:
    fields: dict[str, Any] = event.body.model_dump(exclude_defaults=True)
    return f"{event.kind}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"[:300]
