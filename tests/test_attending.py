"""Answers to a job that nobody works on, which the process of whoever answers hears itself, and what it leaves where it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from swarm.errors import StoreError
from swarm.events import ApprovalAnswered, Event
from swarm.report import render
from swarm.runtime.launch import hear_cancel
from swarm.runtime.people import answer, cancel
from swarm.runtime.session import LEFT, Session
from swarm.runtime.supervise import Supervisor
from swarm.store.folder import RunFolder, read_status
from swarm.store.place import FolderPlace
from swarm.store.sqlite import SqliteWriter
from tests.jobs import events_of, job, run, write_sources

ASKING = {"name": "map_reduce", "options": {"span_tokens": 160, "approve_plan": True}}


def asking(tmp_path: Path, reason: str = "lunch") -> RunFolder:
    """A job with an open question, paused."""
    folder = run(job(write_sources(tmp_path), protocol=ASKING), tmp_path / "runs", id="one")
    session = Session.resume(folder)
    session.master.open("test")
    session.master.pause(reason)
    session.close()
    return folder


class FailingWriter(SqliteWriter):
    """Does so many appends, and no more."""

    left: list[None]

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        if not self.left:
            raise StoreError("the process is gone", "one")
        self.left.pop()
        super().append(events, bodies)


@dataclass(frozen=True)
class FailingPlace(FolderPlace):
    appends: int = 0

    def writer(self, folder: Path) -> SqliteWriter:
        writer = super().writer(folder)
        writer.__class__ = FailingWriter
        writer.__dict__["left"] = [None] * self.appends
        return writer


def test_whoever_answers_may_die_at_any_commit_and_a_paused_job_stays_paused(tmp_path: Path) -> None:
    folder, appends = asking(tmp_path), 0
    while not any(isinstance(event.body, ApprovalAnswered) for event in events_of(folder)):
        with suppress(StoreError):
            answer(replace(folder, place=FailingPlace(appends=appends)), 1, "approved", render)
        appends += 1
        status = read_status(folder)
        assert (status.status, status.detail) == ("paused", "lunch"), f"after {appends} appends"
        assert asyncio.run(Supervisor([str(folder.root)], clock=lambda: time.time() + 60).look()) == []


def test_a_job_whose_driver_left_goes_on_once_it_is_answered(tmp_path: Path) -> None:
    folder = asking(tmp_path, LEFT)
    answer(folder, 1, "approved", render)
    assert read_status(folder).status == "answered"


@dataclass(frozen=True)
class TakenPlace(FolderPlace):
    """Somebody else takes the job each time, and is gone again just as quickly if it is not `held`."""

    held: bool = False
    holders: list[str] = field(default_factory=list)

    def writer(self, folder: Path) -> SqliteWriter:
        if self.held:
            self.holders.append("process 1")
        raise StoreError("is in use", "one")

    def holder(self, folder: Path) -> str | None:
        return self.holders.pop() if self.holders else None


@dataclass(frozen=True)
class LeftPlace(FolderPlace):
    """Somebody who holds the job leaves it after one look."""

    holders: list[str] = field(default_factory=lambda: ["process 1"])

    def holder(self, folder: Path) -> str | None:
        return self.holders.pop() if self.holders else None


def test_a_cancel_counts_whose_driver_has_just_left(tmp_path: Path) -> None:
    folder = asking(tmp_path)
    cancel(replace(folder, place=LeftPlace()), "enough", render)
    assert read_status(folder).status == "cancelled" and folder.report_html.exists() and folder.messages() == []


def test_cancels_of_a_job_that_is_over_are_put_away_and_change_nothing(tmp_path: Path) -> None:
    folder = asking(tmp_path)
    for reason in ("enough", "enough, I say"):
        folder.post("cancel", reason)
    hear_cancel(folder, render)
    assert read_status(folder).detail == "enough" and folder.messages() == []
    before = events_of(folder)
    folder.post("cancel", "again")
    hear_cancel(folder, render)
    assert events_of(folder) == before and folder.messages() == []


@pytest.mark.parametrize(("held", "says"), [(True, "could not be answered"), (False, "is in use")])
def test_an_answer_that_could_not_be_given_is_never_heard_later(tmp_path: Path, held: bool, says: str) -> None:
    folder = asking(tmp_path)
    with pytest.raises(StoreError, match=says):
        answer(replace(folder, place=TakenPlace(held=held)), 1, "approved", render)
    assert folder.messages() == []
