"""What power cuts and failing disks leave of a log: everything that was acknowledged.

Killing a process shows nothing of this kind, because the system keeps what a dead process had written; so the writes of the
SQLite that ships are recorded, and the files are put together as a power cut may have left them.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from swarm.store.sqlite import LOG
from swarm.testing.disk import HOWS, Operation, acknowledged, image
from tests.crash_images import BULK, Recording, cut, fail, fresh, record

IMAGES, FAILING = 350, 200


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory.mktemp("recorded") / "run", seed=1)


def test_every_image_of_a_power_cut_holds_what_was_acknowledged(recording: Recording, tmp_path: Path) -> None:
    seen = cut(recording, tmp_path, IMAGES, seed=2)
    assert all(seen[how] >= IMAGES // len(HOWS) for how in HOWS)
    assert seen["refused"] == 0, "SQLite can mend each of these"
    assert seen["torn"] > IMAGES // 10, "and what is cut off is said"


def test_the_recording_has_what_images_are_made_of(recording: Recording) -> None:
    kinds = Counter(one.kind for one in recording.operations)
    assert kinds["mark"] == 15 and kinds["sync"] > 20 and kinds["write"] > 100 and kinds["truncate"]
    files = {Path(one.path).name for one in recording.operations if one.path}
    assert files == {LOG, f"{LOG}-wal"}
    with closing(apsw.Connection(str(recording.folder / LOG))) as log:
        named: Any = log.execute("SELECT count(*) FROM names").get
        rounds: Any = log.execute("SELECT value FROM meta WHERE name = 'named'").get
    assert named > 3 * BULK and 0 < rounds < named, "bodies were named, and often, and a round was over"
    whole = image(recording.before, recording.operations, len(recording.operations), "none", random.Random(0))
    assert whole[str(recording.folder / LOG)] == (recording.folder / LOG).read_bytes(), "at the end all is synced"


def test_a_failing_disk_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    fresh(tmp_path / "run")
    failed = [fail(tmp_path / "run", tmp_path / "copy", nth) for nth in range(1, FAILING + 1)]
    assert all(failed), "each of them did fail"


# ---- that images are what they say ----

PATH = "/run/log"
WRITES = [
    Operation("write", PATH, 0, b"a" * 1024),
    Operation("sync", PATH),
    Operation("mark", offset=1),
    Operation("write", PATH, 1024, b"b" * 8192),
    Operation("write", PATH, 0, b"c" * 8),
]


def left(how: str, seed: int = 0, upto: int = 5) -> bytes:
    assert how in HOWS
    return image({}, WRITES, upto, how, random.Random(seed))[PATH] or b""


def test_what_was_synced_is_in_every_image() -> None:
    for how in HOWS:
        for seed in range(50):
            assert left(how, seed)[8:1024] == b"a" * 1016
    assert left("none") == b"a" * 1024 and left("all") == b"c" * 8 + b"a" * 1016 + b"b" * 8192
    assert acknowledged(WRITES, 2) == 0 and acknowledged(WRITES, 3) == 1


def test_what_was_not_may_be_lost_in_every_way() -> None:
    subsets = {left("subset", seed) for seed in range(50)}
    assert len(subsets) == 4
    assert {len(left("prefix", seed)) for seed in range(50)} == {1024, 9216}
    torn = {left("torn-4096", seed) for seed in range(200)}
    assert any(1024 < len(one) < 9216 for one in torn) and any(one[1024:4096] == bytes(3072) for one in torn)
    assert any(one[1024:] == bytes(8192) for one in (left("zeroed", seed) for seed in range(50)))


def test_a_deleted_file_may_come_back_until_it_is_made_anew() -> None:
    gone = [*WRITES[:2], Operation("delete", PATH)]
    found = {image({}, gone, 3, "subset", random.Random(seed))[PATH] for seed in range(20)}
    assert found == {None, b"a" * 1024}
    anew = [*gone, Operation("write", PATH, 0, b"d"), Operation("sync", PATH)]
    assert {image({}, anew, 5, "subset", random.Random(seed))[PATH] for seed in range(20)} == {b"d"}
