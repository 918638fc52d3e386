"""Whether an engine that has calls to answer still answers any: a server may say that it is well and generate nothing.

Owns the rule. What a probe is, and what becomes of an engine that hangs, its owner says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from swarm.errors import ModelError
from swarm.models.interface import Request, Sampling
from swarm.window.pack import ChatTemplate, Segment, pack
from swarm.window.tokens import Tokenizer

LOOK_SECONDS = 30.0
"""How often one looks whether calls are answered."""
PROBE_SECONDS = 120.0
"""How long one token may take on an engine that is busy."""
WORD = "Hello."

Pulse = tuple[int, int]
"""Calls in flight, and calls answered so far."""


def probe_request(template: ChatTemplate, tokenizer: Tokenizer, channel: str) -> Request:
    """A call that generates one token."""
    words = [Segment("probe", WORD, tokenizer.count(WORD))]
    return Request("probe", pack(words, template, tokenizer, 1 << 20, "probe"), Sampling(1), channel)


async def hangs(
    before: Pulse, pulse: Callable[[], Awaitable[Pulse]], probe: Callable[[], Awaitable[object]], seconds: float
) -> bool:
    """Whether an engine hangs that looked like `before` some time ago: it has calls, has answered none since, and neither a
    probe nor any of them within `seconds` more. An error is an answer: whoever gives one does not hang."""
    flying, answered = await pulse()
    if not flying or answered != before[1]:
        return False
    try:
        async with asyncio.timeout(seconds):
            await probe()
    except TimeoutError:
        return (await pulse())[1] == answered
    except ModelError:
        return False
    return False


async def until_it_hangs(
    pulse: Callable[[], Awaitable[Pulse]],
    probe: Callable[[], Awaitable[object]],
    every: float = LOOK_SECONDS,
    seconds: float = PROBE_SECONDS,
) -> None:
    """Looks every now and then, and returns when the engine hangs."""
    while True:
        before = await pulse()
        await asyncio.sleep(every)
        if await hangs(before, pulse, probe, seconds):
            return
