"""What can happen to a job: the closed, versioned set of event kinds.

Owns the event bodies and the envelope around them; their form on disk is `payload`'s. It knows no store, no state and no
clock. Events carry ids, hashes, sizes and small facts; text lives in bodies, named here by their hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, dataclass_transform

from pydantic import BaseModel, ConfigDict

from swarm.names import body_hash as body_hash, identity as identity, range_task

T = TypeVar("T")


class Body(BaseModel):
    """What happened. Each kind is one frozen class below; `version` rises when its fields change."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: ClassVar[int] = 1


# ---- the life of a job ----


class JobCreated(Body):
    """The first event. Digests pin everything that the job's meaning depends on."""

    job: str
    name: str
    spec: str
    """Hash of the body that holds the canonical spec."""
    protocol: str
    protocol_digest: str
    roles: dict[str, str]
    """Role → hash of the body that holds its Markdown file."""
    notes: str
    """Hash of the body that holds the JSON schema of each note kind."""
    tokenizer: str
    seed: int
    software: str


CARETAKER = "caretaker"
"""The shell of a master that only writes something down, and leaves a job that nobody works on as it stands."""
DESK = "desk"
"""The shell of a master that only hears messages and runs no agent."""


class JobOpened(Body):
    """A master took the job. Its epoch fences every earlier one. `software` is the version that it runs."""

    version = 2
    epoch: int
    host: str
    pid: int
    shell: str
    software: str = ""


class SnapshotIgnored(Body):
    """A master found a snapshot beside the log that it could not use, and folded the log from its first event instead."""

    reason: str


class TailCut(Body):
    """Whoever took the job cut `bytes` off the end of its log: of an unfinished commit, as a crash or a full disk leaves it."""

    bytes: int


class PhaseChanged(Body):
    """The job moved on: pinning, working, waiting for a person, paused, or ended."""

    phase: str
    reason: str = ""


class BudgetReached(Body):
    """Work might have passed a limit of `role` (empty: the job's; `(agent)`: that of any one agent). Only that role, or agent,
    stops, unless it is `closing`: then nothing else can go on, and the roles of `still` end the job with what it has, in a
    draft that BudgetChanged takes back."""

    version = 2
    limit: str
    allowed: float
    spent: float
    still: tuple[str, ...] = ()
    role: str = ""
    closing: bool = True


class BudgetChanged(Body):
    """A person gave the job more, or less: limits by name, such as `tokens` or `roles.reader.calls`, None for no limit."""

    who: str
    old: dict[str, float | None]
    new: dict[str, float | None]


class JobEnded(Body):
    """The last word: `done`, `failed`, `budget` or `cancelled`. `reason` is a sentence; `person:HASH`, one that a person gave; or
    `unread:HASH` or `unverified:HASH`, the error that most reading, or verifying, tasks had, where all of them were given up."""

    status: str
    reason: str = ""


class Forked(Body):
    """The events before this one are another job's, up to its event `at`; the JobCreated that comes next is this one's own.
    `changes` are the settings that differ, as dotted names; their values are in the two specs."""

    origin: str
    at: int
    step: int
    """Steps of the other job that are kept."""
    changes: tuple[str, ...]


class ReportWritten(Body):
    """The answer was rendered. `files` maps each file's name to its digest."""

    files: dict[str, str]


class Stuck(Body):
    """So many steps in a row brought nothing. The first of its `times` the protocol may plan anew, then the job pauses."""

    reason: str
    steps: int
    times: int


class NoticeDue(Body):
    """People are to be told something, in each of the `ways` once. `notice` names it among the job's notices, `occasion`
    says what kind it is, and `reason` is as in the event that it tells of."""

    notice: str
    occasion: str
    reason: str
    ways: tuple[str, ...]


class NoticeSent(Body):
    """A notice was delivered."""

    notice: str
    way: str


class NoticeFailed(Body):
    """A notice could not be delivered; `error` is the hash of a body. It is tried again from `retry_at` on (log time), or
    never, if that is None."""

    notice: str
    way: str
    error: str
    retry_at: float | None


# ---- what people say ----


class PersonSaid(Body):
    """A person's word to the coordinator. `body` is the hash of {text, by} in msgpack, which a note may name as its own;
    `message` is the name it had in the inbox, so that it is heard once."""

    body: str
    by: str
    message: str


class ApprovalAsked(Body):
    """A question to a person, the `number`-th of the job, open until an ApprovalAnswered under the same key. `text` is the
    hash of a body; `options` are the answers that an approval may give; from `until` (log time) on, `default` counts. `tasks`
    wait for the answer: approved they go on, else they are given up."""

    version: ClassVar[int] = 2
    question: str
    number: int
    text: str
    options: tuple[str, ...] = ()
    task: str = ""
    default: str = ""
    until: float | None = None
    tasks: tuple[str, ...] = ()


class ApprovalAnswered(Body):
    """A question is `approved`, `rejected`, or has `lapsed` as nobody answered in time, or is `withdrawn` with the draft that
    asked it. `answer` is one of its options, or empty: as proposed. `why` is the hash of a body, `message` as in PersonSaid."""

    question: str
    verdict: str
    answer: str = ""
    why: str = ""
    by: str = ""
    message: str = ""


# ---- the corpus ----


class SourceSkipped(Body):
    """An input, or a part of one, that was not read, and why. The path and reason are a body."""

    note: str


class SpansPinned(Body):
    """A block of consecutive spans: `block` is the hash of a body of [start, end, tokens, digest, breadcrumb] rows."""

    document: str
    first: int
    count: int
    tokens: int
    block: str


class DocumentPinned(Body):
    """A whole document was cut. `path` is the hash of a body; `digest` is the SHA-256 of its raw bytes."""

    document: str
    path: str
    media: str
    origin: str
    licence: str
    train: bool
    digest: str
    size: int
    spans: int


class CorpusPinned(Body):
    """All inputs are pinned."""

    documents: int
    spans: int
    tokens: int


# ---- tasks ----


class TaskAdded(Body):
    """A unit of work. `reads` are note ids and `spans` span numbers; `query` is (note kind, verdict, at most) of the
    notes that the board answers with when the task is leased, for work over more notes than an event should list.
    `calls` is how many model calls it takes at most: None for as many as its role may, 0 for work that is code alone."""

    task: str
    role: str
    goal: str = ""
    spans: tuple[int, ...] = ()
    reads: tuple[str, ...] = ()
    query: tuple[str, str, int] | None = None
    priority: int = 0
    calls: int | None = None


class RangeAdded(Body):
    """One task for each span in [first, stop), admitted lazily: only as many as may be open."""

    range: str
    role: str
    goal: str = ""
    first: int
    stop: int
    priority: int = 0


class TaskLeased(Body):
    """A host may work on a task until `until` (log time). `token` fences earlier holders.

    `reserved` tokens and `calls` are set aside for it until the lease ends. In older logs a task of a range enters the table
    with this event; `index` is its span.
    """

    task: str
    host: str
    token: int
    until: float
    attempt: int
    reserved: int
    range: str = ""
    index: int = -1
    calls: int = 1

    def leases(self) -> Iterator[tuple[str, int, int]]:
        """(task, span, token) of the one lease, as of RangeLeased."""
        yield self.task, self.index, self.token


class RangeLeased(Body):
    """A host may work on the next `count` tasks of a range until `until`: those of the spans from `first` on, each for the
    first time. Their tokens follow one another from `token` on; `reserved` and `calls` are what is set aside for each."""

    range: str
    host: str
    first: int
    count: int
    token: int
    until: float
    reserved: int
    calls: int

    def leases(self) -> Iterator[tuple[str, int, int]]:
        """(task, span, token) of each lease."""
        for at in range(self.count):
            yield range_task(self.range, self.first + at), self.first + at, self.token + at


class LeaseEnded(Body):
    """A lease ended without a result: it expired, its host was lost, or the seconds of the budget were over (`budget`)."""

    task: str
    token: int
    reason: str


class TaskFinished(Body):
    """A step is done: its notes and calls stand before this event."""

    task: str
    token: int
    outcome: str
    notes: int


class TaskFailed(Body):
    """An attempt failed. `retry_at` is the log time from which it may be tried again; None means never. Of kind `agent-budget`
    it waits for the next BudgetChanged."""

    task: str
    token: int
    error: str
    """Hash of the body that says what went wrong."""
    kind: str
    retry_at: float | None


# ---- calls ----


class CallStarted(Body):
    """A model call with everything in its window, as (digest, kind, origin, trust, may train, tokens) a segment. With a `key`,
    the same for each attempt, somebody may have to pay: it is the intent, durable before the call goes out."""

    version: ClassVar[int] = 2
    task: str
    turn: int
    sample: int
    channel: str
    prompt: str
    tokens: int
    manifest: tuple[tuple[str, str, str, str, bool, int], ...]
    sampling: dict[str, Any]
    key: str = ""


class CallFinished(Body):
    """What answered, what it cost, and the hash of its output. `cached`: it is the recorded answer to an equal call, which
    was paid for before; its tokens are those of that call, and cost nothing here."""

    version: ClassVar[int] = 2
    task: str
    turn: int
    sample: int
    output: str
    tokens_in: int
    tokens_out: int
    finish: str
    weights: str
    seconds: float
    cached: bool = False


class CallFailed(Body):
    """A call without an answer; `error` is the hash of a body. `doubt`: it went out, and nothing says that it was not carried
    out, so that it may have to be paid for."""

    version: ClassVar[int] = 2
    task: str
    turn: int
    sample: int
    kind: str
    error: str
    doubt: bool = False


class CallStrayed(Body):
    """An answer that came when the lease `token` under which it was asked for had ended: paid for, and of no use. `last`: its
    holder does nothing more under that lease."""

    version = 2
    task: str
    token: int
    turn: int
    sample: int
    tokens_in: int
    tokens_out: int
    weights: str
    seconds: float
    last: bool = False


# ---- the blackboard ----


class NotePosted(Body):
    """A note with its evidence.

    `cites` are (span number, first character, end character) in document offsets; `links` are (kind, other note's id);
    `flags` are small facts that queries select on. `verdict` is what NoteJudged would say, where nobody is going to judge it.
    """

    version: ClassVar[int] = 2
    note: str
    kind: str
    task: str
    body: str
    status: str = ""
    verdict: str = ""
    cites: tuple[tuple[int, int, int], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    flags: dict[str, str | int | float | bool] = {}


class NoteJudged(Body):
    """A verdict on a note: `supported`, `unsupported` or `unchecked`; `task` is who judged."""

    note: str
    verdict: str
    task: str


class Decided(Body):
    """What the protocol now remembers: only the keys that changed. None removes a key."""

    state: dict[str, Any]


KINDS: dict[str, type[Body]] = {kind.__name__: kind for kind in Body.__subclasses__()}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(kind: type[T]) -> type[T]:
    """A frozen dataclass for what is made by the hundred thousand.

    The type checker refuses to change its fields; a dataclass that refuses it at run time takes three times as long to make.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)


@record
class Event:
    """A fact of the log. `time` is seconds since 1970, stamped by the one writer, and never decreases along `seq`."""

    seq: int
    time: float
    epoch: int
    cause: int
    key: str
    body: Any  # one of KINDS; pydantic checks it, and a union of all of them would only slow that down

    @property
    def kind(self) -> str:
        return type(self.body).__name__
