"""Jobs that the head of a real cluster runs: submitted, submitted again, followed, and read after the cluster is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from swarm.api import JobHandle
from swarm.runtime.environment import settle
from swarm.spec import load_spec
from swarm.store.folder import RunFolder
from swarm.store.runs import Runs
from tests.commands import job_file, swarm as here
from tests.jobs import ROWS, answered, events_of, job, state_of, write_sources
from tests.ray_head import RayHead, free_ports, holding

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    head = RayHead()
    yield head
    head.stop()


def test_a_job_runs_on_the_head_and_its_exit_code_and_answer_come_back(head: RayHead, tmp_path: Path) -> None:
    said = head.submit(tmp_path, job_file(tmp_path, write_sources(tmp_path)), "--id", "one", "--wait", "--json")
    assert said.code == 0, said.err
    answer = said.document
    assert [tuple(row["values"].values()) for row in answer["rows"]] == ROWS
    assert answer["submission"] == "swarm-one" and Path(answer["report"]).is_file()
    assert "run one in" in said.err and "answer: 4 rows" in said.err and '"rows"' not in said.err
    shown = head.ask("/api/jobs/swarm-one")
    told = {"job_name": "raises", "name": "raises", "protocol": "map_reduce", "job": "one", "report": answer["report"]}
    assert told.items() <= shown["metadata"].items()
    assert "@" in shown["metadata"]["owner"] and " python3 -P -m swarm run - " in shown["entrypoint"]


RACE = """
import asyncio, json, pathlib, sys, swarm
file, runs, address = sys.argv[1:]
async def main():
    spec = swarm.load_spec(pathlib.Path(file))
    handles = await asyncio.gather(*[swarm.submit(spec, runs=runs, address=address, key="order 7") for _ in range(8)])
    print(json.dumps([[handle.id, handle.driver.found] for handle in handles]))
asyncio.run(main())
"""


def test_the_same_key_starts_one_job_however_many_ask_at_once(head: RayHead, tmp_path: Path) -> None:
    file = job_file(tmp_path, write_sources(tmp_path, 3))
    asked = head.run("-c", RACE, file, tmp_path / "runs", head.url)
    assert asked.code == 0, asked.err
    ids, found = zip(*asked.document, strict=True)
    assert len(set(ids)) == len(Runs(tmp_path / "runs").list()) == 1 and sorted(found) == [False] + [True] * 7
    again = head.submit(tmp_path, file, "--key", "order 7", "--wait", "--json")
    assert again.code == 0 and "submitted before" in again.err and again.document["id"] == ids[0]
    other = head.submit(tmp_path, file, "--key", "order 7", "--set", "seed=1")
    assert other.code == 2 and "'order 7' stands for another job" in other.err
    assert sum(event.kind == "JobCreated" for event in events_of(RunFolder(tmp_path / "runs", ids[0]))) == 1


def test_what_keeps_a_job_from_starting_is_said_and_it_can_be_submitted_again(head: RayHead, tmp_path: Path) -> None:
    file = job_file(tmp_path, tmp_path / "code")
    first = head.submit(tmp_path, file, "--id", "later")
    assert first.code == 2 and "code" in first.err and "error: " in first.err
    write_sources(tmp_path)
    second = head.submit(tmp_path, file, "--id", "later", "--wait")
    assert second.code == 0 and "swarm-later-2" in second.err, second.err
    assert state_of(RunFolder(tmp_path / "runs", "later")).status == "done"


def test_the_same_key_goes_on_after_the_driver_was_killed(head: RayHead, tmp_path: Path) -> None:
    slow = {"engine": "scripted", "name": "raises+slow:0.3"}
    file = job_file(tmp_path, write_sources(tmp_path, 2), model=slow)
    first = head.submit(tmp_path, file, "--key", "order 9", "--agents", 2, "--json")
    run = RunFolder(tmp_path / "runs", first.document["id"])
    asyncio.run(_killed(run))
    again = head.submit(tmp_path, file, "--key", "order 9", "--wait", "--json")
    assert again.code == 0 and again.document["submission"] == f"swarm-{run.id}-2", again.err
    events = events_of(run)
    calls = answered(events)
    assert state_of(run).status == "done" and len(calls) == len(set(calls)), "no call that was recorded is made again"
    assert [event.kind for event in events].count("JobOpened") == 2
    third = head.submit(tmp_path, file, "--key", "order 9", "--wait", "--json")
    assert third.document == again.document and "submitted before" in third.err


async def _killed(run: RunFolder) -> None:
    """Ends a run's driver once three calls were answered."""
    calls = 0
    async for event in JobHandle(run).events():
        calls += event.kind == "CallFinished"
        if calls == 3:
            for process in holding(f"--id\0{run.id}\0"):
                os.kill(process, signal.SIGKILL)
            return


def test_the_same_key_is_the_same_job_for_a_head_that_knows_nothing_of_it(head: RayHead, tmp_path: Path) -> None:
    settle()  # before anything loads ray
    from swarm.runtime.submission import keyed_id

    file = job_file(tmp_path, write_sources(tmp_path))
    run = RunFolder(tmp_path / "runs", keyed_id(load_spec(file), "order 11"))
    first = here("run", file, "--id", run.id, "--local", "--runs", run.root, "--json").document
    events = events_of(run)
    other = head.submit(tmp_path, file, "--key", "order 11", "--set", "seed=1", "--wait")
    assert other.code == 2 and f"{run.id!r} stands for another job among the runs in {run.root}" in other.err
    again = head.submit(tmp_path, file, "--key", "order 11", "--wait", "--json")
    assert again.code == 0 and again.document["submission"] == f"swarm-{run.id}-2", again.err
    assert again.document["rows"] == first["rows"] and events_of(run) == events


def test_a_job_that_was_answered_goes_on_when_it_is_submitted_again(head: RayHead, tmp_path: Path) -> None:
    asking = {"name": "map_reduce", "options": {"span_tokens": 160, "approve_plan": True}}
    file = job_file(tmp_path, write_sources(tmp_path), protocol=asking)
    for said in (head.submit(tmp_path, file, "--id", "asks", "--wait", "--json") for _ in range(2)):
        assert said.code == 5 and said.document["submission"] == "swarm-asks", said.err
        assert "once it is answered, submitting it again under its --key, or as --id asks, goes on" in said.err
    assert here("approve", "asks", "--runs", tmp_path / "runs").code == 0
    said = head.submit(tmp_path, file, "--id", "asks", "--wait", "--json")
    assert said.code == 0 and said.document["status"] == "done", said.err


def test_a_key_and_an_id_exclude_each_other(tmp_path: Path) -> None:
    said = here("submit", job_file(tmp_path, write_sources(tmp_path)), "--key", "order 12", "--id", "twelve")
    assert said.code == 2 and "leave one of the two out" in said.err


FOLLOW = """
import asyncio, pathlib, sys, swarm
file, runs, address = sys.argv[1:]
async def main():
    handle = await swarm.submit(swarm.load_spec(pathlib.Path(file)), runs=runs, address=address, id="api")
    kinds = [event.kind async for event in handle.events()]
    answer = await handle.result()
    print(kinds[0], kinds[-1], answer.status, len(answer.rows), handle.driver.found)
asyncio.run(main())
"""


def test_a_handle_follows_the_job_through_its_log_and_a_budget_is_an_exit_code(head: RayHead, tmp_path: Path) -> None:
    followed = head.run("-c", FOLLOW, job_file(tmp_path, write_sources(tmp_path)), tmp_path / "runs", head.url)
    assert followed.out.split() == ["JobCreated", "ReportWritten", "done", "4", "False"], followed.err
    poor = job_file(tmp_path, write_sources(tmp_path, 12), budget={"tokens": 8000})
    assert head.submit(tmp_path, poor, "--id", "poor", "--wait").code == 3


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "0" * 64}, "refuses the token of $RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN_PATH": "", "HOME": "/nonexistent"}, "wants a token"),
        ({"RAY_ADDRESS": "http://127.0.0.1:1"}, "$RAY_ADDRESS"),
    ],
)
def test_a_head_that_does_not_let_us_in_is_one_clear_error(
    head: RayHead, tmp_path: Path, environment: dict[str, str], problem: str
) -> None:
    said = head.submit(tmp_path, job_file(tmp_path, write_sources(tmp_path)), **environment)
    assert said.code in (1, 2) and problem in said.err and said.err.count("error: ") == 1
    assert "Traceback" not in said.err


def test_a_databases_password_reaches_the_driver_and_is_shown_to_nobody(head: RayHead, tmp_path: Path) -> None:
    settle()  # before anything loads ray
    from swarm.runtime.submission import Place, Submission

    place = Place.of("postgresql://me:not-shown@127.0.0.1:1/swarm", blobs="memory://it's large")
    submission = Submission(job(tmp_path), place, "kept", agents=3)
    submission.write(tmp_path)
    assert submission.command.startswith("cd ") and (tmp_path / "settings").stat().st_mode & 0o777 == 0o600
    start = submission.command.index("python3 ")
    reads = submission.command.replace(submission.command[start : submission.command.index("<")], "sh -c 'pwd; env; cat' ")
    ran = subprocess.run(reads, shell=True, capture_output=True, text=True, cwd=tmp_path, check=True, env={"HOME": "/"})
    assert ran.stdout.startswith("/\n") and f"SWARM_RUNS={place.value}\nSWARM_BLOBS={place.blobs}\n" in ran.stdout
    assert ran.stdout.endswith((tmp_path / "job.json").read_text()), "it works in a folder that stays, and reads another one"

    file = job_file(tmp_path, write_sources(tmp_path))
    id = f"kept-{uuid4().hex[:8]}"  # the driver works in a home folder that is everybody's
    said = head.run("-m", "swarm", "submit", file, "--address", head.url, "--runs", place.value, "--id", id)
    assert said.code == 1 and "127.0.0.1:1" in said.err, "the driver was told where runs lie"
    shown = json.dumps([head.ask("/api/jobs/"), head.ask(f"/api/jobs/swarm-{id}"), head.ask(f"/api/jobs/swarm-{id}/logs")])
    assert f"swarm-{id}" in shown and "not-shown" not in shown + said.err + said.out


class Site:
    """A web server of this machine that knows no page."""

    def __init__(self) -> None:
        silent = type("Silent", (BaseHTTPRequestHandler,), {"log_message": lambda *_: None, "do_GET": _no_page})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), silent)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _no_page(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


def test_addresses_that_are_no_heads_are_refused(tmp_path: Path) -> None:
    file = job_file(tmp_path, write_sources(tmp_path))
    silent, other = f"http://127.0.0.1:{free_ports(1)[0]}", Site()
    for verb, address, code, problem in (
        ("submit", silent, 1, "does not answer"),
        ("submit", "head:8265", 2, "is no address of a head"),
        ("submit", "http://", 2, "is no address of a head"),
        ("submit", other.url, 1, "is no head of a Ray cluster"),
        ("run", silent, 1, "`swarm submit` has the head"),
    ):
        said = here(verb, file, "--address", address, "--runs", tmp_path / "runs")
        assert said.code == code and problem in said.err, said.err
    other.close()


def test_a_head_without_swarmloom_and_then_one_that_is_lost(tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python3").write_text("#!/bin/sh\necho \"/usr/bin/python3: No module named swarm\"; exit 1\n")
    (bare / "python3").chmod(0o755)
    head = RayHead(python=bare)
    try:
        file = job_file(tmp_path, write_sources(tmp_path))
        said = head.submit(tmp_path, file)
        assert said.code == 1 and "the head has no swarmloom" in said.err
        (bare / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        slow = {"engine": "scripted", "name": "raises+slow:0.5"}
        said = head.submit(tmp_path, job_file(tmp_path, write_sources(tmp_path, 12), model=slow), "--id", "lost", "--agents", 2)
        assert said.code == 0, said.err
        head.kill()
        end = time.monotonic() + 60  # Ray's workers end by themselves, once they miss the rest
        while (status := here("list", "--json", "--runs", tmp_path / "runs").document[0]["status"]) != "interrupted":
            assert time.monotonic() < end, status
        said = here("resume", "lost", "--local", "--runs", tmp_path / "runs", "--json")
        assert said.code == 0 and json.loads(said.out)["status"] == "done"
    finally:
        head.stop()
