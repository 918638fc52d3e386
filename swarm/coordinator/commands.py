"""What a protocol answers, on its way to events: roles, passages and notes that are there, a state that a log can hold.

Owns the checks of an answer, and which event a command becomes. A task that names what is not there would fail wherever it
is handed out, at each start of the job again, and nobody could tell whose fault it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from swarm import events as ev
from swarm.agents.roles import Role
from swarm.coordinator.state import JobState
from swarm.errors import ProtocolError, StoreError
from swarm.payload import decode, encode
from swarm.protocol import AddNote, AddRange, AddTask, Ask, Command, Finish, Judge, SwarmProtocol

ENDS = ("done", "failed", "cancelled")
"""How a protocol may end its job."""


def remembered(state: Mapping[str, Any], protocol: SwarmProtocol) -> ev.Decided:
    """What a protocol wants remembered, as the log will give it back: so that a master that lives sees what one does that reads
    it anew.

    Raises:
        ProtocolError: no log can hold it.
    """
    try:
        kept = decode(ev.Decided.__name__, ev.Decided.version, encode(ev.Decided(state=dict(state))))
    except (StoreError, TypeError) as error:
        cure = "keep text, numbers, lists, and tables whose keys are text"
        raise ProtocolError(f"remembers what no log can hold ({error})", f"protocol {protocol.name}", cure) from error
    assert isinstance(kept, ev.Decided)
    return kept


def check_command(command: Command, protocol: SwarmProtocol, roles: Mapping[str, Role], state: JobState) -> None:
    """Refuses a command that can't be carried out.

    Raises:
        ProtocolError: it is no command; it names a role, a passage or a note that there is not, or a word for the job's end; it
            asks what can't be answered.
    """
    if fault := _fault(command, protocol, roles, state):
        problem, cure = fault
        raise ProtocolError(problem, f"protocol {protocol.name}", cure)


def event_of(command: AddTask | AddRange | AddNote | Judge, id: str) -> ev.Body | None:
    """The event that a command becomes, None if it asks for nothing. `id` is for what it adds."""
    match command:
        case Judge():
            return ev.NoteJudged(note=command.note, verdict=command.verdict, task=command.task)
        case AddTask():
            return ev.TaskAdded(
                task=id, role=command.role, goal=command.goal, spans=command.spans, reads=command.reads, query=command.query,
                priority=command.priority, calls=command.calls,
            )  # fmt: skip
        case AddRange() if command.first < command.stop:
            return ev.RangeAdded(
                range=id, role=command.role, goal=command.goal, first=command.first, stop=command.stop,
                priority=command.priority,
            )  # fmt: skip
        case AddNote():
            return ev.NotePosted(note=id, kind=command.kind, task="", body=command.body, status=command.status)
    return None


def _fault(command: object, protocol: SwarmProtocol, roles: Mapping[str, Role], state: JobState) -> tuple[str, str] | None:
    """(what is wrong, what to do)."""
    match command:
        case AddTask() | AddRange() if command.role not in roles:
            listed = f"add it to the protocol's `roles`, now {', '.join(protocol.roles)}"
            return f"asked for a task of role {command.role!r}, which it does not list", listed
        case AddTask():
            unknown = next((note for note in command.reads if not state.board.knows(note)), None)
            if unknown is not None:
                return (
                    f"asked for a task that reads note {unknown!r}, which is not on the board",
                    "`reads` takes ids of its notes",
                )
            return _absent(command.spans, state)
        case AddRange():
            return _absent((command.first, command.stop - 1) if command.first < command.stop else (), state)
        case Ask():
            if command.default and command.default not in command.options:
                cure = f"options are {', '.join(command.options) or 'none'}"
                return f"asks with default {command.default!r}, which is not among the options", cure
            if not all(command.options):
                return "asks with an option that is empty", "an answer without an option is an approval as proposed"
            if not 0 <= command.seconds < inf:
                return f"asks for {command.seconds} seconds", "give 0 for a question that waits for ever, or more"
        case Finish() if command.status not in ENDS:
            return f"finishes as {command.status!r}, which is no end", f"choose from {', '.join(ENDS)}"
        case AddNote() | Judge() | Finish():
            pass
        case _:
            return f"answered with {command!r}, which is no command", "see swarm/protocol.py for what a protocol may ask for"
    return None


def _absent(spans: Iterable[int], state: JobState) -> tuple[str, str] | None:
    """The first passage that there is not."""
    span = next((span for span in spans if not 0 <= span < state.spans), None)
    if span is None:
        return None
    cure = f"passages are numbered from 0 to {state.spans - 1}" if state.spans else "the corpus has no passages"
    return f"asked for a task over passage {span}, which there is not", cure
