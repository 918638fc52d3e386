"""A protocol that reads its corpus soundly and then goes round in circles: for tests of how that is noticed.

Owns the ways of going round. It follows the interface of any protocol, and does on purpose what a protocol must not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from swarm.agents.roles import Role
from swarm.events import Event, Stuck
from swarm.protocol import (
    Action,
    AddRange,
    AddTask,
    CallModel,
    Command,
    Decision,
    Done,
    Finish,
    Judge,
    Material,
    Part,
    Post,
    Said,
    TaskBrief,
    View,
)  # fmt: skip
from swarm.spec import Frozen

WAYS = ("call", "task", "circle", "drafts", "rereading")
"""The same call under new names; the same task; tasks that name each other in turn; drafts that a critic refuses, each a new
note; the whole corpus once more."""
ROLES = {
    name: Role(name=name, about="goes round", max_tokens=20, window=1000, attempts=2, writes=("draft",))
    for name in ("reader", "thinker", "critic")
}


class Draft(Frozen):
    """What the thinker writes."""

    text: str


class Looping:
    """Goes round in one of WAYS, `width` times side by side, through `period` tasks. With `obeys` it finishes when asked to
    plan anew."""

    name = "looping"
    roles = tuple(ROLES)
    note_kinds: Mapping[str, type[BaseModel]] = {"draft": Draft}
    span_tokens = 64

    def __init__(self, way: str, period: int = 2, width: int = 1, obeys: bool = False) -> None:
        self.way, self.period, self.width, self.obeys = way, period, width, obeys

    def start(self, view: View) -> Decision:
        return Decision({"turn": 0}, [AddRange("reader", 0, view.spans)])

    def react(self, state: Mapping[str, Any], event: Event, view: View) -> Decision:
        if isinstance(event.body, Stuck):
            return Decision({}, [Finish("done", "there was nothing more to find")]) if self.obeys else Decision()
        if view.ended is None or (view.ended.role == "reader" and view.open.get("reader", 0)):
            return Decision()
        if "looping" not in state:
            return Decision({"looping": True, "turn": self.width}, [self._task(at) for at in range(self.width)])
        if self.way == "rereading":
            return Decision({}, [AddRange("reader", 0, view.spans)])
        turn = int(state["turn"])
        judged: list[Command] = [Judge(id, "unsupported", view.ended.id) for id in view.ended.reads]
        written = tuple(note.id for note in view.board.by_task(view.ended.id))
        return Decision({"turn": turn + 1}, [*judged, self._task(turn, written)])

    def _task(self, turn: int, reads: tuple[str, ...] = ()) -> Command:
        match self.way:
            case "task":
                return AddTask("thinker", f"part {turn % self.period}")
            case "rereading":
                return AddRange("reader", 0, 1)
            case "drafts":
                return AddTask("critic" if reads else "thinker", f"turn {turn}", reads=reads)
            case _:
                return AddTask(("thinker", "critic")[turn % self.period % 2], f"turn {turn}")

    def turn(self, task: TaskBrief, material: Material, transcript: Sequence[Said]) -> Action:
        if not transcript:
            asked = "think" if self.way == "call" else f"{task.role} {task.goal}"
            return CallModel((Part("goal", asked + "".join(passage.text for passage in material.passages)),))
        drafts = (Post("draft", {"text": task.goal}),) if self.way == "drafts" and task.role == "thinker" else ()
        return Done(drafts, "done")
