"""Models that cost nothing: for measuring everything but the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from swarm.models.interface import Completion, Request
from swarm.window.pack import ChatTemplate
from swarm.window.tokens import Tokenizer

QUOTE = 60
"""Characters of its quotes at most."""


class NullModel:
    """Answers a reader's call at once with one row: the passage's first word, quoted by the start of its first line.

    It takes the passage from the window's last segment, so it does no more work than copying. It reports a fixed number
    of output tokens.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def weights(self, channel: str) -> str:
        return "null"

    async def complete(self, request: Request) -> Completion:
        line = request.prompt.segments[-1].text.partition("\n")[0]
        row = json.dumps([[line.partition(" ")[0], line[:QUOTE]]], ensure_ascii=False)
        return Completion(row, request.prompt.tokens, 24, "stop", "null", 0.0)


class GatedModel(NullModel):
    """Holds every call until `calls` of them wait, then calls `full` and answers them all, and later ones at once."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, calls: int, full: Callable[[], None]) -> None:
        super().__init__(tokenizer, template)
        self._missing, self._full, self._open = calls, full, asyncio.Event()

    async def complete(self, request: Request) -> Completion:
        self._missing -= 1
        if self._missing == 0:
            self._full()
            self._open.set()
        await self._open.wait()
        return await super().complete(request)
