"""The folder of a run: where its files lie, and the doors to its log wherever that is.

Owns the layout of a run's folder and the `latest` link. What the files contain belongs to those who write them; how a
log is kept, to the run's place.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from swarm.coordinator.tables import OVER_BUDGET
from swarm.errors import DamageError, SpecError, StoreError, on_a_line
from swarm.events import CARETAKER, DESK, Event, JobCreated, JobEnded, JobOpened, PhaseChanged, ReportWritten, identity
from swarm.names import IN_VAIN, draft_name, is_draft, reason_body
from swarm.store.blobs import sync_folder
from swarm.store.connection import check_removable, naming
from swarm.store.interface import Damage, Message, Needless, Place, Reader, Writer
from swarm.store.lock import FolderLock
from swarm.store.mark import MARK
from swarm.store.place import FOLDERS, LATEST, SPEC
from swarm.store.retention import drop_latest
from swarm.store.sqlite import LOG

_BEFORE = {"lock", MARK, *(f"{LOG}.new{ending}" for ending in ("", "-journal", "-wal", "-shm"))}
"""What may lie in a run's folder before its log does."""
_UNBEGUN = {*_BEFORE, *(f"{LOG}{ending}" for ending in ("", "-wal", "-shm")), SPEC, "blobs"}
"""What may lie there before the log's first event does."""
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run under a root. Creating the value touches no disk.

    Raises:
        SpecError: the id is not a plain name.
    """

    root: Path
    id: str
    place: Place = FOLDERS
    """Where its log, inbox and holder are."""

    def __post_init__(self) -> None:
        if not may_name(self.id):
            cure = "use up to 64 of a-z, 0-9, dot, dash and underscore, other than `latest`"
            raise SpecError(f"{self.id!r} cannot name a run", "id", cure)

    # ---- files ----

    @property
    def path(self) -> Path:
        return self.root / self.id

    @property
    def log(self) -> Path:
        """The log, of a run that keeps it in its folder."""
        return self.path / LOG

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def spec(self) -> Path:
        return self.path / SPEC

    @property
    def answer(self) -> Path:
        return self.path / "answer.json"

    @property
    def report_markdown(self) -> Path:
        return self.path / "report.md"

    @property
    def report_html(self) -> Path:
        return self.path / "report.html"

    @property
    def rows(self) -> Path:
        return self.path / "rows.csv"

    @property
    def driver_log(self) -> Path:
        """What drivers without a terminal have printed."""
        return self.path / "driver.log"

    @property
    def logs(self) -> Path:
        """Where hosts and model servers write what they print."""
        return self.path / "logs"

    @property
    def option(self) -> str:
        """What a command line that names this run needs beside its id, to be found from here: ` --runs DIR`, or nothing where
        $SWARM_RUNS or the default leads to it. Every hint on how to go on ends with this."""
        return self.place.option(self.root)

    # ---- the log and what belongs to it ----

    @property
    def where(self) -> str:
        """What to call the log before people."""
        return self.place.where(self.path)

    def reader(self) -> Reader:
        """Opens the log for reading; see `Place.reader`."""
        return self.place.reader(self.path)

    def writer(self) -> Writer:
        """Takes the run; see `Place.writer`."""
        return self.place.writer(self.path)

    def exists(self) -> bool:
        """Whether its log has been made."""
        return self.place.exists(self.path)

    def holder(self) -> str | None:
        """Who is working on this run, as `process 17 on HOST since …`; None if nobody is."""
        return self.place.holder(self.path)

    def post(self, kind: str, text: str = "") -> str:
        """Leaves a message for whoever works on the run; see `Place.post`."""
        return self.place.post(self.path, kind, text)

    def messages(self) -> list[Message]:
        """The messages that wait, in the order in which they were left."""
        return self.place.messages(self.path)

    def heard(self, id: str) -> None:
        """Takes a message away whose effect is durable."""
        self.place.heard(self.path, id)

    def damage(self) -> Damage | None:
        """Reads all of the log and every body: the first thing that is wrong; see `Place.damage`."""
        return self.place.damage(self.path)

    def verify(self) -> None:
        """As `damage`, which it raises."""
        if (found := self.damage()) is not None:
            raise found.error(self.option)

    def repair(self) -> Damage | None:
        """Mends what `damage` finds; see `Place.repair`."""
        return self.place.repair(self.path)

    def needless(self) -> list[Needless]:
        """What the run holds that nothing needs."""
        return self.place.needless(self.path)

    def free(self) -> list[Needless]:
        """Removes what the run holds that nothing needs; see `Place.free`."""
        return self.place.free(self.path)

    # ---- beginning and end ----

    def check_free(self) -> None:
        """Says early what `create` would find.

        Raises:
            StoreError: a run of this id exists.
        """
        if not self._left_over() or self.holder() is not None:
            raise self.taken()

    def _left_over(self) -> bool:
        """Whether there is nothing but what a crash leaves of a run that had not begun: its log, if there is one, is empty."""
        logged = self.exists()
        with naming(self.path):
            if os.path.lexists(self.path):
                if self.path.is_symlink() or not self.path.is_dir():
                    return False
                names = {name for name in os.listdir(self.path) if not (logged and is_draft(name))}
                if not names <= (_UNBEGUN if logged else _BEFORE):
                    return False
        if not logged:
            return True
        try:
            with self.reader() as reader:
                return reader.last() == 0 and reader.lost() is None
        except StoreError:  # whoever opens it is told why
            return False

    def clear(self) -> None:
        """Removes what a crash left of a run that had not begun, and nothing else.

        Raises:
            StoreError: somebody works on it, or has begun it just now.
        """
        if not self._left_over():
            return
        if self.exists():
            self.place.remove(self.path, begun=False)
        elif os.path.lexists(self.path):
            with naming(self.path):
                lock = FolderLock.take(self.lock)  # or somebody begins a run there just now
                try:
                    shutil.rmtree(self.path)
                finally:
                    lock.release()

    def taken(self) -> StoreError:
        """The error for a name that another run has, or something that is none."""
        known = self.holder() is not None or self.log.is_file() or self.id in self.place.ids(self.root)
        others = self._anothers() if known else "and is no run" if os.path.lexists(self.path) else ""
        if others:  # `swarm rm` would not take it
            problem = f"something called {self.id!r} exists already, {others}"
            return StoreError(problem, str(self.path), "move it away, or choose another id")
        named = f"{self.id}{self.option}"
        cure = f"choose another id, or `swarm resume {named}`; one that never began, `swarm rm {named}` removes"
        return StoreError(f"a run called {self.id!r} exists already", str(self.path), cure)

    def _anothers(self) -> str:
        """How the folder's log is another program's, or may be, in words; nothing if it is ours."""
        if self.where == str(self.log) and self.log.is_file():
            try:
                check_removable(self.log)
            except StoreError as error:
                return f"and {error.message}"
        return ""

    def create(self) -> None:
        """Makes the folder, and takes the name; that of a run which never began too, with its empty log. Of several who do so at
        once, the run is that one's whose writer finds no event.

        Raises:
            StoreError: a run of this id exists, or the folder cannot be made.
        """
        with naming(self.path):
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                self.path.mkdir()
            except FileExistsError as error:
                if not self._left_over():
                    raise self.taken() from error
            sync_folder(self.root)
        taken = True
        try:
            taken = not (self.place.create(self.path) or self._left_over())
        finally:
            if taken:
                with suppress(OSError):  # it is somebody else's now
                    self.path.rmdir()
        if taken:
            raise self.taken()

    @contextmanager
    def drafted(self) -> Iterator[Path]:
        """A folder under another name in which the run is made, by the doors of its place: when the block ends it takes its own
        name. So it appears whole or not at all, whenever the process dies; what a crash leaves, `swarm gc` finds.

        Raises:
            StoreError: a run of this id exists by then, or the folder cannot be made.
        """
        draft = self.root / draft_name(self.id)
        try:
            with naming(draft):
                draft.mkdir(parents=True)
            self.place.create(draft)
            yield draft
            self.clear()
            if not self.place.publish(draft, self.path):
                raise self.taken()
        except BaseException:
            with suppress(StoreError):
                self.place.remove(draft)
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def make_folder(self) -> None:
        """Makes the folder for the run's files, where there is none yet; see `Place.make_folder`."""
        self.place.make_folder(self.path)

    def make_latest(self) -> None:
        """Points `latest` at this run, in one step; in a database too, which does so for all who look there.

        Raises:
            StoreError: something other than a link is called `latest`, or links cannot be made here.
        """
        self.place.make_latest(self.path)
        link, draft = self.root / LATEST, self.root / draft_name(LATEST)
        with naming(link):
            os.symlink(self.id, draft)
            try:
                os.replace(draft, link)
            finally:
                draft.unlink(missing_ok=True)

    def is_latest(self) -> bool:
        """Whether `latest` points at this run."""
        return self.place.latest(self.root) == self.id

    def size(self) -> int:
        """Bytes of the log, its bodies and blobs."""
        return self.place.size(self.path)

    def remove(self) -> None:
        """Deletes the run and all its files.

        Raises:
            StoreError: there is no such run, it is in use, or its folder holds another program's database.
        """
        self.place.remove(self.path)
        drop_latest(self.root)


def may_name(id: str) -> bool:
    """Whether a run may have this id."""
    return _ID.fullmatch(id) is not None and id != LATEST


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands, read from a few records.

    `status`: what JobEnded said; else `budget` while it rests until it gets more, `paused`, `waiting` for a person, or
    `working`; if it works and has no holder, `answered` where a person's answer has set it going, else `interrupted`;
    `new` without events; `damaged`, or `unreadable` for any other cause (of a newer version, another program's, locked), with
    the reason in `detail` and what can be done in `cure`. `created` and `updated` are seconds since 1970, 0 without events.
    """

    id: str
    status: str
    name: str = ""
    phase: str = ""
    events: int = 0
    created: float = 0.0
    updated: float = 0.0
    holder: str | None = None
    detail: str = ""
    cure: str = ""
    code: str = ""
    """The reason as the log has it; `detail` is in words."""
    unreported: bool = False
    """Whether the job is over and its report was not written: its driver was killed in between."""

    @property
    def legible(self) -> bool:
        """Whether the log could be read."""
        return self.status not in ("damaged", "unreadable")

    @property
    def ended(self) -> bool:
        """Whether the job is over: nothing takes it up again."""
        return self.phase == "ended"


def read_status(run: RunFolder) -> RunStatus:
    """The status of one run; a log that cannot be read is a status, not an error."""
    active = None
    try:
        active = run.holder()
        with run.reader() as reader:
            if (lost := reader.lost()) is not None:
                raise lost.error(run.option)
            last = reader.last()
            newest = next(reader.read(after=last - 1), None) if last else None
            life = list(reader.life())
            status = _summed_up(run.id, life, newest, active)
            words = reason_words(reader, status.code)
            return replace(status, detail=words, unreported=_unreported(reader, life))
    except StoreError as error:
        standing = "damaged" if isinstance(error, DamageError) else "unreadable"
        return RunStatus(run.id, standing, holder=active, detail=error.message, cure=error.cure)


def read_sound_status(run: RunFolder) -> RunStatus:
    """The status of one run that can be gone on with.

    Raises:
        StoreError: its log cannot be read, or has lost records.
    """
    return sound(run, read_status(run))


def sound(run: RunFolder, known: RunStatus) -> RunStatus:
    """A run's status, if the run can be gone on with.

    Raises:
        StoreError: its log cannot be read, or has lost records.
    """
    if not known.legible:
        raise StoreError(known.detail, run.where, known.cure)
    return known


def _unreported(reader: Reader, life: list[Event]) -> bool:
    end = next((event.seq for event in reversed(life) if isinstance(event.body, JobEnded)), 0)
    return end > 0 and not any(isinstance(event.body, ReportWritten) for event in reader.read(after=end))


def reason_words(reader: Reader, reason: str) -> str:
    """Why a job stands as it does, in words; see `swarm.names.reason_body`."""
    kind, hash = reason.partition(":")[0], reason_body(reason)
    if not hash:
        return reason
    try:
        text = reader.body(hash).decode("utf-8", "replace")
        words = " ".join(text.split()) if kind == "person" else on_a_line(text)
    except StoreError:
        words = "(text withdrawn)"
    return f"{IN_VAIN[kind]}: {words}" if kind in IN_VAIN else words


def _summed_up(id: str, life: list[Event], newest: Event | None, active: str | None) -> RunStatus:
    if newest is None:
        return RunStatus(id, "new", holder=active)
    name, created, phase, ended, detail = "", newest.time, "", "", ""
    left = "interrupted"
    for event in life:
        match event.body:
            case JobCreated():
                name, created = event.body.name, event.time
            case JobOpened() if event.body.shell == DESK and detail.startswith(OVER_BUDGET):
                pass  # it rests until it gets more, whatever else it hears
            case JobOpened() if event.body.shell != CARETAKER:
                ended, detail = "", ""
                phase = "" if phase in ("paused", "ended") else phase
                left = "answered" if event.body.shell == DESK else "interrupted"
            case PhaseChanged():
                phase, detail = event.body.phase, event.body.reason
            case JobEnded():
                ended, detail, phase = event.body.status, event.body.reason, "ended"
    resting = phase if phase in ("paused", "waiting") else ""
    if resting and detail.startswith(OVER_BUDGET):
        resting = "budget"
    standing = ended or resting or (phase or "working" if active else left)
    return RunStatus(id, standing, name, phase, newest.seq, created, newest.time, active, code=detail)


def new_id(name: str, now: datetime, taken: Collection[str]) -> str:
    """A short id that people can type, such as `demo-0412-a1b2`; depends only on its arguments."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:32].rstrip("-") or "job"
    attempt = 0
    while (found := f"{stem}-{now:%m%d}-{identity(name, now.isoformat(), attempt)[:4]}") in taken:
        attempt += 1
    return found
