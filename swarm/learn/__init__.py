"""Learning's one door: `learn(base, dataset, budget) -> Candidate`.

Owns the three values that cross it and the choice of learner. How a learner works is its own module's
business; what serves jobs afterwards is decided elsewhere. Nothing heavy is imported before `learn` is
called.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from swarm.learn.data.examples import Example
from swarm.models.embedded import WeightsFolder


@dataclass(frozen=True)
class Dataset:
    """Examples in groups that share the opening of their prompts, in order of training."""

    name: str
    groups: tuple[tuple[Example, ...], ...]
    digest: str


@dataclass(frozen=True)
class Budget:
    """What training may cost, and the few dials of the learner.

    `tokens` counts tokens computed (a shared opening once) and decides the learning-rate schedule; `seconds`
    is a hard stop (0: none). `folder` holds checkpoints: a run that finds one of the same base, dataset and
    budget goes on from it.
    """

    tokens: int
    folder: Path
    seconds: float = 0.0
    seed: int = 1
    rank: int = 16
    first_layer: int = 8
    """Layers before this one stay as they are: their backward pass is saved."""
    rate: float = 1e-3
    decay: float = 0.3
    """The last part of the tokens, over which the rate falls."""
    deciding: float = 0.0
    """Least weight of the tokens that decide whether an answer is empty. They weigh 0.58 in an empty one and, without this,
    less than 0.2 in a long one, so that a reader in doubt writes nothing."""
    step_tokens: int = 900
    checkpoint_steps: int = 50
    threads: int = 0
    start: Path | None = None
    """An adapter folder to go on from, instead of a fresh one."""


@dataclass(frozen=True)
class Candidate:
    """Weights that nobody serves yet: an adapter folder, its digest, and what it was made from and cost."""

    adapter: Path
    digest: str
    base: str
    dataset: str
    recipe: dict[str, object]
    steps: int
    tokens: int
    examples: int
    seconds: float
    losses: tuple[float, ...] = field(repr=False, default=())
    """Mean loss of each step."""


def learn(base: WeightsFolder, dataset: Dataset, budget: Budget) -> Candidate:
    """Trains a LoRA adapter for `base` on `dataset` within `budget`; prints the estimated time first.

    Raises:
        WeightsError: the base is not of a kind that the learner knows.
    """
    from swarm.learn.lora import train

    return train(base, dataset, budget)


__all__ = ["Budget", "Candidate", "Dataset", "learn"]
