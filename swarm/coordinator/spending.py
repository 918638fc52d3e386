"""What calls cost, and what they may have cost.

Owns the folding of the events of calls. What is asked of the account, the budget and the ledger say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm import events as ev
from swarm.coordinator.tables import Spend
from swarm.events import Event

if TYPE_CHECKING:
    from swarm.coordinator.state import JobState


def call_started(state: JobState, event: Event, body: ev.CallStarted) -> None:
    """Only what has a key may have to be paid for, and stands before its call."""
    if body.key:
        state.ledger.billed = True
        most = body.tokens + int(body.sampling.get("max_tokens", 0))
        state.tasks[body.task].intent = (body.turn, body.sample, most)


def call_finished(state: JobState, event: Event, body: ev.CallFinished) -> None:
    row = state.tasks[body.task]
    if row.said is None:
        row.said = []
    row.said.append((body.turn, body.sample, body.output, body.finish))
    row.failures = row.setbacks = 0
    state.faults.forget()
    state.faults.answers += 1
    row.heard, row.intent, row.doubt = -1, None, False
    if body.cached:
        state.ledger.cached += 1
    else:
        row.made += 1
        row.spent += body.tokens_in + body.tokens_out
        _spent(state, row.role, body)


def _spent(state: JobState, role: str, body: ev.CallFinished | ev.CallStrayed) -> None:
    spend = state.spend.get((role, body.weights))
    if spend is None:
        spend = state.spend[role, body.weights] = Spend()
    spend.calls += 1
    spend.tokens_in += body.tokens_in
    spend.tokens_out += body.tokens_out
    spend.seconds += body.seconds


def call_failed(state: JobState, event: Event, body: ev.CallFailed) -> None:
    state.calls_failed += 1
    row = state.tasks[body.task]
    if body.doubt:
        state.lose(row)
    row.intent = None


def call_strayed(state: JobState, event: Event, body: ev.CallStrayed) -> None:
    tokens = body.tokens_in + body.tokens_out
    role, doubted = state.ledger.stray(body.token, body.turn, body.sample, tokens, body.last)
    if (row := state.tasks.get(body.task)) is not None:
        row.lost_calls += not doubted
        row.lost_tokens += tokens - doubted
    _spent(state, role, body)
