"""The clock that stamps a log: begins at the wall clock's time, and from there on goes with the monotonic one.

Owns nothing else. A wall clock that jumps while a master works changes nothing; one that was set back between two masters
neither makes log time go back nor keeps it standing until the wall clock has caught up, which would hold up every retry.
"""

from __future__ import annotations

from collections.abc import Callable


class LogClock:
    """Log time in seconds since 1970. `last` is the time of the log's last event, 0 for an empty log."""

    def __init__(self, last: float, wall: Callable[[], float], ticks: Callable[[], float]) -> None:
        self._ticks = ticks
        self._offset = max(wall(), last) - ticks()

    def __call__(self) -> float:
        return self._offset + self._ticks()
