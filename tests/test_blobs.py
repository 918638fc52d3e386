"""Large bodies are durable before the event that names them commits, wherever they lie, and what is torn there is replaced."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from swarm.events import body_hash
from swarm.store.blobs import BLOB_BYTES, Blobs, open_blobs
from swarm.store.sqlite import SqliteWriter

DATA = b"d" * (BLOB_BYTES + 1)
HASH = body_hash(DATA)
TORN = DATA[:4096] + bytes(len(DATA) - 4096)
"""What a power cut leaves of it where a file grows before its content is written."""


def asked_of_the_disk(work: Callable[[], object]) -> list[str]:
    """What Python asks the system to sync or rename, in order."""
    asked: list[str] = []

    def watch(_: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function in (os.fsync, os.replace):
            asked.append(function.__name__)

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return asked


@pytest.mark.parametrize("form", ["", "file://{}", "local://{}", "{}"])
def test_a_body_in_a_folder_is_synced_before_it_has_its_name(tmp_path: Path, form: str) -> None:
    url = form.format(tmp_path / "blobs")
    blobs = open_blobs(url, tmp_path)
    blobs.put(body_hash(b""), b"")  # makes the folder
    assert asked_of_the_disk(lambda: blobs.put(HASH, DATA)) == ["fsync", "replace", "fsync"]
    assert blobs.get(HASH) == DATA and (tmp_path / "blobs" / HASH).read_bytes() == DATA
    assert asked_of_the_disk(lambda: blobs.put(HASH, DATA)) == ["fsync"], "one that is whole is not written again"


def test_folders_on_the_way_are_made_and_synced(tmp_path: Path) -> None:
    def work() -> None:
        with SqliteWriter.open(tmp_path / "run", f"file://{tmp_path}/a/b/c") as writer:
            writer.append([], {HASH: DATA})

    assert asked_of_the_disk(work)[-6:] == ["fsync"] * 4 + ["replace", "fsync"]
    assert (tmp_path / "a" / "b" / "c" / HASH).read_bytes() == DATA


class Store(MemoryFileSystem):  # type: ignore[misc]
    """An object store that counts what is written."""

    protocol = "counted"
    written: ClassVar[list[str]] = []

    def pipe_file(self, path: str, value: bytes, **options: object) -> None:
        self.written.append(path)
        super().pipe_file(path, value, **options)


def in_folder(tmp_path: Path) -> tuple[Blobs, Callable[[bytes], object]]:
    blobs = open_blobs(f"file://{tmp_path}/blobs", tmp_path)
    return blobs, (tmp_path / "blobs" / HASH).write_bytes


def in_store(tmp_path: Path) -> tuple[Blobs, Callable[[bytes], object]]:
    fsspec.register_implementation("counted", Store, clobber=True)
    url = f"counted://{tmp_path.name}"
    files, path = fsspec.core.url_to_fs(f"{url}/{HASH}")
    return open_blobs(url, tmp_path), lambda data: files.pipe_file(path, data)


@pytest.mark.parametrize("made", [in_folder, in_store])
def test_a_torn_body_of_the_right_size_is_replaced(
    tmp_path: Path, made: Callable[[Path], tuple[Blobs, Callable[[bytes], object]]]
) -> None:
    blobs, harm = made(tmp_path)
    blobs.put(HASH, DATA)
    harm(TORN)
    blobs.put(HASH, DATA)
    assert blobs.get(HASH) == DATA


def test_an_object_that_is_whole_is_not_written_again(tmp_path: Path) -> None:
    blobs, _ = in_store(tmp_path)
    Store.written.clear()
    blobs.put(HASH, DATA)
    blobs.put(HASH, DATA)
    assert len(Store.written) == 1
