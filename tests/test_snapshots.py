"""A snapshot with the events after it amounts to what the whole log does; one that can't be used costs time only."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import apsw
import msgpack
import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console

from swarm.cli.live import PlainLines, follow
from swarm.coordinator import JobState, Phase
from swarm.coordinator.codec import codec
from swarm.coordinator.snapshot import FOLDED_THROUGH, pack, snapshot_format, unpack
from swarm.errors import FencedError, StoreError
from swarm.events import Event, JobEnded, SnapshotIgnored
from swarm.runtime.launch import over_budget, settled
from swarm.runtime.opening import open_state, take_snapshot
from swarm.runtime.session import Session, fold, read_job
from swarm.store.damage import repair, verify
from swarm.store.folder import RunFolder
from swarm.store.interface import Snapshot
from swarm.store.mark import MARK
from swarm.store.records import Tip
from swarm.store.snapshots import part_name, to_row, whole
from swarm.store.sqlite import LOG, SqliteReader, SqliteWriter
from swarm.testing.invariants import differences, refold
from swarm.testing.simulator import STORM
from tests.jobs import SOURCE, job, run
from tests.simulated import PROSE, ROLLING, simulate
from tests.test_architecture import MODULES, imports

KINDS: dict[str, dict[str, Any]] = {"map_reduce": {}, "rolling": ROLLING, "prose": PROSE}
GOLDEN = sorted(Path(__file__).with_name("logs").glob("*.sqlite"))


def taken_up(events: list[Event], cut: int) -> JobState:
    """The state of a snapshot after `cut` events, with those after it."""
    state = unpack(*pack(refold(events[:cut])))
    for event in events[cut:]:
        state.apply(event)
    return state


# ---- the state ----


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 500), share=st.floats(0, 1), steps=st.integers(20, 400))
def test_a_snapshot_and_the_tail_amount_to_the_log(kind: str, seed: int, share: float, steps: int) -> None:
    one = simulate(seed, STORM, changes=KINDS[kind])
    one.run(steps)
    assert differences(taken_up(one.log, int(share * len(one.log))), refold(one.log)) == []


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_snapshot_at_any_event_of_a_golden_log_amounts_to_it(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / LOG)
    with SqliteReader.open(tmp_path) as reader:
        events = list(reader.read())
    whole = refold(events)
    for cut in range(0, len(events) + 1, 7):
        assert differences(taken_up(events, cut), whole) == [], f"after {cut} events"


def test_no_field_of_a_state_is_left_out() -> None:
    one = simulate(3, STORM)
    one.run(150)
    fields_packed, board = msgpack.unpackb(pack(one.state)[0])
    assert {*fields_packed, "board"} == {field.name for field in fields(JobState)} and board
    blank = JobState()
    assert {"tasks", "memory", "spend", "finished", "board"} <= set(differences(blank, one.state))
    assert differences(unpack(*pack(blank)), blank) == []


@dataclass
class Unfit:
    """A state with a field that no snapshot can hold."""

    call: Callable[[], None]


def test_a_field_that_no_snapshot_can_hold_is_refused_by_its_type() -> None:
    with pytest.raises(TypeError, match=r"a snapshot can't hold a .*Callable"):
        codec(Unfit)
    with pytest.raises(TypeError, match="can't tell the types of"):
        codec(list[int] | dict[str, int])


def test_plain_values_of_every_type_come_back() -> None:
    cases: list[tuple[Any, Any]] = [
        (tuple[int, ...], (1, 2)), (tuple[str, int] | None, ("a", 1)), (dict[tuple[str, int], set[str]], {("a", 1): {"b"}}),
        (frozenset[int], frozenset((2, 1))), (list[JobEnded | None], [JobEnded(status="done"), None]),
    ]  # fmt: skip
    for annotation, value in cases:
        one = codec(annotation)
        assert one.decode(one.encode(value)) == value


# ---- beside a log ----


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder: RunFolder = run(job(Path("unused"), inputs=[f"text:{SOURCE}"]), tmp_path_factory.mktemp("runs"), id="small")
    with SqliteWriter.open(folder.path) as writer:
        take_snapshot(fold(writer), writer)
    return folder


@pytest.fixture
def finished(pristine: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of a run that has ended, with a snapshot of all its events."""
    shutil.copytree(pristine.path, tmp_path / "runs" / pristine.id)
    return RunFolder(tmp_path / "runs", pristine.id)


def opened(folder: RunFolder) -> tuple[int, str]:
    """How many events were folded and why a snapshot was not used; the state is right in any case."""
    with SqliteReader.open(folder.path) as reader:
        found = open_state(reader)
        assert differences(found.state, fold(reader)) == []
        return found.folded, found.ignored


def tamper(folder: RunFolder, statement: str) -> None:
    connection = apsw.Connection(str(folder.log))
    connection.execute(statement)
    connection.close()
    (folder.path / MARK).unlink()  # or a log that lacks its last record is refused for that


def test_a_job_opens_at_its_snapshot(finished: RunFolder) -> None:
    assert opened(finished) == (0, "")
    with SqliteWriter.open(finished.path) as writer:
        last = fold(writer)
        writer.append([Event(last.seq + 1, last.time, writer.epoch, 0, "", SnapshotIgnored(reason="r"))] * 1, {})
    assert opened(finished) == (1, "")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE snapshot SET state = substr(state, 1, length(state) / 2)", "is damaged"),
        ("UPDATE snapshot SET state = zeroblob(length(state))", "is damaged"),
        ("UPDATE snapshot SET seq = seq - 1", "is damaged"),
        ("UPDATE snapshot SET checksum = checksum + 1", "is damaged"),
        ("UPDATE snapshot SET format = 'older'", "is damaged"),
        ("UPDATE events SET checksum = checksum + 1 WHERE seq = (SELECT max(seq) FROM events)", "is of another log"),
        ("DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)", "is of another log"),
    ],
)
def test_a_snapshot_that_is_damaged_or_of_another_log_is_never_used(finished: RunFolder, statement: str, reason: str) -> None:
    tamper(finished, statement)
    with SqliteReader.open(finished.path) as reader, pytest.raises(StoreError, match=reason):
        reader.snapshot()
    if "events SET" not in statement:  # otherwise the log itself is damaged
        folded, ignored = opened(finished)
        assert folded > 20 and reason in ignored


def test_a_snapshot_of_other_code_is_ignored(finished: RunFolder) -> None:
    with SqliteWriter.open(finished.path) as writer:
        state = fold(writer)
        writer.keep(Snapshot(state.seq, "0123456789abcdef", *pack(state)))
    folded, ignored = opened(finished)
    assert folded > 20 and ignored == f"the snapshot has form 0123456789abcdef; this software reads {snapshot_format()}"


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x92\x80\x90", pack(JobState())[0]])
def test_a_snapshot_that_holds_something_else_is_ignored(finished: RunFolder, state: bytes) -> None:
    with SqliteWriter.open(finished.path) as writer:
        writer.keep(Snapshot(writer.last(), snapshot_format(), state))
    folded, ignored = opened(finished)
    assert folded > 20 and ("can't be read" in ignored or "holds the state at event 0" in ignored)


def test_the_snapshot_of_another_run_is_ignored(finished: RunFolder, tmp_path: Path) -> None:
    """Two runs of one job, whose logs have records of the same numbers: only the checksums tell them apart."""
    other: RunFolder = run(job(Path("unused"), inputs=[f"text:{SOURCE}"]), tmp_path, id="other")
    with SqliteReader.open(finished.path) as reader, SqliteWriter.open(other.path) as writer:
        assert reader.last() == writer.last()
        take_snapshot(fold(writer), writer)
    tamper(other, f"ATTACH '{finished.log}' AS small; DELETE FROM snapshot; INSERT INTO snapshot SELECT * FROM small.snapshot")
    folded, ignored = opened(other)
    assert folded > 20 and "is of another log" in ignored


def test_a_log_from_before_snapshots_lacks_nothing(tmp_path: Path) -> None:
    shutil.copy(GOLDEN[0], tmp_path / LOG)
    with SqliteWriter.open(tmp_path) as writer:
        assert writer.snapshot() is None and open_state(writer).folded == writer.last()
        take_snapshot(fold(writer), writer)
        assert open_state(writer).folded == 0


def test_the_doctor_names_a_bad_snapshot_and_removes_it(finished: RunFolder) -> None:
    assert verify(finished.path) is None
    tamper(finished, "UPDATE snapshot SET state = x'00'")
    found = repair(finished.path)
    assert found and found.place == "snapshot" and "nothing is lost" in str(found.error(""))
    assert opened(finished)[1], "saying so has changed nothing"
    done = repair(finished.path, apply=True)
    assert done and done.mended and done.kept is None
    folded, ignored = opened(finished)
    assert folded > 20 and not ignored and verify(finished.path) is None


def test_cutting_a_tail_takes_the_snapshot_with_it(finished: RunFolder) -> None:
    tamper(finished, "UPDATE events SET payload = x'00' WHERE seq = (SELECT max(seq) FROM events)")
    found = repair(finished.path)
    assert found and found.place == "tail" and found.detail.endswith("1 events, 1 bytes")
    repair(finished.path, apply=True)
    folded, ignored = opened(finished)
    assert folded == found.first - 1 and not ignored


def test_a_part_that_a_damaged_page_gives_as_text_is_called_damaged() -> None:
    name = part_name(b"p")
    row = to_row(Snapshot(1, "form", b"s", {name: b"p"}), Tip(1, 1.0, 7))
    assert whole(row, 7, {name: b"p"}, "log").parts == {name: b"p"}
    with pytest.raises(StoreError, match="is damaged or missing"):
        whole(row, 7, {name: "p"}, "log")  # type: ignore[dict-item]


# ---- the store's side ----


def snapshot(writer: SqliteWriter, *parts: bytes) -> Snapshot:
    return Snapshot(writer.last(), "f", b"state", {part_name(data): data for data in parts})


def test_a_new_snapshot_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path) as writer, SqliteReader.open(tmp_path) as reader:
        writer.append([Event(1, 1.0, 1, 0, "", JobEnded(status="done"))], {})
        writer.keep(snapshot(writer, b"a", b"b"))
        assert reader.snapshot() == snapshot(writer, b"a", b"b")
        writer.append([Event(2, 1.0, 1, 0, "", JobEnded(status="done"))], {})
        writer.keep(snapshot(writer, b"b", b"c"))
        assert reader.snapshot() == snapshot(writer, b"b", b"c")
    with SqliteWriter.open(tmp_path) as writer:
        writer.keep(snapshot(writer, b"c"))
        assert writer.snapshot() == snapshot(writer, b"c")
    connection = apsw.Connection(str(tmp_path / LOG))
    assert connection.execute("SELECT count(*) FROM parts").get == 1
    connection.execute("UPDATE parts SET bytes = x'00'")
    connection.close()
    with SqliteReader.open(tmp_path) as reader, pytest.raises(StoreError, match=r"part .* is damaged or missing"):
        reader.snapshot()


def test_only_the_holder_keeps_a_snapshot_and_only_of_the_whole_log(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path) as writer:
        (tmp_path / "lock").unlink()
        with SqliteWriter.open(tmp_path), pytest.raises(FencedError, match="taken over"):
            writer.keep(snapshot(writer))
        assert writer.snapshot() is None
    with SqliteWriter.open(tmp_path) as writer:
        with pytest.raises(StoreError, match="a snapshot of 5 events was to be kept with a log of 0"):
            writer.keep(Snapshot(5, "f", b""))
        with pytest.raises(StoreError, match="has failed before"):
            writer.append([], {})


# ---- in a job ----


def test_a_resumed_job_says_in_its_log_what_snapshot_it_ignored(finished: RunFolder) -> None:
    tamper(finished, "DELETE FROM events WHERE kind IN ('JobEnded', 'ReportWritten')")
    session = Session.resume(finished, pinned=True)
    try:
        session.master.open("local")
        said = [event.body for event in session.store.read() if isinstance(event.body, SnapshotIgnored)]
    finally:
        session.close()
    assert [body.reason for body in said] == [said[0].reason] and "is of another log" in said[0].reason


def test_what_a_resume_looks_at_begins_at_the_snapshot(finished: RunFolder) -> None:
    """The first event is damaged here: whatever reads the whole log stumbles over it."""
    with finished.reader() as reader:
        spec, last = read_job(reader)[1], reader.last()
    tamper(finished, "UPDATE events SET payload = x'00' WHERE seq = 1")
    assert settled(finished) and over_budget(finished) is None
    view = PlainLines(Console(file=io.StringIO()))
    seen = asyncio.run(follow(finished, spec, view, lambda progress: progress.state.phase is Phase.ENDED))
    assert seen.state.seq == last and seen.begun


def test_the_form_covers_the_source_of_all_that_events_are_folded_through() -> None:
    """What may be left out: errors, and shapes that a snapshot names itself or that no event gives a meaning to."""
    harmless = {"swarm.errors", "swarm.protocol", "swarm.spec"}
    covered = {module.__name__ for module in FOLDED_THROUGH}
    folding = [f"swarm.coordinator.{name}" for name in ("state", "tables", "spending", "closing", "ledger", "faults", "codec")]
    folding += [name for name in MODULES if name.startswith("swarm.board")] + sorted(covered)
    needed = {one.target for name in folding for one in imports(MODULES[name])} & MODULES.keys()
    own = {name for name in MODULES if name.startswith(("swarm.coordinator", "swarm.board"))}
    assert needed - own - {"swarm"} - harmless <= covered and "swarm.payload" in covered
