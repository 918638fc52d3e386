"""One master's time with one job: from opening the run folder to leaving it.

Owns the order of the steps (check, create or resume, pin, start, tend, report, close) that the `local` and the `ray` shell
share. It starts no host and no model; a shell does.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from getpass import getuser
from pathlib import Path

import msgpack
import yaml

from swarm import events as ev
from swarm.coordinator import JobState, Phase
from swarm.coordinator.notices import NO_SPACE
from swarm.corpus import Pinned, pin
from swarm.errors import BusyError, ModelError, NoSpaceError, ProtocolError, SpecError, StoreError
from swarm.events import body_hash
from swarm.gold import NoGold, gold_rows
from swarm.models.choose import create_model
from swarm.names import plain
from swarm.runtime.master import JobMaster, persons_reason
from swarm.runtime.opening import Opened, open_state
from swarm.runtime.outbox import WAY_SECONDS, Outbox, check_ways
from swarm.runtime.pins import Block, check_unchanged, pin_blocks
from swarm.runtime.prepare import Prepared, check_budget, check_pinned, prepare, raise_budget
from swarm.spec import RAISES, RAISES_COLUMNS, AnswerSpec, JobSpec, parse_spec
from swarm.store import reserve
from swarm.store.blobs import write_durably
from swarm.store.connection import naming
from swarm.store.folder import RunFolder
from swarm.store.interface import Message, Reader, Writer

LEFT = "the driver left"
"""Reason of the pause that a driver leaves behind when an error ends it."""
SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
"""What asks a job to pause, and what it is called in its log."""
PAUSED_BY_A_PERSON = "paused by a person"
PASSING = (LEFT, SIGNALS[signal.SIGTERM])
"""Reasons of pauses that no person asked for: an error ended the driver, or its machine stopped. Ctrl-C is a person's."""
LAST_SECONDS = 15.0
"""How long a driver stays for the sake of notices that could not be delivered yet."""
TEND_SECONDS = 0.5
"""How often the inbox is read, the hold on the job renewed, and silent hosts are looked for."""


@dataclass
class Session:
    """A master that holds a job. Make one with `create` or `resume`, and close it."""

    run: RunFolder
    job: Prepared
    store: Writer
    master: JobMaster
    corpus: Pinned | None = None
    more: Mapping[str, float | None] = field(default_factory=dict)
    """Limits of the budget to change when the session begins, by name."""

    @classmethod
    def create(cls, job: Prepared, corpus: Pinned, run: RunFolder) -> Session:
        """Makes the run folder and log of a job that has been checked."""
        run.create()
        store = run.writer()
        if store.last():  # another one was quicker
            store.close()
            raise run.taken()
        try:
            with naming(run.spec):
                write_durably(run.spec, yaml.safe_dump(job.spec.model_dump(mode="json"), sort_keys=False).encode())
            master = JobMaster(job, store, JobState(), disk=run.size)
            created, bodies = job.creation(run.id)
            master.append([created], bodies)
        except BaseException:
            store.close()
            with suppress(StoreError):
                run.clear()  # nothing has begun: nothing may stay half-made
            raise
        with suppress(StoreError):  # something else is called `latest`; the run has its own name
            run.make_latest()
        return cls(run, job, store, master, corpus)

    @classmethod
    def resume(
        cls, run: RunFolder, pinned: bool = False, more: Sequence[str] = (), at: int | None = None, since: int | None = None
    ) -> Session:
        """Takes up a job from its log. `pinned` goes on with the run's own copy where the inputs have changed; `more` are
        changes of its budget, such as `tokens=+200000`. With `at` the log must still end there: whoever decided to resume
        it has seen all that happened. With `since` no person may have paused it after that event: the later word counts.

        Raises:
            SpecError: the budget cannot be changed so.
            StoreError: someone else holds the job, it has ended or moved on, or its log is damaged.
            CorpusError: an input has changed or gone.
        """
        with run.reader() as reader:
            opened, spec, roles = open_job(reader)
        state = opened.state
        check_open(run, state, at)
        job = prepare(spec, roles)
        if state.created is not None:
            check_pinned(state.created, job)
        store = run.writer()
        try:
            state = caught_up(state, store)
            check_open(run, state, at)
            if since is not None:
                check_unpaused(run, store, since)
            master = JobMaster(job, store, state, ignored=opened.ignored, disk=run.size, kept=opened.kept)
            raised = raise_budget(job, state, run.size(), more)
            if not state.pinned or not pinned:
                check_unchanged(job, state, master.path)
            corpus = None if state.pinned else pin(spec.inputs)
        except BaseException:
            store.close()
            raise
        return cls(run, job, store, master, corpus, raised)

    def open(self, shell: str, patient: bool = False) -> None:
        """Takes the job, and hears what was said meanwhile. Only after that is there work to do, or a job that rests.
        `patient`: stays while the job waits for a person."""
        self.master.patient = patient
        self.master.open(shell)
        reserve.keep(self.run.log)
        if self.more:
            self.master.change_budget(person(), self.more)
        self.hear()
        self.master.expire()

    async def begin(self) -> None:
        """Pins what is not pinned yet, and starts the work."""
        if self.corpus is not None:
            blocks = pin_blocks(self.corpus, self.job, self.master.state)
            while (block := await asyncio.to_thread(_next, blocks)) is not None:
                if self.master.resting:
                    return
                self.master.append(block.events, block.bodies)
            self.corpus = None
        if not self.master.resting:
            self.master.start()
            self.hear()  # what people said before there was anyone to hear it: the work may be over before the next look

    async def tend(self) -> None:
        """Reads the inbox, holds the job, takes back the leases of silent hosts, and tells people what they are to be told,
        until nothing more will happen."""
        telling = asyncio.create_task(self._tell())
        try:
            while not self.master.resting:
                self.hear()
                self.store.renew()
                self.master.expire()
                await asyncio.sleep(TEND_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(telling, WAY_SECONDS)  # what is under way; the rest is told after the work
        finally:
            telling.cancel()

    async def _tell(self) -> None:
        while not self.master.resting:
            await self._outbox().deliver()
            await asyncio.sleep(TEND_SECONDS)

    async def told(self) -> None:
        """Stays a little, if people are still to be told something; what is left then is the next driver's or a supervisor's."""
        end = time.monotonic() + LAST_SECONDS
        while self.master.state.outbox and time.monotonic() < end:
            self.store.renew()
            await self._outbox().deliver()
            await asyncio.sleep(TEND_SECONDS if self.master.state.outbox else 0)

    def _outbox(self) -> Outbox:
        return Outbox(self.run, self.job.spec, self.master.state, self.store, self.master.append)

    def hear(self) -> None:
        """Does what the messages in the inbox ask; each is removed when that is durable.

        What people say is left there until the work has begun, so that a protocol hears of it after its start; and if the
        protocol fails, for a mended one.
        """
        for message in self.run.messages():
            if not self._waits(message):
                self._do(message)
            if not self._waits(message):  # the protocol may have failed over it
                self.run.heard(message.id)

    def _waits(self, message: Message) -> bool:
        if self.master.failed is not None and message.kind in ("tell", "answer"):
            return True
        return message.kind == "tell" and not self.master.state.memory.get("started")

    def _do(self, message: Message) -> None:
        fields = fields_of(message.text)
        match message.kind:
            case "pause":
                reason, texts = persons_reason(message.text, PAUSED_BY_A_PERSON)
                known = self.master.state.reason
                again = self.master.state.phase is Phase.PAUSED and (known in PASSING or is_persons(known))
                self.master.pause(reason, texts)
                if again:  # the later word, which counts against who is taking the job up since an earlier one
                    self.master.append([ev.PhaseChanged(phase=Phase.PAUSED, reason=reason)], texts)
            case "signal" if message.text in SIGNALS.values():
                self.master.pause(message.text)
            case "cancel":
                self.master.end("cancelled", *persons_reason(message.text, "cancelled by a person"))
            case "tell" if fields.keys() == {"text", "by"}:
                self.master.told(message.id, **fields)
            case "answer" if fields.keys() == {"question", "verdict", "answer", "why", "by"}:
                self.master.answered(message.id, **fields)

    def reported(self, files: Mapping[str, str]) -> None:
        """Records the digest of each file of the report."""
        self.master.append([ev.ReportWritten(files=dict(files))], {})

    def raise_failed(self) -> None:
        """Says what made the job pause, if that was its protocol; the log says it already.

        Raises:
            ProtocolError: it failed, or asked for what can't be.
        """
        if self.master.failed is not None and self.master.state.phase is not Phase.ENDED:
            raise self.master.failed

    def left(self, error: ModelError | ProtocolError) -> None:
        """The driver is about to leave over a model that refuses: the job waits for a person, and its log says why. Any
        other fault may pass by itself, and `close` calls it that the driver left."""
        refused = isinstance(error, ModelError) and error.kind == "refused"
        if refused and self.master.state.phase not in (Phase.ENDED, Phase.PAUSED):
            text = str(error).encode("utf-8", "backslashreplace")
            self.master.append([], {body_hash(text): text})
            self.master.pause(f"model:{body_hash(text)}")

    def close(self) -> None:
        """Leaves the job: paused, if it has not ended, so that the log says that nobody works on it."""
        with suppress(StoreError):  # a master whose store has failed has nothing more to say
            if self.master.state.phase not in (Phase.ENDED, Phase.PAUSED, Phase.WAITING):
                self.master.pause(LEFT)
        self.store.close()
        reserve.give(self.run.log)
        if isinstance(self.master.broken, NoSpaceError):
            with suppress(StoreError):  # somebody else took that room: the log ends where it was, and can be resumed as well
                self._pause_for_space()

    def _pause_for_space(self) -> None:
        """A full disk refused the last commit. The reserve has room for a few small events, which say why nothing goes on: a new
        master folds what is durable and appends them."""
        store = self.run.writer()
        try:
            master = JobMaster(self.job, store, open_state(store).state)
            if master.state.phase is not Phase.ENDED:
                master.open("close", pause=NO_SPACE)
        finally:
            store.close()


def check_open(run: RunFolder, state: JobState, at: int | None = None) -> None:
    """Refuses to go on with a job that is over, or that has moved on from the event `at` since somebody looked at it: to its end,
    perhaps.

    Raises:
        BusyError: it has moved on.
        StoreError: it has ended.
    """
    if at is not None and state.seq != at:
        cure = f"`swarm status {run.id}{run.option}` says how it stands now"
        raise BusyError(f"has moved on from event {at} to {state.seq} since it was looked at", run.id, cure)
    if state.phase is Phase.ENDED:
        raise StoreError(f"job {run.id} has ended ({state.status})", run.id, "start a new run, or `swarm fork` this one")


def check_unpaused(run: RunFolder, log: Reader, since: int) -> None:
    """Refuses to go on with a job that a person has paused after the event `since`.

    Raises:
        BusyError: a person has.
    """
    resting, repeated = "", False
    for event in log.life():
        match event.body:
            case ev.JobOpened(shell=ev.CARETAKER):  # who only writes something leaves it as it is too
                repeated = False
            case ev.JobOpened():  # who only hears an answer leaves a job as it was: paused, with the reason of before
                resting, repeated = "", event.body.shell == ev.DESK and resting not in ("", *PASSING)
            case ev.PhaseChanged(phase=phase, reason=reason):
                resting = reason if phase == Phase.PAUSED else ""
                if event.seq > since and is_persons(resting) and not repeated:
                    cure = f"`swarm resume {run.id}{run.option}` goes on with it after all"
                    raise BusyError("was paused by a person while it was being taken up", run.id, cure)
                repeated = False


def is_persons(reason: str) -> bool:
    """Whether a person gave this reason of a pause."""
    return reason in (PAUSED_BY_A_PERSON, SIGNALS[signal.SIGINT]) or reason.startswith("person:")


def check(spec: JobSpec) -> tuple[Prepared, Pinned]:
    """Everything about a new job that can be wrong before it starts.

    Raises:
        SwarmError: what is wrong; nothing was made or written.
    """
    job = prepare(spec)
    check_budget(job)
    check_gold(spec.answer)
    create_model(spec.model, job.channels())  # says now what is missing; loads nothing
    check_ways(spec.notify)
    return job, pin(spec.inputs)


def check_gold(answer: AnswerSpec) -> None:
    """A gold that cannot be read, or compared with, is better known before the work than after it.

    Raises:
        SpecError: what is wrong with it.
    """
    gold, columns = answer.gold, [column.name for column in answer.columns]
    if not gold:
        return
    if answer.statements:
        raise SpecError("statements in prose cannot be scored", "answer.gold", "leave the gold out, or ask for columns")
    if gold == RAISES:
        if sorted(columns) != sorted(RAISES_COLUMNS):
            needs = f"{RAISES} needs the columns {' and '.join(RAISES_COLUMNS)}, and the answer has {', '.join(columns)}"
            raise SpecError(needs, "answer.gold", "name these two columns, or a JSONL file of rows, or leave the gold out")
        return
    try:
        gold_rows(Path(gold), columns)
    except NoGold as error:
        cure = f"name a JSONL file of rows with a value for each column, or write {RAISES}"
        raise SpecError(str(error), "answer.gold", cure) from error


def fold(reader: Reader) -> JobState:
    """The state that a log amounts to, read from its first event."""
    state = JobState()
    for event in reader.read():
        state.apply(event)
    return state


def caught_up(state: JobState, store: Writer) -> JobState:
    """The state that was read before the lock was ours, with what came since; folded anew if another master came between."""
    if store.epoch != state.epoch + 1 or store.last() < state.seq:
        return open_state(store).state
    for event in store.read(after=state.seq):
        state.apply(event)
    return state


def read_job(reader: Reader) -> tuple[JobState, JobSpec, dict[str, str]]:
    """A job's state, and the spec and role files that it is pinned to.

    Raises:
        StoreError: the log is empty.
    """
    opened, spec, roles = open_job(reader)
    return opened.state, spec, roles


def open_job(reader: Reader) -> tuple[Opened, JobSpec, dict[str, str]]:
    """As `read_job`, with how the state was come by."""
    opened = open_state(reader)
    state = opened.state
    if state.created is None:
        raise no_job()
    return opened, *read_pinned(reader, state.created)


def no_job() -> StoreError:
    """The error for a log without a job."""
    return StoreError("holds no job", "log", "the run stopped before it began; remove it with `swarm rm`")


def read_pinned(reader: Reader, created: ev.JobCreated) -> tuple[JobSpec, dict[str, str]]:
    """The spec and the role files that a job was created with."""
    spec = parse_spec(msgpack.unpackb(reader.body(created.spec)), f"job {created.job}")
    return spec, {name: reader.body(hash).decode() for name, hash in created.roles.items()}


def fields_of(text: str) -> dict[str, str]:
    """What a message says, if it is of several parts: a file that somebody else put into the inbox ends no job."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {str(name): plain(str(value)) for name, value in fields.items()} if isinstance(fields, dict) else {}


def person() -> str:
    """Who says something from here, as `user@host`."""
    try:
        return plain(f"{getuser()}@{socket.gethostname()}")
    except (KeyError, OSError):  # an account without a name
        return f"somebody@{socket.gethostname()}"


def _next(blocks: Iterator[Block]) -> Block | None:
    return next(blocks, None)
