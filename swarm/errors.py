"""What can go wrong, named by the boundary that was crossed.

Owns every exception type of the product and the exit code each one leads to. It knows nothing of how errors are shown
or retried. Every error names the field, file or setting at fault and the cure, and survives pickling, so that it can
cross a process or Ray boundary unchanged.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes that scripts rely on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BUDGET = 3
    CANCELLED = 4
    WAITING = 5


class SwarmError(Exception):
    """Base of all errors that swarmloom raises on purpose.

    Args:
        message: what is wrong, in one sentence, with the offending value.
        where: the field, file or setting at fault, e.g. `budget.tokens` or `notes/a.txt`; may be empty.
        cure: what the reader can do about it; may be empty.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, where: str = "", cure: str = "") -> None:
        super().__init__(message, where, cure)
        self.message, self.where, self.cure = message, where, cure

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.cure}" if self.cure else text


def on_a_line(text: str) -> str:
    """The words of an error, as `str` gives them, where there is room for one line only: the cure is a sentence of its own."""
    problem, _, cure = (" ".join(part.split()) for part in text.strip().partition("\n  "))
    if not cure:
        return problem
    stop = "" if problem.endswith((".", "!", "?", ":")) else "."
    word = cure.partition(" ")[0]
    return f"{problem}{stop} {cure[:1].upper() if word.isalpha() else cure[:1]}{cure[1:]}"


class SpecError(SwarmError):
    """A job, role or command line that does not say what it must."""

    exit_code = ExitCode.USAGE


class CorpusError(SwarmError):
    """An input that is missing, empty, unreadable, or changed since it was pinned."""

    exit_code = ExitCode.USAGE


class ProtocolError(SwarmError):
    """A protocol that cannot be found, or that broke its contract."""

    exit_code = ExitCode.USAGE


class WindowError(SwarmError):
    """Something that must be in a window and does not fit into it."""

    exit_code = ExitCode.USAGE


class StoreError(SwarmError):
    """The log or its bodies: locked, damaged, full, of a newer version, or not ours."""


class BusyError(StoreError):
    """A run that somebody else works on, or has since it was looked at: no fault of the run's."""


class DamageError(StoreError):
    """A log or a body that is not what was written."""


class NewerError(StoreError):
    """A log in which a newer swarmloom has written what this one cannot read."""


class NoSpaceError(StoreError):
    """The disk, or the object store, has no room for what was to be appended; nothing of it was."""


class BudgetError(SwarmError):
    """A job whose budget is spent, and which was asked to go on without more of it."""

    exit_code = ExitCode.BUDGET


class FencedError(StoreError):
    """A writer or a lease holder that has been replaced; what it wanted to append was refused."""


class ModelError(SwarmError):
    """A model call that failed.

    `retryable` says whether the same call may succeed later; `kind` is one of `refused` (401, 403, unknown model),
    `rejected` (this one request: 400, 413, 422, a content filter), `overloaded` (429), `broken` (5xx, nonsense, a dead
    server), `unreachable`, `timeout`. `doubt`: the call went out, and may have been carried out and charged. `after`: seconds
    to wait at least, where whoever refused said so.
    """

    def __init__(
        self,
        message: str,
        where: str = "",
        cure: str = "",
        kind: str = "broken",
        retryable: bool = True,
        doubt: bool = False,
        after: float = 0.0,
    ) -> None:
        super().__init__(message, where, cure)
        self.args = (message, where, cure, kind, retryable, doubt, after)
        self.kind, self.retryable, self.doubt, self.after = kind, retryable, doubt, after


class WeightsError(SwarmError):
    """Weights or an adapter that are missing or do not have the digest that was asked for."""


class ClusterError(SwarmError):
    """A Ray cluster that does not answer, or lacks what the job needs."""


class AwayError(ClusterError):
    """A Ray cluster that is not there, or not yet, as after a reboot: no fault of a job's."""
