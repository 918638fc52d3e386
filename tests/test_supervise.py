"""Jobs without a terminal: detached drivers, and the supervisor that starts them again when they are gone."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import AwayError
from swarm.events import JobOpened, TaskFinished
from swarm.runtime.caretaker import Caretaker
from swarm.runtime.driver import SWARM, Launch, Start, opened, start_again, starts
from swarm.runtime.people import questions
from swarm.runtime.session import Session, check
from swarm.runtime.supervise import (
    GRACE_SECONDS,
    STARTS,
    STILL_SECONDS,
    WITHIN_SECONDS,
    Seen,
    Supervisor,
    in_vain,
    orphaned,
    quiet_before,
)  # fmt: skip
from swarm.store.folder import RunFolder, read_status
from swarm.store.lock import FolderLock
from tests.commands import job_file, start, swarm
from tests.jobs import events_of, finished, job, resume, write_sources
from tests.test_runtime_local import crash

COPIES = 4
SLOW = {"engine": "scripted", "name": "raises+slow:0.3"}
HURRIED = """
from dataclasses import replace
from swarm.protocol import find_protocol

shipped = find_protocol("map_reduce")[0]

class Hurried(shipped.MapReduce):
    def _begin(self, view, merge):
        asked = super()._begin(view, merge)
        return replace(asked, commands=[replace(one, default="count", seconds=0.1) for one in asked.commands])

def create(spec):
    return Hurried(spec, shipped.create(spec).options)
"""
"""A protocol that asks whether its plan may stand, and goes on with its default soon after."""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """A slow job called `one`, started detached by a command that has ended; whoever drives it is killed at the end."""
    path = job_file(tmp_path, write_sources(tmp_path, COPIES), model=SLOW)
    said = swarm("run", path, "--local", "--agents", 1, "--runs", tmp_path / "runs", "--id", "one", "--detach", "--json")
    assert said.code == 0, said.err
    folder = RunFolder(tmp_path / "runs", "one")
    assert said.document == {
        "id": "one", "run": str(folder.path), "pid": said.document["pid"], "log": str(folder.path / "driver.log"),
    }  # fmt: skip
    assert "swarm watch one" in said.err and "swarm pause one" in said.err and "swarm cancel one" in said.err
    yield folder
    if (holder := folder.holder()) is not None:
        os.kill(int(holder.split()[1]), signal.SIGKILL)


def driver(run: RunFolder) -> int:
    """The process that holds the run."""
    holder = run.holder()
    assert holder is not None
    return int(holder.split()[1])


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Until a condition holds; the sleep of a process that does nothing else keeps this from spinning."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        subprocess.run(["sleep", "0.1"], check=True)


def killed(run: RunFolder) -> None:
    wait_for(lambda: finished(events_of(run)))
    pid = driver(run)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: run.holder() is None)


def done(say: Callable[[Seen], None]) -> Callable[[Seen], None]:
    """Hears what is done about runs, and not which places are there."""
    return lambda seen: None if seen.what == "looked after" else say(seen)


def supervisor(run: RunFolder, later: float = quiet_before(STARTS - 1), **how: Any) -> Supervisor:
    """One whose clock says that it has been quiet for long enough."""
    return Supervisor([str(run.root)], clock=lambda: time.time() + later, **how)


def test_a_detached_driver_has_a_session_of_its_own_and_ends_its_job(run: RunFolder) -> None:
    pid = driver(run)
    assert os.getsid(pid) == pid != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/fd/2") == str(run.driver_log.resolve()), "its words go to the run's folder"
    wait_for(lambda: read_status(run).status == "done" and run.holder() is None)
    wait_for(lambda: "answer: 4 rows" in run.driver_log.read_text())  # it says so after it has let go of the job
    assert run.report_html.exists()
    assert len(starts(run)[0]) == 1


def test_what_keeps_a_detached_job_from_starting_is_said_at_once(tmp_path: Path) -> None:
    path = job_file(tmp_path, tmp_path / "nowhere.txt")
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one", "--detach")
    assert said.code == 2 and "nowhere.txt" in said.err
    assert list((tmp_path / "runs").iterdir()) == [], "nothing is left behind"
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--detach", "--wait")
    assert said.code == 2 and "exclude each other" in said.err


def test_a_killed_driver_is_replaced_and_no_step_is_done_twice(run: RunFolder) -> None:
    killed(run)
    assert read_status(run).status == "interrupted"
    began = time.monotonic()
    (seen,) = asyncio.run(supervisor(run).look())
    assert seen.what == "resumed" and time.monotonic() - began < 60 - GRACE_SECONDS
    wait_for(lambda: read_status(run).status == "done")
    events = events_of(run)
    assert max(Counter(finished(events)).values()) == 1
    assert sum(isinstance(event.body, JobOpened) for event in events) == 2
    assert asyncio.run(supervisor(run).look()) == []


def test_two_supervisors_and_a_person_at_once_start_one_driver(run: RunFolder) -> None:
    killed(run)

    async def together() -> list[list[Seen]]:
        return await asyncio.gather(*(supervisor(run).look() for _ in range(3)))

    person = start("resume", "one", "--local", "--agents", 1, "--runs", run.root)
    seen = [one for found in asyncio.run(together()) for one in found]
    person.communicate(timeout=120)
    wait_for(lambda: read_status(run).status == "done" and run.holder() is None)
    events = events_of(run)
    assert sum(isinstance(event.body, JobOpened) for event in events) == 2, seen
    assert max(Counter(finished(events)).values()) == 1
    assert [one.what for one in seen] in ([], ["resumed"]), "who comes too late has nothing to say"


def test_what_rests_is_left_alone(run: RunFolder) -> None:
    assert asyncio.run(supervisor(run).look()) == [], "somebody works on it"
    assert swarm("pause", "one", "--runs", run.root, "--reason", "lunch").code == 0
    wait_for(lambda: run.holder() is None)
    assert asyncio.run(supervisor(run).look()) == [], "a person wants it to rest"
    said = swarm("resume", "one", "--local", "--detach", "--runs", run.root)
    assert said.code == 0 and "driven by process" in said.out, said.err
    os.kill(driver(run), signal.SIGTERM)
    wait_for(lambda: run.holder() is None)
    assert read_status(run).detail == "SIGTERM"
    (seen,) = asyncio.run(supervisor(run).look())
    assert seen.what == "resumed", "a machine that stops is no person"
    assert read_status(run).status == "working", "what it was before does not show any more"
    os.kill(driver(run), signal.SIGKILL)
    wait_for(lambda: run.holder() is None)
    (seen,) = asyncio.run(supervisor(run).look())
    assert seen.what == "resumed", "a job that was paused once is no less alive"


def test_what_was_touched_just_now_or_has_moved_on_is_left_alone(run: RunFolder) -> None:
    killed(run)
    (seen,) = asyncio.run(Supervisor([str(run.root)]).look())
    assert seen.what == "waits", "someone may be about to resume it"
    starting = FolderLock.take(run.path / "starting")
    assert asyncio.run(supervisor(run).look()) == [], "somebody else is starting it"
    starting.release()

    async def stale() -> None:
        await start_again(run, Launch(str(run.root), local=True), at=read_status(run).events - 1)

    before = opened(run, over=False)
    with pytest.raises(Exception, match="has moved on"):
        asyncio.run(stale())
    assert opened(run, over=False) == before and run.holder() is None


def test_a_question_that_nobody_answers_in_its_time_lapses_though_nobody_works_on_its_job(tmp_path: Path) -> None:
    protocol = tmp_path / "hurried.py"
    protocol.write_text(HURRIED)
    asking = {"name": str(protocol), "options": {"span_tokens": 160, "approve_plan": True}}
    path, runs = job_file(tmp_path, write_sources(tmp_path), protocol=asking), ("--runs", tmp_path / "runs")
    assert swarm("run", path, "--local", "--id", "one", *runs).code == 5
    run = RunFolder(tmp_path / "runs", "one")
    (question,) = questions(run)
    status, until = read_status(run), question.until
    assert status.status == "waiting" and until is not None
    assert not orphaned(run, status, until - 0.01) and orphaned(run, status, until)
    wait_for(lambda: time.time() > until)
    said = swarm("inbox", *runs).out
    assert "time is over: count, as soon as somebody works on the job (a supervisor does, or: swarm resume one --runs " in said
    (seen,) = asyncio.run(supervisor(run).look())
    assert seen.what == "resumed", seen
    wait_for(lambda: read_status(run).status == "done" and run.holder() is None)
    report = swarm("report", "one", "--json", *runs).document
    assert report["merge"] == "count" and report["questions"][0]["verdict"] == "lapsed"
    assert swarm("inbox", *runs).out == "nothing is asked\n"


def test_a_crash_loop_is_left_paused_and_stays_so(run: RunFolder) -> None:
    """Every driver fails before its first step; what it has been through is beside the log, not in the supervisor."""
    killed(run)
    seen: list[Seen] = []
    for vain in range(STARTS + 1):
        seen += asyncio.run(supervisor(run, quiet_before(vain), program=("/bin/false",)).look())
    assert [one.what for one in seen] == ["error"] * STARTS + ["given up"]
    status = read_status(run)
    assert status.status == "paused" and status.detail.startswith("crash loop: 5 starts")
    assert asyncio.run(supervisor(run).look()) == []
    assert swarm("replay", "one", "--verify", "--runs", run.root).code == 0
    said = swarm("resume", "one", "--local", "--agents", 64, "--runs", run.root, "--json")
    assert said.code == 0 and said.document["status"] == "done", said.err


def test_a_driver_that_hangs_is_ended_and_keeps_no_other_run_waiting(run: RunFolder, tmp_path: Path) -> None:
    killed(run)
    hung = RunFolder(run.root, "hung")
    shutil.copytree(run.path, hung.path)
    pids = tmp_path / "pids"
    script = f'[ "$1" = one ] && exec {shlex.join(SWARM)} resume "$@"; echo $$ >> {pids}; sleep 300; true'

    async def looked_after(patience: float, wanted: tuple[str, str]) -> None:
        said: asyncio.Queue[Seen] = asyncio.Queue()
        one = supervisor(run, say=done(said.put_nowait), program=("sh", "-c", script), patience=patience)
        watching = asyncio.create_task(one.watch())
        try:
            async with asyncio.timeout(60):
                seen = await said.get()
            assert (seen.id, seen.what) == wanted, seen
        finally:
            watching.cancel()

    asyncio.run(looked_after(300, ("one", "resumed")))
    asyncio.run(looked_after(1, ("hung", "error")))
    assert len(starts(hung)[0]) == 3, "a start in vain counts"
    ended = pids.read_text().split()  # the first one's supervisor went before its time was up
    wait_for(lambda: len(ended) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in ended))


def test_starts_count_from_the_last_finished_step(run: RunFolder) -> None:
    killed(run)
    events, status = events_of(run), read_status(run)
    last = max(event.seq for event in events if isinstance(event.body, TaskFinished))
    begun = [Start(100.0 + at, last + at) for at in (-2, -1, 0, 1, 2)]
    assert in_vain(run, status, begun, 104.0) == 3
    assert in_vain(run, status, begun[:2], 104.0) == 0
    begun = [Start(100.0 + at, last) for at in range(6)]
    assert in_vain(run, status, begun, 109.0) == 6
    assert in_vain(run, status, begun, 100.0 + WITHIN_SECONDS + 10) == 0
    assert in_vain(run, status, begun, 90.0 - WITHIN_SECONDS) == 0, "noted by a clock that was ahead"


def test_a_store_that_fails_is_told_and_looked_at_again(run: RunFolder) -> None:
    killed(run)
    said: list[Seen] = []
    one = supervisor(run, say=done(said.append))
    hidden = run.log.with_name("hidden")
    run.log.rename(hidden)
    run.log.write_bytes(b"no database" * 1000)
    (seen,) = asyncio.run(one.look())
    assert seen.what == "error" and said == [seen]
    assert asyncio.run(one.look()) == [seen] and said == [seen], "the same trouble is not told every time"
    out = swarm("supervise", "--once", "--runs", run.root)
    assert out.code == 1 and "one: error" in out.err
    hidden.rename(run.log)
    assert [each.what for each in asyncio.run(one.look())] == ["resumed"]


@pytest.fixture
def orphan(tmp_path: Path) -> RunFolder:
    """A run as a driver leaves it that is killed before its first step."""
    run = RunFolder(tmp_path / "runs", "one")
    session = Session.create(*check(job(write_sources(tmp_path))), run)
    session.master.open("local")
    session.store.close()
    return run


class Time:
    """A clock that goes on when it is told to, and begins `ahead` seconds before or after the true one."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.passed, self._began = 0.0, time.time() + ahead

    def clock(self) -> float:
        return self._began + self.passed

    def ticks(self) -> float:
        return self.passed


def supervised(run: RunFolder, clock: Time, **how: Any) -> Supervisor:
    return Supervisor([str(run.root)], clock=clock.clock, ticks=clock.ticks, **how)


def set_ahead(run: RunFolder, seconds: float = 86400.0) -> None:
    """Its log goes on from there, as that of a clock that was ahead."""
    with Caretaker.take(run, clock=lambda: time.time() + seconds):
        pass


NOTED = {"local": True, "address": "", "agents": 8, "pinned": False}


def ending_with(kind: str, said: Path) -> None:
    """What a driver says that ends with such an error before it takes its job."""
    error = {"kind": kind, "message": "does not answer", "where": "Ray at 10.0.0.1:6379", "cure": "start it", "exit_code": 1}
    said.write_text(json.dumps({"error": error}, indent=2))


def test_a_cluster_that_is_away_is_waited_for_and_is_no_crash_loop(orphan: RunFolder, tmp_path: Path) -> None:
    said, tries, back = tmp_path / "said", tmp_path / "tries", tmp_path / "back"
    ending_with("AwayError", said)
    (orphan.path / "driver.json").write_text(json.dumps({"starts": [], "last": NOTED}))
    script = f'[ -e {back} ] && exec {shlex.join(SWARM)} "$@"; echo >> {tries}; cat {said}; exit 1'
    clock, told, at = Time(GRACE_SECONDS), list[Seen](), list[float]()
    one = supervised(orphan, clock, say=done(told.append), program=("sh", "-c", script, "swarm"))
    for _ in range(217):
        asyncio.run(one.look())
        if tries.exists():
            at.append(clock.passed)
            tries.unlink()
        clock.passed += 1
    assert [later - before for before, later in itertools.pairwise(at)] == [5, 10, 20, 30, 30, 30, 30, 30, 30]
    assert [(seen.what, seen.detail) for seen in told] == [("away", "Ray at 10.0.0.1:6379: does not answer\n  start it")]
    assert starts(orphan) == ([], NOTED) and read_status(orphan).status == "interrupted"
    back.touch()
    clock.passed += 30
    assert [seen.what for seen in asyncio.run(one.look())] == ["resumed"] and len(starts(orphan)[0]) == 1
    wait_for(lambda: read_status(orphan).status == "done" and orphan.holder() is None)


@pytest.mark.parametrize("kind", ["ClusterError", "DamageError"])
def test_whatever_else_ends_a_driver_before_it_takes_its_job_counts(orphan: RunFolder, tmp_path: Path, kind: str) -> None:
    ending_with(kind, tmp_path / "said")
    clock = Time(GRACE_SECONDS)
    one = supervised(orphan, clock, program=("sh", "-c", f"cat {tmp_path / 'said'}; exit 1", "swarm"))
    seen = []
    for vain in range(STARTS + 1):
        clock.passed = quiet_before(vain)
        seen += [found.what for found in asyncio.run(one.look())]
    assert seen == ["error"] * STARTS + ["given up"] and read_status(orphan).status == "paused"


def test_a_start_from_afar_that_finds_no_cluster_leaves_the_note_as_it_was(orphan: RunFolder) -> None:
    (orphan.path / "driver.json").write_text(json.dumps({"starts": [], "last": NOTED}))
    with pytest.raises(AwayError, match="does not answer"):
        asyncio.run(start_again(orphan, Launch(str(orphan.root), False, "127.0.0.1:9", 64)))
    assert starts(orphan) == ([], NOTED)


def test_a_job_whose_driver_holds_it_and_does_nothing_is_told_of_once(orphan: RunFolder) -> None:
    clock, told = Time(), list[Seen]()
    one, lock = supervised(orphan, clock, say=done(told.append)), FolderLock.take(orphan.lock)
    for times in (0, 0, 1, 1):
        asyncio.run(one.look())
        assert [(seen.what, "its log does not move" in seen.detail) for seen in told] == [("still", True)] * times
        clock.passed += STILL_SECONDS * 0.6
    lock.release()


def test_a_log_that_is_ahead_of_the_clock_is_taken_up_when_it_was_quiet_for_a_while(orphan: RunFolder) -> None:
    clock = Time(-86400)
    (orphan.path / "driver.json").write_text(json.dumps({"starts": [[time.time(), 1]], "last": {"local": True}}))
    one = supervised(orphan, clock)
    seen = []
    for _ in range(3):
        seen += asyncio.run(one.look())
        clock.passed += GRACE_SECONDS / 2
    assert [each.what for each in seen] == ["waits", "waits", "resumed"]
    wait_for(lambda: read_status(orphan).status == "done" and orphan.holder() is None)


def test_a_crash_loop_is_one_where_the_log_is_ahead_of_the_clock(orphan: RunFolder, tmp_path: Path) -> None:
    set_ahead(orphan)
    assert crash(job(tmp_path / "code"), orphan, 8) and finished(events_of(orphan))
    clock, seen = Time(), list[Seen]()
    one = supervised(orphan, clock, program=("/bin/false",))
    for vain in range(-1, STARTS + 1):
        seen += asyncio.run(one.look())
        clock.passed = 2 * quiet_before(vain + 1)
    assert [each.what for each in seen] == ["waits", *["error"] * STARTS, "given up"]
    assert read_status(orphan).detail.startswith("crash loop: 5 starts")


def test_a_question_lapses_in_its_time_though_its_log_is_ahead_of_the_clock(tmp_path: Path) -> None:
    protocol = tmp_path / "hurried.py"
    protocol.write_text(HURRIED.replace("seconds=0.1", "seconds=60"))
    asking = {"name": str(protocol), "options": {"span_tokens": 160, "approve_plan": True}}
    run = RunFolder(tmp_path / "runs", "one")
    Session.create(*check(job(write_sources(tmp_path), protocol=asking)), run).store.close()
    set_ahead(run)
    resume(run)
    assert read_status(run).status == "waiting" and len(questions(run)) == 1
    clock = Time()
    one = supervised(run, clock)
    assert asyncio.run(one.look()) == []
    clock.passed += 59
    assert asyncio.run(one.look()) == []
    clock.passed += 1
    (seen,) = asyncio.run(one.look())
    assert seen.what == "resumed", seen
    wait_for(lambda: read_status(run).status == "done" and run.holder() is None)


def test_nonsense_in_the_note_of_the_last_start_counts_as_not_said(orphan: RunFolder, tmp_path: Path) -> None:
    said = tmp_path / "said"
    kinds: list[Any] = [None, "many", 0, -1, True, 1e400, [1]]
    for nonsense in kinds:
        last = {"local": nonsense, "address": nonsense and [nonsense], "agents": nonsense, "pinned": []}
        (orphan.path / "driver.json").write_text(json.dumps({"starts": [], "last": last}))
        script = f'echo "$@" > {said}'
        asyncio.run(supervisor(orphan, program=("sh", "-c", script, "swarm")).look())
        assert "--agents 64" in said.read_text() and "--address" not in said.read_text(), nonsense
        said.unlink()


def test_trouble_of_any_kind_with_one_run_is_told_and_ends_no_supervisor(orphan: RunFolder) -> None:
    async def watched() -> Seen:
        said: asyncio.Queue[Seen] = asyncio.Queue()
        watching = asyncio.create_task(supervisor(orphan, say=done(said.put_nowait), program=("no\0program",)).watch())
        seen = asyncio.create_task(said.get())
        await asyncio.wait({watching, seen}, return_when=asyncio.FIRST_COMPLETED)
        assert not watching.done(), watching.exception()
        watching.cancel()
        return seen.result()

    seen = asyncio.run(watched())
    assert (seen.id, seen.what) == ("one", "error") and "ValueError: embedded null byte" in seen.detail


def test_a_run_or_a_place_that_fails_as_nobody_foresaw_is_told_and_keeps_no_other_waiting(orphan: RunFolder) -> None:
    broken = orphan.root / "broken"
    broken.mkdir()
    (broken / orphan.log.name).symlink_to("x" * 300)  # no file system looks for such a name
    odd = RunFolder(orphan.root, "odd")
    odd.create()
    lock = FolderLock.take(odd.lock)
    odd.lock.write_text("[" * 4096)
    places = ["x" * 300, str(orphan.root)]
    looking = Supervisor(places, clock=lambda: time.time() + GRACE_SECONDS)
    seen = {one.id: one for one in asyncio.run(looking.look())}
    assert seen["runs"].what == "error" and "File name too long" in seen["runs"].detail
    assert seen["broken"].what == "error" and "File name too long" in seen["broken"].detail
    assert seen["one"].what == "resumed" and "odd" not in seen, "somebody holds it, whoever that is"
    lock.release()
    said = swarm("list", "--runs", orphan.root)
    assert said.code == 0 and "unreadable" in said.out and "one " in said.out, said.err
    said = swarm("rm", "broken", "--runs", orphan.root)
    assert said.code == 1 and "File name too long" in said.err and broken.is_dir(), said.err
    said = swarm("doctor", "--runs", orphan.root)
    assert "run broken: " in said.out and "File name too long" in said.out, said.err
    wait_for(lambda: read_status(orphan).status == "done" and orphan.holder() is None)


def test_supervise_once_says_what_it_did(run: RunFolder) -> None:
    killed(run)
    said = swarm("supervise", "--once", "--runs", run.root, "--json")
    assert said.code == 0 and [one["what"] for one in json.loads(said.out)] == ["waits"]


def test_a_supervisor_that_is_stopped_leaves_no_command_behind_that_tells_people(tmp_path: Path) -> None:
    """A pipe is at its end once neither the command nor what it has started holds it open."""
    said, run = tmp_path / "said", RunFolder(tmp_path / "runs", "one")
    os.mkfifo(said)
    notify = {"command": ["sh", "-c", f"exec > {said}; echo here; sleep 60; true"]}
    session = Session.create(*check(job(write_sources(tmp_path), notify=notify)), run)
    session.master.open("local")
    session.master.end("failed", "no luck")
    session.store.close()
    supervising = start("supervise", "--runs", run.root)
    with said.open() as pipe:
        assert pipe.readline() == "here\n"
        supervising.terminate()
        supervising.communicate(timeout=30)
        assert supervising.returncode == -signal.SIGTERM
        assert select.select([pipe], [], [], 5)[0] and pipe.read() == "", "it lives on"
