"""What a host's calls share with those of others: made here for each shell.

Owns the choice of who shares an endpoint's turnstile (on Ray the jobs of the cluster, else nobody) and where the
answers on record lie (beside the runs, on each host's own disk).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from swarm.models.rate import Gate, own_gate
from swarm.runtime.calls import Outside
from swarm.spec import JobSpec, ModelSpec
from swarm.store.responses import Responses


def outside(job: str, spec: JobSpec, root: Path, gate: Callable[[str, float, ModelSpec], Gate] | None = None) -> Outside:
    """What a host of a job needs of the kind. `root` is the folder of the runs; `gate` makes the way to a shared turnstile.

    Raises:
        StoreError: the answers on record cannot be opened.
    """
    model = spec.model
    way = gate(job, spec.weight, model) if gate is not None else own_gate(model.rate, time.monotonic)
    return Outside(way if model.engine == "openai" else None, _recorded(root) if model.cache else None)


def _recorded(root: Path) -> Responses | None:
    """The answers on record. None on a node that cannot have a folder for runs, such as a pod without their volume: no job
    depends on them, and a host there does its work all the same."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return Responses(root) if os.access(root, os.W_OK) else None
