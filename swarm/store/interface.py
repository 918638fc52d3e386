"""What a store is to the rest of the product.

Owns the promises: an event that `append` returned is durable; numbers are dense; time never decreases; a writer with an
old epoch is refused; readers never see what is not durable. The engines beside this file keep them. A `Place` is one
engine and all that a run needs of it: log, bodies, inbox, and who works on it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

from swarm.errors import DamageError, StoreError
from swarm.events import Event, record

FILES = "runs"
"""The folder, in the working folder, of runs whose place was not named or is no folder."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fold of a log up to `seq`, packed, so that opening a long job need not begin at its first event.

    `format` names the code that packed it; no other can read it. `state` is its head, and `parts` are pieces that lie beside
    it, named by a digest: one that the snapshot before had too is not written again.
    """

    seq: int
    format: str
    state: bytes
    parts: Mapping[str, bytes] = field(default_factory=dict)


class Reader(Protocol):
    """Reads one job's log and bodies, from any process, without endangering the writer."""

    def read(self, after: int = 0, upto: int | None = None) -> Iterator[Event]:
        """Durable events with after < seq <= upto, in order.

        Raises:
            StoreError: a record is damaged or of a newer version.
        """
        ...

    def last(self) -> int:
        """The number of the last durable event, 0 for an empty log."""
        ...

    def lost(self) -> Damage | None:
        """Records that were acknowledged and are gone from the end of the log, if any are: it can be read, and not continued."""
        ...

    def bodies(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """The bodies named, by hash.

        Raises:
            StoreError: one of them is missing or damaged.
        """
        ...

    def body(self, hash: str) -> bytes: ...

    def keyed(self, prefix: str) -> Iterator[Event]:
        """Durable events whose key starts with `prefix`, in order."""
        ...

    def life(self, sound: bool = False) -> Iterator[Event]:
        """The few events that say how the job stands (created, opened, phases, ended), in order and found by an index. With
        `sound`, those of them that are sound, whatever is not.

        Raises:
            StoreError: one of them is damaged, and `sound` was not asked for; or one is of a newer version.
        """
        ...

    def snapshot(self) -> Snapshot | None:
        """The log's snapshot, or None. It is the newest; there is no other.

        Raises:
            StoreError: it is damaged, incomplete, or of another log; the log itself may be sound.
        """
        ...

    def close(self) -> None:
        """Lets go of the log, and a writer of the job. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Writer(Reader, Protocol):
    """The one writer of a job's log. Opening it takes the job: the epoch rises and earlier writers are fenced.

    `torn` is how many bytes of an unfinished commit were cut off its end, until a TailCut says so.
    """

    epoch: int
    torn: int

    def append(self, events: Sequence[Event], bodies: Mapping[str, bytes]) -> None:
        """Makes events and bodies durable in one transaction; returns after the commit.

        Events are already stamped: dense `seq` after `last()`, this writer's `epoch`. Bodies that exist are left alone.

        Raises:
            FencedError: another writer has taken the job.
            StoreError: it failed (no space, I/O error, a lost connection): all of it stands or nothing, and only a
                new writer can tell. This one must not be used again.
        """
        ...

    def keep(self, snapshot: Snapshot) -> None:
        """Puts a snapshot of the whole log (`seq` is `last()`) in the place of the one before, in one transaction.

        Raises:
            FencedError, StoreError: as `append`.
        """
        ...

    def renew(self) -> None:
        """Says that this writer is still at work; to be called every second or so, and cheap.

        Raises:
            FencedError: another writer has taken the job.
        """
        ...


@record
class Message:
    """What somebody left for a job's master. Its id is the same however often it is read."""

    id: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with the log of a run. `where` is the file or database.

    `place` is `tail` (the last records; can be cut), `middle` (intact records follow), `body` (text that an event names), `file`
    (SQLite itself cannot read it), `ahead` (of the write-ahead log, which holds what was appended last; can be given up), `gone`
    (the last records are not there any more; can be given up), `empty` (all events are gone), `index` (of SQLite's; events and
    bodies are there), `names` (by which bodies are found; the bodies are there), or `snapshot` (the log is sound and lacks
    nothing). `first` and `last` are the records concerned, 0 where there are none. `kept` is the copy of what a repair cut, None
    as long as nothing was cut; `mended` says that a repair was made.
    """

    where: str
    run: str
    place: Literal["tail", "middle", "body", "file", "ahead", "gone", "empty", "index", "names", "snapshot"]
    detail: str
    first: int = 0
    last: int = 0
    kept: Path | None = None
    mended: bool = False

    @property
    def mendable(self) -> bool:
        """Whether a repair is possible, at the cost of what `detail` says."""
        return self.place in ("tail", "ahead", "gone", "index", "names", "snapshot")

    def error(self, option: str) -> DamageError:
        """The error that refuses to work on such a log. `option` is what a command line needs to find it from here."""
        command = f"`swarm doctor --repair {self.run}{option}`"
        if self.place == "tail":
            cure = f"{command} would cut records {self.first} to {self.last} and keep a copy of them in {copy_name(self.first)}"
        elif self.place == "snapshot":
            cure = f"nothing is lost: jobs do without it; {command} --apply removes it"
        elif self.place == "index":
            cure = f"nothing is lost: {command} --apply makes the indexes anew from the records"
        elif self.place == "names":
            cure = f"nothing is lost: {command} --apply makes the names anew from the texts"
        elif self.place in ("ahead", "gone"):
            cure = f"nothing was changed; restore it from a copy, or go on without them: {command} says how"
        else:
            saved = f"{command} says whether anything can be saved" if self.place in ("middle", "file") else "start the job anew"
            cure = f"nothing was changed; restore the run folder or the database from a copy, or {saved}"
        return DamageError(self.detail, self.where, cure)


def has_begun(id: str) -> StoreError:
    """The error for a run that was to be removed because it had not begun."""
    return StoreError(f"run {id!r} has begun", id, "somebody was quicker: `swarm list` shows how it stands")


def folder_option(root: Path) -> str:
    """` --runs DIR`, or nothing where $SWARM_RUNS or the default leads to the runs of this folder."""
    said = os.environ.get("SWARM_RUNS") or FILES
    here = "://" not in said and Path(os.path.expanduser(said)).absolute() == root.absolute()
    return "" if here else f" --runs {shlex.quote(str(root))}"


def copy_name(first: int, ending: str = ".jsonl") -> str:
    """What the copy of records that are cut from `first` on is called."""
    return f"log.damaged-{first}{ending}"


@dataclass(frozen=True, slots=True)
class Needless:
    """Something of `size` bytes that nothing needs, and why. `file` is None for what lies inside a log's file or a database:
    freeing it leaves room there for later events, and the file as long as it is. `kept` says why it stays all the same, where it
    could not be looked at or removed."""

    what: str
    size: int
    file: Path | None = None
    kept: str = ""


class Place(Protocol):
    """Where the logs, bodies and inboxes of runs live, and where it is known who works on them.

    A run is named by the folder that its files lie in (report, spec, printed logs): the folder's name is the run's id.
    Every method may raise a StoreError that says what cannot be reached, and why.
    """

    def title(self, root: Path) -> str:
        """What to call the place before people: a folder, or a database without its password."""
        ...

    def option(self, root: Path) -> str:
        """What a command line needs to be led here, such as ` --runs DIR`; empty if $SWARM_RUNS or the default leads here.
        The URL of a database is never in it."""
        ...

    def ids(self, root: Path) -> list[str]:
        """The ids of all runs, in no order."""
        ...

    def latest(self, root: Path) -> str:
        """The id of the run that was made last, which may be gone; empty if there is none."""
        ...

    def make_latest(self, folder: Path) -> None:
        """Says that this run was made last, to a place that does not go by the link beside the runs."""
        ...

    def create(self, folder: Path) -> bool:
        """Reserves a run's id; False if a run has it already. The folder exists, and holds nothing that is of use.

        Raises:
            StoreError: somebody is reserving it just now.
        """
        ...

    def publish(self, draft: Path, folder: Path) -> bool:
        """Gives a run that was made under the name of a draft its own, in one step; False if a run has that name. Nobody has
        the draft open."""
        ...

    def beside(self, root: Path, remove: bool) -> list[Needless]:
        """What crashes left beside the runs: links that never became `latest`, a `latest` whose run is gone, runs that never came
        to their names and that nobody has written to for an hour. With `remove` it goes."""
        ...

    def make_folder(self, folder: Path) -> None:
        """Makes the folder for the files of a run that exists, where it has none yet: it may have begun on another machine.

        Raises:
            StoreError: a run of another place has that folder.
        """
        ...

    def exists(self, folder: Path) -> bool:
        """Whether a run's log has been made."""
        ...

    def where(self, folder: Path) -> str:
        """What to call a run's log before people."""
        ...

    def reader(self, folder: Path) -> Reader:
        """Opens a run's log for reading, whether or not its writer is at work."""
        ...

    def writer(self, folder: Path) -> Writer:
        """Takes a run: fences earlier writers, and makes the log if there is none.

        Raises:
            StoreError: another process works on it; the message says which, and since when.
        """
        ...

    def holder(self, folder: Path) -> str | None:
        """Who works on a run, as `process 17 on HOST since 2031-04-12 15:09:00`; None if nobody does."""
        ...

    def post(self, folder: Path, kind: str, text: str) -> str:
        """Leaves a message for whoever works on a run, now or later, and returns its id; it is durable then."""
        ...

    def messages(self, folder: Path) -> list[Message]:
        """The messages that wait, in the order in which they were left."""
        ...

    def heard(self, folder: Path, id: str) -> None:
        """Takes a message away, once what it asked for is durable. One that is gone already is no error."""
        ...

    def size(self, folder: Path) -> int:
        """Bytes that a run's log and bodies take once nobody works on it, roughly; cheap."""
        ...

    def damage(self, folder: Path) -> Damage | None:
        """Reads all of a run's log, and every body: the first thing that is damaged or missing. Safe while somebody works on it.

        Raises:
            StoreError: there is no log, or it is newer than this software.
        """
        ...

    def repair(self, folder: Path) -> Damage | None:
        """Mends what `damage` finds, after a copy of what that costs was made in the run's folder; None: nothing is wrong.

        Raises:
            StoreError: somebody works on the run, or it can't be mended.
        """
        ...

    def needless(self, folder: Path) -> list[Needless]:
        """What a run holds that nothing needs. Safe while somebody works on it, when it may name what is being written."""
        ...

    def free(self, folder: Path) -> list[Needless]:
        """Removes what a run holds that nothing needs, and says what that was.

        Raises:
            StoreError: somebody works on the run, or its log can't be read.
        """
        ...

    def remove(self, folder: Path, begun: bool = True) -> None:
        """Deletes a run's log, bodies and messages, and its folder; with `begun` false only if the log holds no event.

        Raises:
            StoreError: there is no such run, somebody works on it, it has begun, or the folder holds another program's database.
        """
        ...
