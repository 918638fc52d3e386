"""Whether what a protocol answers can be: roles, passages and notes that are there, a state that a log can hold.

Owns the checks of an answer before it becomes events. A task that names what is not there would fail wherever it is handed
out, at each start of the job again, and nobody could tell whose fault it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm import events as ev
from swarm.agents.roles import Role
from swarm.coordinator.state import JobState
from swarm.errors import ProtocolError, StoreError
from swarm.protocol import AddRange, AddTask, Ask, Command, SwarmProtocol


def remembered(state: Mapping[str, Any], protocol: SwarmProtocol) -> ev.Decided:
    """What a protocol wants remembered, as the log will give it back: so that a master that lives sees what one does that reads
    it anew.

    Raises:
        ProtocolError: no log can hold it.
    """
    try:
        kept = ev.decode(ev.Decided.__name__, ev.Decided.version, ev.encode(ev.Decided(state=dict(state))))
    except (StoreError, TypeError) as error:
        cure = "keep text, numbers, lists, and tables whose keys are text"
        raise ProtocolError(f"remembers what no log can hold ({error})", f"protocol {protocol.name}", cure) from error
    assert isinstance(kept, ev.Decided)
    return kept


def check_command(command: Command, protocol: SwarmProtocol, roles: Mapping[str, Role], state: JobState) -> None:
    """Refuses a command that can't be carried out.

    Raises:
        ProtocolError: it names a role, a passage or a note that there is not, or asks with a default that is no option.
    """
    where = f"protocol {protocol.name}"
    if isinstance(command, (AddTask, AddRange)) and command.role not in roles:
        cure = f"add it to the protocol's `roles`, now {', '.join(protocol.roles)}"
        raise ProtocolError(f"asked for a task of role {command.role!r}, which it does not list", where, cure)
    match command:
        case AddTask():
            spans = command.spans
        case AddRange():
            spans = (command.first, command.stop - 1) if command.first < command.stop else ()
        case _:
            spans = ()
    for span in spans:
        if not 0 <= span < state.spans:
            cure = f"passages are numbered from 0 to {state.spans - 1}" if state.spans else "the corpus has no passages"
            raise ProtocolError(f"asked for a task over passage {span}, which there is not", where, cure)
    for note in command.reads if isinstance(command, AddTask) else ():
        if not state.board.knows(note):
            cure = "`reads` takes ids of notes that are on the board"
            raise ProtocolError(f"asked for a task that reads note {note!r}, which is not on the board", where, cure)
    if isinstance(command, Ask) and command.default and command.default not in command.options:
        cure = f"options are {', '.join(command.options) or 'none'}"
        raise ProtocolError(f"asks with default {command.default!r}, which is not among the options", where, cure)
