"""What a person gives as a reason is theirs: whatever the words are, the program takes them for nothing of its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from swarm.events import JobEnded, PhaseChanged
from swarm.runtime.session import LEFT, Session, check
from swarm.runtime.supervise import orphaned
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import open_runs
from tests.commands import Said, swarm
from tests.jobs import events_of, job, write_sources
from tests.stores import Store

REASONS = [
    "lunch", "budget: waiting for finance", "SIGTERM", "Ctrl-C", LEFT, "model:bad", "model: the endpoint is down",
    "person:0123456789abcdef0123456789abcdef", "protocol:0", "unread:0", "stuck: I think", "crash loop: so it seems",
    "f\udcfcr heute", "two\nlines", "[bold]",
]  # fmt: skip


def words(reason: str) -> str:
    return " ".join(reason.encode("utf-8", "replace").decode().split())


def interrupted(store: Store, place: Path, id: str) -> RunFolder:
    """A run whose driver was killed before it did anything."""
    run = RunFolder(place / "runs", id, open_runs(store.place, {}).place)
    session = Session.create(*check(job(write_sources(place))), run)
    session.master.open("local")
    session.store.close()
    return run


def over(run: RunFolder, store: Store, verb: str, *arguments: object) -> Said:
    return swarm(verb, *arguments, run.id, "--runs", store.place if "://" in store.place else run.root)


def heard(run: RunFolder, store: Store, verb: str, reason: str) -> Said:
    """The word of somebody who believed that a driver was at work; a driver comes, and hears it."""
    run.post(verb, reason)
    return over(run, store, "resume", "--local", "--at", read_status(run).events)


def check_sound(run: RunFolder, store: Store) -> None:
    assert over(run, store, "replay", "--verify").code == 0
    said = over(run, store, "doctor", "--repair")
    assert said.code == 0 and "nothing is wrong with its log" in " ".join(said.out.split())


@pytest.mark.parametrize("busy", [False, True], ids=["resting", "at work"])
def test_a_pause_is_a_pause_whatever_its_reason(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    run = interrupted(store, tmp_path, "one")
    for reason in REASONS:
        said = heard(run, store, "pause", reason) if busy else over(run, store, "pause", "--reason", reason)
        assert said.code == (1 if busy else 0) and "missing" not in said.err, (reason, said.err)
        status = read_status(run)
        assert (status.status, status.detail) == ("paused", words(reason))
        assert f"  reason    {words(reason)}\n" in over(run, store, "status").out, "nothing of it is cut off"
        assert not orphaned(run, status, time.time() + 1000), f"a supervisor takes it up, although a person said {reason!r}"
        if not busy:
            session = Session.resume(run)
            session.master.open("local")
            session.store.close()
    paused = [event.body.reason for event in events_of(run) if isinstance(event.body, PhaseChanged) and event.body.reason]
    assert len(paused) == len(REASONS) and all(reason.startswith("person:") for reason in paused)
    shown = over(run, store, "watch", "--after", "0").out
    assert "lunch" in shown and "reason=person:0123456789abcdef0123456789abcdef" in shown and shown.count("reason=person:") == 1
    said = over(run, store, "resume", "--local")
    assert said.code == 0, said.err
    check_sound(run, store)


def test_a_person_who_pauses_a_job_that_stops_already_is_heard(tmp_path: Path) -> None:
    """Its machine goes down, or so its driver was told, and calls are still under way."""
    run = RunFolder(tmp_path / "runs", "one")
    session = Session.create(*check(job(write_sources(tmp_path))), run)
    session.master.open("local")
    for kind, text in (("signal", "SIGTERM"), ("pause", "lunch"), ("signal", "SIGTERM"), ("signal", "model:bad")):
        run.post(kind, text)
    session.hear()
    session.store.close()
    status = read_status(run)
    assert status.detail == "lunch" and not orphaned(run, status, time.time() + 1000)


@pytest.mark.parametrize("busy", [False, True], ids=["resting", "at work"])
def test_a_cancelled_job_ends_with_the_words_it_was_given(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, reason in enumerate(REASONS):
        run = interrupted(store, tmp_path, f"run-{number}")
        said = heard(run, store, "cancel", reason) if busy else over(run, store, "cancel", "--reason", reason)
        assert "missing" not in said.err, (reason, said.err)
        ended = [event.body for event in events_of(run) if isinstance(event.body, JobEnded)]
        assert [body.status for body in ended] == ["cancelled"] and ended[0].reason.startswith("person:")
        assert (read_status(run).status, read_status(run).detail) == ("cancelled", words(reason))
        document = over(run, store, "report", "--json").document
        assert document["status"] == "cancelled" and words(document["reason"]) == words(reason)
        check_sound(run, store)


def test_without_words_the_log_says_who_it_was(store: Store, tmp_path: Path) -> None:
    run = interrupted(store, tmp_path, "one")
    assert over(run, store, "pause", "--reason", "  ").code == 0
    assert read_status(run).detail == "paused by a person"
    assert over(run, store, "cancel").code == 0
    assert read_status(run).detail == "cancelled by a person"
