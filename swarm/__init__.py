"""swarmloom: swarms of agents with bounded windows, on a Ray cluster, with answers that cite their evidence.

Owns the public names. Each is loaded when it is first used, so that importing this costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.api import JobHandle as JobHandle, resume as resume, run as run, submit as submit
    from swarm.errors import (
        ClusterError as ClusterError,
        CorpusError as CorpusError,
        ExitCode as ExitCode,
        ModelError as ModelError,
        ProtocolError as ProtocolError,
        SpecError as SpecError,
        StoreError as StoreError,
        SwarmError as SwarmError,
        WeightsError as WeightsError,
        WindowError as WindowError,
    )
    from swarm.events import Event as Event
    from swarm.report.shapes import Answer as Answer
    from swarm.spec import (
        AnswerSpec as AnswerSpec,
        BudgetSpec as BudgetSpec,
        Column as Column,
        InputSpec as InputSpec,
        JobSpec as JobSpec,
        ModelSpec as ModelSpec,
        Price as Price,
        ProtocolSpec as ProtocolSpec,
        load_spec as load_spec,
    )

__version__ = "0.1.0"

_HOMES = {
    "swarm.api": ("JobHandle", "resume", "run", "submit"),
    "swarm.errors": (
        "ClusterError", "CorpusError", "ExitCode", "ModelError", "ProtocolError", "SpecError", "StoreError",
        "SwarmError", "WeightsError", "WindowError",
    ),
    "swarm.events": ("Event",),
    "swarm.report.shapes": ("Answer",),
    "swarm.spec": (
        "AnswerSpec", "BudgetSpec", "Column", "InputSpec", "JobSpec", "ModelSpec", "Price", "ProtocolSpec", "load_spec",
    ),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'swarm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
