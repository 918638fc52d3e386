"""What a person says is durable before they are told so, and until the job has it in its log; and ends no job, whatever it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from swarm.errors import NoSpaceError
from swarm.events import Event, JobEnded, PersonSaid
from swarm.runtime.people import tell
from swarm.runtime.session import Session, check, person
from swarm.store.folder import RunFolder
from swarm.store.sqlite import SqliteWriter
from tests.jobs import events_of, job, write_sources
from tests.stores import Store
from tests.test_blobs import asked_of_the_disk
from tests.test_reasons import check_sound, interrupted, over


class FullStore(SqliteWriter):
    """A writer whose disk is full."""

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        raise NoSpaceError("no space left on the device", "log")


def test_a_message_is_on_the_disk_before_its_sender_is_told(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "one")
    run.make_folder()
    run.post("tell", "the first makes the folder")
    assert asked_of_the_disk(lambda: run.post("tell", "words")) == ["fsync", "replace", "fsync"]


def test_a_message_stays_until_what_it_led_to_is_durable(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs", "one")
    session = Session.create(*check(job(write_sources(tmp_path))), run)
    session.open("local")
    asyncio.run(session.begin())
    for kind, text in (("tell", json.dumps({"text": "words", "by": "me"})), ("cancel", "enough")):
        message = run.post(kind, text)
        session.store.__class__ = FullStore
        with pytest.raises(NoSpaceError):
            session.hear()
        session.store.close()
        assert [one.id for one in run.messages()] == [message], "or nobody would ever hear it"
        session = Session.resume(run)
        session.master.open("local")
        session.hear()
        assert run.messages() == []
    session.store.close()
    bodies = [event.body for event in events_of(run)]
    assert sum(isinstance(body, PersonSaid) for body in bodies) == sum(isinstance(body, JobEnded) for body in bodies) == 1


@pytest.mark.parametrize("busy", [False, True], ids=["cancelled", "resumed"])
def test_an_account_whose_name_no_log_can_hold_says_what_others_say(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "M\udcfcller")
    run = interrupted(store, tmp_path, "one")
    assert person().startswith("M?ller@") and tell(run, "leave out the tests") == 0
    run.post("tell", json.dumps({"text": "and the d\udcfccs", "by": "M\udcfcller"}))  # by a version from before
    said = over(run, store, "resume", "--local") if busy else over(run, store, "cancel")
    assert said.code == 0, said.err
    heard = [event.body.by for event in events_of(run) if isinstance(event.body, PersonSaid)]
    assert [by.partition("@")[0] for by in heard] == ["M?ller", "M?ller"] and run.messages() == []
    check_sound(run, store)
