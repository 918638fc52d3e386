"""The order of a paid call: its intent is durable before it goes out, so that no call is ever made without a trace."""

from __future__ import annotations

import asyncio

from swarm import events as ev
from swarm.models.interface import Completion, Request
from swarm.protocol import Material, TaskBrief, create_protocol
from swarm.runtime.host import Host
from swarm.runtime.wire import Work
from tests.simulated import passage, roles_of, spec
from tests.test_host import OneTask, Says

PAID = {"engine": "scripted", "name": "raises", "price": {"input": 1.0, "output": 1.0}}


class Looks(Says):
    """A model that looks, whenever it is called, at what its master has been brought."""

    def __init__(self) -> None:
        super().__init__("[]")
        self.master: OneTask | None = None
        self.known: list[list[str]] = []

    async def complete(self, request: Request) -> Completion:
        assert self.master is not None
        self.known.append([body.key for body in self.master.events if isinstance(body, ev.CallStarted)])
        return await super().complete(request)


def worked(model: Looks, paid: bool, attempt: int = 1, token: int = 7) -> list[str]:
    job = spec(model=PAID) if paid else spec()
    protocol, _ = create_protocol(job)
    master = model.master = OneTask(Work(TaskBrief("t", "reader", "", attempt), token, Material((passage(0),)), (), {}))
    asyncio.run(asyncio.wait_for(Host("h", job, protocol, roles_of(protocol.roles), model, 2).run(master), 60))
    return [type(body).__name__ for body in master.events]


def test_the_intent_of_a_paid_call_is_durable_before_the_call() -> None:
    model = Looks()
    assert worked(model, paid=True) == ["CallStarted", "CallFinished", "TaskFinished"]
    assert model.known == [[model.asked[0].key]] and model.asked[0].key


def test_a_paid_call_that_is_made_again_has_the_key_that_it_had() -> None:
    first, again = Looks(), Looks()
    worked(first, paid=True)
    worked(again, paid=True, attempt=2, token=19)
    assert first.asked[0].key == again.asked[0].key


def test_a_call_that_nobody_bills_needs_none() -> None:
    model = Looks()
    assert worked(model, paid=False) == ["CallStarted", "CallFinished", "TaskFinished"]
    assert model.known == [[]]
