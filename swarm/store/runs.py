"""All runs of one `--runs` value: which there are, how they stand, and which one a person means.

Owns the reading of that value: a folder, or the URL of a PostgreSQL database.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import SpecError, StoreError
from swarm.store import retention
from swarm.store.folder import RunFolder, RunStatus, may_name, read_status
from swarm.store.interface import FILES, Needless, Place
from swarm.store.place import FOLDERS, LATEST, FolderPlace

_DATABASE = re.compile(r"\s*postgres(ql)?:", re.IGNORECASE)
"""How a value begins that is meant as a database's URL."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs with their files under `root` and their logs in `place`. Creating the value touches nothing."""

    root: Path
    place: Place = FOLDERS

    def __str__(self) -> str:
        return self.place.title(self.root)

    def run(self, id: str) -> RunFolder:
        """The run of this id, whether it exists or not.

        Raises:
            SpecError: the id is not a plain name.
        """
        return RunFolder(self.root, id, self.place)

    def ids(self) -> list[str]:
        """The ids of all runs, sorted."""
        return sorted(id for id in self.place.ids(self.root) if may_name(id))

    def beside(self, remove: bool) -> Sequence[Needless]:
        """What crashes left beside the runs; see `Place.beside` and `retention.starts`."""
        return [*retention.starts(self.root, self.place.holder, remove), *self.place.beside(self.root, remove)]

    def list(self) -> list[RunStatus]:
        """How all runs with a log stand, the newest first."""
        found = [status for run in map(self.run, self.ids()) if (status := _standing(run)) is not None]
        return sorted(found, key=lambda status: (-status.created, status.id))

    def find(self, name: str) -> RunFolder:
        """The run that a person means: an id, the start of one that fits no other, or `latest`.

        Raises:
            StoreError: no run, or several, fit.
        """
        cure = "`swarm list` shows the runs there are; --runs or $SWARM_RUNS says where they lie"
        if not name:
            raise StoreError("an empty name means no run", str(self), cure)
        latest = self.place.latest(self.root) if name == LATEST else ""  # first: another may be made meanwhile
        runs = self.ids()
        if name == LATEST:
            if latest not in runs:  # none was made, or it is gone; the beginning of another's name it must not be
                raise StoreError("there is no latest run", str(self), cure)
            name = latest
        fitting = [name] if name in runs else [run for run in runs if run.startswith(name)]
        if len(fitting) != 1:
            problem = f"{name!r} could be {', '.join(fitting)}" if fitting else f"there is no run {name!r}"
            raise StoreError(problem, str(self), cure)
        return self.run(fitting[0])


def _standing(run: RunFolder) -> RunStatus | None:
    """How a run stands; None without a log. What nobody foresaw is that run's trouble, and no other's."""
    try:
        return read_status(run) if run.exists() else None
    except StoreError:
        raise  # whether there is a log could not even be asked: it is the place's trouble
    except Exception as error:  # noqa: BLE001  it is told
        problem = f"its log cannot be read ({type(error).__name__}: {error})"
        return RunStatus(run.id, "unreadable", detail=problem, cure="check the run's folder, and who may read it")


def open_runs(option: str | None, environment: Mapping[str, str]) -> Runs:
    """Where runs lie: the option `--runs`, else $SWARM_RUNS, else `runs` in the working folder. $SWARM_BLOBS is where large
    bodies of new runs go, as an fsspec URL; a log remembers where its own are.

    Raises:
        SpecError: it names what is no folder, or a kind of place that there is not, or is like the URL of a database and none.
    """
    value = option or environment.get("SWARM_RUNS") or FILES
    blobs = environment.get("SWARM_BLOBS", "")
    if blobs.startswith("memory:"):
        raise SpecError("bodies in the memory of a process are gone with it", "SWARM_BLOBS", "name a folder, or a bucket")
    kind, mark, _ = value.partition("://")
    if mark and kind in ("postgresql", "postgres"):
        from swarm.store.database import Address
        from swarm.store.postgres_place import PostgresPlace

        return Runs(Path(FILES), PostgresPlace(Address(value), blobs))
    if _DATABASE.match(value):  # a folder's name would be told to everybody, and this may hold a password
        from swarm.store.database import no_address

        raise no_address()
    if not mark:
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise SpecError(f"{value!r} is not UTF-8, and SQLite opens no file under it", "--runs", "name another folder")
        root = Path(os.path.expanduser(value))
        if root.exists() and not root.is_dir():  # a device or a pipe has no runs either, and will never have any
            what = "a file, not a folder" if root.is_file() else "there, and is no folder"
            raise SpecError(f"{value} is {what}", "--runs", "name a folder, or one that is to be made")
        return Runs(root, FolderPlace(blobs) if blobs else FOLDERS)
    cure = "name a folder, or a database as postgresql://USER@HOST/DATABASE"
    raise SpecError(f"runs cannot be kept in {kind}://", "--runs", cure)
