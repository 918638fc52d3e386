"""What a supervisor says of the places that it looks after: one that is not there must not pass for one without orphans."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarm.runtime.supervise import Seen, Supervisor
from swarm.store.folder import RunFolder
from tests.commands import swarm


def test_it_says_which_places_are_there_and_which_are_not_yet(tmp_path: Path) -> None:
    late, told, passed = tmp_path / "late", list[Seen](), 0.0
    one = Supervisor([str(tmp_path), str(late)], say=told.append, ticks=lambda: passed)
    (missing,) = asyncio.run(one.look())
    assert missing.what == "error" and f"{late}: there is no such folder" in missing.detail
    assert told == [Seen(str(tmp_path), "looked after", "0 runs"), missing]
    asyncio.run(one.look())
    assert len(told) == 2, "it is not told every time"
    RunFolder(late, "one").create()
    assert asyncio.run(one.look()) == [] and told[2:] == [Seen(str(late), "looked after", "1 run")]
    (late / "one").rename(tmp_path / "one")
    late.rmdir()
    passed += 60
    assert asyncio.run(one.look()) == [missing] and told[3:] == [missing], "a disk that went away again"


@pytest.mark.parametrize("named", [True, False])
def test_a_place_that_is_mistyped_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    monkeypatch.setenv("SWARM_RUNS", str(tmp_path if named else tmp_path / "nosuch"))
    said = swarm("supervise", "--once", *(("--runs", tmp_path / "nosuch") if named else ()))
    assert said.code == 1 and f"runs: error: {tmp_path / 'nosuch'}: there is no such folder" in said.err and not said.out
    said = swarm("supervise", "--once", "--runs", tmp_path)
    assert said.code == 0 and said.out == f"{tmp_path}: looked after: 0 runs\n"
