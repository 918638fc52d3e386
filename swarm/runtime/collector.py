"""Python's cycle collector while a job runs.

A master or host holds millions of small objects for as long as the job lasts, and makes and drops thousands with every
batch, hardly any of them in cycles. With the collector's usual settings a third of a busy process's time goes into
looking through them in vain.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 50_000
"""New objects after which the youngest are looked through; Python's own setting is 700."""
RARELY = (50, 100)
"""Collections of one generation for each of the next."""


@contextmanager
def calm_collector() -> Iterator[None]:
    """Leaves what exists now out of collections, and collects less often, until the end of the block."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG, *RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
