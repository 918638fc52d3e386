"""The JobMaster: group commit, acknowledgement after the commit, a store that fails, long polls, silent hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import count
from pathlib import Path
from typing import Any

import msgpack
import pytest

from swarm import events as ev
from swarm.coordinator import JobState, Phase, Report
from swarm.coordinator.coordinator import LEASE_SECONDS
from swarm.corpus import Span
from swarm.errors import StoreError
from swarm.events import Body, body_hash
from swarm.runtime.master import REMEMBERED_BYTES, JobMaster
from swarm.runtime.opening import EVENTS_BETWEEN, snapshot_due
from swarm.runtime.pins import pack_block
from swarm.runtime.prepare import Prepared, check_pinned, prepare
from swarm.runtime.session import Session
from swarm.runtime.wire import Batch, Order, Pull
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder
from swarm.testing.invariants import folded, refold
from tests.memory_store import MemoryStore
from tests.simulated import passage, spec

SPANS = 6


class Clocks:
    """Two clocks that go only when they are told to."""

    def __init__(self) -> None:
        self.wall, self.ticks = 1000.0, 0.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.ticks += seconds


def corpus() -> tuple[list[Body], dict[str, bytes]]:
    texts = {body_hash(data): data for data in (passage(number).text.encode() for number in range(SPANS))}
    spans = [
        Span("d", 1000 * number, 1000 * number + len(data), 64, f"simulated.py > f{number}", hash, 1)
        for number, (hash, data) in enumerate(texts.items())
    ]
    block, path = pack_block(spans), b"simulated.py"
    events: list[Body] = [
        ev.SpansPinned(document="d", first=0, count=SPANS, tokens=64 * SPANS, block=body_hash(block)),
        ev.DocumentPinned(document="d", path=body_hash(path), media="", origin="", licence="", train=False, digest="",
                          size=1, spans=SPANS),
        ev.CorpusPinned(documents=1, spans=SPANS, tokens=64 * SPANS),
    ]  # fmt: skip
    return events, {**texts, body_hash(block): block, body_hash(path): path}


def made(job: JobSpec | None = None) -> tuple[JobMaster, MemoryStore, Clocks]:
    """A master whose job has its corpus pinned and is ready to start."""
    store, clocks = MemoryStore(), Clocks()
    prepared: Prepared = prepare(job or spec(answer={"columns": {"name": "its name"}, "merge": "set"}))
    master = JobMaster(prepared, store, JobState(), lambda: clocks.wall, lambda: clocks.ticks)
    created, bodies = prepared.creation("j")
    master.append([created], bodies)
    master.open("test")
    master.append(*corpus())
    return master, store, clocks


def started(job: JobSpec | None = None) -> tuple[JobMaster, MemoryStore, Clocks]:
    master, store, clocks = made(job)
    master.start()
    return master, store, clocks


def ran(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


def finished(batch: Batch, outcome: str = "none") -> tuple[Report, ...]:
    ends = [ev.TaskFinished(task=work.brief.id, token=work.token, outcome=outcome, notes=0) for work in batch.work]
    return tuple(Report(end.task, end.token, (end,)) for end in ends)


# ---- working sets ----


def test_a_host_gets_passages_with_their_text_path_and_place() -> None:
    async def scene() -> None:
        master, _, _ = started()
        batch = await master.pull(Pull("h", 2))
        assert batch.order is Order.WORK
        (one,), (two,) = (work.material.passages for work in batch.work)
        assert (one.number, one.path, one.start, one.text) == (0, "simulated.py", 0, passage(0).text)
        assert (two.number, two.start, two.breadcrumb) == (1, 1000, "simulated.py > f1")

    ran(scene())


def test_a_planner_gets_the_inventory() -> None:
    async def scene() -> None:
        master, _, _ = started(spec())
        batch = await master.pull(Pull("h", 9))
        (work,) = batch.work
        assert work.brief.role == "planner"
        assert work.material.facts == {"documents": 1, "spans": SPANS, "paths": ["simulated.py"]}

    ran(scene())


def test_a_verifier_gets_the_note_with_its_content_and_its_passage() -> None:
    async def scene() -> None:
        master, _, _ = started()
        batch = await master.pull(Pull("h", 1))
        (work,) = batch.work
        body = msgpack.packb({"values": {"name": "f0"}, "quote": "def f0"})
        note = ev.NotePosted(note="n", kind="row", task=work.brief.id, body=body_hash(body), cites=((0, 0, 6),))
        (report,) = finished(batch, "rows")
        report = Report(report.task, report.token, (note, *report.events))
        batch = await master.pull(Pull("h", 1, (report,), {body_hash(body): body}))
        (work,) = batch.work
        assert work.brief.role == "verifier" and work.material.passages[0].number == 0
        (seen,) = work.material.notes
        assert (seen.id, seen.content, seen.cites) == ("n", {"values": {"name": "f0"}, "quote": "def f0"}, ((0, 0, 6),))

    ran(scene())


def test_a_task_that_was_begun_comes_with_what_it_said() -> None:
    async def scene() -> None:
        master, _, _ = started(spec(protocol="rolling"))
        (work,) = (await master.pull(Pull("h", 1))).work
        for turn, sample in ((0, 0), (1, 0), (1, 1)):
            text = f"said {turn}:{sample}".encode()
            call = ev.CallFinished(task=work.brief.id, turn=turn, sample=sample, output=body_hash(text), tokens_in=1,
                                   tokens_out=1, finish="stop", weights="w", seconds=0.0)  # fmt: skip
            report = Report(work.brief.id, work.token, (call,))
            await master.pull(Pull("h", 0, (report,), {body_hash(text): text}))
        master.lost("h", "gone")
        (again,) = (await master.pull(Pull("i", 1))).work
        assert [(said.turn, said.text) for said in again.said] == [(0, "said 0:0"), (1, "said 1:1")]
        assert dict(again.samples) == {0: 1, 1: 2}, "a further draw takes the next sample"

    ran(scene())


# ---- durability ----


def test_pulls_of_one_round_share_a_commit_and_are_answered_after_it() -> None:
    async def scene() -> None:
        master, store, _ = started()
        before = len(store.commits)
        pulls = [asyncio.create_task(master.pull(Pull(f"h{n}", 1))) for n in range(4)]
        await asyncio.sleep(0)
        assert len(store.commits) == before and not any(pull.done() for pull in pulls), "decided, and not yet durable"
        batches = await asyncio.gather(*pulls)
        assert store.commits[before:] == [4]
        leased = [event.body.token for event in store.events if isinstance(event.body, ev.RangeLeased)]
        assert sorted(work.token for batch in batches for work in batch.work) == sorted(leased)

    ran(scene())


def test_what_is_not_durable_is_not_acknowledged() -> None:
    async def scene() -> None:
        master, store, _ = started()
        batch = await master.pull(Pull("h", 1))
        kept = list(store.events)
        store.full = True
        pulls = [master.pull(Pull("h", 1, finished(batch))), master.pull(Pull("i", 1))]
        results = await asyncio.gather(*pulls, return_exceptions=True)
        assert all(isinstance(result, StoreError) for result in results)
        assert store.events == kept

    ran(scene())


def test_a_master_whose_store_failed_never_acts_again() -> None:
    async def scene() -> None:
        master, store, _ = started()
        batch = await master.pull(Pull("h", 1))
        kept = list(store.events)
        store.full = True
        with pytest.raises(StoreError, match="no space"):
            await master.pull(Pull("h", 1, finished(batch)))
        store.full = False  # space or not: its fold is ahead of the log
        with pytest.raises(StoreError, match="no space"):
            await master.pull(Pull("i", 1))
        with pytest.raises(StoreError, match="no space"):
            master.pause("x")
        with pytest.raises(StoreError, match="no space"):
            master.end("failed", "x")
        assert store.events == kept

    ran(scene())


def test_a_pull_is_not_acknowledged_by_a_commit_that_failed_before_its_own() -> None:
    """A pause comes between a pull's decision and its group commit, and takes the pull's events down with it."""

    async def scene() -> None:
        master, store, _ = started()
        pulling = asyncio.create_task(master.pull(Pull("h", 1)))
        await asyncio.sleep(0)
        store.full = True
        with pytest.raises(StoreError, match="no space"):
            master.pause("lunch")
        with pytest.raises(StoreError, match="no space"):
            await pulling
        assert not any(isinstance(event.body, (ev.TaskLeased, ev.RangeLeased)) for event in store.events)

    ran(scene())


def test_a_pull_whose_events_a_pause_made_durable_is_answered() -> None:
    async def scene() -> None:
        master, store, _ = started()
        pulling = asyncio.create_task(master.pull(Pull("h", 1)))
        await asyncio.sleep(0)
        master.pause("lunch")
        assert len((await pulling).work) == 1
        assert [event.kind for event in store.events][-2:] == ["RangeLeased", "PhaseChanged"]

    ran(scene())


def test_bodies_are_durable_with_the_events_that_name_them() -> None:
    async def scene() -> None:
        master, store, _ = started()
        batch = await master.pull(Pull("h", 1))
        output, (work,) = b"[]", batch.work
        task = work.brief.id
        call = ev.CallFinished(task=task, turn=0, sample=0, output=body_hash(output), tokens_in=1, tokens_out=1,
                               finish="stop", weights="w", seconds=0.0)  # fmt: skip
        (end,) = finished(batch)
        report = Report(work.brief.id, work.token, (call, *end.events))
        await master.pull(Pull("h", 0, (report,), {body_hash(output): output}))
        assert store.held[body_hash(output)] == output

    ran(scene())


# ---- waiting ----


def test_a_pull_waits_for_work_and_is_woken_by_it() -> None:
    async def scene() -> None:
        master, _, _ = started(spec())
        planner = await master.pull(Pull("h", 1))
        idle = asyncio.create_task(master.pull(Pull("i", 2)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not idle.done(), "there is nothing to do, and no reason to ask again and again"
        busy = await master.pull(Pull("h", 0, finished(planner, "set")))
        assert not busy.work and busy.order is Order.WORK
        assert len((await idle).work) == 2

    ran(scene())


def test_a_host_with_work_in_hand_is_not_kept_waiting() -> None:
    async def scene() -> None:
        master, _, _ = started(spec())
        await master.pull(Pull("h", 1))
        pulled = asyncio.create_task(master.pull(Pull("h", 5)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert pulled.done() and await pulled == Batch(Order.WORK), "it did not wait for time to pass"

    ran(scene())


def test_hosts_stop_when_the_job_ended_and_when_it_rests() -> None:
    async def scene() -> None:
        master, _, _ = started()
        batch = await master.pull(Pull("h", 1))
        master.pause("lunch")
        assert not master.resting
        assert (await master.pull(Pull("i", 1))).order is Order.STOP
        assert (await master.pull(Pull("h", 1))).order is Order.WORK, "what it works on is still wanted"
        assert (await master.pull(Pull("h", 1, finished(batch)))).order is Order.STOP and master.resting
        master.end("cancelled", "enough")
        assert (await master.pull(Pull("h", 1))).order is Order.STOP
        assert (master.state.phase, master.state.status) == (Phase.ENDED, "cancelled")

    ran(scene())


def test_a_pause_wakes_whoever_waits() -> None:
    async def scene() -> None:
        master, _, _ = started(spec())
        await master.pull(Pull("h", 1))
        idle = asyncio.create_task(master.pull(Pull("i", 1)))
        for _ in range(5):
            await asyncio.sleep(0)
        master.pause("lunch")
        assert (await idle).order is Order.STOP

    ran(scene())


# ---- memory ----


def test_bodies_stay_in_memory_up_to_a_number_of_bytes_whatever_their_number() -> None:
    async def scene() -> None:
        master, store, _ = started()
        large = REMEMBERED_BYTES // 4
        for number in range(12):
            data = bytes([number]) * large
            await master.pull(Pull("h", 0, (), {body_hash(data): data}))
            assert master.remembered <= REMEMBERED_BYTES
            await master.pull(Pull("h", 0, (), {body_hash(data): data}))
            assert master.remembered <= REMEMBERED_BYTES, "a body that comes again counts once"
        assert master.remembered >= REMEMBERED_BYTES // 2 and len(store.held) > 12
        batch = await master.pull(Pull("h", 1))
        assert batch.work[0].material.passages[0].text == passage(0).text, "what was let go is read again"

    ran(scene())


def test_no_snapshot_is_taken_of_what_is_decided_and_not_yet_durable() -> None:
    """A pull that decides right after a commit comes before the snapshot that this commit called for."""

    async def scene() -> None:
        plain, store, clocks = started()
        due = -EVENTS_BETWEEN
        master = JobMaster(plain.job, store, folded(store.events), lambda: clocks.wall, lambda: clocks.ticks, kept=due)
        for _ in range(3):
            await master.pull(Pull("h", 1))
        assert store.kept is None and not master.broken, "it waits for a moment at which both are the same"
        for _ in range(3):
            await asyncio.sleep(0)
        assert store.kept is not None and store.kept.seq == store.last()

    ran(scene())


# ---- resuming ----


def test_a_job_does_not_go_on_under_another_tokenizer() -> None:
    job = prepare(spec())
    created, _ = job.creation("j")
    check_pinned(created, job)
    with pytest.raises(StoreError, match="tokenizer other, and this model has") as caught:
        check_pinned(created.model_copy(update={"tokenizer": "other"}), job)
    assert job.tokenizer.digest in caught.value.message and caught.value.where == "job j" and caught.value.cure


# ---- silent hosts ----


def test_a_silent_hosts_leases_go_back_and_its_late_reports_are_refused() -> None:
    async def scene() -> None:
        master, store, clocks = started()
        silent = await master.pull(Pull("silent", SPANS))
        clocks.pass_by(LEASE_SECONDS - 1)
        await master.pull(Pull("alive", 0))
        master.expire()
        assert master.state.by_host["silent"] == SPANS
        clocks.pass_by(1.5)
        master.expire()
        assert master.state.by_host["silent"] == 0 and master.state.leased == 0
        assert store.events[-1].body.reason == f"silent for {LEASE_SECONDS:g} s"
        taken = await master.pull(Pull("alive", SPANS))
        assert {work.brief.id for work in taken.work} == {work.brief.id for work in silent.work}
        await master.pull(Pull("silent", 0, finished(silent)))
        assert master.coordinator.stale == SPANS and master.state.finished["reader"] == 0
        await master.pull(Pull("alive", 0, finished(taken)))
        assert master.state.finished["reader"] == SPANS

    ran(scene())


def test_a_session_holds_its_job_and_takes_back_the_leases_of_silent_hosts(tmp_path: Path) -> None:
    async def scene() -> None:
        master, store, clocks = started()
        run = RunFolder(tmp_path, "one")
        run.create()
        tending = asyncio.create_task(Session(run, master.job, store, master).tend())
        await master.pull(Pull("h", 2))
        while store.renewed < 2:
            await asyncio.sleep(0)
        assert master.state.leased == 2
        clocks.pass_by(LEASE_SECONDS + 1)
        while master.state.leased:
            await asyncio.sleep(0)
        assert "silent" in store.events[-1].body.reason
        master.end("cancelled", "enough")
        await tending

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_a_host_that_is_gone_is_forgotten() -> None:
    async def scene() -> None:
        master, store, clocks = started()
        await master.pull(Pull("h", 1))
        master.lost("h", "its node is gone")
        count = len(store.events)
        clocks.pass_by(LEASE_SECONDS + 1)
        master.expire()
        assert len(store.events) == count

    ran(scene())


def test_the_longer_a_log_the_rarer_are_its_snapshots() -> None:
    """What each costs grows with the log; what it costs for an event must not."""
    nexts = {kept: next(seq for seq in count(kept) if snapshot_due(kept, seq)) for kept in (0, 20_007, 4_000_000)}
    assert nexts == {0: 20_000, 20_007: 40_007, 4_000_000: 4_200_000}


def test_events_to_the_next_snapshot_are_counted_over_masters() -> None:
    """A job that is stopped and resumed again and again comes to its snapshot as well."""

    async def scene() -> None:
        master, store, clocks = started()
        share: list[Body] = [ev.ReportWritten(files={})] * (EVENTS_BETWEEN * 2 // 3)
        master.append(share, {})
        await master.pull(Pull("h", 0))
        assert store.kept is None
        store.epoch += 1
        master = JobMaster(master.job, store, refold(store.events), lambda: clocks.wall, lambda: clocks.ticks)
        master.open("test")
        master.append(share, {})
        batch = await master.pull(Pull("h", 1))
        await master.pull(Pull("h", 0, finished(batch)))
        await asyncio.sleep(0)  # those who waited for the commit go first
        assert store.kept is not None and store.kept.seq > EVENTS_BETWEEN

    ran(scene())
