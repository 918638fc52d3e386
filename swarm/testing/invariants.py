"""What must hold for a job's log and its fold at every moment, written down a second time and independently.

Owns the recount of what `JobState` counts as it goes, the limits of a budget, the promises that a log keeps (dense numbers,
time that never decreases, every lease ended once, no step finished twice, no call recorded twice), and digests to compare
two folds by.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

import msgpack
from pydantic import BaseModel

from swarm import events as ev
from swarm.board import Board
from swarm.coordinator import JobState, Phase
from swarm.coordinator.state import RangeRow, TaskRow
from swarm.events import KINDS, Event
from swarm.payload import decode, encode
from swarm.spec import BudgetSpec, Price, RoleBudget

CACHES = ("board", "ready", "later")
"""Fields of JobState that are compared otherwise (the board), or hold stale entries by design (the heaps)."""
AFTER_THE_END = (ev.ReportWritten, ev.JobOpened, ev.NoticeDue, ev.NoticeSent, ev.NoticeFailed, ev.CallStrayed)
"""What may still happen to a job that has ended: its report, telling people, and answers that come too late."""


class LogWatch:
    """Reads a log event by event, and objects to the first one that breaks a promise."""

    def __init__(self) -> None:
        self.seq = 0
        self.time = 0.0
        self.epoch = 0
        self.held: dict[int, str] = {}
        """Token → task of each lease that has not ended."""
        self.ranges: dict[str, tuple[int, int]] = {}
        """Range → the next span of it to be leased, and the one after its last."""
        self.tokens = 0
        self.over: set[str] = set()
        self.calls: set[tuple[str, int, int]] = set()
        self.ended = False

    def see(self, event: Event) -> None:
        assert event.seq == self.seq + 1, f"event {event.seq} follows {self.seq}"
        assert event.time >= self.time, f"time goes back at event {event.seq}"
        assert event.cause < event.seq, f"event {event.seq} is caused by {event.cause}"
        self.seq, self.time = event.seq, event.time
        body = event.body
        assert not self.ended or isinstance(body, AFTER_THE_END), f"{event.kind} after the end"
        match body:
            case ev.JobOpened():
                assert body.epoch > self.epoch, "an epoch comes twice"
                self.epoch = body.epoch
                self.held.clear()  # leases of an earlier master end here
            case ev.RangeAdded():
                self.ranges[body.range] = body.first, body.stop
            case ev.TaskLeased() | ev.RangeLeased():
                if isinstance(body, ev.TaskLeased) and body.range:
                    self.ranges[body.range] = body.index + 1, self.ranges[body.range][1]
                if isinstance(body, ev.RangeLeased):
                    first, stop = self.ranges[body.range]
                    assert body.count >= 1 and body.first == first and first + body.count <= stop, f"out of turn: {body}"
                    self.ranges[body.range] = first + body.count, stop
                for task, _, token in body.leases():
                    assert token > self.tokens, f"token {token} comes twice"
                    assert task not in self.held.values(), f"task {task} is leased twice at once"
                    assert task not in self.over, f"task {task} is leased after its end"
                    self.tokens = token
                    self.held[token] = task
            case ev.LeaseEnded() | ev.TaskFinished() | ev.TaskFailed():
                assert self.held.pop(body.token, None) == body.task, f"lease {body.token} ends and is not held"
                if isinstance(body, ev.TaskFinished) or (isinstance(body, ev.TaskFailed) and body.retry_at is None):
                    assert body.task not in self.over, f"task {body.task} ends twice"
                    self.over.add(body.task)
            case ev.CallFinished():
                call = (body.task, body.turn, body.sample)
                assert call not in self.calls, f"call {call} is recorded twice"
                assert body.task in self.held.values(), f"call {call} is recorded without a lease"
                self.calls.add(call)
            case ev.JobEnded():
                self.held.clear()  # what runs then is of no use any more
                self.ended = True
        assert event.epoch == self.epoch or not self.epoch, f"event {event.seq} is of another epoch"


def check_counters(state: JobState) -> None:
    """Compares every running count of a state with what its tables say."""
    rows, leased = state.tasks.values(), [row for row in state.tasks.values() if row.token]
    ahead = Counter({row.role: 0 for row in rows})
    ahead.update(row.role for row in rows)
    for source in state.ranges.values():
        ahead[source.role] += source.stop - source.next
    assert +ahead == +state.open and min(state.open.values(), default=0) >= 0, f"open: {state.open}, counted {ahead}"
    assert state.leased == len(leased)
    assert state.reserved == sum(row.reserved for row in leased)
    assert state.reserved_calls == sum(row.reserved_calls for row in leased)
    assert +state.by_host == Counter(row.host for row in leased) and min(state.by_host.values(), default=0) >= 0
    by_role: Counter[str] = Counter()
    for row in leased:
        by_role[row.role] += row.reserved
    assert +state.reserved_by == +by_role and sum(state.reserved_calls_by.values()) == state.reserved_calls
    assert not any(row.host or row.reserved for row in rows if not row.token)
    assert sum(state.finished.values()) == sum(state.outcomes.values())
    assert not any(state.tasks[id].token for id in state.parked), "a task that waits for more budget is held"
    check_nothing_is_forgotten(state)


def check_limits(budget: BudgetSpec, price: Price | None, state: JobState) -> None:
    """Neither the job nor a role has spent more than it may, if all that is in doubt or still out has to be paid for; nor has
    an agent on record."""
    scopes: list[tuple[str, BudgetSpec | RoleBudget]] = [("", budget), *budget.roles.items()]
    for role, most in scopes:
        spends = [one for (whose, _), one in state.spend.items() if role in ("", whose)]
        doubts = [one for whose, one in state.ledger.doubts.items() if role in ("", whose)]
        out = [row.intent[2] for row in state.tasks.values() if row.intent is not None and role in ("", row.role)]
        calls = sum(one.calls for one in spends) + sum(one.calls for one in doubts) + len(out)
        unpaid = sum(one.tokens for one in doubts) + sum(out)
        tokens = sum(one.tokens for one in spends) + unpaid
        whose = f"of role {role}" if role else "of the job"
        assert most.calls is None or calls <= most.calls, f"{calls} calls {whose}, and {most.calls} are allowed"
        assert most.tokens is None or tokens <= most.tokens, f"{tokens} tokens {whose}, and {most.tokens} are allowed"
        if most.money is not None and price is not None:
            paid = sum(one.tokens_in * price.input + one.tokens_out * price.output for one in spends)
            paid = (paid + unpaid * max(price.input, price.output)) / 1e6
            assert paid <= most.money * (1 + 1e-9), f"{paid} paid {whose}, and {most.money} are allowed"
    agent = budget.agent
    for row in state.tasks.values():
        assert agent.calls is None or len(row.said or ()) <= agent.calls, f"{len(row.said or ())} calls of task {row.id}"
        assert agent.tokens is None or row.spent <= agent.tokens, f"{row.spent} tokens of task {row.id}"


def check_nothing_is_forgotten(state: JobState) -> None:
    """Every task and range that nobody holds can still come up, unless the budget has ended all work but the end."""
    if state.phase is Phase.ENDED:
        return
    ready = [entry for heap in state.ready.values() for entry in heap]
    coming = {(order, id) for _, order, id in (*ready, *state.later)}
    waiting: list[TaskRow | RangeRow] = [
        *(row for row in state.tasks.values() if not (row.token or state.waits(row))),
        *state.ranges.values(),
    ]
    for row in waiting:
        frozen = state.closing is not None and row.order <= state.closing.seq
        assert frozen or (row.order, row.id) in coming, f"{row.role} {row.id} never comes up again"


def again(event: Event) -> Event:
    """The event as it comes back from disk."""
    kind = type(event.body)
    body = decode(kind.__name__, kind.version, encode(event.body))
    return Event(event.seq, event.time, event.epoch, event.cause, event.key, body)


def refold(events: Iterable[Event]) -> JobState:
    """A new state from events as they come back from disk."""
    return folded(again(event) for event in events)


def folded(events: Iterable[Event]) -> JobState:
    """A new state from events that have come back from disk already."""
    state = JobState()
    for event in events:
        state.apply(event)
    return state


def log_digest(events: Iterable[Event]) -> str:
    """A digest of everything that a log says."""
    digest = hashlib.blake2b(digest_size=16)
    for event in events:
        head = (event.seq, event.time, event.epoch, event.cause, event.key, event.kind, KINDS[event.kind].version)
        digest.update(msgpack.packb((*head, encode(event.body))))
    return digest.hexdigest()


def state_digest(state: JobState) -> str:
    """A digest of all that a state holds, whatever the order in which its tables were filled."""
    held = {one.name: getattr(state, one.name) for one in fields(state) if one.name not in CACHES}
    return _digest({**held, "board": state.board.export()})


def differences(one: JobState, other: JobState) -> list[str]:
    """The names of the fields in which two states differ, heaps to the last stale entry included."""
    names = [held.name for held in fields(one) if held.name != "board"]
    found = [name for name in names if _plain(getattr(one, name)) != _plain(getattr(other, name))]
    return found + ["board"] * (questioned(one.board) != questioned(other.board))


def questioned(board: Board) -> Any:
    """What a board answers to every kind of query, as plain data."""
    plain = board.export()
    views = [board.note(row["id"]) for row in plain["notes"]]
    selections = {(view.kind, view.verdict, view.status) for view in views}
    return _plain(
        [
            plain,
            views,
            board.kinds(),
            len(board),
            {task: board.by_task(task) for task in sorted({view.task for view in views})},
            {span: board.citing(span) for span in sorted({cite[0] for view in views for cite in view.cites})},
            {one: [list(board.notes(*one)), board.count(*one)] for one in sorted(selections)},
            {view.id: [board.provenance(view.id), board.spans(view.id)] for view in views},
        ]
    )


def meaning_digest(state: JobState) -> str:
    """A digest of what a log amounts to: for logs of older versions, whose states lack what was added since."""
    return _digest(
        {
            "phase": state.phase,
            "status": state.status,
            "reason": state.reason,
            "seq": state.seq,
            "epoch": state.epoch,
            "documents": state.documents,
            "spans": state.spans,
            "tokens": state.span_tokens,
            "finished": state.finished,
            "outcomes": state.outcomes,
            "failed": state.failed,
            "spend": state.spend,
            "limits": state.limits,
            "memory": state.memory,
            "board": state.board.export(),
            "open": state.open,
            "token": state.token,
        }
    )


def _digest(value: Any) -> str:
    return hashlib.blake2b(msgpack.packb(_plain(value)), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Phase):
        return str(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return [[one.name, _plain(getattr(value, one.name))] for one in fields(value)]
    if isinstance(value, set):
        return sorted(_plain(item) for item in value)
    if isinstance(value, Counter):
        return sorted([_plain(key), number] for key, number in value.items() if number)
    if isinstance(value, dict):
        return sorted(([_plain(key), _plain(held)] for key, held in value.items()), key=lambda pair: str(pair[0]))
    return [_plain(item) for item in value]
