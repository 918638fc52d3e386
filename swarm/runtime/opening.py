"""From a log to the state that it amounts to, by way of its snapshot where that serves.

Owns the choice between a snapshot with the events after it and the whole log, and the taking of snapshots. Whatever is
wrong with a snapshot costs time and nothing else: the log alone is the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.coordinator import JobState
from swarm.coordinator.snapshot import pack, snapshot_format, unpack
from swarm.errors import StoreError
from swarm.store.interface import Reader, Snapshot, Writer

EVENTS_BETWEEN = 20_000
"""Events after which a master takes the next snapshot: what an opening then folds takes a fraction of a second."""
SHARE_BETWEEN = 20
"""In a log of more than SHARE_BETWEEN * EVENTS_BETWEEN events it takes one whenever the log has grown by this part: what a
snapshot costs grows with the log, and what it costs for each event must not."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The fold of a whole log. `folded` events of it were read one by one, those after the snapshot of event `kept`, 0 without
    one; `ignored` says why a snapshot was of no use, and is empty where there was none or it served."""

    state: JobState
    folded: int
    ignored: str = ""
    kept: int = 0


def open_state(reader: Reader) -> Opened:
    """The state that a log amounts to.

    Raises:
        StoreError: the log itself is damaged, or newer than this software.
    """
    state, ignored = newest(reader)
    kept = state.seq
    for event in reader.read(after=kept):
        state.apply(event)
    return Opened(state, state.seq - kept, ignored, kept)


def newest(reader: Reader) -> tuple[JobState, str]:
    """The state at a log's snapshot, or of no event where there is none that serves, and why one did not."""
    try:
        found = reader.snapshot()
        return JobState() if found is None else restored(found), ""
    except StoreError as error:
        return JobState(), error.message


def restored(snapshot: Snapshot) -> JobState:
    """The state that a snapshot holds.

    Raises:
        StoreError: other code wrote it, or it holds something else than it says.
    """
    if snapshot.format != snapshot_format():
        raise StoreError(f"the snapshot has form {snapshot.format}; this software reads {snapshot_format()}", "log")
    state = unpack(snapshot.state, snapshot.parts)
    if state.seq != snapshot.seq:
        raise StoreError(f"the snapshot of event {snapshot.seq} holds the state at event {state.seq}", "log")
    return state


def snapshot_due(kept: int, seq: int) -> bool:
    """Whether it is time for a snapshot at event `seq`, where the last one was taken at `kept`, 0 for none."""
    return seq - kept >= events_between(kept)


def events_between(kept: int) -> int:
    """How many events come before the next snapshot, where the last one was taken at `kept`."""
    return max(EVENTS_BETWEEN, kept // SHARE_BETWEEN)


def take_snapshot(state: JobState, store: Writer) -> None:
    """Keeps the state beside the log that it is the fold of.

    Raises:
        StoreError: it could not be kept; the store must not be used again.
    """
    store.keep(Snapshot(state.seq, snapshot_format(), *pack(state)))
