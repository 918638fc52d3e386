"""Jobs that the head of a real cluster runs: submitted, submitted again, followed, and read after the cluster is gone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from swarm.runtime.environment import settle
from swarm.store.folder import RunFolder
from swarm.store.runs import Runs
from tests.commands import job_file, swarm as here
from tests.jobs import ROWS, events_of, job, state_of, write_sources
from tests.ray_head import RayHead, free_ports

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
