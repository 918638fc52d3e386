"""Runs whose logs lie in their own folders: SQLite files, an inbox of small files, and a lock that the kernel keeps.

Owns nothing but the choice of these parts; each stands in a module of its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import StoreError
from swarm.store import damage, inbox, retention, wal
from swarm.store.blobs import open_blobs, sync_folder
from swarm.store.connection import check_removable, create, naming, open_reading
from swarm.store.interface import Damage, Message, Needless, Place, folder_option, has_begun
from swarm.store.lock import FolderLock, holder
from swarm.store.mark import MARK
from swarm.store.sqlite import LOG, SqliteReader, SqliteWriter

LATEST = "latest"
SPEC = "spec.yaml"
_OF_A_RUN = frozenset({
    "lock", MARK, SPEC, "blobs", "inbox", "logs", "starting", "driver.json", "driver.log",
    "answer.json", "report.html", "report.md", "rows.csv",
})  # fmt: skip
"""What the folder of a run may hold without its log. Many another folder has a file called `spec.yaml`."""


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """The place of runs that lie in folders; see `Place`."""

    blobs: str = ""
    """Where large bodies of new runs go, as an fsspec URL; empty for `blobs/` in the run's folder."""

    def title(self, root: Path) -> str:
        return str(root)

    def option(self, root: Path) -> str:
        return folder_option(root)

    def ids(self, root: Path) -> list[str]:
        with naming(root):
            return [path.name for path in root.iterdir() if _holds_run(path)] if root.is_dir() else []

    def latest(self, root: Path) -> str:
        link = root / LATEST
        return os.readlink(link) if link.is_symlink() else ""

    def make_latest(self, folder: Path) -> None:
        """The link says it."""

    def create(self, folder: Path) -> bool:
        with naming(folder):
            if self.exists(folder):
                return False
            lock = FolderLock.take(folder / "lock")
            try:
                if self.exists(folder):
                    return False
                open_blobs(self.blobs, folder)  # says what is wrong with it before there is a log
                create(folder / LOG, self.blobs)
            except StoreError:
                (folder / "lock").unlink(missing_ok=True)  # as if nobody had been here
                raise
            finally:
                lock.release()
        return True

    def publish(self, draft: Path, folder: Path) -> bool:
        with naming(folder):
            try:
                os.rename(draft, folder)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    return False
                raise
            sync_folder(folder.parent)
        return True

    def beside(self, root: Path, remove: bool) -> list[Needless]:
        def look(draft: Path) -> int | None:
            with naming(draft):
                names = set(os.listdir(draft))  # none where the process died before it took the lock
            if (names and not names & {"lock", LOG, MARK, SPEC}) or self.holder(draft) is not None:
                return None
            size = self.size(draft)
            if remove:
                self.remove(draft)
            return size

        return retention.links(root, remove) + retention.drafts(retention.draft_folders(root), look)

    def make_folder(self, folder: Path) -> None:
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def exists(self, folder: Path) -> bool:
        try:
            (folder / LOG).lstat()  # of a link to nothing too: whoever opens it is told
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass  # nobody may look: whoever opens it is told why
        return True

    def where(self, folder: Path) -> str:
        return str(folder / LOG)

    def reader(self, folder: Path) -> SqliteReader:
        return SqliteReader.open(folder)

    def writer(self, folder: Path) -> SqliteWriter:
        return SqliteWriter.open(folder, self.blobs)

    def holder(self, folder: Path) -> str | None:
        with naming(folder / "lock"):
            return holder(folder / "lock")

    def post(self, folder: Path, kind: str, text: str) -> str:
        return inbox.post(folder, kind, text)

    def messages(self, folder: Path) -> list[Message]:
        return inbox.messages(folder)

    def heard(self, folder: Path, id: str) -> None:
        inbox.heard(folder, id)

    def size(self, folder: Path) -> int:
        log, blobs = folder / LOG, folder / "blobs"
        with naming(folder):
            large = sum(_length(file) for file in (blobs.iterdir() if blobs.is_dir() else ()))
            if not _length(wal.of(log)):
                return _length(log) + large
        # The write-ahead log holds the same page many times, and in the end it goes into the log: what will be there counts.
        with closing(open_reading(log)) as connection, naming(log):
            return int(connection.pragma("page_count")) * int(connection.pragma("page_size")) + large

    def damage(self, folder: Path) -> Damage | None:
        return damage.verify(folder)

    def repair(self, folder: Path) -> Damage | None:
        return damage.repair(folder, apply=True)

    def needless(self, folder: Path) -> list[Needless]:
        return retention.needless(folder)

    def free(self, folder: Path) -> list[Needless]:
        return retention.free(folder)

    def remove(self, folder: Path, begun: bool = True) -> None:
        if folder.is_symlink() or not folder.is_dir():
            cure = "`swarm list` shows the runs there are"
            raise StoreError(f"there is no run {folder.name!r}", str(folder), cure)
        with naming(folder):
            if (folder / LOG).is_file():
                check_removable(folder / LOG)  # before even a lock is put there
            lock = FolderLock.take(folder / "lock")
            try:
                if not begun:
                    with self.reader(folder) as reader:
                        if reader.last():
                            raise has_begun(folder.name)
                retention.delete(folder, {LOG, "lock"})
            finally:
                lock.release()


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def of_a_run(names: Iterable[str]) -> bool:
    """Whether a folder that holds these may be a run's, and nothing of anybody else's."""
    return all(name in _OF_A_RUN or name.startswith(LOG) for name in names)


def _holds_run(folder: Path) -> bool:
    """Whether a folder is a run's: what merely lies beside the runs must never be taken for one, least of all by `rm`."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            return False
        return (folder / LOG).is_file() or ((folder / SPEC).is_file() and of_a_run(os.listdir(folder)))
    except OSError:
        return True  # nobody may look: it is listed with the reason, and `rm` is refused for the same


FOLDERS: Place = FolderPlace()
"""Where runs lie unless something else is said."""
