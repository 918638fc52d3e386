"""The end of a job over its budget, and the way back from it when the job gets more.

Owns the folding of the two events that say so. What a protocol adds while it ends is a draft: it is taken back here, as if
the budget had never been reached, but what it cost stays spent. What people say to the work that waits is kept until then:
whatever came of it earlier would be taken back with the draft.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm import events as ev
from swarm.coordinator.tables import Closing, Heard, Phase, QuestionRow
from swarm.events import Event

if TYPE_CHECKING:
    from swarm.coordinator.state import JobState


def budget_reached(state: JobState, event: Event, body: ev.BudgetReached) -> None:
    state.limits.append(body)
    if body.role and body.role not in state.stopped:
        state.stopped += (body.role,)
    if body.closing and state.closing is None:
        state.closing = Closing(event.seq, dict(state.memory), len(state.failed), state.asked)
        state.ready, state.later = {}, []  # what waits now waits for more budget


def budget_changed(state: JobState, event: Event, body: ev.BudgetChanged) -> None:
    state.raised.update(body.new)
    parked = [state.tasks[id] for id in state.parked]
    state.limits, state.stopped, state.parked = [], (), {}
    if state.closing is not None:
        _go_back(state, state.closing)
    else:
        for row in parked:
            state.push(row)
    if state.status == "budget":
        state.status, state.reason = "", ""
        state.phase = Phase.WORKING if state.pinned else Phase.PINNING


def person_said(state: JobState, event: Event, body: ev.PersonSaid) -> None:
    state.heard[body.message] = event.seq
    if state.closing is not None:
        state.kept[event.seq] = Heard(event.seq, event.time, event.epoch, event.key, body, None, ())


def approval_answered(state: JobState, event: Event, body: ev.ApprovalAnswered) -> None:
    """A task that is gone waits for nothing: earlier versions left questions about tasks of a draft open."""
    kept = state.closing is not None and all(one.id != body.question for one in drafted(state))
    question = state.questions.pop(body.question)
    for row in [state.tasks[task] for task in question.tasks if task in state.tasks]:
        row.asked, row.doubt = "", row.doubt and body.verdict != "approved"
        if not kept:
            state.push(row)
    if kept:
        state.kept[event.seq] = Heard(event.seq, event.time, event.epoch, event.key, None, body, question.tasks)
    if body.message:
        state.heard[body.message] = event.seq


def drafted(state: JobState) -> list[QuestionRow]:
    """The open questions that are a part of the draft."""
    closing = state.closing
    return [row for row in state.questions.values() if closing is not None and row.number > closing.asked]


def kept_back(state: JobState) -> list[tuple[Event, tuple[str, ...]]]:
    """What people said to work that waited and may go on now, in its order, with the tasks that each answer was about."""
    rows = [(one, one.said or one.answer) for one in state.kept.values() if state.closing is None]
    return [(Event(one.seq, one.time, one.epoch, 0, one.key, body), one.tasks) for one, body in rows if body is not None]


def _go_back(state: JobState, to: Closing) -> None:
    """Takes back the draft of the end: what was added since the budget was reached, but not what it cost."""
    for row in [row for row in state.tasks.values() if row.order > to.seq]:
        if row.token:
            state.fence(row)
        state.remove(row)
    for source in [source for source in state.ranges.values() if source.order > to.seq]:
        state.open[source.role] -= source.stop - source.next
        del state.ranges[source.id]
    state.board.withdraw(reversed(to.notes))
    del state.failed[to.failed :]
    state.memory, state.closing = to.memory, None
    state.ready, state.later = {}, []
    for row in state.tasks.values():
        if not row.token:
            state.push(row)
    for source in state.ranges.values():
        state.push(source)
