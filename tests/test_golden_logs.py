"""Logs that earlier versions wrote are read for ever: each folds to the state and the findings written beside it.

`tests/logs/NAME.sqlite` is the log of a run as it stood on disk, `NAME.json` what it amounts to. A change of the code
that alters either changes what old logs mean: raise the event's version and add an upcast instead.

To add one, for instance after a version has been raised:

    python -m tests.test_golden_logs rolling-2 rolling

runs a small job of that name in JOBS on the scripted model, with a failing call now and then, and writes both files. Given the
path of a run's folder instead, such as a test of people or of faults leaves behind, it keeps that run's log. (The writer of
map_reduce-4 was told to name 20 bodies at a time, so that such a small log has names and a tail without.) Look at them,
and commit them. Those that are there are never written again.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgpack
import pytest

from swarm.coordinator import JobState
from swarm.events import KINDS, BudgetReached, CallStarted
from swarm.runtime.session import fold, read_job
from swarm.store.bodies import SCHEMAS
from swarm.store.folder import RunFolder
from swarm.store.sqlite import LOG, SqliteReader, SqliteWriter
from swarm.testing.invariants import LogWatch, check_counters, meaning_digest, refold
from tests.jobs import SOURCE, job, run

LOGS = Path(__file__).with_name("logs")
GOLDEN = sorted(path.stem for path in LOGS.glob("*.sqlite"))
MAX_BYTES = 200_000


@pytest.fixture(params=GOLDEN)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[SqliteReader, dict[str, Any]]]:
    """A golden log, open for reading, and what it amounts to."""
    shutil.copy(LOGS / f"{request.param}.sqlite", tmp_path / LOG)
    reader = SqliteReader.open(tmp_path)
    yield reader, json.loads((LOGS / f"{request.param}.json").read_text(encoding="utf-8"))
    reader.close()


def findings(reader: SqliteReader, state: JobState) -> list[Any]:
    """[values, count, cites] of each finding in the board's order."""
    notes = list(state.board.notes("finding"))
    contents = [msgpack.unpackb(reader.body(note.body)) for note in notes]
    return [[c["values"], c["count"], [list(cite) for cite in n.cites]] for n, c in zip(notes, contents, strict=True)]


def amounts_to(reader: SqliteReader) -> dict[str, Any]:
    state = fold(reader)
    return {
        "events": state.seq,
        "status": state.status,
        "finished": dict(sorted(state.finished.items())),
        "notes": state.board.kinds(),
        "state": meaning_digest(state),
        "findings": findings(reader, state),
    }


def test_there_is_one_for_each_protocol_that_ships() -> None:
    protocols = {path.stem for path in (LOGS.parent.parent / "protocols").glob("[a-z]*.py")}
    assert protocols <= {name.rpartition("-")[0] for name in GOLDEN}


def test_there_is_one_in_each_schema_with_bodies_that_have_names_and_a_tail_that_has_none(tmp_path: Path) -> None:
    schemas, named = set(), list[tuple[int, int]]()
    for name in GOLDEN:
        connection = apsw.Connection(str(shutil.copy(LOGS / f"{name}.sqlite", tmp_path)))
        schemas.add(connection.pragma("user_version"))
        if connection.pragma("user_version") == max(SCHEMAS):
            bodies: Any = connection.execute("SELECT count(*) FROM bodies").get
            names: Any = connection.execute("SELECT count(*) FROM names").get
            named.append((names, bodies - names))
        connection.close()
    assert schemas == set(SCHEMAS) and max(named)[0] > 10 and any(names and tail for names, tail in named)


def test_what_they_show_is_there(tmp_path: Path) -> None:
    shown: dict[str, list[Any]] = {}
    for name in GOLDEN:
        (tmp_path / name).mkdir()
        shutil.copy(LOGS / f"{name}.sqlite", tmp_path / name / LOG)
        with SqliteReader.open(tmp_path / name) as reader:
            shown[name] = [event.body for event in reader.read()]
    assert any(isinstance(body, BudgetReached) for body in shown["budget-1"])
    assert max(body.turn for body in shown["turns-1"] if isinstance(body, CallStarted)) >= 5
    kinds = {type(body).__name__ for bodies in shown.values() for body in bodies}
    assert kinds >= KINDS.keys(), KINDS.keys() - kinds


def test_a_golden_log_still_means_what_it_meant(golden: tuple[SqliteReader, dict[str, Any]]) -> None:
    reader, expected = golden
    assert amounts_to(reader) == expected


def test_a_golden_log_keeps_every_promise(golden: tuple[SqliteReader, dict[str, Any]]) -> None:
    reader, _ = golden
    watch, state = LogWatch(), JobState()
    for event in reader.read():
        watch.see(event)
        state.apply(event)
        check_counters(state)
    assert (watch.ended or state.status == "budget") and not watch.held  # a budget's end can be taken back


def test_the_job_of_a_golden_log_can_be_made_again(golden: tuple[SqliteReader, dict[str, Any]]) -> None:
    """Spec and roles are read from the log's own bodies."""
    state, spec, roles = read_job(golden[0])
    assert state.created is not None and spec.name == state.created.name and set(roles) == set(state.created.roles)


def test_what_this_version_writes_of_a_golden_log_reads_the_same(golden: tuple[SqliteReader, dict[str, Any]]) -> None:
    events = list(golden[0].read())
    assert meaning_digest(refold(events)) == golden[1]["state"]


def test_a_golden_log_can_be_opened_for_writing(tmp_path: Path) -> None:
    for name in GOLDEN:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(LOGS / f"{name}.sqlite", folder / LOG)
        writer = SqliteWriter.open(folder)
        assert writer.last() and writer.epoch > 1
        writer.close()


def test_golden_logs_are_small() -> None:
    assert GOLDEN and max((LOGS / f"{name}.sqlite").stat().st_size for name in GOLDEN) < MAX_BYTES


# ---- making one ----

LITTLE = f"text:{SOURCE}"
JOBS: dict[str, dict[str, Any]] = {
    "map_reduce": {"inputs": [LITTLE]},
    "rolling": {"inputs": [LITTLE], "protocol": {"name": "rolling", "options": {"span_tokens": 64, "passages": 3}}},
    "turns": {"inputs": [LITTLE], "protocol": {"name": "rolling", "options": {"span_tokens": 32, "passages": 12}}},
    "budget": {"inputs": [LITTLE], "budget": {"calls": 9, "reserve": 0.3}},
}
"""What each was made of: by the name of its protocol, or of what it shows."""


def make(name: str, of: str) -> None:
    """Runs a job, or takes a run that has ended, and keeps its log under a name that is not taken."""
    if of not in JOBS:
        keep(name, Path(of))
        return
    with tempfile.TemporaryDirectory() as place:
        spec = job(Path("unused"), **JOBS[of], model={"engine": "scripted", "name": "raises+flaky:4"})
        folder: RunFolder = run(spec, Path(place), id=name)
        keep(name, folder.path)


def keep(name: str, folder: Path) -> None:
    target = LOGS / f"{name}.sqlite"
    if target.exists():
        raise SystemExit(f"{target} is there; golden logs are never written again")
    LOGS.mkdir(exist_ok=True)
    connection = apsw.Connection(str(folder / LOG))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copy(folder / LOG, target)
    with SqliteReader.open(folder) as reader:
        expected = json.dumps(amounts_to(reader), indent=1, ensure_ascii=False) + "\n"
    target.with_suffix(".json").write_text(expected, encoding="utf-8")


if __name__ == "__main__":
    make(*sys.argv[1:3])
