"""What a host's calls share with those of others: made here for each shell.

Owns the choice of who shares an endpoint's bucket (on Ray the jobs of the cluster, else those of this process) and where the
answers on record lie (beside the runs, on each host's own disk).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from swarm.models.rate import Gate, own_gate
from swarm.runtime.calls import Outside
from swarm.spec import ModelSpec
from swarm.store.responses import Responses


def outside(spec: ModelSpec, root: Path, gate: Callable[[ModelSpec], Gate] | None = None) -> Outside:
    """What a host needs of the kind. `root` is the folder of the runs; `gate` makes the way to a shared bucket.

    Raises:
        StoreError: the answers on record cannot be opened.
    """
    way = gate(spec) if gate is not None else own_gate(spec.rate, time.monotonic)
    return Outside(way if spec.engine == "openai" else None, _recorded(root) if spec.cache else None)


def _recorded(root: Path) -> Responses | None:
    """The answers on record. None on a node that cannot have a folder for runs, such as a pod without their volume: no job
    depends on them, and a host there does its work all the same."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return Responses(root) if os.access(root, os.W_OK) else None
