"""Plain Ray, with nothing of this product: the same null work as calls of one actor and as tasks, for `swarm bench`.

Owns nothing but the two loops; nothing here is durable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from swarm.runtime import cluster

IN_FLIGHT = 256
"""Calls that are on their way at once."""


class Reader:
    """Does the null work in an actor."""

    def __init__(self, work: Callable[[str], str]) -> None:
        self._work = work

    def read(self, text: str) -> str:
        return self._work(text)


def plain_rates(work: Callable[[str], str], texts: Sequence[str]) -> dict[str, float]:
    """Steps a second of `plain Ray actor` and `plain Ray tasks` on a cluster that is started for it.

    Raises:
        ClusterError: Ray does not start.
    """
    cluster.connect("", dashboard=False)
    try:
        actor: Any = ray.remote(Reader).options(num_cpus=0).remote(work)
        task: Any = ray.remote(work)
        return {"plain Ray actor": _rate(actor.read.remote, texts), "plain Ray tasks": _rate(task.remote, texts)}
    finally:
        cluster.disconnect()


def _rate(call: Callable[[str], Any], texts: Sequence[str]) -> float:
    ray.get([call(text) for text in texts[:IN_FLIGHT]])  # workers start here, which is not counted
    began = time.perf_counter()
    for first in range(0, len(texts), IN_FLIGHT):
        ray.get([call(text) for text in texts[first : first + IN_FLIGHT]])
    return len(texts) / (time.perf_counter() - began)
