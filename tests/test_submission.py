"""Which drivers a head starts for a job that is submitted again and again, without a cluster."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from swarm.errors import SpecError
from swarm.runtime.submission import Place, RemoteDriver, Submission, connect, keyed_id
from tests.jobs import job


class Head:
    """A head whose drivers end at once and leave the job paused. It counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.jobs: dict[str, JobDetails] = {}

    def start(self, id: str, metadata: dict[str, str]) -> None:
        self.jobs[id] = JobDetails(
            type=JobType.SUBMISSION, submission_id=id, entrypoint="swarm", status=JobStatus.FAILED, metadata=metadata,
            driver_exit_code=1, end_time=int(1000 * time.time()),
        )  # fmt: skip

    def submit_job(self, submission_id: str, metadata: dict[str, str], **rest: Any) -> None:
        self.asked["submit_job"] += 1
        if submission_id in self.jobs:
            raise RuntimeError(f"{submission_id} exists")
        self.start(submission_id, metadata)

    def get_job_info(self, id: str) -> JobDetails:
        self.asked["get_job_info"] += 1
        return self.jobs[id]

    def get_job_logs(self, id: str) -> str:
        self.asked["get_job_logs"] += 1
        metadata = self.jobs[id].metadata or {}
        return f"12:00  run {metadata['job']} in /there\n{json.dumps({'status': 'paused'}, indent=1)}\n"

    def list_jobs(self) -> list[JobDetails]:
        self.asked["list_jobs"] += 1
        return list(self.jobs.values())


def sent(head: Head, submission: Submission) -> str:
    """The driver that a submission came to, with what the head was asked for it counted anew."""
    head.asked.clear()
    client: Any = head
    return asyncio.run(RemoteDriver.send(client, "http://head:8265", submission)).id


def test_a_job_that_rests_out_of_sight_costs_its_head_no_more_each_time(tmp_path: Path) -> None:
    head, submission = Head(), Submission(job(tmp_path), Place.of(str(tmp_path / "there")), "one", 64)
    costs = []
    for number in range(1, 13):
        assert sent(head, submission) == ("swarm-one" if number == 1 else f"swarm-one-{number}")
        costs.append(head.asked.copy())
    assert costs[1] == costs[-1] and costs[-1].total() < 10, costs[-1]


def test_another_runs_driver_is_none_of_a_submissions(tmp_path: Path) -> None:
    head, place = Head(), Place.of(str(tmp_path / "there"))
    one, other = (Submission(job(tmp_path), place, id, 64) for id in ("one", "one-2"))
    assert sent(head, other) == "swarm-one-2"
    assert sent(head, one) == "swarm-one"
    assert sent(head, one) == "swarm-one-3"
    head.start("swarm-one-x", one.metadata)
    head.start("by-hand", {})
    assert sent(head, one) == "swarm-one-4"
    with pytest.raises(SpecError, match="'one' stands for another job on this cluster"):
        sent(head, Submission(job(tmp_path, seed=1), place, "one", 64))


def test_two_orders_whose_digests_begin_alike_are_two_jobs(tmp_path: Path) -> None:
    spec = job(tmp_path, name="n" * 64)
    one, other = (Submission(spec, Place.of(str(tmp_path)), keyed_id(spec, f"order {number}"), 64) for number in (35281, 55174))
    assert one.run_id[:41] == other.run_id[:41] and one.id != other.id  # alike in the first 8 of 16 digits


def test_what_was_meant_as_a_database_is_no_folder_of_the_cluster() -> None:
    with pytest.raises(SpecError, match="this is no address of a database") as refused:
        Place.of("postgresql:me:secret@a/x")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "head:8265", "http://", "http://head:99999", "http://head:-5", "http://head:x", "http://[::1", "http://a\x01b",
        "http://xn--", "http://head:" + "1" * 5000, "http://a..b:1", f"http://{'a' * 64}:1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_before_it_is_looked_at(address: str) -> None:
    with pytest.raises(SpecError, match="is no address of a head"):
        asyncio.run(connect(address))
