"""What nothing needs can go, and nothing else does: a fork, a replay and a report find all as before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from swarm.errors import StoreError
from swarm.events import Event, JobCreated, body_hash
from swarm.runtime.opening import open_state, take_snapshot
from swarm.runtime.session import fold
from swarm.store.blobs import BLOB_BYTES
from swarm.store.damage import verify
from swarm.store.folder import RunFolder
from swarm.store.lock import FolderLock
from swarm.store.retention import free, needless
from swarm.store.sqlite import SqliteReader, SqliteWriter
from swarm.testing.invariants import log_digest
from tests.commands import swarm
from tests.jobs import SOURCE, job, run

LARGE = b"l" * (BLOB_BYTES + 1)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that has ended, with a snapshot, a large body, and what crashes leave."""
    folder = run(job(Path("unused"), inputs=[f"text:{SOURCE}"]), tmp_path_factory.mktemp("runs"), id="small").path
    with SqliteWriter.open(folder) as writer:
        writer.append([], {body_hash(LARGE): LARGE})
        take_snapshot(fold(writer), writer)
    (folder / "blobs" / ("0" * 32)).write_bytes(b"of a commit that never came")
    (folder / "blobs" / f".{'1' * 32}.{'a' * 32}").write_bytes(b"half of")
    (folder / f".report.md.{'b' * 32}").write_bytes(b"half of it")
    (folder / "log.sqlite.new").write_bytes(b"a log that had not begun")
    (folder / "inbox").mkdir()
    (folder / "inbox" / f".1.json.{'c' * 32}").write_bytes(b"half a message")
    (folder / "inbox" / "2.json").write_text('{"kind": "tell", "text": "a message"}')
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / pristine.name))


def said(folder: Path) -> str:
    with SqliteReader.open(folder) as reader:
        assert reader.body(body_hash(LARGE)) == LARGE
        return log_digest(reader.read())


def test_what_nothing_needs_goes_and_all_else_stays(folder: Path) -> None:
    before, files = said(folder), {path.name for path in folder.iterdir() if path.is_file()}
    found = needless(folder)
    assert [(one.what.split()[-1], one.size > 0) for one in found if one.file] == [
        ("finished", True), ("finished", True), ("finished", True), ("finished", True), ("durable", True),
    ]  # fmt: skip
    assert [one.what for one in found if one.file is None] == ["the snapshot of a job that has ended"]
    assert needless(folder) == found, "saying so removes nothing"
    assert free(folder) == found and needless(folder) == []
    assert said(folder) == before and verify(folder) is None
    assert {path.name for path in folder.iterdir() if path.is_file()} == files - {f".report.md.{'b' * 32}", "log.sqlite.new"}
    assert [path.name for path in (folder / "inbox").iterdir()] == ["2.json"]
    with SqliteReader.open(folder) as reader:
        assert reader.snapshot() is None and open_state(reader).ignored == ""


def test_the_snapshot_of_a_job_that_goes_on_stays(tmp_path: Path) -> None:
    created = JobCreated(job="j", name="j", spec="", protocol="p", protocol_digest="", roles={}, notes="", tokenizer="",
                         seed=0, software="")  # fmt: skip
    with SqliteWriter.open(tmp_path) as writer:
        writer.append([Event(1, 1.0, 1, 0, "", created)], {})
        take_snapshot(fold(writer), writer)
        with pytest.raises(StoreError, match="in use"):
            free(tmp_path)
    assert needless(tmp_path) == free(tmp_path) == []


def test_the_command_says_first_and_removes_when_told(folder: Path) -> None:
    root, link = str(folder.parent), folder.parent / f".latest.{'d' * 32}"
    link.symlink_to("small")
    os.utime(link, (0, 0), follow_symlinks=False)
    listed = swarm("gc", "--runs", root, "--json")
    assert listed.code == 0 and not listed.document["removed"] and len(listed.document["rows"]) == 7
    removed = swarm("gc", "small", "--yes", "--runs", root)
    assert removed.code == 0 and "bytes freed" in removed.out
    assert swarm("gc", "--runs", root, "--yes").code == 0 and not link.is_symlink()
    assert swarm("gc", "--runs", root, "--json").document["rows"] == []
    assert swarm("gc", "nothing", "--runs", root).code == 1
    assert RunFolder(folder.parent, "small").exists()


def test_a_run_whose_holder_cannot_be_seen_is_told_and_keeps_no_other(folder: Path) -> None:
    run = RunFolder(folder.parent, "a-first")
    run.create()
    run.lock.unlink()
    run.lock.symlink_to("lock")
    said = swarm("gc", "--yes", "--runs", folder.parent)
    assert said.code == 0 and "a-first: left alone: input/output error: Too many levels of symbolic links" in said.out
    assert needless(folder) == []


def test_a_run_that_cannot_be_taken_is_told_and_keeps_no_other(folder: Path) -> None:
    run = RunFolder(folder.parent, "a-first")
    run.create()
    run.lock.unlink()
    run.lock.mkdir()  # as if it were another user's: who holds it can be seen
    said = swarm("gc", "--yes", "--runs", folder.parent)
    assert said.code == 0 and "a-first: left alone: input/output error: Is a directory" in said.out
    assert needless(folder) == []


def test_what_a_start_leaves_that_was_killed_goes_once_it_has_rested_and_nobody_is_at_it(folder: Path) -> None:
    root = folder.parent
    names = [f".{name}" for id in ("small", "one") for name in (f"{id}.starting", f"{id}.{'e' * 32}.driver.log")]
    for name in [*names, ".Odd.starting", ".one.driver.log"]:
        (root / name).write_bytes(b"12345678")
    starting, working = FolderLock.take(root / ".one.starting"), FolderLock.take(folder / "lock")
    assert swarm("gc", "--json", "--runs", root).document["rows"] == [], "they may be of use yet"
    for path in root.glob(".*"):
        os.utime(path, (0, 0))

    def found(*more: str) -> list[str]:
        return [Path(row["file"]).name for row in swarm("gc", "--json", "--runs", root, *more).document["rows"]]

    assert found() == [f".one.{'e' * 32}.driver.log"]
    starting.release()
    os.utime(root / ".one.starting", (0, 0))
    assert found() == sorted(names[2:]), "the driver of the other run may print there"
    assert found("--yes") == sorted(names[2:])
    working.release()
    assert set(found("--yes")) > set(names[:2])
    assert {path.name for path in root.iterdir()} == {"small", ".Odd.starting", ".one.driver.log"}
