"""What a model is to the rest of the product.

Owns the shape of a call and of what comes back. The engines beside this file implement it; nothing here loads anything.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Protocol

from swarm.events import record
from swarm.window.pack import ChatTemplate, Prompt
from swarm.window.tokens import Tokenizer


@record
class Sampling:
    """How a completion is drawn. `schema` is a JSON schema that the engine's grammar enforces; empty means free text."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    schema: dict[str, Any] = field(default_factory=dict)


@record
class Request:
    """One call. `key` identifies it in the log; `channel` says which weights should answer."""

    key: str
    prompt: Prompt
    sampling: Sampling
    channel: str


@record
class Completion:
    """What came back.

    `weights` is a digest that we computed, or `declared:MODEL` of an endpoint; `finish` is `stop` or `length`;
    token counts are the engine's own; `seconds` is the time of the call, queueing included; `ids` are the output's
    token ids where the engine gives them.
    """

    text: str
    tokens_in: int
    tokens_out: int
    finish: str
    weights: str
    seconds: float
    ids: tuple[int, ...] = ()


class Model(Protocol):
    """Answers calls, many at once. Started once, closed once; safe to call from one event loop.

    Raises (from `start` and `complete`):
        ModelError: what failed, with `kind` and `retryable` set.
        WeightsError: weights that are missing, or not what their digest says.
    """

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def template(self) -> ChatTemplate: ...

    async def start(self) -> None: ...

    async def complete(self, request: Request) -> Completion: ...

    async def close(self) -> None: ...

    def weights(self, channel: str) -> str:
        """The digest, or `declared:MODEL`, of what answers calls of this channel."""
        ...
