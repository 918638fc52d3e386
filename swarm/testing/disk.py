"""A disk that remembers what SQLite asked of it, and that can fail: a VFS around the system's own.

Owns the record of writes, syncs, truncations and deletions in their order, the images of files that a power cut may leave
behind, and I/O errors at the n-th operation. It knows no log: a test marks in the record what it was told is durable. Only
what SQLite does through its VFS is seen, which leaves out the shared memory file (no image has one) and our own blobs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import apsw

How = Literal["none", "all", "prefix", "subset", "torn-512", "torn-4096", "zeroed"]
"""What becomes of writes that no sync followed: all lost, none lost, the first few kept, any of them kept, or the first few
kept and one more in part, by sectors of that size, or with zeros where the file grew."""
HOWS: tuple[How, ...] = ("none", "all", "prefix", "subset", "torn-512", "torn-4096", "zeroed")


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that was asked of the disk. `offset` is a size for `truncate`, and the test's own number for `mark`."""

    kind: Literal["write", "sync", "truncate", "delete", "mark"]
    path: str = ""
    offset: int = 0
    data: bytes = b""


class Disk(apsw.VFS):
    """The VFS of every connection that is opened while it is the default one; see `recorded`.

    Args:
        fails_at: the number of the read, write, sync or truncation that fails, from 1; 0 for none.
        error: what it fails with.
        lasting: whether all later ones fail as well.
    """

    def __init__(self, fails_at: int = 0, error: type[apsw.Error] = apsw.IOError, lasting: bool = False) -> None:
        super().__init__("recorded", "", makedefault=True)
        self.operations: list[Operation] = []
        self.count = self.failed = 0
        self._fails_at, self._error, self._lasting = fails_at, error, lasting

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> DiskFile:
        return DiskFile(self, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        super().xDelete(name, syncdir)
        self.operations.append(Operation("delete", name))

    def mark(self, number: int) -> None:
        """Notes that everything up to a number of the test's own was acknowledged here."""
        self.operations.append(Operation("mark", offset=number))

    def asked(self) -> None:
        """Counts an operation, and fails it if its turn has come."""
        self.count += 1
        if self._fails_at and (self.count == self._fails_at or (self._lasting and self.count > self._fails_at)):
            self.failed += 1
            raise self._error("the disk fails here on purpose")


class DiskFile(apsw.VFSFile):
    """One open file of a `Disk`."""

    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.asked()
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.asked()
        super().xWrite(data, offset)
        self._disk.operations.append(Operation("write", self._path, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        self._disk.asked()
        super().xTruncate(newsize)
        self._disk.operations.append(Operation("truncate", self._path, newsize))

    def xSync(self, flags: int) -> None:
        self._disk.asked()
        super().xSync(flags)
        self._disk.operations.append(Operation("sync", self._path))


@contextmanager
def recorded(fails_at: int = 0, error: type[apsw.Error] = apsw.IOError, lasting: bool = False) -> Iterator[Disk]:
    """While it holds, every connection that is opened uses a new `Disk`. Close them before it ends."""
    usual = apsw.vfs_names()[0]
    disk = Disk(fails_at, error, lasting)
    try:
        yield disk
    finally:
        apsw.set_default_vfs(usual)
        disk.unregister()


def acknowledged(operations: Sequence[Operation], upto: int) -> int:
    """The last number that was marked within the first `upto` operations, 0 for none."""
    return next((one.offset for one in reversed(operations[:upto]) if one.kind == "mark"), 0)


def image(
    before: dict[str, bytes], operations: Sequence[Operation], upto: int, how: How, chance: random.Random
) -> dict[str, bytes | None]:
    """What a power cut after the first `upto` operations may leave of each file: path → bytes; None: there is no such file.

    Args:
        before: the files as they were, durably, before the first operation.
        operations: what a `Disk` recorded.
        upto: how many of them came before the cut.
        how: what becomes of writes that no sync followed.
        chance: draws which of them are kept.
    """
    files: dict[str, bytes | None] = dict(before)
    for path in sorted({one.path for one in operations[:upto] if one.path} | before.keys()):
        mine = [one for one in operations[:upto] if one.path == path]
        synced = max((at + 1 for at, one in enumerate(mine) if one.kind == "sync"), default=0)
        content = _applied(files.get(path), mine[:synced])
        files[path] = _applied(content, _survivors(content, mine[synced:], how, chance))
    return files


def write_image(files: dict[str, bytes | None], source: Path, target: Path) -> None:
    """Lays an image of the files of one folder down in another."""
    for path, data in files.items():
        if data is not None and Path(path).parent == source:
            (target / Path(path).name).write_bytes(data)


def _survivors(content: bytes | None, pending: list[Operation], how: How, chance: random.Random) -> list[Operation]:
    if how == "none":
        return []
    if how == "all":
        return pending
    if how == "subset":
        return [one for one in pending if chance.random() < 0.5]
    kept = chance.randrange(len(pending) + 1)
    if how == "prefix" or kept == len(pending):
        return pending[:kept]
    last, size = pending[kept], len(_applied(content, pending[:kept]) or b"")
    if last.kind != "write":
        return pending[:kept]
    if how == "zeroed":
        grown = max(0, last.offset + len(last.data) - max(size, last.offset))
        torn = [Operation("write", last.path, last.offset, last.data[: len(last.data) - grown] + bytes(grown))]
    else:
        sector = 512 if how == "torn-512" else 4096
        torn = [piece for piece in _sectors(last, sector) if chance.random() < 0.5]
    return pending[:kept] + torn


def _sectors(write: Operation, size: int) -> Iterator[Operation]:
    """A write in pieces that end where the disk's sectors do."""
    at = 0
    while at < len(write.data):
        length = size - (write.offset + at) % size
        yield Operation("write", write.path, write.offset + at, write.data[at : at + length])
        at += length


def _applied(content: bytes | None, operations: Sequence[Operation]) -> bytes | None:
    data = None if content is None else bytearray(content)
    for one in operations:
        if one.kind == "delete":
            data = None
        elif one.kind in ("write", "truncate"):
            data = bytearray() if data is None else data
            if one.kind == "truncate":
                del data[one.offset :]
                continue
            data.extend(bytes(max(0, one.offset - len(data))))
            data[one.offset : one.offset + len(one.data)] = one.data
    return None if data is None else bytes(data)
