"""Forking a job: a new run that begins with another one's events up to a step, and goes on under changed settings.

Owns the finding of the step, the check that a change can still take effect there, and the copy. Events are copied with the
bodies that they name, so that neither run needs the other: whatever is removed from one, the other keeps what it has.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from swarm import events as ev
from swarm.agents.roles import find_role
from swarm.coordinator import JobState, Phase
from swarm.coordinator.budget import effective, limit, limit_names
from swarm.corpus import pin
from swarm.errors import DamageError, SpecError, StoreError
from swarm.events import Event
from swarm.models.choose import create_model
from swarm.names import counted, is_number
from swarm.runtime.outbox import check_ways
from swarm.runtime.pins import unpack_block
from swarm.runtime.prepare import Prepared, check_budget, check_changed, check_names, check_pinned, prepare
from swarm.runtime.session import check_gold, no_job, person, read_pinned
from swarm.spec import BudgetSpec, JobSpec, NotifySpec, anchored, parse_spec
from swarm.store.blobs import write_durably
from swarm.store.connection import naming
from swarm.store.folder import RunFolder
from swarm.store.interface import Reader, Writer
from swarm.store.place import SPEC

BATCH = 1000
"""Events that are copied in one transaction."""
_HASH = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_NO_BODIES = ("prompt", "sampling", "weights", "tokenizer", "protocol_digest", "key")
"""Fields whose digests name no body."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where one job's events end in its fork: after event `seq`, the last one that belongs to step `step`."""

    seq: int
    step: int


@dataclass(frozen=True, slots=True)
class Forked:
    """A fork that was made and waits to be worked on, with all that was changed."""

    run: RunFolder
    cut: Cut
    changes: tuple[str, ...]


def fork(source: RunFolder, target: RunFolder, at: str, changes: Mapping[str, Any]) -> Forked:
    """Makes a new run of the events up to step `at`: its number, or `@SEQ`, the number of the event that ended it.

    `changes` are settings of the job by dotted name. What they would undo, such as inputs after they were pinned, is refused.

    Whatever can be refused is refused before anything is written: what is there afterwards is a run that any driver may
    take up, and it goes on as was asked.

    Raises:
        SpecError: there is no such step, no such setting, or it cannot change any more there.
        StoreError: the target exists, the source is damaged before the end of that step, or its job ended with it.
        CorpusError: the inputs are to be read anew, and one is missing or holds no text.
    """
    target.check_free()
    with source.reader() as reader:
        creations = _creations(reader, source.id)
        old_spec, old_roles = read_pinned(reader, creations[-1][1])
        spec = changed(old_spec, changes)
        cut = find_cut(reader, at)
        old = prepare(old_spec, old_roles)
        job = _prepared(old, spec)
        if not cut.step and _pins_anew(old, job):
            cut = Cut(0, 0)
        state = _state(reader, cut)
        stood = effective(old_spec.budget, state.raised)
        limits = _limits(stood, spec.budget, state, [*changes, *_forks_limits(reader, creations, cut)])
        differing = _differing("", old_spec.model_dump(mode="json"), spec.model_dump(mode="json"))
        names = tuple(sorted({*differing, *(f"budget.{name}" for name in limits)}))
        if cut.seq:
            _check(state, cut, old, job, names)
        more = limits if state.raised or state.limits else {}  # else the spec's own are in force
        after = effective(spec.budget, {**state.raised, **more})
        check_changed(job, state, 0, after, limits, "--set budget.")  # 0: what a copy takes on disk is not known yet
        if limits and not cut.step:
            check_budget(replace(job, spec=spec.model_copy(update={"budget": after})))
        create_model(spec.model, job.channels())  # says now what is missing; loads nothing
        _check_as_new(old_spec, spec)
        if not cut.seq:
            pin(spec.inputs)
        created, bodies = job.creation(target.id)
        own: list[ev.Body] = [ev.Forked(origin=source.id, at=cut.seq, step=cut.step, changes=names), created]
        if more:  # beside the spec, so that the limits hold whoever takes the fork up
            own.append(ev.BudgetChanged(who=person(), old={name: limit(stood, name) for name in more}, new=more))
        _write(reader, target, spec, cut, own, bodies)
    with suppress(StoreError):  # something else is called `latest`; the run has its own name
        target.make_latest()
    return Forked(target, cut, names)


def _check_as_new(old: JobSpec, spec: JobSpec) -> None:
    """Refuses what a new job would be refused for. What is as it was is let through: a program or a gold may be gone since, and
    the work can be done without."""
    if spec.answer.gold != old.answer.gold or _form(spec) != _form(old):
        check_gold(spec.answer)
    before = dict(old.notify)
    check_ways(NotifySpec.model_construct(**{name: value for name, value in spec.notify if value != before[name]}))


def _form(spec: JobSpec) -> tuple[bool, list[str]]:
    """What the rows of a gold are compared with."""
    return spec.answer.statements, [column.name for column in spec.answer.columns]


def _limits(stood: BudgetSpec, wanted: BudgetSpec, state: JobState, named: Iterable[str]) -> dict[str, float | None]:
    """Limit → new value, of those that the settings `named` hold and that are others than what `stood` at the cut. A limit that
    was changed before the cut stays as it was changed, unless it is named."""
    prefixes = [f"{name}." for name in named]
    names = dict.fromkeys([*limit_names(stood), *limit_names(effective(wanted, state.raised))])
    found = [name for name in names if any(f"budget.{name}.".startswith(prefix) for prefix in prefixes)]
    return {name: limit(wanted, name) for name in found if limit(wanted, name) != limit(stood, name)}


def _creations(reader: Reader, id: str) -> list[tuple[int, ev.JobCreated]]:
    """The job as it was created, and as each fork that led to run `id` created it, by number of event. The last is the run's own.

    It may stand behind damage, and so may an ancestor's: only the names tell whether one that cannot be read is left out.

    Raises:
        StoreError: there is none, or one may be left out, whose settings would be lost.
    """
    found = [(event.seq, event.body) for event in reader.life(sound=True) if isinstance(event.body, ev.JobCreated)]
    try:
        before = (event.body for seq, _ in found[1:] for event in reader.read(after=seq - 2, upto=seq - 1))
        origins = [body.origin for body in before if isinstance(body, ev.Forked)]
        if [created.job for _, created in found] != [*origins, id]:
            for _ in reader.read():  # if all is sound, a run was only renamed
                pass
    except DamageError as error:
        problem = f"{error.message}, and no sound record says with what settings {id} was created"
        raise DamageError(problem, error.where, f"{error.cure}; if a run was renamed, give it its old name back") from error
    if not found:
        raise no_job()
    return found


def _forks_limits(reader: Reader, creations: Iterable[tuple[int, ev.JobCreated]], cut: Cut) -> Iterator[str]:
    """Limits that the source was given as it was forked itself, where the cut is in what it kept: they are its settings."""
    for seq, _ in creations:
        if seq > cut.seq > 0:
            for event in reader.read(after=seq, upto=seq + 1):
                if isinstance(event.body, ev.BudgetChanged):
                    yield from (f"budget.{name}" for name in event.body.new)


def changed(spec: JobSpec, changes: Mapping[str, Any]) -> JobSpec:
    """The spec with settings replaced; relative paths are taken from the working folder.

    Raises:
        SpecError: a name is no setting, or a value is wrong.
    """
    fields = spec.model_dump(mode="json")
    for name, value in changes.items():
        put(fields, name, value)
    return anchored(parse_spec(fields, "--set"), Path.cwd())


def put(fields: dict[str, Any], name: str, value: Any) -> None:
    """Puts a value into nested settings, at a dotted name.

    Raises:
        SpecError: the name leads nowhere.
    """
    *way, last = name.split(".")
    place: Any = fields
    for part in way:
        if isinstance(place, dict):
            if place.get(part) is None:  # a section that is not set: whether it may hold this, and needs more, its reader says
                place[part] = {}
            place = place[part]
        else:
            place = place[int(part)] if _is_index(place, part) else None
    if isinstance(place, dict):
        place[last] = value
    elif _is_index(place, last):
        place[int(last)] = value
    else:
        raise SpecError(f"{name!r} names no setting", "--set", "name a setting of the job file, its parts joined by dots")


def find_cut(reader: Reader, at: str) -> Cut:
    """The last event of a step, with all that was decided on it. Step 0 ends when the inputs are pinned.

    Raises:
        SpecError: there is no such step.
    """
    wanted, by_event = _wanted(at)
    if not wanted and not by_event:
        pinned = (event.seq for event in reader.read() if isinstance(event.body, ev.CorpusPinned))
        return Cut(next(pinned, 0), 0)
    step = seq = 0
    events = reader.read()  # once, as `sound_part` does: what that could read of a damaged log can be read here
    for event in events:
        if _ends_step(event.body):
            step, seq = step + 1, event.seq
            if wanted == (seq if by_event else step):
                return Cut(_whole(events, seq), step)
    ended = f"it has {counted(step, 'step')}, the last one ended by event @{seq}"
    known = ended if step else "it has none yet; --at 0 begins anew"
    raise SpecError(f"there is no step {at}", "--at", f"{known}; `swarm steps` lists them")


def _ends_step(body: ev.Body) -> bool:
    return isinstance(body, ev.TaskFinished) or (isinstance(body, ev.TaskFailed) and body.retry_at is None)


def sound_part(reader: Reader, id: str) -> tuple[int, Cut]:
    """How much of the damaged log of run `id` can be carried over by a fork: the last record before the damage, and the last step
    that did not end the job and of which it is certain that all it caused lies before it too.

    Raises:
        StoreError: nothing, for the settings that it was to go on with, or the passages, cannot be read.
    """
    creations = _creations(reader, id)
    read_pinned(reader, creations[-1][1])
    seq, step, ended, cut, blocks = 0, 0, 0, Cut(0, 0), list[str]()
    with suppress(DamageError):
        for event in reader.read():
            if ended and event.cause != ended:
                cut, ended = Cut(seq, step), 0
            if _ends_step(event.body):
                step, ended = step + 1, event.seq
            elif isinstance(event.body, ev.JobEnded):
                ended = 0
            elif isinstance(event.body, ev.SpansPinned):
                blocks.append(event.body.block)
            seq = event.seq
    for block in blocks:
        unpack_block(reader.body(block))
    list(_forks_limits(reader, creations, cut))
    return seq, cut


def _whole(later: Iterable[Event], seq: int) -> int:
    """The last of the events that a step's end caused, of those after it."""
    end = seq
    for event in later:
        if event.cause != seq:
            break
        end = event.seq
    return end


def _wanted(at: str) -> tuple[int, bool]:
    """(number, whether it is an event's)."""
    number = at.removeprefix("@")
    if not is_number(number):
        raise SpecError(f"{at!r} is no step", "--at", "write a step's number, or @SEQ, as `swarm steps` shows them")
    return int(number), at.startswith("@")


def _prepared(old: Prepared, spec: JobSpec) -> Prepared:
    """The changed job, with the role files that the old one has pinned, but for those that were changed."""
    if spec.protocol.name != old.spec.protocol.name:
        return prepare(spec)
    texts = dict(old.role_texts)
    for name in {*spec.roles, *old.spec.roles}:
        if spec.roles.get(name) != old.spec.roles.get(name) and name in texts:
            texts[name] = find_role(name, spec.roles)[1]
    job = prepare(spec, texts)
    named = (spec.model.weights, spec.answer.columns) != (old.spec.model.weights, old.spec.answer.columns)
    if named or texts != dict(old.role_texts):
        check_names(job)
    return job


def _pins_anew(old: Prepared, job: Prepared) -> bool:
    """Whether the inputs have to be read and cut again, which can only be before the first step."""
    return (
        old.spec.inputs != job.spec.inputs
        or old.protocol.span_tokens != job.protocol.span_tokens
        or old.tokenizer.digest != job.tokenizer.digest
    )


def _check(state: JobState, cut: Cut, old: Prepared, job: Prepared, names: Sequence[str]) -> None:
    """Refuses changes that would contradict what is kept."""
    if state.phase is Phase.ENDED:
        raise StoreError(
            f"step {cut.step} ended the job ({state.status}): nothing is left to go on with", "--at", "fork at an earlier step"
        )
    begins = "fork with --at 0, which begins anew"
    if old.spec.inputs != job.spec.inputs:
        raise SpecError("cannot change once the inputs are pinned", "--set inputs", begins)
    if old.protocol.span_tokens != job.protocol.span_tokens:
        raise SpecError("cannot change once the inputs are cut", "--set protocol.options.span_tokens", begins)
    if state.created is not None:
        check_pinned(state.created, job)
    if not cut.step:
        return
    if old.spec.protocol.name != job.spec.protocol.name:
        raise SpecError("cannot change once it has decided something", "--set protocol.name", begins)
    shape = [name for name in names if name.startswith(("answer.columns", "answer.statements"))]
    if shape:
        raise SpecError("cannot change once notes of that form are on the board", f"--set {shape[0]}", begins)


def _state(reader: Reader, cut: Cut) -> JobState:
    state = JobState()
    for event in reader.read(upto=cut.seq) if cut.seq else ():
        state.apply(event)
    return state


def _write(
    reader: Reader, target: RunFolder, spec: JobSpec, cut: Cut, own: Sequence[ev.Body], bodies: Mapping[str, bytes]
) -> None:
    """Makes the run whole or not at all: a copy without its Forked would go on as if it were the original."""
    with target.drafted() as draft:
        copy = _Copy(reader, partial(target.place.writer, draft))
        try:
            with naming(draft):
                write_durably(draft / SPEC, yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False).encode())
            for event in reader.read(upto=cut.seq) if cut.seq else ():
                copy.add(event)
            copy.flush()
            copy.append(own, bodies)
        finally:
            copy.writer.close()


class _Copy:
    """Writes events into a new log as they stood in another, each under the epoch it had."""

    def __init__(self, reader: Reader, opened: Callable[[], Writer]) -> None:
        self._reader, self._opened = reader, opened
        self.writer = opened()
        self._events: list[Event] = []
        self._bodies: dict[str, None] = {}
        self._copied: set[str] = set()
        self._last: Event | None = None

    def add(self, event: Event) -> None:
        while self.writer.epoch < event.epoch:  # each opening of a log raises its epoch by one
            self.flush()
            self.writer.close()
            self.writer = self._opened()
        self._events.append(event)
        self._bodies.update(dict.fromkeys(self._named(event)))
        self._last = event
        if len(self._events) >= BATCH:
            self.flush()

    def flush(self) -> None:
        wanted = [hash for hash in self._bodies if hash not in self._copied]
        if self._events:
            self.writer.append(self._events, _present(self._reader, wanted))
        self._copied.update(wanted)
        self._events, self._bodies = [], {}

    def append(self, bodies: Sequence[ev.Body], texts: Mapping[str, bytes]) -> None:
        """Adds the fork's own first events."""
        seq, now = (self._last.seq, max(time.time(), self._last.time)) if self._last else (0, time.time())
        events = [Event(seq + at, now, self.writer.epoch, 0, "", body) for at, body in enumerate(bodies, 1)]
        self.writer.append(events, texts)

    def _named(self, event: Event) -> Iterator[str]:
        """The bodies that an event names, and those that a block of spans does."""
        for name, value in event.body.__dict__.items():
            if name not in _NO_BODIES:
                yield from _hashes(value)
        if isinstance(event.body, ev.SpansPinned):
            for row in unpack_block(self._reader.body(event.body.block)):
                yield from _hashes(tuple(row))


def _hashes(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _HASH.findall(value)
    elif isinstance(value, dict):
        for inner in (*value.keys(), *value.values()):
            yield from _hashes(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _hashes(inner)


def _present(reader: Reader, hashes: Sequence[str]) -> dict[str, bytes]:
    """Those of the bodies that are there: some may have been withdrawn, and some digests name none."""
    try:
        return reader.bodies(hashes)
    except StoreError:
        found = {}
        for hash in hashes:
            with suppress(StoreError):
                found[hash] = reader.body(hash)
        return found


def _differing(name: str, old: Any, new: Any) -> Iterator[str]:
    """Dotted names of the settings that differ. A role without limits has each of them open."""
    if name.startswith("budget.roles."):
        old, new = {} if old is None else old, {} if new is None else new
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differing(f"{name}.{key}" if name else str(key), old.get(key), new.get(key))
    elif old != new:
        yield name


def _is_index(place: Any, part: str) -> bool:
    return isinstance(place, list) and is_number(part) and int(part) < len(place)
