"""What may befall a simulated job, and how likely each of it is.

Owns the rates and nothing else: what a fault does is the simulator's business.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Faults:
    """How likely each mishap is, a step (0 to 1). `most` is how often one task fails at most."""

    lost: float = 0.0
    """A host is gone, and the master is told."""
    silent: float = 0.0
    """A host is gone, and nobody says so: its leases have to lapse."""
    zombie: float = 0.0
    """A host's leases are taken back while it works on and knows nothing of it."""
    frozen: float = 0.0
    """A host stands still for longer or shorter than a lease lasts, and then goes on as if nothing had been."""
    late: float = 0.0
    repeated: float = 0.0
    dropped: float = 0.0
    """A pull fails: its reports, or the answer to it, never arrive, and the host ends over it."""
    failed: float = 0.0
    refused: float = 0.0
    broken: float = 0.0
    """An output breaks its contract."""
    crashed: float = 0.0
    """The master dies: between two decisions, or between a decision and its commit."""
    unknown: float = 0.0
    """An append's reply is lost. It may or may not be durable; its master never acts again."""
    slow: float = 0.0
    """A commit takes long, up to more than a lease."""
    jumped: float = 0.0
    """The wall clock is set forward or back by up to a day."""
    paused: float = 0.0
    most: int = 2


NONE = Faults()
STORM = Faults(
    lost=0.02,
    silent=0.004,
    zombie=0.03,
    frozen=0.01,
    late=0.1,
    repeated=0.1,
    dropped=0.01,
    failed=0.1,
    refused=0.01,
    broken=0.1,
    crashed=0.03,
    unknown=0.01,
    slow=0.01,
    jumped=0.02,
    paused=0.01,
)
KINDS = frozenset(one.name for one in fields(Faults)) - {"most"}
FLOOD = replace(STORM, **{kind: 3 * getattr(STORM, kind) for kind in KINDS}, most=20)
"""Far too much for anything to get done: for runs that look at safety alone."""
