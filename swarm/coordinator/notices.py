"""What people are told, as a pure function of what has just happened and of the time that has gone by.

Owns the occasions and that each is told of once. Delivery is the shell's part: it takes what the log says is due, and
records what became of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm import events as ev
from swarm.coordinator.budget import limit_name, used
from swarm.coordinator.state import OVER_BUDGET, JobState, Phase
from swarm.events import Event
from swarm.spec import BudgetSpec, JobSpec

SHARES, WHOLE = (50, 80), 100
"""Per cent of a limit at which people are told; the limit itself is BudgetReached."""
EACH = 10
"""Tasks given up that are told of one by one; after them only every power of ten is."""
NO_SPACE = "no space is left on the disk"
"""Why a job is paused whose log could not grow any more."""
PROTOCOL = "protocol:"
"""Beginning of the reason of a job that is paused because its protocol failed; the body of what it said follows."""
ASKING = ("stuck:", "model:", PROTOCOL, "crash loop:", OVER_BUDGET, NO_SPACE)
"""Beginnings of the reasons of pauses that nobody asked for: the job waits for a person."""


def due(
    spec: JobSpec, budget: BudgetSpec, state: JobState, now: float, disk: int, events: Sequence[Event]
) -> list[ev.NoticeDue]:
    """The notices that events, which `state` holds already, and the time call for; none where the job has nobody to tell.
    `budget` is the one that holds now, `disk` the bytes that the run takes."""
    ways = spec.notify.ways()
    if not ways:
        return []
    found: dict[str, ev.NoticeDue] = {}

    def tell(notice: str, occasion: str, reason: str) -> None:
        if notice not in state.told and notice not in found:
            found[notice] = ev.NoticeDue(notice=notice, occasion=occasion, reason=reason, ways=ways)

    def tell_share(limit: str, level: int) -> None:
        """Once for each size of a limit, and none after a higher one. A limit of the spec has the shorter key, as it had
        before keys named the size, so that nobody is told again of what an older log has told."""
        changed = state.raised.get(limit)
        whose = f"budget:{limit}" if changed is None else f"budget:{limit}={changed:.15g}"
        higher = [f"{whose}:{one}" for one in (*SHARES, WHOLE) if one > level]
        if not any(key in state.told or key in found for key in higher):
            tell(f"{whose}:{level}", "budget", f"{level} % of budget.{limit}")

    called = any(isinstance(event.body, ev.CallFinished) for event in events)
    goes = budget.seconds is not None and bool(state.opened_at)  # time goes by without any event
    for limit, allowed, spent in used(budget, spec.model.price, state, now, disk) if called or goes else ():
        for level in SHARES if called or limit == "seconds" else ():
            if allowed and spent * 100 >= level * allowed:
                tell_share(limit, level)
    count = state.given_up - sum(isinstance(one.body, ev.TaskFailed) and one.body.retry_at is None for one in events)
    for event in events:
        body = event.body
        match body:
            case ev.JobEnded():
                occasion = "failed" if body.status == "failed" else "finished"
                tell(occasion, occasion, body.reason or body.status)
            case ev.PhaseChanged() if body.phase == Phase.PAUSED and body.reason.startswith(ASKING):
                occasion = "stuck" if body.reason.startswith("stuck") else "waiting"
                tell(f"{occasion}:{event.seq}", occasion, body.reason)
            case ev.PhaseChanged() if body.phase == Phase.WAITING:
                tell(f"waiting:{event.seq}", "waiting", body.reason)
            case ev.BudgetReached():
                tell_share(limit_name(body), WHOLE)
            case ev.ApprovalAsked():
                tell(f"question:{body.number}", "waiting", f"question:{body.text}")
            case ev.TaskFailed() if body.retry_at is None:
                count += 1
                if count <= EACH or str(count).strip("0") == "1":
                    tell(f"quarantine:{count}", "quarantine", f"task:{body.task}:{body.error}")
    return list(found.values())


def notice_key(body: ev.Body) -> str:
    """The key of an event about a notice, by which the outbox is found without folding; empty for others."""
    match body:
        case ev.NoticeDue():
            return f"notice:{body.notice}"
        case ev.NoticeSent():
            return f"notice:{body.notice}:{body.way}"
        case ev.NoticeFailed():
            return f"notice:{body.notice}:{body.way}:{body.retry_at}"
    return ""
