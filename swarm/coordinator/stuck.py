"""Whether a job moves on: a watch over what its steps bring.

Owns what counts as moving on; what is done about a job that doesn't, the coordinator decides. It is pure, it reads events
and never changes the state. It lives as long as a master: the next one begins a new window.

A step moves the job on if it takes in a passage that its role has not taken in before, or if a note of new content is found
supported by it. Other steps are excused while they follow closely from one that did: merging what was read takes many steps,
in few levels. A step is idle if it does again what was done lately (the same task, the same call), or if its chain of causes
has grown long without anything new: that is what tasks in a circle have in common, whatever they call themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from swarm import events as ev
from swarm.coordinator.state import JobState
from swarm.events import Event

DEEP = 8
"""Steps in a chain of causes, one following from the other, that may bring nothing new before the chain counts as idle."""
GOALS = 8
"""Goals for which a role may read the same passages: a loop that names itself anew each time must not pass for reading."""
SAME_CALL, SAME_TASK, CIRCLE = "the same call again and again", "the same tasks again and again", "tasks in a circle"


@dataclass(slots=True)
class _Task:
    """What an open task is about; `depth` counts the steps before it in its chain of causes since one that moved on."""

    role: str
    goal: str
    spans: tuple[int, ...]
    rest: tuple[Any, ...]
    depth: int = 0
    prompt: str = ""
    turn: int = -1
    repeats: int = 0
    """Turns in a row that made the same call."""

    @property
    def name(self) -> tuple[Any, ...]:
        return (self.role, self.goal, self.spans, self.rest)


@dataclass(slots=True)
class _Step:
    """A task that has ended, and what came of it."""

    task: _Task
    moved: bool = False
    added: list[_Task] = field(default_factory=list)


class Watch:
    """Looks at every event of a master. `steps` is the window, 0 for none."""

    def __init__(self, steps: int, state: JobState) -> None:
        self._window, self._state = steps, state
        self.idle = 0
        """Idle steps in a row."""
        self.moved = False
        """Whether the job moved on since the last alarm."""
        self._tasks: dict[str, _Task] = {}
        self._ranges: dict[str, _Task] = {}
        self._ended: dict[int, _Step] = {}
        """Steps that ended since the last look, by the event that ended them."""
        self._read: dict[str, dict[str, bytearray]] = {}
        """Role → goal → the passages it has taken in, one bit each; under "" those for any goal."""
        self._verified: set[str] = set()
        self._lately: set[Any] = set()
        """Tasks and calls of the steps since the last that moved on."""
        self._signs: Counter[str] = Counter()
        self._turning = ""
        self._see: dict[type[ev.Body], Callable[[Event, Any], None]] = {
            ev.TaskAdded: self._added, ev.RangeAdded: self._ranged, ev.RangeLeased: self._leased, ev.CallStarted: self._called,
            ev.TaskFinished: self._end, ev.TaskFailed: self._end, ev.NoteJudged: self._judged,
        }  # fmt: skip
        for row in state.tasks.values():
            self._tasks[row.id] = _Task(row.role, row.goal, row.spans, (row.reads, row.query))
        for source in state.ranges.values():
            self._ranges[source.id] = _Task(source.role, source.goal, (), ())

    def see(self, event: Event) -> None:
        """Takes note of an event that the state holds already."""
        handler = self._see.get(type(event.body))
        if handler is not None and self._window:
            handler(event, event.body)

    def stuck(self) -> str:
        """Judges the steps that ended since the last look: how it shows that the job is stuck, or nothing."""
        for step in self._ended.values():
            self._judge(step)
        self._ended.clear()
        if self._turning:
            return self._turning
        return self._signs.most_common(1)[0][0] if self._window and self.idle >= self._window else ""

    def again(self) -> None:
        """The alarm was given: the next window begins."""
        self.idle, self.moved, self._turning = 0, False, ""
        self._signs.clear()

    # ---- events ----

    def _added(self, event: Event, body: ev.TaskAdded) -> None:
        self._open(event, self._tasks, body.task, _Task(body.role, body.goal, body.spans, (body.reads, body.query)))

    def _ranged(self, event: Event, body: ev.RangeAdded) -> None:
        self._open(event, self._ranges, body.range, _Task(body.role, body.goal, (), ()))

    def _open(self, event: Event, table: dict[str, _Task], id: str, task: _Task) -> None:
        table[id] = task
        if (step := self._ended.get(event.cause)) is not None:
            step.added.append(task)

    def _leased(self, event: Event, body: ev.RangeLeased) -> None:
        source = self._ranges[body.range]
        for task, index, _ in body.leases():
            self._tasks[task] = _Task(source.role, source.goal, (index,), (), source.depth)
        if body.range not in self._state.ranges:  # that was its last
            del self._ranges[body.range]

    def _called(self, event: Event, body: ev.CallStarted) -> None:
        task = self._tasks.get(body.task)
        if task is None or body.turn == task.turn:
            return  # the same turn is drawn again
        task.repeats = task.repeats + 1 if body.prompt and body.prompt == task.prompt else 0
        task.prompt, task.turn = body.prompt, body.turn
        if task.repeats >= self._window:
            task.repeats, self._turning = 0, SAME_CALL

    def _end(self, event: Event, body: ev.TaskFinished | ev.TaskFailed) -> None:
        if isinstance(body, ev.TaskFailed) and body.retry_at is not None:
            return
        task = self._tasks.pop(body.task, None)
        if task is not None:
            self._ended[event.seq] = _Step(task)

    def _judged(self, event: Event, body: ev.NoteJudged) -> None:
        step = self._ended.get(event.cause)
        if body.verdict == "supported" and step is not None:
            content = self._state.board.note(body.note).body
            step.moved |= content not in self._verified
            self._verified.add(content)

    # ---- steps ----

    def _judge(self, step: _Step) -> None:
        task = step.task
        if self._takes_in(task) or step.moved:
            self.idle, self.moved = 0, True
            self._lately.clear()
            self._signs.clear()
            return  # what follows from it begins a new chain
        for following in step.added:
            following.depth = task.depth + 1
        call, name = ("call", task.prompt), ("task", task.name)
        reread = bool(task.spans) and not any(task.rest)  # passages alone, and all of them were taken in before
        sign = SAME_CALL if task.prompt and call in self._lately else SAME_TASK if reread or name in self._lately else ""
        self._lately |= {call, name}
        if not sign and task.depth >= DEEP:
            sign = CIRCLE
        if sign:
            self.idle += 1
            self._signs[sign] += 1

    def _takes_in(self, task: _Task) -> bool:
        """Whether the role has a passage before it for the first time; it has it from now on."""
        if not task.spans:
            return False
        goals = self._read.setdefault(task.role, {"": bytearray()})
        if task.goal not in goals and len(goals) <= GOALS:
            goals[task.goal] = bytearray()
        new = _mark(goals[""], task.spans)
        return _mark(goals[task.goal], task.spans) if task.goal and task.goal in goals else new


def _mark(bits: bytearray, spans: tuple[int, ...]) -> bool:
    """Sets a bit for each span. True if one of them was not set."""
    new = False
    for span in spans:
        at, bit = span >> 3, 1 << (span & 7)
        if at >= len(bits):
            bits.extend(bytes(max(at + 1, 2 * len(bits)) - len(bits)))
        new |= not bits[at] & bit
        bits[at] |= bit
    return new
