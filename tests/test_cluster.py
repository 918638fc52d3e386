"""Jobs on a real Ray cluster of this machine: what they find, how they look from outside, and what happens when their
actors are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.coordinator import Phase
from swarm.corpus import Pinned
from swarm.errors import ClusterError
from swarm.runtime.session import PAUSED_BY_A_PERSON, Session, check
from swarm.spec import JobSpec, ModelSpec
from swarm.store.folder import RunFolder
from tests.fired import fired
from tests.jobs import answered, contents, events_of, finished, job, run, state_of, write_sources

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    from swarm.runtime import cluster

    cluster.connect("", dashboard=False)
    yield
    cluster.disconnect()


def found(folder: RunFolder) -> list[object]:
    return [note["values"] for note in contents(folder, "finding")]


async def work(spec: JobSpec, folder: RunFolder, kill: str = "", after: int = 0) -> None:
    """Runs a new job, or goes on with one; kills its `host` or `master` once so many calls are recorded."""
    import ray

    from swarm.runtime.actors import RayJob

    driver = RayJob(folder, agents=4)
    if folder.log.is_file():
        await driver.resume(pinned=False)
    else:
        await driver.create(*_checked(spec))
    working = asyncio.create_task(driver.work())
    try:
        while kill and len(answered(events_of(folder))) < after:
            await asyncio.sleep(0.01)
        if kill:
            ray.kill(driver.hosts[-1] if kill == "host" else driver.master, no_restart=True)
            fired(f"{kill} killed")
        await working
    finally:
        await driver.close()


def _checked(spec: JobSpec) -> tuple[JobSpec, Pinned]:
    prepared, corpus = check(spec)
    return prepared.spec, corpus


@pytest.mark.usefixtures("ray")
def test_the_answer_is_the_same_as_in_one_process(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 3))
    here, there = run(spec, tmp_path, id="here"), RunFolder(tmp_path, "there")
    asyncio.run(work(spec, there))
    assert state_of(there).status == "done"
    assert found(there) == found(here) != []


@pytest.mark.usefixtures("ray")
def test_a_host_that_dies_is_replaced_and_nothing_is_done_twice(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 6), model={"engine": "scripted", "name": "raises+slow:0.05"})
    folder = RunFolder(tmp_path, "killed")
    asyncio.run(work(spec, folder, kill="host", after=8))
    events = events_of(folder)
    assert state_of(folder).status == "done" and state_of(folder).epoch == 1
    assert len({event.body.host for event in events if event.kind in ("TaskLeased", "RangeLeased")}) == 2
    assert any(event.kind == "LeaseEnded" for event in events)
    assert max(Counter(finished(events)).values()) == 1
    assert found(folder) == found(run(spec, tmp_path, id="undisturbed"))


@pytest.mark.usefixtures("ray")
def test_a_master_that_dies_leaves_a_log_that_another_goes_on_with(tmp_path: Path) -> None:
    spec = job(write_sources(tmp_path, 6), model={"engine": "scripted", "name": "raises+slow:0.05"})
    folder = RunFolder(tmp_path, "killed")
    with pytest.raises(ClusterError, match="gone") as lost:
        asyncio.run(work(spec, folder, kill="master", after=8))
    assert f"`swarm resume killed --runs {tmp_path}` goes on" in lost.value.cure
    before = events_of(folder)
    assert state_of(folder).phase is not Phase.ENDED
    asyncio.run(work(spec, folder))
    events = events_of(folder)
    assert events[: len(before)] == before and state_of(folder).epoch == 2
    assert max(Counter(finished(events)).values()) == 1 and max(Counter(answered(events)).values()) == 1
    assert found(folder) == found(run(spec, tmp_path, id="undisturbed"))


@pytest.mark.usefixtures("ray")
def test_a_job_that_rested_hears_a_pause_when_it_goes_on(tmp_path: Path) -> None:
    from swarm.runtime.actors import MasterActor, RayJob

    class TendedFirst(MasterActor):
        """Ray may run what is asked of an actor in another order."""

        def __init__(self, run: RunFolder) -> None:
            super().__init__(run)
            self._tended = asyncio.Event()

        async def begin(self) -> None:
            await self._tended.wait()
            await super().begin()

        async def tend(self) -> None:
            self._tended.set()
            await super().tend()

    folder = RunFolder(tmp_path, "rested")
    spec = job(write_sources(tmp_path, 6), model={"engine": "scripted", "name": "raises+slow:1"})
    session = Session.create(*check(spec), folder)
    session.open("test")
    session.master.pause("lunch")
    session.close()

    async def paused_again() -> None:
        driver = RayJob(folder, agents=1, master=TendedFirst)
        await driver.resume(pinned=False)
        working = asyncio.create_task(driver.work())
        while not answered(events_of(folder)):
            await asyncio.sleep(0.01)
        folder.post("pause", "")
        await working
        await driver.close()

    asyncio.run(paused_again())
    assert (state_of(folder).phase, state_of(folder).reason) == (Phase.PAUSED, PAUSED_BY_A_PERSON)
    assert folder.messages() == []


@pytest.mark.usefixtures("ray")
def test_a_model_server_that_dies_is_replaced_once_and_every_passage_is_read(tmp_path: Path) -> None:
    import ray
    from ray.util import list_named_actors

    from swarm.bench.ray_job import ServedHost
    from swarm.runtime.actors import RayJob
    from swarm.runtime.cluster import answer
    from swarm.runtime.fleet import fleet

    def servers() -> list[str]:
        return sorted(name for name in list_named_actors() if name.startswith("swarm:model:"))

    async def killed(folder: RunFolder) -> tuple[list[str], list[str]]:
        driver = RayJob(folder, agents=8, host=ServedHost)
        await driver.create(*_checked(spec))
        working = asyncio.create_task(driver.work())
        try:
            while len(answered(events_of(folder))) < 6:
                await asyncio.sleep(0.01)
            before = servers()
            os.kill(await answer(ray.get_actor(before[0]).ping.remote()), signal.SIGKILL)
            fired("model server killed")
            await working
            return before, servers()
        finally:
            await driver.close()
            await answer(fleet().close.remote())

    spec = job(write_sources(tmp_path, 6), model={"engine": "scripted", "name": "raises+slow:0.2"})
    folder = RunFolder(tmp_path, "served")
    before, after = asyncio.run(killed(folder))
    failed = [event.body for event in events_of(folder) if event.kind == "TaskFailed"]
    assert state_of(folder).status == "done" and found(folder) == found(run(spec, tmp_path, id="undisturbed"))
    assert failed and all(body.kind == "broken" and body.retry_at is not None for body in failed)
    assert len(before) == len(after) == 1 and after == [f"{before[0]}#2"], "the calls that failed started one server"


@pytest.mark.usefixtures("ray")
def test_a_fleet_keeps_the_servers_that_live_and_are_held() -> None:
    """One after another: a caller leaves, the server dies, the fleet dies, the holder dies."""
    import ray
    from ray.util import list_named_actors

    from swarm.runtime.cluster import answer
    from swarm.runtime.fleet import Fleet
    from swarm.runtime.holds import IDLE_SECONDS, LAPSE_SECONDS

    now = [0.0]
    spec = ModelSpec(engine="scripted", name="raises+slow:0.125").model_dump(mode="json")

    def servers() -> list[str]:
        return sorted(name for name in list_named_actors() if name.startswith("swarm:model:"))

    async def scene() -> None:
        fleet = Fleet(lambda: now[0])
        leaves = asyncio.create_task(fleet.acquire("leaves", spec, {}, 0))
        stays = asyncio.create_task(fleet.acquire("stays", spec, {}, 0))
        while not servers():
            await asyncio.sleep(0.01)
        leaves.cancel()
        first = await stays
        process: int = await answer(ray.get_actor(first).ping.remote())
        assert await fleet.acquire("third", spec, {}, 0) == first and servers() == [first]

        os.kill(process, signal.SIGKILL)
        second, third = await asyncio.gather(*[fleet.acquire(holder, spec, {}, 0) for holder in ("stays", "third")])
        assert second == third == f"{first}#2" and not fleet.hold("stays", first) and fleet.hold("stays", second)

        server = ray.get_actor(second)
        process = await answer(server.ping.remote())
        heir = Fleet(lambda: now[0])
        assert not heir.hold("stays", second) and await heir.acquire("stays", spec, {}, 0) == second
        assert await answer(server.ping.remote()) == process, "it was found at work, and not started again"

        now[0] = LAPSE_SECONDS + IDLE_SECONDS - 1
        await heir.reap()
        assert heir.hold("nobody else", second)
        await heir.release("nobody else")
        now[0] += IDLE_SECONDS
        await heir.reap()
        assert not heir.hold("late", second)
        with pytest.raises(ClusterError, match="gone"):
            async with asyncio.timeout(30):
                while True:  # Ray ends an actor some moments after it was told to
                    await answer(server.ping.remote())
                    await asyncio.sleep(0.01)
        await fleet.close()
        await heir.close()

    asyncio.run(scene())


@pytest.mark.usefixtures("ray")
def test_a_server_that_is_well_and_generates_nothing_is_replaced_and_its_calls_go_back() -> None:
    import ray

    from swarm.models.choose import create_tokenizer
    from swarm.models.liveness import probe_request
    from swarm.runtime.cluster import answer
    from swarm.runtime.fleet import Fleet

    model = ModelSpec(engine="scripted", name="raises+hang:1")
    tokenizer, template = create_tokenizer(model)
    request = probe_request(template, tokenizer, "")

    async def scene() -> None:
        fleet, spec = Fleet(probe_seconds=0.2), model.model_dump(mode="json")
        first = await fleet.acquire("job", spec, {}, 0)
        server = ray.get_actor(first)
        await answer(server.complete.remote(request))
        stuck = asyncio.create_task(answer(server.complete.remote(request)))
        while (await answer(server.pulse.remote()))[0] == 0:
            await asyncio.sleep(0.01)
        await fleet.look()
        assert await answer(server.ping.remote()) and fleet.hold("job", first), "it says that it is well"
        await fleet.look()
        with pytest.raises(ClusterError, match="gone"):
            await stuck
        second = await fleet.acquire("job", spec, {}, 0)
        assert second == f"{first}#2"
        await answer(ray.get_actor(second).complete.remote(request))
        await fleet.close()

    asyncio.run(scene())


@pytest.mark.usefixtures("ray")
def test_the_jobs_of_a_cluster_share_the_turnstile_of_an_endpoint() -> None:
    from swarm.models.rate import Asked
    from swarm.runtime.fleet import Fleet

    async def scene() -> None:
        time = [0.0]
        fleet, limited, free = Fleet(lambda: time[0]), {"requests_per_minute": 60.0}, {"tokens_per_minute": 1e9}
        many, few = [(number, 1) for number in range(10)], [(0, 1)]
        let = await fleet.enter("endpoint", limited, 100.0, Asked("one", "one", 1.0, many))
        assert 0 < len(let.calls) < 10 and let.wait > 0
        assert (await fleet.enter("endpoint", free, 100.0, Asked("two", "two", 1.0, few))).calls == []
        assert (await fleet.enter("elsewhere", free, 100.0, Asked("two", "two", 1.0, many))).calls == list(range(10))
        await fleet.enter("endpoint", limited, 100.0, Asked("one", "one", 1.0, (), 0, (90.0,)))
        assert (await fleet.enter("endpoint", free, 100.0, Asked("two", "two", 1.0, few))).wait == 90.0
        await fleet.enter("elsewhere", limited, 100.0, Asked("one", "one", 1.0))
        time[0] = 100.0
        let = await fleet.enter("elsewhere", free, 100.0, Asked("two", "two", 1.0, many))
        assert let.calls == list(range(10)), "whoever said less is gone"

    asyncio.run(scene())


@pytest.mark.usefixtures("ray")
def test_the_weight_of_a_job_goes_with_its_calls_to_an_endpoint(tmp_path: Path) -> None:
    from swarm.runtime.cluster import answer
    from swarm.runtime.fleet import fleet, fleet_gate
    from swarm.runtime.outside import outside

    model = ModelSpec(engine="openai", name="any", url="http://127.0.0.1:9/v1")

    async def scene() -> None:
        for id, weight in (("light", 1.0), ("heavy", 4.0)):
            spec = job(tmp_path).model_copy(update={"model": model, "weight": weight})
            gate = outside(id, spec, tmp_path, fleet_gate).gate
            assert gate is not None
            await gate.enter(400)
        accounts = await answer(fleet().waits.remote())
        assert [(accounts[id].tokens, accounts[id].finish) for id in ("light", "heavy")] == [(400, 400.0), (400, 100.0)]

    asyncio.run(scene())


@pytest.mark.usefixtures("ray")
def test_a_server_whose_start_fails_ends_and_the_next_caller_gets_another() -> None:
    from ray.util import list_named_actors

    from swarm.runtime.fleet import Fleet

    async def scene() -> None:
        fleet = Fleet()
        wrong = ModelSpec(engine="scripted", name="raises").model_dump(mode="json") | {"name": "no-such-script"}
        for _ in range(2):
            with pytest.raises(ClusterError, match="gone"):
                await fleet.acquire("one", wrong, {}, 0)
        assert not [name for name in list_named_actors() if "no-such-script" in name]
        await fleet.close()

    asyncio.run(scene())


@pytest.mark.usefixtures("ray")
def test_the_dashboards_names_read_like_the_job(tmp_path: Path) -> None:
    from ray.util import list_named_actors

    spec = job(write_sources(tmp_path), model={"engine": "scripted", "name": "raises+slow:0.05"})
    folder = RunFolder(tmp_path, "named")
    names: set[str] = set()

    async def watched() -> None:
        working = asyncio.create_task(work(spec, folder))
        while not working.done():
            names.update(actor["name"] for actor in list_named_actors(all_namespaces=True))
            await asyncio.sleep(0.02)
        await working

    asyncio.run(watched())
    assert "swarm:named:master" in names
    assert any(name.startswith("swarm:named:host@") for name in names)
