"""The last word on a job: what its protocol says, unless nothing of the input was read.

Owns that exception. A protocol sees that its tasks ended, and ends with what it has; a job whose every reading task was
given up has nothing, and must not look like one that found nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from swarm import events as ev
from swarm.coordinator.state import AGENT_BUDGET, JobState
from swarm.coordinator.tables import GivenUpRow
from swarm.protocol import Finish

BUDGETS = ("budget", AGENT_BUDGET)
"""Kinds of `TaskFailed` that a budget is the reason of."""


def last_word(state: JobState, said: Finish) -> ev.JobEnded:
    """How the job ends when its protocol says `said`."""
    unread = [row for row in state.failed if row[2]]
    if said.status != "done" or state.readings or not unread or any(row[3] in BUDGETS for row in unread):
        return ev.JobEnded(status=said.status, reason=said.reason)
    kind, error = most_frequent(unread)
    reason = f"unread:{error}" if error else f"no passage was read: the reading tasks were given up ({kind})"
    return ev.JobEnded(status="failed", reason=reason)


def most_frequent(failed: Collection[GivenUpRow]) -> tuple[str, str]:
    """The kind that most of some tasks were given up for, and the error that is most frequent among those; the first of equals.

    Errors quote what was said, so that each may be another where the kind is the same.
    """
    kind = Counter(row[3] for row in failed).most_common(1)[0][0]
    return kind, Counter(row[4] for row in failed if row[3] == kind).most_common(1)[0][0]
