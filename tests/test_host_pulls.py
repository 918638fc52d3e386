"""What a host and its master say to each other while both are busy: two pulls may be under way at once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from swarm import events as ev
from swarm.coordinator import Report
from swarm.models.interface import Completion, Request
from swarm.protocol import Material, TaskBrief, create_protocol
from swarm.runtime.calls import REMEMBERED, Brought
from swarm.runtime.host import Host
from swarm.runtime.wire import Batch, Order, Pull, Work
from tests.simulated import ROLLING, passage, roles_of, spec
from tests.test_host import ROW, OneTask, Says


class Slow:
    """A master whose every answer takes many rounds of the loop; keeps what it heard, and what was under way meanwhile."""

    def __init__(self, works: list[Work]) -> None:
        self.works, self.left = works, len(works)
        self.heard: list[Report] = []
        self.under_way: list[Pull] = []
        self.most, self.asked, self.bringing = 0, 0, 0
        """How many pulls were under way at most, how many tasks they asked for, how many of them brought something."""
        self.overtaken: list[int] = []
        """Tokens on which two messages were under way at once."""
        self.idle = 0
        """Pulls that brought nothing and asked for nothing."""

    async def pull(self, pull: Pull) -> Batch:
        others = {report.token for other in self.under_way for report in other.reports}
        self.overtaken += [report.token for report in pull.reports if report.token in others]
        self.under_way.append(pull)
        self.idle += not pull.want and not pull.reports
        self.most = max(self.most, len(self.under_way))
        self.asked = max(self.asked, sum(one.want for one in self.under_way))
        self.bringing = max(self.bringing, sum(bool(one.reports) for one in self.under_way))
        works, self.works = self.works[: pull.want], self.works[pull.want :]
        for _ in range(30):
            await asyncio.sleep(0)
        self.heard += pull.reports
        self.under_way.remove(pull)
        return Batch(Order.STOP if not works and self.over() else Order.WORK, tuple(works))

    def over(self) -> bool:
        return sum(report.last for report in self.heard) == self.left


class Staggered(Says):
    """A model each of whose answers takes some rounds of the loop longer than the one before."""

    async def complete(self, request: Request) -> Completion:
        self.asked.append(request)
        for _ in range(5 * len(self.asked)):
            await asyncio.sleep(0)
        return Completion("[]", request.prompt.tokens, 1, "stop", "staggered", 0.0)


def tasks(count: int, spans: int = 1, role: str = "reader") -> list[Work]:
    return [
        Work(TaskBrief(f"t{n}", role, "", 1), n + 1, Material(tuple(passage(n + at) for at in range(spans))), (), {})
        for n in range(count)
    ]


def served(master: Slow, agents: int, model: Says, **changes: Any) -> Host:
    job = spec(**changes)
    protocol, _ = create_protocol(job)
    host = Host("h", job, protocol, roles_of(protocol.roles), model, agents, heartbeat=60)
    asyncio.run(asyncio.wait_for(host.run(master), 60))
    return host


def test_a_second_batch_is_asked_for_while_the_first_is_on_its_way() -> None:
    master = Slow(tasks(60))
    host = served(master, agents=12, model=Says(*["[]"] * 60))
    assert master.most == 2 and len(master.heard) == 60 and host.busy == 0
    assert master.asked <= 12  # never more in all than the host can do


def test_a_host_takes_little_more_than_its_model_answers_at_once() -> None:
    job, master = spec(model={"engine": "scripted", "name": "raises", "concurrency": 2}), Slow(tasks(30))
    protocol, _ = create_protocol(job)
    host = Host("h", job, protocol, roles_of(protocol.roles), Says(*["[]"] * 30), 64, heartbeat=60)
    asyncio.run(asyncio.wait_for(host.run(master), 60))
    assert len(master.heard) == 30 and master.asked <= 4, "what became urgent would queue behind the rest"


@pytest.mark.parametrize("agents", [1, 2, 3, 4])
def test_a_small_host_sends_no_message_for_nothing(agents: int) -> None:
    master = Slow(tasks(20))
    served(master, agents, model=Staggered())
    assert len(master.heard) == 20 and not master.idle


class Overtaken(Slow):
    """A master that takes every other message before the one that was sent ahead of it; keeps the texts that it has, and those
    that a call names and it has not."""

    def __init__(self, works: list[Work]) -> None:
        super().__init__(works)
        self.texts: set[str] = set()
        self.lacking: set[str] = set()
        self.brought = Counter[str]()
        """How often each text that a call names came."""
        self.turns = 0

    async def pull(self, pull: Pull) -> Batch:
        self.turns += 1
        for _ in range(60 if self.turns % 2 else 1):
            await asyncio.sleep(0)
        self.texts.update(pull.bodies)
        started = [body for report in pull.reports for body in report.events if isinstance(body, ev.CallStarted)]
        named = {digest for body in started for digest, kind, *_ in body.manifest if kind != "span"}
        self.lacking |= named - self.texts
        self.brought.update(digest for digest in named if digest in pull.bodies)
        return await super().pull(pull)


class FirstIsSlow(Staggered):
    """A model whose first answer comes when it has given many others."""

    async def complete(self, request: Request) -> Completion:
        if not self.asked:
            self.asked.append(request)
            for _ in range(900):
                await asyncio.sleep(0)
        return await super().complete(request)


@pytest.mark.parametrize("agents", [3, 6])
@pytest.mark.parametrize("model", [FirstIsSlow, Staggered])
def test_no_call_is_on_record_before_the_texts_that_it_names(model: type[Says], agents: int) -> None:
    """Whichever of two messages arrives first, and however long the call takes that was the first to need a text."""
    master = Overtaken(tasks(20))
    served(master, agents, model=model())
    assert len(master.texts) > 2 and not master.lacking


def test_a_text_travels_no_more_once_it_is_durable() -> None:
    master = Overtaken(tasks(40))
    served(master, agents=3, model=Staggered())
    assert 0 < max(master.brought.values()) < 10 and len(master.heard) == 40


def test_of_what_was_brought_only_what_windows_need_is_remembered_and_not_without_end() -> None:
    brought = Brought()
    assert brought.lacks("a text") and brought.lacks("a text")
    brought.add(["a text", "an answer"])
    assert not brought.lacks("a text") and brought.lacks("an answer"), "nobody had needed it"
    for number in range(REMEMBERED - 10):
        assert brought.lacks(str(number))
        brought.add([str(number)])
    assert not brought.lacks("a text"), "so many it can remember"
    for number in range(REMEMBERED):
        brought.lacks(f"never brought {number}")
    brought.add(["an answer"])
    assert not brought.lacks("an answer") and brought.lacks("a text"), "to bring that once more does no harm"
    brought.add(["never brought 1"])
    assert brought.lacks("never brought 1")


def test_single_results_travel_one_message_at_a_time() -> None:
    """A second message pays for itself only with a whole batch."""
    master = Slow(tasks(8))
    served(master, agents=90, model=Staggered())
    assert len(master.heard) == 8 and master.bringing == 1


def test_what_a_task_did_next_waits_until_its_master_has_heard_what_it_did_before() -> None:
    """Messages may overtake each other, and the turns of a task must not."""
    master = Slow(tasks(2, spans=4, role="notetaker"))
    served(master, agents=2, model=Staggered(), **ROLLING)
    assert not master.overtaken
    turns = [len(report.events) for report in master.heard if report.token == 1]
    assert len(turns) == 5 and master.heard[-1].last


class StopsEarly(OneTask):
    """A master that answers one pull with a stop while another one, with the result, is under way."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.brought, self.stopped, self.heard = asyncio.Event(), False, False

    async def pull(self, pull: Pull) -> Batch:
        if self.work is not None:
            return await super().pull(pull)
        if pull.reports:
            self.brought.set()
            for _ in range(30):
                await asyncio.sleep(0)
            self.heard = True
        await self.brought.wait()
        self.stopped = True
        return Batch(Order.STOP)


def test_a_host_that_is_told_to_stop_lets_what_is_on_its_way_arrive() -> None:
    job = spec()
    protocol, _ = create_protocol(job)
    master = StopsEarly(tasks(1)[0])
    host = Host("h", job, protocol, roles_of(protocol.roles), Says(json.dumps(ROW)), 2)
    asyncio.run(asyncio.wait_for(host.run(master), 60))
    assert master.stopped and master.heard
