"""A job that is done once, however often it is asked for: what a cluster's head runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from swarm.runtime.people import pause_resting
from swarm.runtime.session import Session, check
from swarm.spec import Price
from swarm.store.folder import RunFolder, read_status
from tests.commands import Said, job_file, start, swarm
from tests.jobs import events_of, job, run as run_job, state_of, write_sources
from tests.test_supervise import HURRIED, set_ahead


def once(place: Path, file: Path) -> tuple[object, ...]:
    return "run", file, "--once", "--id", "one", "--local", "--json", "--runs", place / "runs"


def asked(place: Path, **changes: Any) -> Said:
    return swarm(*once(place, job_file(place, write_sources(place), **changes)))


def run_of(place: Path) -> RunFolder:
    return RunFolder(place / "runs", "one")


def begun(place: Path) -> RunFolder:
    """A job that its driver was killed over when it had just begun."""
    Session.create(*check(job(write_sources(place))), run_of(place)).store.close()
    assert read_status(run_of(place)).status == "interrupted"
    return run_of(place)


def test_a_job_is_begun_and_then_only_told_of(tmp_path: Path) -> None:
    first = asked(tmp_path)
    events = events_of(run_of(tmp_path))
    again = asked(tmp_path)
    assert first.code == again.code == 0 and events_of(run_of(tmp_path)) == events
    assert again.document == {name: value for name, value in first.document.items() if name != "plan"}


def test_a_job_that_lost_its_driver_goes_on(tmp_path: Path) -> None:
    begun(tmp_path)
    assert asked(tmp_path).code == 0 and state_of(run_of(tmp_path)).status == "done"


@pytest.mark.parametrize("rests", ["paused", "budget"])
def test_a_job_that_rests_is_left_alone(tmp_path: Path, rests: str) -> None:
    poor: dict[str, Any] = {"budget": {"tokens": 3000}} if rests == "budget" else {}
    if rests == "paused":
        pause_resting(begun(tmp_path), "for the night", read_status(run_of(tmp_path)).events)
    else:
        run_job(job(write_sources(tmp_path), **poor), tmp_path / "runs", id="one")
    events = events_of(run_of(tmp_path))
    said = asked(tmp_path, **poor)
    assert (said.code, said.document["status"]) == ((3, "budget") if rests == "budget" else (1, "paused")), said.err
    assert read_status(run_of(tmp_path)).status == rests and events_of(run_of(tmp_path)) == events


def test_an_id_stands_for_one_job_whatever_its_price(tmp_path: Path) -> None:
    assert asked(tmp_path).code == 0
    other = asked(tmp_path, seed=1)
    assert other.code == 2 and "'one' stands for another job among the runs in" in other.err
    model = {"engine": "scripted", "name": "raises", "price": Price(input=1, output=2).model_dump()}
    assert asked(tmp_path, model=model).code == 0, "the table of prices was changed"


def test_whoever_works_on_it_is_followed_and_then_it_goes_on(tmp_path: Path) -> None:
    holder = begun(tmp_path).writer()
    asking = start(*once(tmp_path, job_file(tmp_path, write_sources(tmp_path))))
    assert asking.stderr is not None
    said = asking.stderr.readline()
    assert "run one in " in said and "is worked on by process " in said, said
    holder.close()
    out, err = asking.communicate()
    assert asking.returncode == 0 and json.loads(out)["status"] == "done", err


FIRST = """
import subprocess, sys
from pathlib import Path
from swarm.protocol import find_protocol

def create(spec):
    place = Path(spec.protocol.name).parent
    if not (place / "first").exists():
        (place / "first").touch()
        subprocess.run([sys.executable, *(place / "command").read_text().splitlines()], check=True, capture_output=True)
    return find_protocol("map_reduce")[0].create(spec)
"""
"""A protocol that has another driver do the whole job before it is made for the first one."""


@pytest.mark.parametrize("there", [False, True])
def test_whoever_finds_it_done_by_another_has_its_answer(tmp_path: Path, there: bool) -> None:
    protocol = tmp_path / "first.py"
    protocol.write_text(FIRST)
    asking = {"name": str(protocol), "options": {"span_tokens": 160}}
    file = job_file(tmp_path, write_sources(tmp_path), protocol=asking)
    (tmp_path / "command").write_text("\n".join(map(str, ("-m", "swarm", *once(tmp_path, file)))))
    if there:
        (tmp_path / "first").touch()
        Session.create(*check(job(write_sources(tmp_path), protocol=asking)), run_of(tmp_path)).store.close()
        (tmp_path / "first").unlink()
    said = swarm(*once(tmp_path, file))
    assert said.code == 0 and said.document["status"] == "done", said.err
    kinds = Counter(event.kind for event in events_of(run_of(tmp_path)))
    assert kinds["JobCreated"] == kinds["JobOpened"] == kinds["JobEnded"] == 1


def test_a_question_whose_time_is_over_by_its_log_is_over(tmp_path: Path) -> None:
    protocol = tmp_path / "hurried.py"
    protocol.write_text(HURRIED.replace("seconds=0.1", "seconds=60"))
    asking = {"name": str(protocol), "options": {"span_tokens": 160, "approve_plan": True}}
    run = run_of(tmp_path)
    run_job(job(write_sources(tmp_path), protocol=asking), run.root, id="one")
    assert read_status(run).status == "waiting" and asked(tmp_path, protocol=asking).code == 5
    set_ahead(run)
    assert read_status(run).status == "waiting"
    assert asked(tmp_path, protocol=asking).code == 0


def test_what_never_began_is_begun(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.create()
    run.writer().close()
    run.spec.write_text("half of what a driver wrote that was killed before the first event")
    assert read_status(run).status == "new"
    said = asked(tmp_path)
    assert said.code == 0 and state_of(run).status == "done", said.err


def test_one_that_is_being_begun_is_waited_for(tmp_path: Path) -> None:
    run_of(tmp_path).create()
    holder = run_of(tmp_path).writer()
    asking = start(*once(tmp_path, job_file(tmp_path, write_sources(tmp_path))))
    assert asking.stderr is not None
    said = asking.stderr.readline()
    assert "begins run one: waiting for its first event" in said, said
    holder.close()
    out, err = asking.communicate()
    assert asking.returncode == 0 and json.loads(out)["status"] == "done", err


def test_of_many_at_once_one_does_it_and_all_have_its_answer(tmp_path: Path) -> None:
    file = job_file(tmp_path, write_sources(tmp_path, 3), model={"engine": "scripted", "name": "raises+slow:0.05"})
    asking = [start(*once(tmp_path, file)) for _ in range(3)]
    said = [one.communicate() for one in asking]
    assert [one.returncode for one in asking] == [0, 0, 0], [err for _, err in said]
    assert len({json.dumps(json.loads(out)["rows"]) for out, _ in said}) == 1
    kinds = Counter(event.kind for event in events_of(run_of(tmp_path)))
    assert kinds["JobCreated"] == kinds["JobOpened"] == 1
