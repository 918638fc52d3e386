"""The JobMaster: one job's only writer.

Owns the log's writer, the fold, and the meeting of hosts and coordinator. It stamps time, makes events durable in groups,
and answers only after the commit. It decides nothing itself, and reads texts only to hand out working sets.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgpack

from swarm import __version__
from swarm.coordinator import Coordinator, Grant, JobState, Phase, Report
from swarm.coordinator.coordinator import LEASE_SECONDS
from swarm.coordinator.leases import left_off
from swarm.coordinator.notices import PROTOCOL
from swarm.coordinator.state import DocumentRow
from swarm.errors import ProtocolError, StoreError
from swarm.events import ApprovalAnswered, Body, Event, LeaseEnded, PhaseChanged, SnapshotIgnored, TailCut, body_hash
from swarm.protocol import Material, NoteText, NoteView, Passage, Said, TaskBrief
from swarm.runtime.clock import LogClock
from swarm.runtime.opening import open_state, snapshot_due, take_snapshot
from swarm.runtime.pins import PinnedSpan, unpack_block
from swarm.runtime.prepare import Prepared
from swarm.runtime.recent import Recent
from swarm.runtime.wire import Batch, Order, Pull, Work
from swarm.store.interface import Writer

LONG_POLL_SECONDS = 1.0
"""How long a pull waits for work to appear before it is answered empty."""
PAUSE_SECONDS = 60.0
"""How long a paused job waits at most for what is under way; it is broken off then, and done again when the job goes on."""
REMEMBERED_BYTES = 1 << 20
"""Bytes of bodies that stay in memory after they were written or read. What is asked for is mostly asked for within a second; of
more, each body costs a longer way to memory when it comes and when it goes."""

SpanRow = tuple[DocumentRow, PinnedSpan]


class JobMaster:
    """Runs one job for as long as it lives. `clock` gives wall-clock seconds, `ticks` monotonic ones; `ignored` says why a
    snapshot of the job could not be used; `disk` gives the bytes that the run takes; `kept` is the event of the snapshot that
    the log has, 0 for none: from there it is counted to the next one, however many masters there were since."""

    def __init__(
        self,
        job: Prepared,
        store: Writer,
        state: JobState,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        ignored: str = "",
        disk: Callable[[], int] = lambda: 0,
        kept: int = 0,
    ) -> None:
        self.job, self.store, self.state = job, store, state
        self.coordinator = self._coordinator()
        self._clock, self._ticks = LogClock(state.time, clock, ticks), ticks
        self._disk = disk
        self._events: list[Event] = []
        self._bodies: dict[str, bytes] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._broken: StoreError | None = None
        self.failed: ProtocolError | None = None
        """What the protocol failed with; this master never asks it again then."""
        self._why = ""
        self._seen: dict[str, float] = {}
        self._dropped: dict[str, set[int]] = {}
        """Host → tokens of leases that were ended and that it has not reported on since: it is told until it does."""
        self._news = asyncio.Event()
        self._recent = Recent(REMEMBERED_BYTES)
        self._blocks: OrderedDict[str, list[PinnedSpan]] = OrderedDict()
        self._facts: dict[str, Any] = {}
        self._paused: float | None = None
        """Since when the job is paused, in ticks."""
        self._ignored, self._kept = ignored, kept
        self.patient = False
        """Whether this master stays while the job waits for a person, instead of leaving it to be resumed."""

    # ---- the shell's side ----

    def append(self, bodies: Sequence[Body], texts: Mapping[str, bytes]) -> None:
        """Appends facts and returns when they are durable."""
        self._keep(self.coordinator.record(self._clock(), *bodies), texts)
        self._commit()

    def open(self, shell: str, pause: str = "") -> None:
        """Takes the job under the store's new epoch. With `pause` it is paused for this reason in the same append, so that no
        crash leaves it as one that goes on."""
        self._keep(self.coordinator.open(self._clock(), socket.gethostname(), os.getpid(), shell, __version__), {})
        if pause:
            self._keep(self.coordinator.pause(self._clock(), pause), {})
        if self.store.torn:
            self._keep(self.coordinator.record(self._clock(), TailCut(bytes=self.store.torn)), {})
        if self._ignored:
            self._keep(self.coordinator.record(self._clock(), SnapshotIgnored(reason=self._ignored)), {})
        self._commit()

    def start(self) -> None:
        """Opens the work, once the corpus is pinned."""
        self._ask(lambda: self.coordinator.start(self._clock()), {})

    def pause(self, reason: str, texts: Mapping[str, bytes] = MappingProxyType({})) -> None:
        """Grants nothing more. What hosts bring is still taken. `texts` are the words of the reason, where it names them."""
        self._keep(self.coordinator.pause(self._clock(), reason), texts)
        self._commit()
        self._wake()

    def change_budget(self, who: str, new: Mapping[str, float | None]) -> None:
        """Gives the job more budget, or less. If the protocol fails over what people said before, the job has what it had."""
        self._ask(lambda: self.coordinator.change_budget(self._clock(), who, new), {})
        if self.failed is not None and self.state.status == "budget":
            self.append([PhaseChanged(phase=self.state.phase, reason=self.state.reason)], {})  # it rests on, says its log

    def end(self, status: str, reason: str, texts: Mapping[str, bytes] = MappingProxyType({})) -> None:
        """Ends the job by order of a person, or because it cannot go on."""
        self._keep(self.coordinator.end(self._clock(), status, reason), texts)
        self._commit()
        self._wake()

    def told(self, message: str, text: str, by: str) -> None:
        """Hands a person's word on to the protocol."""
        data = pack_word(text, by)
        self._ask(lambda: self.coordinator.told(self._clock(), body_hash(data), by, message), {body_hash(data): data})

    def answered(self, message: str, question: str, verdict: str, answer: str, why: str, by: str) -> None:
        """Hands a person's answer to a question on to the protocol."""
        data = why.encode("utf-8", "replace")
        texts = {body_hash(data): data} if why else {}
        given = ApprovalAnswered(
            question=question, verdict=verdict, answer=answer, why=body_hash(data) if why else "", by=by, message=message
        )
        self._ask(lambda: self.coordinator.answered(self._clock(), given), texts)

    def expire(self) -> None:
        """Takes back the leases of hosts that have been silent for too long, and the questions that were open for as long
        as they may; breaks off calls for which there is no time left, and what a paused job does not wait for."""
        now = self._ticks()
        self._leave_off(now)
        self._ask(self._look, {})
        if self.state.questions:
            self._ask(lambda: self.coordinator.lapse(self._clock()), {})
        for host, last in list(self._seen.items()):
            if now - last > LEASE_SECONDS:
                self.lost(host, f"silent for {LEASE_SECONDS:g} s")

    def _look(self) -> list[Event]:
        events, ended = self.coordinator.look(self._clock())
        for host, tokens in ended.items():
            self._dropped.setdefault(host, set()).update(tokens)
        return events

    def _leave_off(self, now: float) -> None:
        if self.state.phase is not Phase.PAUSED:
            self._paused = None
            return
        self._paused = now if self._paused is None else self._paused
        late = now - self._paused >= PAUSE_SECONDS
        if rows := left_off(self.state.tasks.values(), self.job.spec.model.billed, late):
            for row in rows:
                self._dropped.setdefault(row.host, set()).add(row.token)
            ended = [LeaseEnded(task=row.id, token=row.token, reason="paused") for row in rows]
            self._keep(self.coordinator.record(self._clock(), *ended), {})
            self._commit()
            self._wake()

    def lost(self, host: str, reason: str) -> None:
        """Takes back the leases of a host that is gone."""
        self._seen.pop(host, None)
        self._dropped.pop(host, None)
        self._keep(self.coordinator.lost(self._clock(), host, reason), {})
        self._commit()
        self._wake()

    @property
    def broken(self) -> StoreError | None:
        """What the store failed with; this master never acts again then."""
        return self._broken

    @property
    def resting(self) -> bool:
        """Whether nothing more will happen: the job ended, or no lease is out and it is paused, or waits for a person."""
        return self.state.phase is Phase.ENDED or (self._stands and not self.state.leased)

    @property
    def _stands(self) -> bool:
        return self.state.phase is Phase.PAUSED or (self.state.phase is Phase.WAITING and not self.patient)

    # ---- the hosts' side ----

    async def pull(self, pull: Pull) -> Batch:
        self._seen[pull.host] = self._ticks()
        if self.coordinator.budget.disk is not None:
            self.coordinator.disk = self._disk()
        grants = self._pulled(pull)
        refused = self.coordinator.refused
        await self._committed()
        self._recent.put(pull.bodies)  # what was just found is asked for next; passages are not, and are many
        if pull.reports:
            self._wake()
        if not grants and pull.want and not self._at_rest(pull.host) and not self._busy(pull.host):
            await self._poll()
            grants = self._pulled(Pull(pull.host, pull.want))
            await self._committed()
        dropped = self._dropped.get(pull.host, set())
        dropped.difference_update([report.token for report in pull.reports if report.last])
        if unsent := dropped.intersection([grant.token for grant in grants]):  # ended before they went out
            grants = [grant for grant in grants if grant.token not in unsent]
            dropped -= unsent
        if grants:
            return Batch(Order.WORK, self._work(grants), refused, tuple(dropped))
        return Batch(Order.STOP if self._at_rest(pull.host) else Order.WORK, (), refused, tuple(dropped))

    def _pulled(self, pull: Pull) -> list[Grant]:
        """Takes what a host brings, and grants it work. Once the protocol has failed, only its calls are taken."""
        if self.failed is None:
            try:
                events, grants = self.coordinator.pulled(self._clock(), pull.host, pull.reports, pull.want)
            except ProtocolError as error:
                self._fold_anew(error)
            else:
                self._keep(events, pull.bodies)
                return grants
        self._salvage(pull.reports, pull.bodies)
        return []

    def _at_rest(self, host: str) -> bool:
        return self.state.phase is Phase.ENDED or (self._stands and not self._busy(host))

    def _busy(self, host: str) -> bool:
        return self.state.by_host[host] > 0

    async def _poll(self) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), LONG_POLL_SECONDS)
        except TimeoutError:
            return

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # ---- the protocol ----

    def _coordinator(self) -> Coordinator:
        job = self.job
        return Coordinator(job.spec, job.protocol, job.roles, job.overhead, self.state, self.store.epoch)

    def _ask(self, ask: Callable[[], Sequence[Event]], texts: Mapping[str, bytes]) -> None:
        """Makes durable what comes of something that the protocol may be asked about, unless it has failed; `failed` says it."""
        if self.failed is not None:
            return
        try:
            if not (events := ask()):
                return
            self._keep(events, texts)
        except ProtocolError as error:
            self._fold_anew(error)
            self._salvage((), {})
        self._commit()
        self._wake()

    def _fold_anew(self, error: ProtocolError) -> None:
        """The protocol failed, and the fold is ahead of the log: it begins again from what is durable."""
        self._commit()  # what came before in this round of the loop, whoever waits for it
        try:
            self.state = open_state(self.store).state
        except StoreError as broken:
            self._broken = broken
            self._wake()
            raise
        disk, self.coordinator = self.coordinator.disk, self._coordinator()
        self.coordinator.disk, self.failed = disk, error
        named = error.where.startswith("protocol")
        text = (str(error) if named else f"protocol {self.job.protocol.name}: {error}").encode("utf-8", "backslashreplace")
        self._bodies[body_hash(text)] = text
        self._why = f"{PROTOCOL}{body_hash(text)}"

    def _salvage(self, reports: Sequence[Report], bodies: Mapping[str, bytes]) -> None:
        """Takes what is left to take when the protocol has failed. All bodies stay: later events may name them as well."""
        self._keep(self.coordinator.salvage(self._clock(), reports, self._why), bodies)

    # ---- durability ----

    def _keep(self, events: Sequence[Event], texts: Mapping[str, bytes]) -> None:
        if self._broken:
            raise self._broken
        self._events.extend(events)
        self._bodies.update(texts)
        self._bodies.update(self.coordinator.texts)
        self.coordinator.texts.clear()

    async def _committed(self) -> None:
        """Group commit: whoever is ready in this round of the loop shares one transaction, and waits for it."""
        if not self._events and not self._bodies:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._settle)
        await future

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self._commit()
        except StoreError as error:
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for future in waiting:
            if not future.done():
                future.set_result(None)
        if snapshot_due(self._kept, self.state.seq):
            asyncio.get_running_loop().call_soon(self._snapshot)  # those who waited for this commit go first

    def _commit(self) -> None:
        """One transaction. If it fails the fold is ahead of the log, so this master never acts again."""
        if self._broken:  # another commit failed in this round of the loop, and these events with it
            raise self._broken
        events, bodies, self._events, self._bodies = self._events, self._bodies, [], {}
        if not events and not bodies:
            return
        try:
            self.store.append(events, bodies)
        except StoreError as error:
            self._broken = error
            self._wake()
            raise

    def _snapshot(self) -> None:
        """Keeps the state beside the log, unless it is ahead of what is durable: then after the next commit."""
        if self._broken or self.state.seq != self.store.last() or not snapshot_due(self._kept, self.state.seq):
            return
        try:
            take_snapshot(self.state, self.store)
            self._kept = self.state.seq
        except StoreError as error:
            self._broken = error
            self._wake()

    # ---- working sets ----

    def _work(self, grants: Sequence[Grant]) -> tuple[Work, ...]:
        spans = {number: self._span(number) for grant in grants for number in grant.spans}
        notes = {id: self.state.board.note(id) for grant in grants for id in (*grant.reads, *grant.words)}
        named = {span.digest for _, span in spans.values()} | {view.body for view in notes.values()}
        named.update([output for grant in grants for _, _, output, _ in grant.said])
        self._recent.hold(named, self.store.bodies)
        return tuple([self._one(grant, spans, notes) for grant in grants])

    def _one(self, grant: Grant, spans: Mapping[int, SpanRow], notes: Mapping[str, NoteView]) -> Work:
        last = {turn: (sample, output, finish) for turn, sample, output, finish in grant.said}
        said = tuple([Said(turn, self._text(output), finish) for turn, (_, output, finish) in sorted(last.items())])
        material = Material(
            tuple([self._passage(number, spans[number]) for number in grant.spans]),
            tuple([self._note(notes[id]) for id in grant.reads]),
            self._inventory() if grant.role == "planner" else {},
            tuple([self._note(notes[id]) for id in grant.words]),
        )
        samples = {turn: sample + 1 for turn, (sample, _, _) in last.items()}
        brief = TaskBrief(grant.task, grant.role, grant.goal, grant.attempt)
        return Work(brief, grant.token, material, said, samples, grant.left)

    def _passage(self, number: int, span: SpanRow) -> Passage:
        row, one = span
        path, text = self.path(row.path), self._text(one.digest)
        return Passage(number, row.id, path, one.start, text, one.tokens, one.breadcrumb, row.train)

    def _span(self, number: int) -> SpanRow:
        document, block, at = self.state.block_of(number)
        rows = self._blocks.get(block)
        if rows is None:
            rows = self._blocks[block] = unpack_block(self.store.body(block))
            if len(self._blocks) > 64:
                self._blocks.popitem(last=False)
        return self.state.documents[document], rows[at]

    def _note(self, view: NoteView) -> NoteText:
        content = msgpack.unpackb(self._texts_of(view.body), unicode_errors="surrogatepass", strict_map_key=False)
        return NoteText(view.id, view.kind, content, view.cites, view.flags, view.verdict)

    def _inventory(self) -> dict[str, Any]:
        if not self._facts:
            paths = [self.path(row.path) for row in list(self.state.documents.values())[:8]]
            self._facts = {"documents": len(self.state.documents), "spans": self.state.spans, "paths": paths}
        return self._facts

    def path(self, hash: str) -> str:
        """A document's path, from the body that holds it."""
        return self._texts_of(hash).decode("utf-8", "surrogatepass")

    def _text(self, hash: str) -> str:
        return self._texts_of(hash).decode("utf-8", "surrogatepass")

    def _texts_of(self, hash: str) -> bytes:
        if hash not in self._recent:
            self._recent.hold((hash,), self.store.bodies)
        return self._recent[hash]

    @property
    def remembered(self) -> int:
        """Bytes of bodies that are in memory."""
        return self._recent.bytes


def persons_reason(words: str, otherwise: str) -> tuple[str, dict[str, bytes]]:
    """A reason that a person gave, as the log has it, and the body of its words: they may be anything, and must not be taken
    for a reason of the program's own. Without words it is `otherwise`."""
    if not words.strip():
        return otherwise, {}
    data = words.encode("utf-8", "replace")
    return f"person:{body_hash(data)}", {body_hash(data): data}


def pack_word(text: str, by: str) -> bytes:
    """What a person said, as the body of its event and of the note that it may become holds it."""
    packed: bytes = msgpack.packb({"text": text, "by": by})
    return packed
