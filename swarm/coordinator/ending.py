"""The last word on a job: what its protocol says, unless nothing of the input was read, and why, where only the log knows.

Owns that exception. A protocol sees that its tasks ended, and ends with what it has; a job whose every reading task was
given up has nothing, and must not look like one that found nothing. That nothing was verified a protocol knows, and not why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from swarm import events as ev
from swarm.coordinator.state import AGENT_BUDGET, JobState
from swarm.coordinator.tables import GivenUpRow
from swarm.names import IN_VAIN
from swarm.protocol import Finish

BUDGETS = ("budget", AGENT_BUDGET)
"""Kinds of `TaskFailed` that a budget is the reason of."""
UNVERIFIED = "unverified:"
"""How the reason of a `Finish` begins whose job has rows and had none of them judged."""


def last_word(state: JobState, said: Finish) -> ev.JobEnded:
    """How the job ends when its protocol says `said`."""
    if said.reason.startswith(UNVERIFIED):
        role = said.reason.removeprefix(UNVERIFIED)
        tasks = [row for row in state.failed if row[1] == role]
        return ev.JobEnded(status=said.status, reason=_why("unverified", tasks, f"the tasks of role {role}"))
    unread = [row for row in state.failed if row[2]]
    if said.status != "done" or state.readings or not unread or any(row[3] in BUDGETS for row in unread):
        return ev.JobEnded(status=said.status, reason=said.reason)
    return ev.JobEnded(status="failed", reason=_why("unread", unread, "the reading tasks"))


def _why(kind: str, failed: Collection[GivenUpRow], tasks: str) -> str:
    """The reason of a job that failed because some tasks were all given up."""
    word, error = most_frequent(failed) if failed else ("", "")
    if error:
        return f"{kind}:{error}"
    return f"{IN_VAIN[kind]}: {tasks} were given up ({word})" if word else IN_VAIN[kind]


def most_frequent(failed: Collection[GivenUpRow]) -> tuple[str, str]:
    """The kind that most of some tasks were given up for, and the error that is most frequent among those; the first of equals.

    Errors quote what was said, so that each may be another where the kind is the same.
    """
    kind = Counter(row[3] for row in failed).most_common(1)[0][0]
    return kind, Counter(row[4] for row in failed if row[3] == kind).most_common(1)[0][0]
