"""What passes between the coordinator and a host: a lease, and what came of it.

Owns the two records, and what can be told from a report alone. When a lease is given and what a report changes, the
coordinator decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from swarm import events as ev
from swarm.coordinator.ledger import Fenced
from swarm.coordinator.tables import TaskRow
from swarm.events import Body, record


@record
class Grant:
    """A lease, as a host gets it. `said` are the calls of the task that are recorded already."""

    task: str
    role: str
    goal: str
    token: int
    attempt: int
    spans: tuple[int, ...]
    reads: tuple[str, ...]
    said: tuple[tuple[int, int, str, str], ...]
    words: tuple[str, ...] = ()
    """Notes that hold what people said, if the role reads them."""
    left: tuple[int, int] | None = None
    """Tokens and calls that the agent may still spend; None for no limit."""


@record
class Report:
    """What a host did on a lease, in order; if the task ended, the last event says how.

    A failure comes as TaskFailed without `retry_at`, with `retryable` saying whether trying again makes sense, and `after`
    how many seconds to wait at least. A CallStarted at the end is the intent of a call that waits to be let out.
    """

    task: str
    token: int
    events: tuple[Body, ...]
    retryable: bool = True
    after: float = 0.0

    def repeats(self, said: Iterable[tuple[int, int, str, str]]) -> bool:
        """Whether it came before: its first call stands among `said`, the task's recorded ones."""
        first = self.events[0] if self.events else None
        return isinstance(first, (ev.CallStarted, ev.CallFinished)) and any(
            (turn, sample) == (first.turn, first.sample) for turn, sample, *_ in said
        )

    @property
    def asks(self) -> bool:
        """Whether a call waits to be let out."""
        return bool(self.events) and isinstance(self.events[-1], ev.CallStarted)

    @property
    def last(self) -> bool:
        """Whether its holder does nothing more under the lease."""
        return not self.events or isinstance(self.events[-1], (ev.TaskFinished, ev.TaskFailed))


def strayed(report: Report, lease: Fenced | None) -> Iterator[ev.CallStrayed]:
    """The answers in a report whose lease was taken away: they were paid for. Those of any other report stand in the log, as do
    those that were recorded before the lease ended."""
    if lease is None:
        return
    before = lease.last
    calls = [body for body in report.events if isinstance(body, ev.CallFinished) and not body.cached]
    late = [body for body in calls if (body.turn, body.sample) > before]
    for at, body in enumerate(late, 1):
        yield ev.CallStrayed(
            task=body.task, token=report.token, turn=body.turn, sample=body.sample, tokens_in=body.tokens_in,
            tokens_out=body.tokens_out, weights=body.weights, seconds=body.seconds, last=report.last and at == len(late),
        )


def left_off(rows: Iterable[TaskRow], billed: bool, late: bool) -> list[TaskRow]:
    """The tasks whose leases a paused job does not wait for: those of calls that somebody may have to pay for and that have not
    gone out yet, such as wait for an endpoint that is full; all, if it is `late`."""
    return [row for row in rows if row.token and (late or (billed and row.reserved_calls and row.intent is None))]


def calls_alone(report: Report) -> Report:
    """A report with nothing but the calls that have a result."""
    calls = [body for body in report.events if isinstance(body, (ev.CallStarted, ev.CallFinished, ev.CallFailed))]
    if calls and isinstance(calls[-1], ev.CallStarted):
        calls.pop()
    return replace(report, events=tuple(calls))
