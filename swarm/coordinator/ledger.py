"""The account of calls that are not plainly answered: in doubt, answered too late, or answered from the cache.

Owns the counting of what may have been paid for without an answer on record. What answered calls cost, the state's spend
says. It is a part of the fold: it depends on events alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

REMEMBERED = 4096
"""Leases whose late answers are still known for what they are."""
ALL = 1 << 62
"""More than any lease holds."""

Intent = tuple[int, int, int]
"""(turn, sample, tokens at most) of a call that somebody may have to pay for and whose result is not recorded."""


@dataclass(slots=True)
class Doubt:
    """Calls, and the tokens that they may have cost at most."""

    calls: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Fenced:
    """A lease that ended without a word of its holder. `last` is (turn, sample) of the task's last recorded call."""

    role: str
    last: tuple[int, int]
    intent: Intent | None
    held: Doubt
    """What was set aside for the lease and may still be spent under it."""


@dataclass(slots=True)
class Ledger:
    """What may have been spent beside the spend."""

    doubts: dict[str, Doubt] = field(default_factory=dict)
    """Role → calls that went out and have no answer on record: they may have been paid for, and are made again."""
    strayed: Doubt = field(default_factory=Doubt)
    """Answers that came when their lease had ended: paid for, and of no use. They are in the spend as well."""
    cached: int = 0
    """Answers from the cache; they are in nobody's spend."""
    fenced: dict[int, Fenced] = field(default_factory=dict)
    """Token → a lease that this master has ended, the last ones only."""
    held: dict[str, Doubt] = field(default_factory=dict)
    """Role → what such leases may still spend without asking."""
    billed: bool = False
    """Whether calls have intents. Then nothing is spent under a lease that has ended but what is in doubt already."""

    def unsettled(self, role: str = "") -> Doubt:
        """What may have been spent already, or be spent unasked, and stands in no spend: a budget sets it aside. Of one role,
        or of all."""
        found = [one for held in (self.doubts, self.held) for whose, one in held.items() if role in ("", whose)]
        return Doubt(sum(one.calls for one in found), sum(one.tokens for one in found))

    def doubt(self) -> Doubt:
        """All calls in doubt."""
        return Doubt(sum(one.calls for one in self.doubts.values()), sum(one.tokens for one in self.doubts.values()))

    def lose(self, role: str, intent: Intent) -> None:
        """A call is in doubt from now on."""
        doubt = self.doubts.setdefault(role, Doubt())
        doubt.calls += 1
        doubt.tokens += intent[2]

    def fence(self, token: int, lease: Fenced) -> None:
        """A lease is taken from its holder, whose answers may still come in."""
        if self.billed:
            lease.held = Doubt()
        self.fenced[token] = lease
        held = self.held.setdefault(lease.role, Doubt())
        held.calls += lease.held.calls
        held.tokens += lease.held.tokens
        if len(self.fenced) > REMEMBERED:
            self._settle(self.fenced.pop(next(iter(self.fenced))), ALL, ALL)

    def forget(self) -> None:
        """A new master: hosts died with the last one, and what they still knew will never be heard."""
        self.fenced.clear()
        self.held.clear()

    def stray(self, token: int, turn: int, sample: int, tokens: int, last: bool) -> tuple[str, int]:
        """An answer came too late: it settles its intent, which is in doubt no more but paid for. After the `last` one nothing
        more is spent under the lease. Returns its role, and the tokens that were in doubt for it; 0 if none were."""
        lease = self.fenced[token]
        self.strayed.calls += 1
        self.strayed.tokens += tokens
        lease.last = (turn, sample)
        self._settle(lease, ALL if last else 1, ALL if last else tokens)
        doubted = 0
        if lease.intent is not None and lease.intent[:2] == lease.last:
            self.doubts[lease.role].calls -= 1
            doubted = lease.intent[2]
            self.doubts[lease.role].tokens -= doubted
            lease.intent = None
        return lease.role, doubted

    def _settle(self, lease: Fenced, calls: int, tokens: int) -> None:
        """So much of what a lease held is spent, or will not be."""
        calls, tokens = min(calls, lease.held.calls), min(tokens, lease.held.tokens)
        for one in (lease.held, self.held[lease.role]):
            one.calls -= calls
            one.tokens -= tokens
