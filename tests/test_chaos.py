"""The table of `make chaos`: it fails for a broken promise, for one that no fault was tried on, and shows what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import Scene, show, take_turns


def kept(number: int, place: Path) -> tuple[int, int]:
    (place / "left behind").mkdir()
    return 20, 7


def broken(number: int, place: Path) -> tuple[int, int]:
    raise AssertionError("an acknowledged event is gone")


def idle(number: int, place: Path) -> tuple[int, int]:
    return 1, 0


def stopped(number: int, place: Path) -> tuple[int, int]:
    raise KeyboardInterrupt


def table(capsys: pytest.CaptureFixture[str], place: Path, *plays: object) -> tuple[int, list[str]]:
    played = [Scene(play.__name__, 1.0, play) for play in plays]  # type: ignore[attr-defined, arg-type]
    code = show(played, ["stamps"], take_turns(played, 0, place))
    assert not list(place.iterdir()), "every scene has a folder of its own, and leaves nothing"
    return code, capsys.readouterr().out.splitlines()


def test_promises_that_were_kept_under_faults(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, lines = table(capsys, tmp_path, kept)
    assert code == 0 and lines[1].split() == ["kept", "20", "7", "0"] and "stamps" in lines
    assert lines[-1] == "total violations 0, faults 7"


def test_a_broken_promise_fails_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, lines = table(capsys, tmp_path, broken, kept)
    assert code == 1 and lines[1].split() == ["broken", "1", "0", "1", "no", "fault", "fired"]
    assert lines[-1] == "total violations 1, faults 7"


def test_a_promise_that_no_fault_was_tried_on_fails_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, lines = table(capsys, tmp_path, kept, idle)
    assert code == 1 and "no fault fired" in lines[2] and lines[-1] == "total violations 0, faults 7"


def test_ctrl_c_shows_what_there_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, lines = table(capsys, tmp_path, kept, stopped, kept)
    assert code == 1 and lines[-1] == "total violations 0, faults 7" and len(lines) == 7
