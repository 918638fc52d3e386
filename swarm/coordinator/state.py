"""Everything a job's log says about it, except the blackboard's graph and the texts: one mutable projection.

Owns folding. `JobState.apply` is the only place where state changes, it depends on the event alone, and it never needs a
body, a clock or a protocol. Finished tasks leave it: what stays is counted, not listed.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

from swarm import events as ev
from swarm.board import Board
from swarm.coordinator.closing import approval_answered, budget_changed, budget_reached, person_said
from swarm.coordinator.faults import MODEL_FAULTS, Faults
from swarm.coordinator.ledger import Doubt, Fenced, Ledger
from swarm.coordinator.spending import call_failed, call_finished, call_started, call_strayed
from swarm.coordinator.tables import (
    AGENT_BUDGET,
    OVER_BUDGET,
    Closing,
    DocumentRow,
    GivenUpRow,
    Heard,
    NoticeRow,
    Phase,
    QuestionRow,
    RangeRow,
    Spend,
    TaskRow,
)
from swarm.errors import StoreError
from swarm.events import Event

__all__ = [
    "AGENT_BUDGET", "MODEL_FAULTS", "OVER_BUDGET", "DocumentRow", "JobState", "NoticeRow", "Phase", "QuestionRow", "RangeRow",
    "Spend", "TaskRow",
]  # fmt: skip


@dataclass(slots=True)
class JobState:
    """The fold of one job's log."""

    board: Board = field(default_factory=Board)
    created: ev.JobCreated | None = None
    phase: Phase = Phase.PINNING
    status: str = ""
    """What JobEnded said; `budget` while the job rests until it gets more of it."""
    reason: str = ""
    epoch: int = 0
    seq: int = 0
    time: float = 0.0
    opened_at: float = 0.0
    """Log time at which the present master took the job."""
    held: float = 0.0
    """Seconds that earlier masters held it."""
    started: float = 0.0
    documents: dict[str, DocumentRow] = field(default_factory=dict)
    block_first: list[int] = field(default_factory=list)
    block_rows: list[tuple[str, str]] = field(default_factory=list)
    """(document, hash of the block's body), beside the number of its first span."""
    spans: int = 0
    span_tokens: int = 0
    skipped: list[str] = field(default_factory=list)
    pinned: bool = False
    tasks: dict[str, TaskRow] = field(default_factory=dict)
    ranges: dict[str, RangeRow] = field(default_factory=dict)
    ready: dict[str, list[tuple[int, int, str]]] = field(default_factory=dict)
    """Role → heap of (priority, order, task or range id); entries may be stale, and are checked when they come up."""
    later: list[tuple[float, int, str]] = field(default_factory=list)
    """Heap of (time from which it may be tried again, order, task id)."""
    raised: dict[str, float | None] = field(default_factory=dict)
    """Limits that were changed since the job was made, by name; None for no limit."""
    stopped: tuple[str, ...] = ()
    """Roles that have reached a limit of their own; `(agent)` where an agent has."""
    parked: dict[str, None] = field(default_factory=dict)
    """Tasks that have spent what one agent may, and wait for more of it."""
    closing: Closing | None = None
    """Since a budget lets nothing else go on, the protocol ends with what it has."""
    faults: Faults = field(default_factory=Faults)
    open: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    readings: int = 0
    """Tasks with passages that were finished."""
    failed: list[GivenUpRow] = field(default_factory=list)
    given_up: int = 0
    """Tasks that were ever given up; those of a draft that was taken back count as well, so that none has another's number."""
    retries: int = 0
    reserved: int = 0
    reserved_calls: int = 0
    reserved_by: Counter[str] = field(default_factory=Counter)
    """Tokens that are reserved, by role."""
    reserved_calls_by: Counter[str] = field(default_factory=Counter)
    leased: int = 0
    by_host: Counter[str] = field(default_factory=Counter)
    """Leases that each host holds."""
    token: int = 0
    spend: dict[tuple[str, str], Spend] = field(default_factory=dict)
    """(role, weights) → cost, answers that came too late included."""
    calls_failed: int = 0
    answers: int = 0
    """Calls that were answered, from the cache too."""
    ledger: Ledger = field(default_factory=Ledger)
    memory: dict[str, Any] = field(default_factory=dict)
    """The protocol's own state."""
    limits: list[ev.BudgetReached] = field(default_factory=list)
    questions: dict[str, QuestionRow] = field(default_factory=dict)
    """The open ones, in the order in which they were asked."""
    asked: int = 0
    heard: dict[str, int] = field(default_factory=dict)
    """Message from a person → the event that it became."""
    kept: dict[int, Heard] = field(default_factory=dict)
    """Number of the event → what a person said to work that waits for more budget, until the Decided that it causes."""
    files: dict[str, str] = field(default_factory=dict)
    stuck: int = 0
    """How often in a row the job was stuck, since it last moved on or a person resumed it."""
    outbox: dict[tuple[str, str], NoticeRow] = field(default_factory=dict)
    """(notice, way) → what is still to be delivered."""
    told: set[str] = field(default_factory=set)
    """Notices that were due, delivered or not."""

    def apply(self, event: Event) -> None:
        """Folds one event in.

        Raises:
            StoreError: the event's number does not follow the last one's.
        """
        if event.seq != self.seq + 1:
            raise StoreError(f"event {event.seq} follows event {self.seq}", "log", "the log has a gap; see `swarm doctor`")
        self.seq = event.seq
        _FOLD[type(event.body)](self, event, event.body)  # `time` is still that of the event before
        self.time = event.time

    # ---- questions that decisions ask ----

    def total(self, role: str = "") -> Spend:
        """What all calls have cost, or those of one role."""
        out = Spend()
        for (whose, _), one in self.spend.items():
            if role and whose != role:
                continue
            out.calls += one.calls
            out.tokens_in += one.tokens_in
            out.tokens_out += one.tokens_out
            out.seconds += one.seconds
        return out

    def seconds(self, now: float) -> float:
        """Wall-clock seconds that masters have held this job."""
        return self.held + max(0.0, now - self.opened_at) if self.opened_at else self.held

    def block_of(self, span: int) -> tuple[str, str, int]:
        """(document, hash of the block's body, row in the block) of a span number."""
        at = bisect_right(self.block_first, span) - 1
        document, block = self.block_rows[at]
        return document, block, span - self.block_first[at]

    def next_ready(self, now: float, waiting: Container[str] = ()) -> TaskRow | RangeRow | None:
        """The task or range that is due first, of roles that neither wait nor have stopped; None when nothing is."""
        while self.later and self.later[0][0] <= now:
            _, order, id = heapq.heappop(self.later)
            if id in self.tasks:
                row = self.tasks[id]
                heapq.heappush(self.ready.setdefault(row.role, []), (row.priority, order, id))
        first: TaskRow | RangeRow | None = None
        for role, heap in self.ready.items():
            if role in waiting or (role in self.stopped and self.closing is None):
                continue
            found = self._first(heap)
            if found is not None and (first is None or (found.priority, found.order) < (first.priority, first.order)):
                first = found
        return first

    def _first(self, heap: list[tuple[int, int, str]]) -> TaskRow | RangeRow | None:
        """The first row of a heap that is waiting. Stale entries are dropped on the way."""
        while heap:
            _, order, id = heap[0]
            row: TaskRow | RangeRow | None = self.tasks.get(id) or self.ranges.get(id)
            held = isinstance(row, TaskRow) and (row.token or self.waits(row))
            if row is not None and row.order == order and not held:
                return row
            heapq.heappop(heap)
        return None

    def waits(self, row: TaskRow) -> bool:
        """Whether a task is held back until a person answers, or gives more budget."""
        return bool(row.asked) or row.id in self.parked

    @property
    def settled(self) -> bool:
        """Whether the job has an answer to report: it ended, or rests until it gets more budget."""
        return bool(self.status)

    def left_out(self) -> bool:
        """Whether there is work that a limit keeps from being done."""
        return self.closing is not None or bool(self.parked) or any(self.open[role] for role in self.stopped)

    def push(self, row: TaskRow | RangeRow) -> None:
        if isinstance(row, TaskRow) and row.retry_at > self.time:
            heapq.heappush(self.later, (row.retry_at, row.order, row.id))
        else:
            heapq.heappush(self.ready.setdefault(row.role, []), (row.priority, row.order, row.id))

    def release(self, row: TaskRow) -> None:
        """Takes a lease off a task."""
        self.reserved -= row.reserved
        self.reserved_calls -= row.reserved_calls
        self.reserved_by[row.role] -= row.reserved
        self.reserved_calls_by[row.role] -= row.reserved_calls
        self.leased -= 1
        self.by_host[row.host] -= 1
        row.token, row.host, row.reserved, row.reserved_calls = 0, "", 0, 0

    def fence(self, row: TaskRow) -> None:
        """Notes that a lease is taken from its holder."""
        last = (row.said[-1][0], row.said[-1][1]) if row.said else (-1, -1)
        self.ledger.fence(row.token, Fenced(row.role, last, row.intent, Doubt(row.reserved_calls, row.reserved)))
        self.lose(row)

    def lose(self, row: TaskRow) -> None:
        """Puts a task's open call, if there is one, among those in doubt."""
        if row.intent is not None:
            self.ledger.lose(row.role, row.intent)
            row.lost_calls, row.lost_tokens = row.lost_calls + 1, row.lost_tokens + row.intent[2]
            row.intent, row.doubt = None, True

    def doubt(self, held: bool) -> Doubt:
        """All calls in doubt. Of a job that nobody works on, those that went out just before count too: `held` says whether
        somebody does."""
        found = self.ledger.doubt()
        for row in () if held else self.tasks.values():
            if row.intent is not None:
                found.calls, found.tokens = found.calls + 1, found.tokens + row.intent[2]
        return found

    def remove(self, row: TaskRow) -> None:
        self.lose(row)
        if row.token:
            self.release(row)
        del self.tasks[row.id]
        self.parked.pop(row.id, None)
        self.open[row.role] -= 1


# ---- folding, one function for each kind ----


def _created(state: JobState, event: Event, body: ev.JobCreated) -> None:
    state.created, state.started = body, event.time


def _forked(state: JobState, event: Event, body: ev.Forked) -> None:
    """Nobody holds the fork yet. The other job's calls that were out are that job's to account for, and its notices that
    were not delivered yet are its to deliver."""
    state.held, state.opened_at = state.seconds(state.time), 0.0
    state.outbox = {}
    for row in state.tasks.values():
        row.intent = None


def _opened(state: JobState, event: Event, body: ev.JobOpened) -> None:
    """A new master: every lease of the last one ends here, and its time is counted up to its last event. What tasks ran into
    may be mended by now: none of them waits any longer to try again."""
    state.held = state.seconds(state.time)
    state.epoch = body.epoch
    state.faults.forget()
    state.ledger.forget()
    idle = state.phase in (Phase.PAUSED, Phase.ENDED)
    state.opened_at = 0.0 if idle and body.shell == ev.CARETAKER else event.time
    for row in state.tasks.values():
        row.failures, row.setbacks, row.retry_at = 0, 0, 0.0
        if row.token:
            state.lose(row)
            state.release(row)
            state.push(row)
    state.later = sorted((0.0, order, id) for _, order, id in state.later)
    # One that has spent its budget rests until it gets more; one that is only taken care of stays as it is.
    if state.phase is Phase.PAUSED and not state.status and body.shell != ev.CARETAKER:
        state.phase = Phase.WORKING if state.pinned else Phase.PINNING
        if state.stuck > 1:
            state.stuck = 0  # a person has looked at it
    elif state.phase is Phase.WAITING:
        state.opened_at = 0.0


def _phase(state: JobState, event: Event, body: ev.PhaseChanged) -> None:
    """The clock of the job stands while it is paused, and while it waits for a person."""
    state.phase, state.reason = Phase(body.phase), body.reason
    if state.phase is Phase.PAUSED:
        state.status = "budget" if body.reason.startswith(OVER_BUDGET) else ""
    if state.phase in (Phase.PAUSED, Phase.WAITING):
        state.held, state.opened_at = state.seconds(event.time), 0.0
    elif not state.opened_at:
        state.opened_at = event.time


def _ended(state: JobState, event: Event, body: ev.JobEnded) -> None:
    state.phase, state.status, state.reason = Phase.ENDED, body.status, body.reason
    state.held, state.opened_at = state.seconds(event.time), 0.0
    for row in state.tasks.values():
        if row.token:
            state.fence(row)


def _report(state: JobState, event: Event, body: ev.ReportWritten) -> None:
    state.files = body.files


def _skipped(state: JobState, event: Event, body: ev.SourceSkipped) -> None:
    state.skipped.append(body.note)


def _spans(state: JobState, event: Event, body: ev.SpansPinned) -> None:
    state.block_first.append(body.first)
    state.block_rows.append((body.document, body.block))
    state.spans = body.first + body.count
    state.span_tokens += body.tokens


def _document(state: JobState, event: Event, body: ev.DocumentPinned) -> None:
    state.documents[body.document] = DocumentRow(
        body.document, body.path, body.media, body.origin, body.licence, body.train, body.digest, body.size, body.spans
    )


def _pinned(state: JobState, event: Event, body: ev.CorpusPinned) -> None:
    state.pinned = True
    if state.phase is Phase.PINNING:
        state.phase = Phase.WORKING


def _task(state: JobState, event: Event, body: ev.TaskAdded) -> None:
    row = TaskRow(
        body.task, body.role, body.goal, body.spans, body.reads, body.query, body.priority, event.seq, calls=body.calls
    )
    state.tasks[row.id] = row
    state.open[row.role] += 1
    state.push(row)


def _range(state: JobState, event: Event, body: ev.RangeAdded) -> None:
    row = RangeRow(body.range, body.role, body.goal, body.first, body.stop, body.priority, event.seq)
    state.ranges[row.id] = row
    state.open[row.role] += body.stop - body.first
    state.push(row)


def _leased(state: JobState, event: Event, body: ev.TaskLeased) -> None:
    row = state.tasks.get(body.task)
    if row is None:  # before there was RangeLeased, tasks of ranges were leased so
        source = state.ranges[body.range]
        row = state.tasks[body.task] = source.task(body.task, body.index, event.seq)
        _taken(state, source, body.index + 1)
    row.token, row.host, row.reserved, row.attempt = body.token, body.host, body.reserved, body.attempt
    row.reserved_calls = body.calls
    _hold(state, row.role, body.host, 1, body.reserved, body.calls)
    state.token = body.token


def _range_leased(state: JobState, event: Event, body: ev.RangeLeased) -> None:
    source = state.ranges[body.range]
    for task, index, token in body.leases():
        row = state.tasks[task] = source.task(task, index, event.seq)
        row.token, row.host, row.reserved, row.attempt, row.reserved_calls = token, body.host, body.reserved, 1, body.calls
        state.token = token
    _taken(state, source, body.first + body.count)
    _hold(state, source.role, body.host, body.count, body.reserved, body.calls)


def _taken(state: JobState, source: RangeRow, next: int) -> None:
    source.next = next
    if next >= source.stop:
        del state.ranges[source.id]


def _hold(state: JobState, role: str, host: str, leases: int, tokens: int, calls: int) -> None:
    """Sets aside what so many leases of a role may take, each of them as much."""
    state.reserved += leases * tokens
    state.reserved_calls += leases * calls
    state.reserved_by[role] += leases * tokens
    state.reserved_calls_by[role] += leases * calls
    state.leased += leases
    state.by_host[host] += leases


def _lease_ended(state: JobState, event: Event, body: ev.LeaseEnded) -> None:
    row = state.tasks[body.task]
    state.fence(row)
    state.release(row)
    state.push(row)


def _finished(state: JobState, event: Event, body: ev.TaskFinished) -> None:
    row = state.tasks[body.task]
    state.finished[row.role] += 1
    state.outcomes[row.role, body.outcome] += 1
    state.readings += bool(row.spans)
    state.remove(row)


def _failed(state: JobState, event: Event, body: ev.TaskFailed) -> None:
    row = state.tasks[body.task]
    counts = state.faults.counts(body.kind, row.heard, row.counted, event.time)
    state.faults.fault(body.kind, row.id, event.time, body.error)
    if body.retry_at is None:
        state.failed.append((row.id, row.role, row.spans, body.kind, body.error))
        state.given_up += 1
        state.remove(row)
        return
    state.lose(row)
    state.release(row)
    if body.kind == AGENT_BUDGET:
        state.parked[row.id] = None
        return
    state.retries += 1
    row.setbacks += 1
    if counts:
        row.failures += 1
        row.heard, row.counted = state.faults.answers, event.time
    row.retry_at = body.retry_at
    row.order = event.seq
    state.push(row)


def _posted(state: JobState, event: Event, body: ev.NotePosted) -> None:
    state.board.post(body, event.seq)
    if state.closing is not None and body.task:  # what people said stays
        state.closing.notes.append(body.note)


def _judged(state: JobState, event: Event, body: ev.NoteJudged) -> None:
    state.board.judge(body)


def _decided(state: JobState, event: Event, body: ev.Decided) -> None:
    state.kept.pop(event.cause, None)
    for key, value in body.state.items():
        if value is None:
            state.memory.pop(key, None)
        else:
            state.memory[key] = value


def _stuck(state: JobState, event: Event, body: ev.Stuck) -> None:
    state.stuck = body.times


def _notice_due(state: JobState, event: Event, body: ev.NoticeDue) -> None:
    state.told.add(body.notice)
    for way in body.ways:
        state.outbox[body.notice, way] = NoticeRow(body.notice, body.occasion, body.reason, way, event.time)


def _notice_sent(state: JobState, event: Event, body: ev.NoticeSent) -> None:
    state.outbox.pop((body.notice, body.way), None)


def _notice_failed(state: JobState, event: Event, body: ev.NoticeFailed) -> None:
    if body.retry_at is None:
        state.outbox.pop((body.notice, body.way), None)
    elif (row := state.outbox.get((body.notice, body.way))) is not None:
        row.attempts, row.retry_at = row.attempts + 1, body.retry_at


def _asked(state: JobState, event: Event, body: ev.ApprovalAsked) -> None:
    state.asked = body.number
    state.questions[body.question] = QuestionRow(
        body.question, body.number, body.text, body.options, body.default, body.until, body.tasks
    )
    for task in body.tasks:
        state.tasks[task].asked = body.question


def _nothing(state: JobState, event: Event, body: ev.Body) -> None:
    """Kinds that are facts of the log and change no state."""


_FOLD: dict[type[ev.Body], Callable[[JobState, Event, Any], None]] = {
    ev.JobCreated: _created, ev.JobOpened: _opened, ev.PhaseChanged: _phase, ev.BudgetReached: budget_reached,
    ev.BudgetChanged: budget_changed, ev.JobEnded: _ended, ev.ReportWritten: _report, ev.SourceSkipped: _skipped,
    ev.SpansPinned: _spans, ev.DocumentPinned: _document, ev.CorpusPinned: _pinned, ev.TaskAdded: _task, ev.RangeAdded: _range,
    ev.TaskLeased: _leased, ev.RangeLeased: _range_leased,
    ev.LeaseEnded: _lease_ended, ev.TaskFinished: _finished, ev.TaskFailed: _failed,
    ev.CallStarted: call_started, ev.CallFinished: call_finished, ev.CallFailed: call_failed, ev.CallStrayed: call_strayed,
    ev.NotePosted: _posted, ev.NoteJudged: _judged, ev.Decided: _decided, ev.SnapshotIgnored: _nothing, ev.TailCut: _nothing,
    ev.Stuck: _stuck, ev.NoticeDue: _notice_due, ev.NoticeSent: _notice_sent, ev.NoticeFailed: _notice_failed,
    ev.Forked: _forked,
    ev.PersonSaid: person_said, ev.ApprovalAsked: _asked, ev.ApprovalAnswered: approval_answered,
}  # fmt: skip
