"""Who holds which model server, and since when nobody does.

Owns the rule by which a server is no longer needed. It knows no clock, no Ray and no server: the fleet tells it the time.
"""

from __future__ import annotations

LAPSE_SECONDS = 240.0
"""How long a hold lasts that is not renewed: its holder was killed, and will not release it."""
IDLE_SECONDS = 600.0
"""How long a server without a holder is kept, in case the next job wants the same weights."""


class Holds:
    """The holds on a fleet's servers. Every method takes the time, in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._renewed: dict[str, dict[str, float]] = {}
        self._idle: dict[str, float] = {}

    def hold(self, holder: str, server: str, now: float) -> None:
        """Takes a hold on a server, or renews it."""
        self._renewed.setdefault(server, {})[holder] = now
        self._idle.pop(server, None)

    def release(self, holder: str, now: float) -> None:
        """Ends every hold of a holder."""
        for server, renewed in self._renewed.items():
            if renewed.pop(holder, None) is not None and not renewed:
                self._idle[server] = now

    def forget(self, server: str) -> None:
        """Drops a server that has ended."""
        self._renewed.pop(server, None)
        self._idle.pop(server, None)

    def needless(self, now: float) -> list[str]:
        """The servers that nobody has held for so long that they should end. Holds that were not renewed lapse here."""
        for server, renewed in self._renewed.items():
            for holder, last in list(renewed.items()):
                if now - last >= LAPSE_SECONDS:
                    del renewed[holder]
                    if not renewed:
                        self._idle[server] = last + LAPSE_SECONDS
        return [server for server, since in self._idle.items() if now - since >= IDLE_SECONDS]
