"""The room that is kept beside a log for its last words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from swarm.store import reserve
from swarm.store.reserve import RESERVE_BYTES
from tests.jobs import job, run, write_sources
from tests.test_store_full import SmallDisk


def test_the_room_is_there_while_it_is_kept_and_no_longer(tmp_path: Path) -> None:
    log = tmp_path / "log.sqlite"
    log.write_bytes(b"a log")
    for _ in range(2):  # what a killed driver left is the next one's
        reserve.keep(log)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) == RESERVE_BYTES + len(b"a log")
    for _ in range(2):
        reserve.give(log)
        assert os.listdir(tmp_path) == [log.name]


def test_a_log_that_is_no_file_has_its_room_elsewhere(tmp_path: Path) -> None:
    reserve.keep(tmp_path / "log.sqlite")
    assert not os.listdir(tmp_path)


def test_a_disk_without_that_much_room_is_no_error(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk")
    try:
        if not disk.mounted:
            pytest.skip("this needs the right to mount a small disk")
        log = disk.path / "log.sqlite"
        log.write_bytes(b"a log")
        disk.fill()
        reserve.keep(log)
        with pytest.raises(OSError) as full:
            (disk.path / "more").write_bytes(b"x")
        assert full.value.errno == errno.ENOSPC
    finally:
        disk.close()


def test_a_run_that_has_come_to_an_end_keeps_no_room(tmp_path: Path) -> None:
    folder = run(job(write_sources(tmp_path, 2)), tmp_path / "runs")
    assert not list(folder.path.glob("*reserve*"))
