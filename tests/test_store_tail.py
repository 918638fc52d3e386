"""What a crash leaves at the end of a log: a commit that nobody was told of is cut off, with a word; whatever else is gone is
damage, and refused."""

from __future__ import annotations

import asyncio
import io
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import yaml
from rich.console import Console

from swarm.cli.live import PlainLines, follow
from swarm.errors import DamageError, StoreError
from swarm.events import Event, JobOpened, TailCut
from swarm.spec import parse_spec
from swarm.store import wal
from swarm.store.connection import open_reading
from swarm.store.damage import _give_up, repair, verify
from swarm.store.folder import RunFolder
from swarm.store.mark import MARK, Mark, acknowledged
from swarm.store.sqlite import LOG, SqliteReader, SqliteWriter
from tests.commands import ROOT, job_file, swarm
from tests.jobs import events_of, write_sources
from tests.test_store_damage import SIZE, fill

COMMITS, EACH = 30, 10


def crashed(folder: Path) -> list[Event]:
    """Makes a folder that holds what a killed process leaves: every commit in the write-ahead log. Returns the events."""
    with SqliteWriter.open(folder.with_name("at-work")) as writer:
        for _ in range(COMMITS):
            fill(writer, EACH)
        shutil.copytree(writer.path.parent, folder, ignore=shutil.ignore_patterns("*-shm"))
        return list(writer.read())


def tear(folder: Path, size: int) -> None:
    """Adds frames of a commit that has no end to a write-ahead log."""
    path = wal.of(folder / LOG)
    salt = path.read_bytes()[16:24]
    frame = (3).to_bytes(4, "big") + bytes(4) + salt + b"\xa5" * (8 + 4096)
    with open(path, "ab") as file:
        file.write((frame * (size // len(frame) + 1))[:size])


# ---- a torn tail ----


@pytest.mark.parametrize("size", [1, 20, 24, 2000, 4119, 4120, 9000, 200_000])
def test_an_unfinished_commit_is_cut_off_once_and_known_until_it_is_said(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "run"
    written = crashed(folder)
    tear(folder, size)
    assert verify(folder) is None
    for said, torn in ((False, size), (False, size), (True, size), (True, 0)):
        with SqliteWriter.open(folder) as writer:
            assert writer.torn == torn
            with closing(open_reading(writer.path)) as other:
                assert wal.torn(other, writer.path) == 0, "nothing of it lies there any more"
            assert list(writer.read())[: len(written)] == written
            if said:
                last = list(writer.read())[-1]
                writer.append([Event(last.seq + 1, last.time, writer.epoch, 0, "", TailCut(bytes=size))], {})
                assert writer.torn == 0
            else:
                fill(writer, 1)
            killed = Path(shutil.copytree(folder, folder.with_name(folder.name + "+"), ignore=shutil.ignore_patterns("*-shm")))
        folder = killed


def test_of_two_tails_of_which_nobody_spoke_the_longer_is_known(tmp_path: Path) -> None:
    crashed(tmp_path / "run")
    for size in (5000, 20):
        tear(tmp_path / "run", size)
        with SqliteWriter.open(tmp_path / "run") as writer:
            assert writer.torn == 5000
            fill(writer, 1)
            shutil.copytree(tmp_path / "run", tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "killed").rename(tmp_path / "run")


def test_what_was_to_be_written_and_reads_as_zeros_is_torn(tmp_path: Path) -> None:
    crashed(tmp_path / "run")
    with open(wal.of(tmp_path / "run" / LOG), "ab") as file:
        file.write(bytes(9000))
    with SqliteWriter.open(tmp_path / "run") as writer:
        assert writer.torn == 9000


def test_what_lies_there_from_an_earlier_round_is_not_torn(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path / "run") as writer:
        for _ in range(COMMITS):
            fill(writer, EACH)
        with closing(apsw.Connection(str(writer.path))) as other:
            other.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        fill(writer, 1)
        shutil.copytree(writer.path.parent, tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    assert len(wal.of(tmp_path / "killed" / LOG).read_bytes()) > 20 * 4096
    with SqliteWriter.open(tmp_path / "killed") as writer:
        assert writer.torn == 0 and writer.last() == COMMITS * EACH + 1


def test_a_torn_tail_that_a_reader_keeps_in_its_place_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    written = crashed(folder)
    tear(folder, 200_000)
    other = apsw.Connection(str(folder / LOG))
    rows = other.execute("SELECT seq FROM events")
    next(rows)
    with SqliteWriter.open(folder) as writer:
        assert writer.torn == 200_000
        fill(writer, 1)
        shutil.copytree(folder, tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    assert len(list(rows)) == len(written) - 1
    other.close()
    for place in (folder, tmp_path / "killed"):
        with SqliteWriter.open(place) as writer:
            assert list(writer.read())[:-1] == written
        assert verify(place) is None


def test_a_resumed_job_says_what_was_cut_off(tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path, 4))
    command = [sys.executable, "-m", "tests.crashing_driver", str(path), str(tmp_path / "runs"), "one", "12"]
    subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    run = RunFolder(tmp_path / "runs", "one")
    before = events_of(run)
    tear(run.path, 2024)
    said = swarm("resume", "one", "--local", "--runs", run.root)
    assert said.code == 0
    note = "note: cut off the end of the log: 2,024 bytes of an unfinished commit, as a crash or a full disk leaves it"
    assert said.err.count(note) == 1
    events = events_of(run)
    assert events[: len(before)] == before
    assert [event.body for event in events if isinstance(event.body, TailCut)] == [TailCut(bytes=2024)]
    moments = [moment["what"] for moment in swarm("report", "one", "--json", "--runs", run.root).document["timeline"]["moments"]]
    assert moments.count("2,024 bytes of an unfinished commit cut off") == 1
    assert swarm("replay", "one", "--verify", "--runs", run.root).code == 0
    console, looks = Console(file=io.StringIO(), width=200), iter([False, False, True, True])
    spec = parse_spec(yaml.safe_load(run.spec.read_text()))
    progress = asyncio.run(follow(run, spec, PlainLines(console), lambda progress: next(looks)))
    assert isinstance(console.file, io.StringIO) and console.file.getvalue().count(note) == 1
    progress.apply(replace(events[1], seq=events[-1].seq + 1))
    assert progress.cut == 0 and isinstance(events[1].body, JobOpened), "of the master who has the job"


def test_a_job_that_is_cancelled_has_what_was_cut_off_in_its_log(tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path, 4))
    command = [sys.executable, "-m", "tests.crashing_driver", str(path), str(tmp_path / "runs"), "one", "12"]
    subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    run = RunFolder(tmp_path / "runs", "one")
    tear(run.path, 2024)
    assert swarm("cancel", "one", "--runs", run.root).code == 0
    assert [event.body for event in events_of(run) if isinstance(event.body, TailCut)] == [TailCut(bytes=2024)]


# ---- an end that is gone ----


def settled(folder: Path, upto: int) -> list[Event]:
    """What a killed process leaves, `upto` records of which are in the log's own file."""
    with SqliteWriter.open(folder.with_name("at-work")) as writer:
        while writer.last() < COMMITS * EACH:
            fill(writer, EACH)
            if writer.last() == upto:
                writer._settle()
        shutil.copytree(writer.path.parent, folder, ignore=shutil.ignore_patterns("*-shm"))
        return list(writer.read())


def test_a_write_ahead_log_that_was_cut_short_is_refused_and_what_is_gone_is_named(tmp_path: Path) -> None:
    chance, pristine = random.Random(17), tmp_path / "pristine"
    written = settled(pristine, 100)
    pending = wal.of(pristine / LOG).read_bytes()
    for _ in range(30):
        folder = Path(shutil.copytree(pristine, tmp_path / "run"))
        left = pending[: chance.randrange(len(pending) - 1)]
        wal.of(folder / LOG).write_bytes(left)
        with pytest.raises(DamageError, match=r"gone from the end of the log, though acknowledged(.|\n)*--repair run"):
            SqliteWriter.open(folder)
        assert wal.of(folder / LOG).read_bytes() == left, "nothing was changed"
        with SqliteReader.open(folder) as reader:
            assert list(reader.read()) == written[: reader.last()], "what is there can be read"
        found = verify(folder)
        assert found and found.place == "gone" and 101 <= found.first <= found.last == len(written)
        done = repair(folder, apply=True)
        assert done and done.mended
        if left:
            assert done.kept and done.kept.name == f"log.damaged-{found.first}.wal" and done.kept.read_bytes() == left
        assert verify(folder) is None
        with SqliteWriter.open(folder) as writer:
            assert list(writer.read()) == written[: found.first - 1]
            fill(writer, 1)
        assert verify(folder) is None
        shutil.rmtree(folder)


def test_damage_to_the_last_acknowledged_commit_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    written = settled(folder, 100)
    with open(wal.of(folder / LOG), "r+b") as file:
        file.seek(-20, 2)
        file.write(b"\xa5\x5a\xa5")
    with pytest.raises(DamageError, match="records 291 to 300 are gone from the end of the log"):
        SqliteWriter.open(folder)
    assert repair(folder, apply=True) is not None
    with SqliteWriter.open(folder) as writer:
        assert list(writer.read()) == written[:290] and writer.torn == 0, "it was told as damage"


def test_a_repair_looks_again_once_nobody_else_can_write(tmp_path: Path) -> None:
    """Another one may have repaired the log meanwhile, and its job gone on."""
    settled(tmp_path / "run", 100)
    wal.of(tmp_path / "run" / LOG).unlink()
    assert repair(tmp_path / "run", apply=True) is not None
    with SqliteWriter.open(tmp_path / "run") as writer:
        fill(writer, 50)
    assert _give_up(tmp_path / "run" / LOG) is None
    assert acknowledged(tmp_path / "run") == 150


def test_doctor_says_what_a_log_has_lost_before_it_gives_it_up(tmp_path: Path) -> None:
    settled(tmp_path / "run", 100)
    wal.of(tmp_path / "run" / LOG).unlink()
    said = swarm("doctor", "--repair", "run", "--runs", tmp_path)
    assert said.code == 1 and "records 101 to 300 are gone from the end of the log, though acknowledged" in said.out
    assert "gives them up, and the job goes on from record 100" in " ".join(said.out.split())
    said = swarm("doctor", "--repair", "run", "--apply", "--runs", tmp_path)
    assert said.code == 0 and "goes on from record 100; there was nothing left to keep a copy of" in " ".join(said.out.split())
    with SqliteWriter.open(tmp_path / "run") as writer:
        assert writer.last() == 100


def test_a_run_that_has_lost_records_is_shown_so_and_its_name_is_not_taken(tmp_path: Path) -> None:
    path = job_file(tmp_path, write_sources(tmp_path, 4))
    runs = ("--runs", tmp_path / "runs")
    assert swarm("run", path, "--local", "--id", "whole", *runs).code == 0
    for id in ("all", "end"):
        command = [sys.executable, "-m", "tests.crashing_driver", str(path), str(tmp_path / "runs"), id, "12"]
        subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
        run = RunFolder(tmp_path / "runs", id)
        if id == "end":
            os.truncate(wal.of(run.log), wal.of(run.log).stat().st_size * 4 // 5)
        else:
            wal.of(run.log).unlink()
        (row,) = [row for row in swarm("list", *runs, "--json").document if row["id"] == id]
        assert row["status"] == "damaged"
        for verb in (("status", id), ("watch", id), ("resume", id, "--local"), ("pause", id), ("cancel", id), ("inbox", id)):
            said = swarm(*verb, *runs)
            assert said.code == 1 and "acknowledged" in said.err and "nothing was changed" in said.err, verb
        assert f"{run.path}/log.sqlite" in swarm("inbox", *runs).err
        assert any(line.startswith(f"{id}: error") for line in swarm("supervise", "--once", *runs).err.splitlines())
        said = swarm("fork", "whole", "--at", "1", "--id", id, *runs)
        assert said.code == 1 and "exists already" in said.err
    assert swarm("report", "end", *runs).code == 0
    assert swarm("fork", "end", "--at", "1", "--id", "saved", "--local", *runs).code == 0


def test_an_older_copy_in_the_place_of_the_log_is_refused(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path / "run") as writer:
        fill(writer, 5)
    shutil.copy(tmp_path / "run" / LOG, tmp_path / "older")
    with SqliteWriter.open(tmp_path / "run") as writer:
        fill(writer, 1)
    shutil.copy(tmp_path / "older", tmp_path / "run" / LOG)
    with pytest.raises(DamageError, match="record 6 is gone from the end of the log"):
        SqliteWriter.open(tmp_path / "run")


def test_records_that_are_cut_from_the_end_are_not_missed_afterwards(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path / "run") as writer:
        fill(writer, 5)
    connection = apsw.Connection(str(tmp_path / "run" / LOG))
    connection.execute("UPDATE events SET checksum = checksum + 1 WHERE seq >= 4")
    connection.close()
    done = repair(tmp_path / "run", apply=True)
    assert done and done.place == "tail" and verify(tmp_path / "run") is None
    with SqliteWriter.open(tmp_path / "run") as writer:
        assert writer.last() == 3


def test_a_new_log_owes_nothing_to_the_one_before_it(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path / "run") as writer:
        fill(writer, 5)
    (tmp_path / "run" / LOG).unlink()
    with SqliteWriter.open(tmp_path / "run") as writer:
        assert writer.last() == 0
        fill(writer, 1)
    assert verify(tmp_path / "run") is None


# ---- the mark ----


def test_a_mark_is_what_was_put_last_and_nothing_if_it_is_damaged(tmp_path: Path) -> None:
    assert acknowledged(tmp_path) == 0
    mark = Mark(tmp_path)
    for seq in (0, 1, 2**40, 300):
        mark.put(seq)
        assert acknowledged(tmp_path) == seq
    mark.close()
    mark.close()
    whole = (tmp_path / MARK).read_bytes()
    for at in range(len(whole)):
        for harmed in (whole[:at], whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :]):
            (tmp_path / MARK).write_bytes(harmed)
            assert acknowledged(tmp_path) == 0
    (tmp_path / MARK).write_bytes(whole + b"\n")
    assert acknowledged(tmp_path) == 300


@pytest.mark.parametrize("place", ["a folder", "a full disk"])
def test_a_log_does_without_a_mark_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "run"
    SqliteWriter.open(folder).close()
    (folder / MARK).unlink()
    if place == "a folder":
        (folder / MARK).mkdir()
    else:
        (folder / MARK).symlink_to("/dev/full")
    for upto in (5, 10):
        with SqliteWriter.open(folder) as writer:
            fill(writer, 5)
            assert writer.last() == upto
    assert verify(folder) is None


def test_the_mark_follows_each_commit_and_an_older_one_or_none_does_no_harm(tmp_path: Path) -> None:
    """A power cut may leave an older one, as it is not synced; a log of before has none."""
    folder = tmp_path / "run"
    with SqliteWriter.open(folder) as writer:
        for number in range(1, 6):
            fill(writer, 2)
            assert acknowledged(folder) == 2 * number
        writer.append([], {})
        assert acknowledged(folder) == 10
    for older in (4, None):
        if older is None:
            (folder / MARK).unlink()
        else:
            with closing(Mark(folder)) as mark:
                mark.put(older)
        SqliteReader.open(folder).close()
        with SqliteWriter.open(folder) as writer:
            assert writer.last() == 10
        assert acknowledged(folder) == 10


# ---- the write-ahead log after a power cut ----


def test_a_torn_write_ahead_log_leaves_a_prefix_or_refuses(tmp_path: Path) -> None:
    """A power cut tears what no writer was told of: a commit at most. If more lies behind the tear, something else did it. That
    can be told without the mark, of which a power cut may leave an older one."""
    chance, pristine = random.Random(13), tmp_path / "pristine"
    written = crashed(pristine)
    (pristine / MARK).unlink()
    pending = (pristine / "log.sqlite-wal").read_bytes()
    lengths, refusals, torn_tails = set(), 0, 0
    for number in range(60):
        folder = Path(shutil.copytree(pristine, tmp_path / "run"))
        torn = bytearray(pending[: chance.randrange(len(pending))])
        if number % 2 and torn:
            torn[chance.randrange(len(torn))] ^= 0xFF
        (folder / "log.sqlite-wal").write_bytes(torn)
        try:
            writer = SqliteWriter.open(folder)
        except StoreError as error:
            refusals += 1
            assert number % 2 and "the write-ahead log is damaged behind record" in error.message
            assert repair(folder, apply=True) is not None
            writer = SqliteWriter.open(folder)
        with writer:
            found = list(writer.read())
            assert found == written[: len(found)]
            lengths.add(len(found))
            torn_tails += writer.torn > 0
            fill(writer, 1)
        assert verify(folder) is None
        shutil.rmtree(folder)
    assert len(lengths) > 10 and refusals > 10 and torn_tails > 30


def test_a_writer_that_closes_leaves_one_file_that_holds_everything(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path / "run") as writer:
        with SqliteReader.open(tmp_path / "run") as looking:  # as the view of a job does, which closes after its writer
            fill(writer, SIZE)
            assert looking.last() == SIZE
            writer.close()
        (tmp_path / "copy").mkdir()
        shutil.copy(tmp_path / "run" / "log.sqlite", tmp_path / "copy")
    with SqliteReader.open(tmp_path / "copy") as reader:
        assert reader.last() == SIZE


def test_a_writer_closes_while_somebody_reads(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path / "run") as writer:
        fill(writer, SIZE)
        other = apsw.Connection(str(tmp_path / "run" / "log.sqlite"))
        rows = other.execute("SELECT seq FROM events")
        next(rows)
    with SqliteWriter.open(tmp_path / "run") as again:
        assert again.last() == SIZE
    assert len(list(rows)) == SIZE - 1
    other.close()


def test_damage_to_acknowledged_commits_in_the_write_ahead_log_is_never_taken_for_a_torn_one(tmp_path: Path) -> None:
    folder = tmp_path / "demo-0412"
    written = crashed(folder)
    with open(folder / "log.sqlite-wal", "r+b") as file:
        file.seek(file.seek(0, 2) // 2)
        file.write(b"\xa5\x5a\xa5")
    content = (folder / "log.sqlite-wal").read_bytes()
    for attempt in (SqliteReader.open, SqliteWriter.open, SqliteReader.open):
        with pytest.raises(StoreError, match=r"damaged behind record \d+: \d+ or more later commits(.|\n)*--repair demo-0412"):
            attempt(folder)
    assert (folder / "log.sqlite-wal").read_bytes() == content
    found = verify(folder)
    assert found and found.place == "ahead" and 10 < found.first < len(written)
    done = repair(folder, apply=True)
    assert done and done.kept and done.kept.name == f"log.damaged-{found.first}.wal" and done.kept.read_bytes() == content
    assert verify(folder) is None
    with SqliteWriter.open(folder) as writer:
        assert list(writer.read()) == written[: found.first - 1]


def test_a_damaged_header_of_the_write_ahead_log_hides_no_commits(tmp_path: Path) -> None:
    crashed(tmp_path / "run")
    (tmp_path / "run" / MARK).unlink()
    with open(wal.of(tmp_path / "run" / LOG), "r+b") as file:
        file.seek(8)
        file.write(bytes(4))  # the size of a page
    with pytest.raises(DamageError, match="damaged behind record 0: 30 or more later commits"):
        SqliteWriter.open(tmp_path / "run")


def test_what_a_power_cut_has_not_written_is_not_taken_for_commits(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path / "run") as writer:
        fill(writer, 5)
    content = bytearray(32 + 5 * 4120)
    for frame in range(5):
        content[32 + frame * 4120 + 7] = 1
    wal.of(tmp_path / "run" / LOG).write_bytes(content)
    with SqliteWriter.open(tmp_path / "run") as writer:
        assert writer.last() == 5 and writer.torn == 5 * 4120


def work(writer: SqliteWriter) -> None:
    for _ in range(60):
        fill(writer, 1)


def test_a_log_at_work_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    with SqliteWriter.open(tmp_path / "run") as writer, ThreadPoolExecutor(1) as pool:
        appending = pool.submit(work, writer)
        looked = 0
        while not appending.done():
            SqliteReader.open(tmp_path / "run").close()
            assert verify(tmp_path / "run") is None
            with closing(apsw.Connection(str(tmp_path / "run" / LOG))) as other:  # so that the writer begins new rounds
                other.execute(f"PRAGMA wal_checkpoint({('RESTART', 'TRUNCATE', 'PASSIVE')[looked % 3]})").fetchall()
            looked += 1
    appending.result()
    assert looked > 3


def test_a_log_without_events_beside_a_report_has_lost_them(tmp_path: Path) -> None:
    folder = tmp_path / "demo-0412"
    crashed(folder)
    (folder / "log.sqlite-wal").unlink()
    with pytest.raises(StoreError, match=r"holds no event although 300 records were acknowledged(.|\n)*restore"):
        SqliteWriter.open(folder)
    found = verify(folder)
    assert found and found.place == "empty" and not found.mendable
    (folder / MARK).unlink()
    SqliteReader.open(folder).close()  # nothing tells it from one that never had an event
    (folder / "answer.json").write_text("{}")
    for attempt in (SqliteReader.open, SqliteWriter.open):
        with pytest.raises(StoreError, match=r"holds no event although answer.json lies beside it(.|\n)*restore"):
            attempt(folder)
    found = verify(folder)
    assert found and found.place == "empty"
    with pytest.raises(StoreError, match="nothing was changed"):
        repair(folder, apply=True)
