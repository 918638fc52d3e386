"""Whose fault it is when calls fail: the model's, which then answers nobody, or the task's, which then fails alone.

Owns what is remembered of faults since the last answer. It is a part of the fold: it depends on events alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from swarm.events import identity

MODEL_FAULTS = frozenset({"refused", "overloaded", "broken", "unreachable", "timeout"})
"""Kinds of `TaskFailed` that are the model's doing, as in `ModelError.kind`."""
REJECTED = "rejected"
"""Kind of `TaskFailed` for a request that the model does not take while it takes others: the task is given up over it."""
MANY_TASKS = 8
"""So many tasks that fail together say that the model fails, and not they."""
ALONE_SECONDS = 10.0
"""After so long another fault of a task counts, though no other call was answered meanwhile."""
SILENT_SECONDS = 600.0
"""How long a model may answer nothing but faults before the job pauses. A count of faults would say how many hosts there
are, and not how long they have waited."""
FIRST_ANSWER_SECONDS = 30.0
"""The same for a model that has not answered one call of the job yet: whoever started it is likely to be there to mend it."""
FIRST_WAIT_SECONDS = 300.0
"""What such a model may ask to be waited for all the same: a quota of calls a minute gets its minute."""


@dataclass(slots=True)
class Faults:
    """The model faults of a job since the last call that was answered."""

    answers: int = 0
    """Calls that were answered, from the cache too."""
    since: float = 0.0
    """Log time of the first fault; 0 while there is none."""
    failing: dict[str, None] = field(default_factory=dict)
    """Tasks that had one, in the order in which they failed."""
    rejected: int = 0
    """Requests since then that it did not take as they are."""
    said: str = ""
    """The hash of the last fault's words."""

    def counts(self, kind: str, heard: int, counted: float, now: float) -> bool:
        """Whether a failure counts against its task, whose last one that did was at `counted`, after `heard` answers.

        An endpoint that is full is no fault of the task's, nor is one that answers nobody: a model fault counts once, and
        again after some call of the job was answered since, or, where few tasks are left to tell by, after a while.
        """
        if kind not in MODEL_FAULTS or (not self.answers and kind != "overloaded"):
            return True
        alone = len(self.failing) < MANY_TASKS and now - counted >= ALONE_SECONDS
        return kind != "overloaded" and (heard != self.answers or alone)

    def unanswered(self, kind: str, last: bool, now: float) -> bool:
        """Whether a fault means that no call will be answered, and not that this one was not. `last`: its task would be given
        up over it. A model that rejects whatever it is asked, from the beginning or of late, is set up wrong."""
        if kind == REJECTED:
            return not self.answers or self.rejected >= MANY_TASKS
        if kind not in MODEL_FAULTS:
            return False
        return kind == "refused" or self._silent(now) or (last and not self.answers)

    def unheard(self, now: float, next: float) -> bool:
        """Whether time alone says that the model answers nobody: it never answered a call of the job, and the next one may go at
        `next` only. One that has answered before may ask for any wait, and is given it."""
        return not self.answers and self._silent(now) and next - self.since > FIRST_WAIT_SECONDS

    def _silent(self, now: float) -> bool:
        patience = SILENT_SECONDS if self.answers else FIRST_ANSWER_SECONDS
        return bool(self.since) and now - self.since >= patience

    def fault(self, kind: str, task: str, time: float, said: str) -> None:
        """A task failed, over the model or not."""
        self.rejected += kind == REJECTED
        if kind not in MODEL_FAULTS:
            return
        self.failing[task] = None
        self.since, self.said = self.since or time, said

    def forget(self) -> None:
        """A call was answered, or another master begins."""
        self.since, self.rejected, self.said = 0.0, 0, ""
        if self.failing:
            self.failing.clear()


def back_off(setbacks: int, *which: Any) -> float:
    """Seconds until the next attempt: exponential, with jitter drawn from what names this one, 90 at most."""
    jitter = int(identity(*which), 16) / float(1 << 64)
    return min(60.0, 2.0 ** min(setbacks, 10)) * (0.5 + jitter)
