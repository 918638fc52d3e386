"""The null work as an agent of AutoGen core. Importing this needs the extra `peers`; AutoGen reads the types of the handler,
so they have to stand at the top of a module."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, message_handler


@dataclass
class Passage:
    """What the agent is sent."""

    text: str


@dataclass
class Row:
    """What it answers."""

    row: str


class Reader(RoutedAgent):
    """Makes a row of each passage that it is sent."""

    def __init__(self, work: Callable[[str], str]) -> None:
        super().__init__("reads passages")
        self._work = work

    @message_handler
    async def read(self, message: Passage, ctx: MessageContext) -> Row:
        return Row(self._work(message.text))


async def answer_all(work: Callable[[str], str], texts: Sequence[str]) -> None:
    """Sends every passage to one agent at once, and waits for all answers."""
    runtime = SingleThreadedAgentRuntime()
    await Reader.register(runtime, "reader", lambda: Reader(work))
    runtime.start()
    reader = AgentId("reader", "one")
    await asyncio.gather(*[runtime.send_message(Passage(text), reader) for text in texts])
    await runtime.stop_when_idle()
