"""Bodies that were written or read a moment ago, kept in memory within bounds.

Owns the choice of what stays. There are two generations: what comes goes into the younger one, and when that is full it becomes
the older, and what was there goes all at once. So whole stretches of memory come free together; bodies that leave one by one
leave holes, and what is made next lies scattered among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

ENTRY_BYTES = 240
"""What a body takes in memory beyond its own bytes: its name, and its place in a table. Most bodies are shorter than that."""


class Recent:
    """Bodies by name, of `most` bytes at most; or those that came last together, however large they are."""

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self._young: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}
        self._young_bytes = self._old_bytes = 0

    def __contains__(self, name: str) -> bool:
        return name in self._young or name in self._old

    def __getitem__(self, name: str) -> bytes:
        """The body, which must be here."""
        found = self._young.get(name)
        return self._old[name] if found is None else found

    def put(self, bodies: Mapping[str, bytes]) -> None:
        """Keeps these, and lets others go if there is no more room. All of them stay until the next call at least."""
        fresh = {name: data for name, data in bodies.items() if name not in self._young}
        size = sum(map(len, fresh.values())) + ENTRY_BYTES * len(fresh)
        if self._young_bytes + size > self._half:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        elif self._old_bytes > self._half:  # something large, which was here for one call
            self._old, self._old_bytes = {}, 0
        self._young.update(fresh)
        self._young_bytes += size

    def hold(self, names: Iterable[str], load: Callable[[list[str]], Mapping[str, bytes]]) -> None:
        """Has all of these here, until the next call at least: `load` gives those that are not."""
        wanted = {name: self._old.get(name) for name in names if name not in self._young}
        here = {name: data for name, data in wanted.items() if data is not None}
        if missing := [name for name in wanted if name not in here]:
            here.update(load(missing))
        if here:
            self.put(here)

    @property
    def bytes(self) -> int:
        """What they take, their tables included."""
        return self._young_bytes + self._old_bytes
