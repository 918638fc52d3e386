"""An append whose answer is lost may or may not be durable: nobody guesses, and a new master reads what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from swarm import events as ev
from swarm.errors import StoreError
from swarm.events import Event
from swarm.runtime.master import JobMaster
from swarm.runtime.wire import Pull
from swarm.testing.invariants import LogWatch, folded
from tests.memory_store import MemoryStore
from tests.test_master import Clocks, finished, started


class Mute(MemoryStore):
    """A store that, once `loses` is set, does what it is asked to (`keeps`) or does not, and answers with an error."""

    loses = keeps = False
    asked = 0

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        self.asked += 1
        if self.keeps or not self.loses:
            super().append(events, bodies)
        if self.loses:
            raise StoreError("no answer", "log")


@pytest.mark.parametrize("keeps", [True, False], ids=["durable", "not durable"])
def test_an_append_without_an_answer_is_not_repeated(keeps: bool) -> None:
    async def scene() -> tuple[Mute, JobMaster]:
        master, plain, _ = started()
        mute = Mute()
        mute.__dict__.update(plain.__dict__)
        master.store = mute
        batch = await master.pull(Pull("h", 2))
        mute.loses, mute.keeps, mute.asked = True, keeps, 0
        with pytest.raises(StoreError, match="no answer"):
            await master.pull(Pull("h", 1, finished(batch)))
        with pytest.raises(StoreError, match="no answer"):
            await master.pull(Pull("h", 1))
        assert mute.asked == 1, "the master asks once, and never acts again"
        return mute, master

    store, old = asyncio.run(asyncio.wait_for(scene(), 30))
    store.loses = False
    assert folded(store.events).finished["reader"] == (2 if keeps else 0), "reading the log tells which it was"
    asyncio.run(asyncio.wait_for(_goes_on(store, old), 60))


async def _goes_on(store: Mute, old: JobMaster) -> None:
    """A new master does every step once, whatever the old one's last append came to."""
    store.epoch, clocks = 2, Clocks()
    master = JobMaster(old.job, store, folded(store.events), lambda: clocks.wall, lambda: clocks.ticks)
    master.open("test")
    while not master.resting:
        batch = await master.pull(Pull("i", 9))
        if batch.work:
            await master.pull(Pull("i", 0, finished(batch)))
    watch = LogWatch()
    for event in store.events:
        watch.see(event)
    ends = [event.body.task for event in store.events if isinstance(event.body, ev.TaskFinished)]
    assert len(ends) == len(set(ends)) and master.state.status == "done"
