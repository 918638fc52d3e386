"""The table of `make chaos`: it fails for a broken promise, for one that no fault was tried on, and shows what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import Floor, PlayedTests, Resumes, Scene, floors, scenes, show, take_turns
from tests.chaos_kills import Kills


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
    code = show(played, ["stamps"], (), take_turns(played, 0, place, 1), 1)
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


def test_another_seed_draws_otherwise(tmp_path: Path) -> None:
    drawn: list[int] = []

    def play(number: int, place: Path) -> tuple[int, int]:
        drawn.append(number)
        return 1, 1

    for seed in (20261121, 20261121, 20261122):
        take_turns([Scene("drawn", 1.0, play)], 0, tmp_path, seed)
    assert drawn[0] == drawn[1] != drawn[2]


def test_clusters_that_are_lost_in_part_or_whole_have_their_part_of_the_time(tmp_path: Path) -> None:
    """A start of a cluster with its five faults takes a minute, the loss of a whole one with the resume 40 s, a kill 1.5 s."""
    shares = {one.promise: one.share for one in scenes(Resumes(tmp_path), Kills(tmp_path), PlayedTests())}
    (parts,), (whole,) = ([shares[one] for one in shares if words in one] for words in ("lost node", "whole cluster"))
    assert parts > sum(shares.values()) / 6 and whole > sum(shares.values()) / 12
    (killed,) = (shares[one] for one in shares if "repeats no finished step" in one)
    assert killed > sum(shares.values()) / 12


FAULTY = """
from tests.fired import drawing, fired, measured
def test_that_harms(): fired("kill"); fired("lost answer", 3); measured("wait", drawing(1).random())
def test_that_only_looks(): fired("nothing", 0)
"""


def test_a_test_counts_as_the_faults_that_it_fired_and_not_at_all_without_any(tmp_path: Path) -> None:
    file, tests = tmp_path / "test_faulty.py", PlayedTests()
    file.write_text(FAULTY)
    play = tests.scene(str(file))
    for number in (1, 1, 2):
        (place := tmp_path / str(len(tests.seconds.get("wait", ())))).mkdir()
        assert play(number, place) == (1, 4)
    first, second, other = tests.seconds["wait"]
    assert first == second != other, "what a test draws goes by the seed"


@pytest.mark.parametrize(("seconds", "met"), [((), False), ((2.0, 2.9), True), ((2.0, 3.1), False)])
def test_a_floor_that_is_missed_or_not_measured_fails_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, seconds: tuple[float, ...], met: bool
) -> None:
    played = [Scene("a job of 10,000 steps", 1.0, kept)]
    resumes = Resumes(tmp_path)
    resumes.stamps = [{"first durable event": one} for one in seconds]
    (floor,) = floors(played, resumes, PlayedTests())
    assert isinstance(floor, Floor) and floor.met is met
    assert show(played, [], [floor], take_turns(played, 0, tmp_path / "..", 1), 1) == (0 if met else 1)
    assert ("MISSED" in capsys.readouterr().out) is not met
