"""What a protocol is: how the agents of a job work together, as data in and commands out.

Owns the interface, the commands a protocol may answer with, what it may see, and how one is found. A protocol has two
halves, both pure. On the JobMaster `start` and `react` decide which tasks exist. On a host `turn` plays one turn of an
agent. Neither reads a clock, a file, a model or Ray. The protocols themselves stand in /protocols.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol as Interface

from pydantic import BaseModel, ConfigDict

from swarm.errors import ProtocolError, SwarmError
from swarm.events import Event, record
from swarm.shipped import shipped
from swarm.spec import JobSpec

# ---- commands: what `start` and `react` may ask for ----


@record
class AddTask:
    """One unit of work. `reads` are notes the task gets, `spans` passages; `goal` is small data for the agent's turn.

    `query` is (note kind, verdict, at most), 0 for no bound: the notes that the board answers with when the task is
    leased. Where priorities differ the lower number goes first. `calls` is how many model calls the task takes at most,
    which the budget sets aside: None for as many as its role may, 0 for a task that is code alone and costs nothing.
    """

    role: str
    goal: str = ""
    spans: tuple[int, ...] = ()
    reads: tuple[str, ...] = ()
    query: tuple[str, str, int] | None = None
    priority: int = 0
    calls: int | None = None


@record
class AddRange:
    """One task for each span in [first, stop), admitted as room appears."""

    role: str
    first: int
    stop: int
    goal: str = ""
    priority: int = 0


@record
class Judge:
    """A verdict on a note, given by the task that ended."""

    note: str
    verdict: str
    task: str


@record
class AddNote:
    """A note that the protocol itself puts on the board: `body` names a body that the log has already, as that of a
    person's word."""

    kind: str
    body: str
    status: str = ""


@record
class Ask:
    """A question to a person. `react` is called with ApprovalAnswered when it is answered; until then the job does what
    other work there is, and then waits.

    `options` are the answers that an approval may give besides none. After `seconds` without an answer `default` counts as
    it; 0 waits for ever. `task` is the task that wants to know, if one does.
    """

    question: str
    options: tuple[str, ...] = ()
    default: str = ""
    seconds: float = 0.0
    task: str = ""


@record
class Finish:
    """Nothing is left to do. `reason` is a sentence; `person:HASH` for one that a person gave as a body; or `unverified:ROLE`
    where every task of the role that verifies was given up, for the error that most of them had."""

    status: str = "done"
    reason: str = ""


Command = AddTask | AddRange | AddNote | Judge | Ask | Finish

WORD = "word"
"""The kind of note that a person's word becomes. A role that reads it is given all of them in each of its tasks."""


class Word(BaseModel):
    """What a person said: the content of a note of kind `word`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str
    by: str


@record
class Decision:
    """What a protocol answers: the keys of its state that change (None removes one), and commands in order."""

    state: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[Command] = ()


# ---- what a protocol sees ----


@record
class NoteView:
    """A note as the board holds it: ids, kind, status, links and flags, never text."""

    id: str
    kind: str
    task: str
    status: str
    verdict: str
    body: str
    seq: int
    cites: tuple[tuple[int, int, int], ...]
    links: tuple[tuple[str, str], ...]
    flags: Mapping[str, str | int | float | bool]


class BoardView(Interface):
    """Queries of the blackboard; the only way in which one task's notes reach another task."""

    def notes(self, kind: str, verdict: str | None = None, status: str | None = None) -> Iterator[NoteView]:
        """Notes of a kind, ordered by (first cited span, position in it, id), so that completion order never shows."""
        ...

    def by_task(self, task: str) -> list[NoteView]: ...

    def count(self, kind: str, verdict: str | None = None, status: str | None = None) -> int: ...

    def note(self, id: str) -> NoteView: ...


@record
class TaskView:
    """A task as the protocol sees it when it ends."""

    id: str
    role: str
    goal: str
    spans: tuple[int, ...]
    reads: tuple[str, ...]
    outcome: str


@record
class View:
    """Everything a decision may depend on, besides the protocol's own state.

    `open` counts the tasks of each role that are waiting, admitted or leased, ranges included; `stopping` is true
    when a budget lets nothing else go on, and the protocol ends with what it has.
    """

    spec: JobSpec
    spans: int
    documents: int
    board: BoardView
    open: Mapping[str, int]
    ended: TaskView | None
    stopping: bool
    tokens: int = 0
    """Tokens of all spans together."""
    room: Mapping[str, int] = field(default_factory=dict)
    """Tokens by role that a prompt has for what its task is about, besides the role's own text and the question."""


# ---- what an agent's turn sees and answers ----


@record
class Passage:
    """A span with its text, as an agent gets it. `start` is its first character's offset in the document."""

    number: int
    document: str
    path: str
    start: int
    text: str
    tokens: int
    breadcrumb: str
    train: bool


@record
class NoteText:
    """A note with its content: what `body` of NotePosted held, unpacked from msgpack."""

    id: str
    kind: str
    content: Any
    cites: tuple[tuple[int, int, int], ...]
    flags: Mapping[str, str | int | float | bool]
    verdict: str


@record
class Material:
    """The working set of a task, by ids that the JobMaster named."""

    passages: tuple[Passage, ...] = ()
    notes: tuple[NoteText, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Small facts of the job: number of documents and spans, some paths."""
    words: tuple[NoteText, ...] = ()
    """What people have said so far, if the role reads it."""


@record
class Said:
    """One recorded call of a task: the transcript is a list of these."""

    turn: int
    text: str
    finish: str = "stop"


@record
class Part:
    """A piece of a prompt before it is tokenised; becomes a Segment. `tokens` is given where it is already known.

    Parts of kind `turn` are an agent's own earlier turns; the oldest of them are left out when a window is full.
    """

    kind: str
    text: str
    trust: str = "operator"
    origin: str = ""
    train: bool = True
    tokens: int = -1
    speaker: str = "user"


COPIED_LAST = "x-last-copied-from"
"""In the JSON schema of an array of strings: the kind of the prompt's parts from which the last string must be copied.

Engines whose grammar runs here enforce it, so that a quote cannot be misspelt; others ignore it, and code checks the quote.
"""


@record
class CallModel:
    """Ask the model. `schema` is the JSON schema that its output must follow, with `COPIED_LAST` as its one extension."""

    parts: tuple[Part, ...]
    schema: Mapping[str, Any] = field(default_factory=dict)


@record
class Post:
    """A note to post. `content` is plain data of the note kind's model; `verdict` is for a note that nobody will judge."""

    kind: str
    content: Mapping[str, Any]
    status: str = ""
    verdict: str = ""
    cites: tuple[tuple[int, int, int], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    flags: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@record
class Done:
    """The task ends with these notes. `outcome` is a small fact for the protocol, e.g. `rows`, `none`, `yes`."""

    notes: tuple[Post, ...] = ()
    outcome: str = ""


@record
class Failed:
    """This attempt is worthless: the output does not parse, or breaks its contract. The task is tried again."""

    reason: str


Action = CallModel | Done | Failed


@record
class TaskBrief:
    """A task as the agent sees it."""

    id: str
    role: str
    goal: str
    attempt: int


Bounds = tuple[float, float]
"""(at least, at most)"""


@record
class Expected:
    """What the calls of a role will be, as far as it can be known before they are made."""

    passage: int = 0
    """Tokens of the input's text that one prompt holds at most: the role's window must have room for them."""
    calls: Bounds | None = None
    """How many calls; None if that is not known."""
    prompt: Bounds | None = None
    """Tokens of a prompt besides the role's text, question and columns, on average; None for any that fit its window."""
    output: Bounds | None = None
    """Tokens that a call writes, on average; None for any that it may."""


class SwarmProtocol(Interface):
    """A protocol. Instances are made once for a job with `create(spec)`, and hold nothing that changes.

    It may have one method more, which says what a job over so many spans, of so many tokens together, is likely to take, by
    role: `expects(spans: int, tokens: int) -> Mapping[str, Expected]`. Without it the plan is unknown; see `expected`.
    """

    name: str
    roles: tuple[str, ...]
    note_kinds: Mapping[str, type[BaseModel]]
    span_tokens: int

    def start(self, view: View) -> Decision:
        """Called once, when the corpus is pinned."""
        ...

    def react(self, state: Mapping[str, Any], event: Event, view: View) -> Decision:
        """Called for each task that ended (finished, or failed for good), when a budget is reached, for each
        word of a person (PersonSaid) and answer to a question (ApprovalAnswered), and when the job is Stuck: what the
        protocol answers then may be another plan, or nothing.

        A BudgetReached that is not `closing` says that one role, or one agent, has stopped while the others go on; there may
        be nothing to do. One that is asks for an end with what there is: what the protocol adds from then on, and what it
        remembers, is taken back if the job gets more budget, and its work goes on where it was.
        """
        ...

    def turn(self, task: TaskBrief, material: Material, transcript: Sequence[Said]) -> Action:
        """The next action of the agent that works on `task`. Depends on its arguments and the job's spec alone."""
        ...


def expected(protocol: SwarmProtocol, spans: int, tokens: int) -> Mapping[str, Expected]:
    """What a job is likely to take, by role. Of a protocol that does not say it, only this is known: a role called `reader` is
    given a passage.

    Raises:
        ProtocolError: the protocol failed to say it, or named a role that it does not have.
    """
    says = getattr(protocol, "expects", None)
    if says is None:
        return {"reader": Expected(protocol.span_tokens)} if "reader" in protocol.roles else {}
    try:
        found: Mapping[str, Expected] = says(spans, tokens)
        unknown = sorted(found.keys() - set(protocol.roles))
    except Exception as error:  # someone else's code: whatever it raises is its fault, and named so
        problem = f"its `expects` failed: {type(error).__name__}: {error}"
        raise ProtocolError(problem, f"protocol {protocol.name}", "mend it, or leave it out") from error
    if unknown:
        problem = f"its `expects` names {unknown[0]!r}, which is no role of it"
        raise ProtocolError(problem, f"protocol {protocol.name}", f"its roles are {', '.join(protocol.roles)}")
    return found


def find_protocol(name: str) -> tuple[ModuleType, str]:
    """Finds and imports a protocol: a shipped name, a path ending in .py, or a dotted module name.

    Returns the module and the digest of its source file.

    Raises:
        ProtocolError: there is none of that name, or it has no `create(spec)`.
    """
    if name.endswith(".py"):
        path = Path(name)
    elif "." in name:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # of a package that is not there, or a name that can be none
            spec = None
        path = Path(spec.origin) if spec and spec.origin else Path(name)
    else:
        path = shipped("protocols") / f"{name}.py"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in shipped("protocols").glob("[a-z]*.py")))
        cure = f"shipped protocols: {known}; or give a path ending in .py"
        raise ProtocolError(f"there is no protocol {name!r}", "protocol", cure)
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    module = _import(path, source, digest)
    if not callable(getattr(module, "create", None)):
        raise ProtocolError(f"{path} has no function create(spec)", "protocol", "see swarm/protocol.py for what a protocol is")
    return module, digest


def create_protocol(spec: JobSpec) -> tuple[SwarmProtocol, str]:
    """The protocol of a job and the digest of its source.

    Raises:
        ProtocolError: as `find_protocol`; its `create` failed, or made no protocol.
        SpecError: the protocol does not know an option, or cannot answer such a question.
    """
    module, digest = find_protocol(spec.protocol.name)
    path = Path(str(module.__file__))
    try:
        protocol: SwarmProtocol = module.create(spec)
    except SwarmError:
        raise
    except (Exception, SystemExit) as error:  # someone else's code: whatever it raises is its fault, and named so
        raise _at_fault("its create(spec) failed", path, error) from error
    for name, right in _PARTS.items():
        if not right(getattr(protocol, name, None)):
            raise ProtocolError(f"what create(spec) of {path} made has no right `{name}`", "protocol", "see swarm/protocol.py")
    return protocol, digest


_PARTS: dict[str, Callable[[Any], bool]] = {
    "name": lambda name: isinstance(name, str) and bool(name),
    "roles": lambda roles: isinstance(roles, tuple) and bool(roles) and all(isinstance(role, str) for role in roles),
    "note_kinds": lambda kinds: isinstance(kinds, Mapping),
    "span_tokens": lambda tokens: isinstance(tokens, int) and tokens > 0,
    "start": callable, "react": callable, "turn": callable,
}  # fmt: skip
"""What a protocol must have, and how it must look."""


def _at_fault(what: str, path: Path, error: BaseException) -> ProtocolError:
    """The error for a protocol's file that failed, with the line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    at = f"{path}, line {line}" if line else str(path)
    return ProtocolError(f"{what} ({at}): {type(error).__name__}: {said}", "protocol", "mend that file")


_IMPORTING: dict[str, threading.RLock] = {}
"""What is held while a module's body runs, by its name, or another thread would be given a module that is half made."""


def _import(path: Path, source: bytes, digest: str) -> ModuleType:
    """Imports a file once for each content, under a name of its own, so that it can't shadow another module.

    It runs the very bytes of the digest: Python's own cache takes a file for unchanged that was saved again within a second.
    """
    name = f"swarm_protocol_{path.stem}_{digest[:12]}"
    with _IMPORTING.setdefault(name, threading.RLock()):
        if name in sys.modules:
            return sys.modules[name]
        found = importlib.util.spec_from_file_location(name, path)
        if found is None:
            raise ProtocolError(f"{path} cannot be imported", "protocol", "a protocol is a Python file")
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module  # while its body runs: dataclasses look themselves up there
        try:
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise _at_fault("it cannot be imported", path, error) from error
        return module
