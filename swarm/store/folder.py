"""The folder of a run: where its files lie, how runs are named, found, listed and removed.

Owns the layout under `runs/` and the `latest` link. What the files contain belongs to those who write them.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from swarm.errors import SpecError, StoreError
from swarm.events import Event, JobCreated, JobEnded, JobOpened, PhaseChanged, identity
from swarm.store.blobs import sync_folder
from swarm.store.connection import naming
from swarm.store.lock import FolderLock, holder
from swarm.store.sqlite import LOG, SqliteReader

LATEST = "latest"
SPEC = "spec.yaml"
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run under a root. Creating the value touches no disk.

    Raises:
        SpecError: the id is not a plain name.
    """

    root: Path
    id: str

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or self.id == LATEST:
            cure = "use up to 64 of a-z, 0-9, dot, dash and underscore, other than `latest`"
            raise SpecError(f"{self.id!r} cannot name a run", "id", cure)

    @property
    def path(self) -> Path:
        return self.root / self.id

    @property
    def log(self) -> Path:
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
    def logs(self) -> Path:
        """Where hosts and model servers write what they print."""
        return self.path / "logs"

    def check_free(self) -> None:
        """Says early what `create` would find.

        Raises:
            StoreError: a run of this id exists.
        """
        if os.path.lexists(self.path):
            raise self._taken()

    def _taken(self) -> StoreError:
        cure = f"choose another id, or `swarm resume {self.id}`"
        return StoreError(f"a run called {self.id!r} exists already", str(self.path), cure)

    def create(self) -> None:
        """Makes the folder.

        Raises:
            StoreError: a run of this id exists, or the folder cannot be made.
        """
        with naming(self.path):
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                self.path.mkdir()
            except FileExistsError as error:
                raise self._taken() from error
            sync_folder(self.root)

    def make_latest(self) -> None:
        """Points `latest` at this run, in one step.

        Raises:
            StoreError: something other than a link is called `latest`, or links cannot be made here.
        """
        link, draft = self.root / LATEST, self.root / f".{LATEST}.{uuid.uuid4().hex}"
        with naming(link):
            os.symlink(self.id, draft)
            try:
                os.replace(draft, link)
            finally:
                draft.unlink(missing_ok=True)

    def is_latest(self) -> bool:
        """Whether `latest` points at this run."""
        link = self.root / LATEST
        return link.is_symlink() and os.readlink(link) == self.id

    def holder(self) -> str | None:
        """Who is working on this run, as `process 17 on HOST`; None if nobody is."""
        with naming(self.lock):
            return holder(self.lock)

    def remove(self) -> None:
        """Deletes the run and all its files.

        Raises:
            StoreError: there is no such run, or it is in use.
        """
        if not self.path.is_dir():
            cure = "`swarm list` shows the runs there are"
            raise StoreError(f"there is no run {self.id!r}", str(self.path), cure)
        with naming(self.path):
            lock = FolderLock.take(self.lock)
            try:
                shutil.rmtree(self.path)
                if self.is_latest():
                    (self.root / LATEST).unlink()
            finally:
                lock.release()


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands, read from a few records.

    `status`: what JobEnded said; else the phase it works in; `interrupted` if it has no end and no holder;
    `new` without events; `damaged` with the reason in `detail`. `created` and `updated` are seconds since
    1970, 0 without events.
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


def read_status(run: RunFolder) -> RunStatus:
    """The status of one run; a log that cannot be read is a status, not an error."""
    try:
        active = run.holder()
        with SqliteReader.open(run.path) as reader:
            last = reader.last()
            newest = next(reader.read(after=last - 1), None) if last else None
            return _summed_up(run.id, list(reader.life()), newest, active)
    except StoreError as error:
        return RunStatus(run.id, "damaged", detail=error.message)


def _summed_up(id: str, life: list[Event], newest: Event | None, active: str | None) -> RunStatus:
    if newest is None:
        return RunStatus(id, "new", holder=active)
    name, phase, ended, detail = "", "", "", ""
    for event in life:
        match event.body:
            case JobCreated():
                name = event.body.name
            case JobOpened():
                ended, detail = "", ""
            case PhaseChanged():
                phase, detail = event.body.phase, event.body.reason
            case JobEnded():
                ended, detail = event.body.status, event.body.reason
    standing = ended or (phase or "opening" if active or phase == "paused" else "interrupted")
    created = life[0].time if life else newest.time
    return RunStatus(id, standing, name, phase, newest.seq, created, newest.time, active, detail)


def list_runs(root: Path) -> list[RunStatus]:
    """All runs under a root, the newest first."""
    if not root.is_dir():
        return []
    with naming(root):
        names = [path.name for path in root.iterdir() if not path.is_symlink() and (path / LOG).exists()]
    found = [read_status(RunFolder(root, name)) for name in names if _ID.fullmatch(name)]
    return sorted(found, key=lambda status: (-status.created, status.id))


def find_run(root: Path, name: str) -> RunFolder:
    """The run that a person means: an id, the start of one that fits no other, or `latest`.

    Raises:
        StoreError: no run, or several, fit; folders without a log and a spec are none.
    """
    if not name:
        raise StoreError("an empty name means no run", str(root), "`swarm list` shows the runs there are")
    if name == LATEST and (root / LATEST).is_symlink():
        name = os.readlink(root / LATEST)
    entries = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    runs = [entry for entry in entries if _ID.fullmatch(entry) and entry != LATEST and _holds_run(root / entry)]
    fitting = [name] if name in runs else [run for run in runs if run.startswith(name)]
    if len(fitting) != 1:
        problem = f"{name!r} could be {', '.join(fitting)}" if fitting else f"there is no run {name!r}"
        cure = "`swarm list` shows the runs there are; --runs or $SWARM_RUNS says where they lie"
        raise StoreError(problem, str(root), cure)
    return RunFolder(root, fitting[0])


def _holds_run(folder: Path) -> bool:
    """Whether a folder is a run's: what merely lies beside the runs must never be taken for one, least of all by `rm`."""
    return not folder.is_symlink() and any((folder / name).is_file() for name in (LOG, SPEC))


def runs_root(option: str | None, environment: Mapping[str, str]) -> Path:
    """Where runs lie: the option `--runs`, else $SWARM_RUNS, else `runs` in the working folder."""
    return Path(option or environment.get("SWARM_RUNS") or "runs").expanduser()


def new_id(name: str, now: datetime, taken: Collection[str]) -> str:
    """A short id that people can type, such as `demo-0412-a1b2`; depends only on its arguments."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:32].rstrip("-") or "job"
    attempt = 0
    while (found := f"{stem}-{now:%m%d}-{identity(name, now.isoformat(), attempt)[:4]}") in taken:
        attempt += 1
    return found
