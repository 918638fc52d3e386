"""What a job's fold is made of: the rows of its tables, which `state` fills.

Owns the shape of each row. Nothing here changes itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from swarm import events as ev
from swarm.coordinator.ledger import Intent

OVER_BUDGET = "budget:"
"""How the reason of a pause begins that lasts until the job gets more budget."""

AGENT_BUDGET = "agent-budget"
"""Kind of `TaskFailed` for a task that has spent what one agent may: it waits for more, unless it is a part of the end over a
budget. What that end could not pay for is `budget`."""

GivenUpRow = tuple[str, str, tuple[int, ...], str, str]
"""(task, role, spans, kind, error hash) of a task that was given up."""


MALFORMED = "malformed"
"""Kind of `TaskFailed` for a task whose outputs all broke their contract."""


def failure_word(kind: str) -> str:
    """A kind of `TaskFailed` as people read it: earlier versions wrote the name of a class for `malformed`."""
    return MALFORMED if kind == "_Malformed" else kind


class Phase(StrEnum):
    """Where a job stands. Only `PhaseChanged`, `CorpusPinned`, `JobOpened` and `JobEnded` move it."""

    PINNING = "pinning"
    WORKING = "working"
    WAITING = "waiting"
    """Nothing is left to do until a person answers a question."""
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(slots=True)
class TaskRow:
    """An open task. `token` is 0 while nobody holds it; `said` lists the outputs that are recorded already."""

    id: str
    role: str
    goal: str
    spans: tuple[int, ...]
    reads: tuple[str, ...]
    query: tuple[str, str, int] | None
    priority: int
    order: int
    attempt: int = 0
    token: int = 0
    host: str = ""
    reserved: int = 0
    retry_at: float = 0.0
    calls: int | None = None
    """Model calls that it takes at most; None for as many as its role may."""
    reserved_calls: int = 0
    spent: int = 0
    """Tokens of its recorded calls, without those that were answered from the cache."""
    made: int = 0
    """How many recorded calls these were."""
    lost_calls: int = 0
    """Calls without a recorded answer that it made, or may have: in doubt, or answered too late."""
    lost_tokens: int = 0
    """What they cost, or may have cost at most."""
    failures: int = 0
    """Attempts that failed since the task was last answered, under this master, and that count against it."""
    setbacks: int = 0
    """All attempts that failed since then; its waits grow with them."""
    heard: int = -1
    """How many calls of the job had been answered when a failure was last counted against the task."""
    counted: float = 0.0
    """Log time of that failure."""
    intent: Intent | None = None
    """The call that is out, where somebody may have to pay for it."""
    doubt: bool = False
    """Whether such a call was lost since the task was last answered."""
    asked: str = ""
    """The open question whose answer the task waits for."""
    said: list[tuple[int, int, str, str]] | None = None
    """(turn, sample, output hash, finish) of each recorded call."""


@dataclass(slots=True)
class RangeRow:
    """Tasks that are not in the table yet: one for each span in [next, stop)."""

    id: str
    role: str
    goal: str
    next: int
    stop: int
    priority: int
    order: int

    def task(self, id: str, index: int, order: int) -> TaskRow:
        """One of them, as it enters the table."""
        return TaskRow(id, self.role, self.goal, (index,), (), None, self.priority, order)


@dataclass(slots=True)
class Spend:
    """What calls have cost so far."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


@dataclass(slots=True)
class Heard:
    """An event by which a person said something, or by which a question was answered: one of the two bodies."""

    seq: int
    time: float
    epoch: int
    key: str
    said: ev.PersonSaid | None
    answer: ev.ApprovalAnswered | None
    tasks: tuple[str, ...]
    """Tasks that waited for the answer."""


@dataclass(slots=True)
class Closing:
    """What to go back to when a job that ends over its budget gets more: how it stood at event `seq`.

    Tasks, ranges and notes that were added since are a draft of the end.
    """

    seq: int
    memory: dict[str, Any]
    failed: int
    """How many tasks had been given up."""
    asked: int
    """How many questions had been asked; those that were asked since belong to the draft."""
    notes: list[str] = field(default_factory=list)
    """Notes that tasks posted since."""


@dataclass(slots=True)
class DocumentRow:
    """A pinned document; `path` is the hash of the body that holds its path."""

    id: str
    path: str
    media: str
    origin: str
    licence: str
    train: bool
    digest: str
    size: int
    spans: int


@dataclass(slots=True)
class NoticeRow:
    """A notice that is to be delivered in one way, as often as it failed so far."""

    notice: str
    occasion: str
    reason: str
    way: str
    time: float
    attempts: int = 0
    retry_at: float = 0.0


@dataclass(slots=True)
class QuestionRow:
    """A question that no person has answered yet; `text` is the hash of its body."""

    id: str
    number: int
    text: str
    options: tuple[str, ...]
    default: str
    until: float | None
    tasks: tuple[str, ...] = ()
    """Tasks that wait for the answer."""
