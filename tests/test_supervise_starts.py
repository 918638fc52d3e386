"""The starts of a supervisor: how many at once, and how long it waits between those of a job that comes up in vain."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
from pathlib import Path

import pytest

from swarm.errors import CorpusError
from swarm.names import reason_body
from swarm.runtime.driver import SWARM, Launch, failure, start_again, starts
from swarm.runtime.supervise import AT_ONCE, GRACE_SECONDS, Seen
from swarm.store.folder import RunFolder, read_status
from tests.commands import swarm
from tests.jobs import resume
from tests.test_supervise import Time, done, ending_with, orphan as orphan, supervised, supervisor, wait_for


def test_as_many_hung_starts_as_there_may_be_at_once_keep_no_other_run_waiting(orphan: RunFolder, tmp_path: Path) -> None:
    for number in range(AT_ONCE):
        shutil.copytree(orphan.path, orphan.root / f"hung{number}")
    pids = tmp_path / "pids"
    script = f'[ "$1" = one ] && exec {shlex.join(SWARM)} resume "$@" --local; echo $$ >> {pids}; sleep 300; true'

    async def looked_after() -> Seen:
        said: asyncio.Queue[Seen] = asyncio.Queue()
        one = supervisor(orphan, say=done(said.put_nowait), program=("sh", "-c", script), patience=300, slot=0.1)
        watching = asyncio.create_task(one.watch())
        try:
            async with asyncio.timeout(60):
                return await said.get()
        finally:
            watching.cancel()

    seen = asyncio.run(looked_after())
    assert (seen.id, seen.what) == ("one", "resumed"), seen
    assert len(pids.read_text().split()) == AT_ONCE, "they had the slots before"
    wait_for(lambda: read_status(orphan).status == "done" and orphan.holder() is None)


def test_the_wait_between_starts_in_vain_doubles_and_the_last_one_says_why(orphan: RunFolder, tmp_path: Path) -> None:
    ending_with("CorpusError", tmp_path / "said")
    clock, at = Time(GRACE_SECONDS), dict[str, list[float]]()
    one = supervised(orphan, clock, program=("sh", "-c", f"cat {tmp_path / 'said'}; exit 1", "swarm"))
    for _ in range(64):
        for seen in asyncio.run(one.look()):
            at.setdefault(seen.what, []).append(clock.passed)
            if seen.what == "error":  # it was noted by the true clock
                note = json.loads((orphan.path / "driver.json").read_text())
                note["starts"][-1][0] = clock.clock()
                (orphan.path / "driver.json").write_text(json.dumps(note))
        clock.passed += 5
    assert at["error"] == [0, 20, 60, 140, 300] and at["given up"] == [310]
    why = "5 starts in 20 minutes without a finished step; the last one: Ray at 10.0.0.1:6379: does not answer. Start it"
    assert read_status(orphan).detail == f"crash loop: {why}"
    assert reason_body(read_status(orphan).code), "a driver's words may be withdrawn, as others'"
    assert swarm("replay", "one", "--verify", "--runs", orphan.root).code == 0
    resume(orphan)
    assert read_status(orphan).status == "done"


def test_why_a_start_came_to_nothing_is_forgotten_with_the_next(orphan: RunFolder, tmp_path: Path) -> None:
    ending_with("CorpusError", tmp_path / "said")
    failing = ("sh", "-c", f"cat {tmp_path / 'said'}; exit 1", "swarm")
    with pytest.raises(CorpusError):
        asyncio.run(start_again(orphan, Launch(str(orphan.root), local=True, program=failing)))
    assert failure(orphan) == "Ray at 10.0.0.1:6379: does not answer\n  start it"
    asyncio.run(start_again(orphan, Launch(str(orphan.root), local=True)))
    assert failure(orphan) == "" and len(starts(orphan)[0]) == 2
    wait_for(lambda: read_status(orphan).status == "done" and orphan.holder() is None)
    for nonsense in ("[1]", "null", "{", '{"error": null}'):
        (orphan.path / "driver.json").write_text(nonsense)
        assert failure(orphan) == "", nonsense
