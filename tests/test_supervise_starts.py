"""The starts of a supervisor: how many at once, and how long it waits between those of a job that comes up in vain."""

from __future__ import annotations

import asyncio
import shlex
import shutil
from pathlib import Path

from swarm.runtime.driver import SWARM
from swarm.runtime.supervise import AT_ONCE, Seen
from swarm.store.folder import RunFolder, read_status
from tests.test_supervise import done, orphan as orphan, supervisor, wait_for


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
