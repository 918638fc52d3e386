"""Bodies too large for the database: a folder, or any place that fsspec can reach.

Owns putting bytes there durably under their hash and reading them back verified. Which bodies come here, and
which of them a log knows, is the business of the store beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from swarm.errors import StoreError
from swarm.events import body_hash
from swarm.names import draft_name

BLOB_BYTES = 1 << 20
"""Bodies with more bytes than this lie outside the database."""


class Blobs(Protocol):
    """Bytes by hash. `put` returns when they are durable."""

    def put(self, hash: str, data: bytes) -> None:
        """Stores bytes. What lies under that name is left alone if it is the same, else replaced: it may be torn.

        Raises:
            OSError: they could not be made durable; nothing half-written is left.
        """
        ...

    def get(self, hash: str) -> bytes:
        """The bytes of a blob, verified.

        Raises:
            StoreError: it is missing or damaged.
        """
        ...


def open_blobs(url: str, folder: Path) -> Blobs:
    """The blob store at an fsspec URL; an empty URL means `blobs/` in the run's folder.

    Raises:
        StoreError: no such kind of place, or its library is not installed.
    """
    return blobs_at(url) if url else FolderBlobs(folder / "blobs")


def blobs_at(url: str) -> Blobs:
    """The blob store at an fsspec URL.

    Raises:
        StoreError: no such kind of place, or its library is not installed.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

    try:
        files, root = url_to_fs(url)
    except (ValueError, ImportError) as error:
        cure = "use a folder or a URL that fsspec knows"
        raise StoreError(f"bodies cannot be kept here: {error}", url, cure) from error
    # What fsspec writes into a folder is on the disk at some later time, and half of it at any.
    return FolderBlobs(Path(root)) if isinstance(files, LocalFileSystem) else RemoteBlobs(url, files, root)


class FolderBlobs:
    """One file for each blob, made durable before its name appears."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, hash: str, data: bytes) -> None:
        path = self.folder / hash
        if not path.exists() or path.read_bytes() != data:
            _make_durably(self.folder)
            write_durably(path, data)
        sync_folder(self.folder)  # also for one that exists: who wrote it may have died before this line

    def get(self, hash: str) -> bytes:
        path = self.folder / hash
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise StoreError("this body is missing", str(path), "restore it from a copy") from error
        return verified(hash, data, str(path))


class RemoteBlobs:
    """One object for each blob under an fsspec URL, such as `s3://bucket/folder` or `memory://folder`."""

    def __init__(self, url: str, files: Any, root: str) -> None:
        self.url, self._files, self._root = url, files, root.rstrip("/")

    def put(self, hash: str, data: bytes) -> None:
        path = f"{self._root}/{hash}"
        with suppress(FileNotFoundError):  # read, not only measured; and not written anew, lest a crash tears what was whole
            if self._files.cat_file(path) == data:
                return
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(path, data)

    def get(self, hash: str) -> bytes:
        where = f"{self.url}/{hash}"
        try:
            data = bytes(self._files.cat_file(f"{self._root}/{hash}"))
        except FileNotFoundError as error:
            raise StoreError("this body is missing", where, "restore it from a copy") from error
        return verified(hash, data, where)


def verified(hash: str, data: bytes, where: str) -> bytes:
    """The data, if it is what its hash names; a damaged page may hold what is not even bytes.

    Raises:
        StoreError: it is not.
    """
    if not isinstance(data, bytes) or body_hash(data) != hash:
        raise StoreError(
            f"the body {hash} is damaged: its content has another hash", where, "restore it from a copy"
        )
    return data


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all; its name is durable after `sync_folder`."""
    with writing_durably(path) as file:
        file.write(data)


@contextmanager
def writing_durably(path: Path) -> Iterator[IO[bytes]]:
    """As `write_durably`, for what is written piece by piece: what was there stays until all of it is written."""
    draft = path.with_name(draft_name(path.name))
    try:
        with open(draft, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _make_durably(folder: Path) -> None:
    if not folder.exists():
        _make_durably(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
