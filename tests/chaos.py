"""`make chaos MINUTES=n`: the long versions of the tests under faults, and a table of what they found.

Owns the turn-taking and the table. Each scene is one promise and a way to put it to the test once more under another seed;
it says how many faults fired, and raises whatever breaks the promise. The scene that is furthest behind its share of the
time comes next, and each comes at least once. A promise that no fault was tried on counts as broken.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash_images import cut, fail, fresh, record
from tests.jobs import job, write_sources
from tests.resume_stamps import STAGES, build, stamp
from tests.test_runtime_local import crash_and_resume
from tests.test_simulator import KINDS, run_live, run_safe

ROOT = Path(__file__).resolve().parent.parent
STEPS = 10_000
"""Steps of the job that is killed and timed."""


@dataclass
class Scene:
    """A promise, and how it is tried once: a seed and an empty folder → the faults that fired, and further runs."""

    promise: str
    share: float
    """Of the time, beside those of the other scenes."""
    play: Callable[[int, Path], tuple[int, int]]
    runs: int = 0
    faults: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def once(self, place: Path) -> None:
        began, number = time.monotonic(), self.runs
        folder = place / "scene"
        folder.mkdir()
        try:
            runs, faults = self.play(number, folder)
            self.runs += runs
            self.faults += faults
        except Exception as error:  # noqa: BLE001  whatever it is, a promise was not kept
            self.runs += 1
            self.violations.append(f"{self.promise}, run {number}: {type(error).__name__}: {str(error)[:500]}")
            print(f"VIOLATION {self.violations[-1]}", file=sys.stderr, flush=True)
            traceback.print_exc()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self.seconds += time.monotonic() - began


BATCH = 20
"""Seeds of the simulator, or operations of a disk, that a scene takes at once."""


def safe(number: int, place: Path) -> tuple[int, int]:
    kind = sorted(KINDS)[number // BATCH % len(KINDS)]
    return BATCH, run_safe(kind, range(number, number + BATCH)).total()


def live(number: int, place: Path) -> tuple[int, int]:
    kind = sorted(KINDS)[number // BATCH % len(KINDS)]
    return BATCH, run_live(kind, range(number, number + BATCH)).total()


def power(number: int, place: Path) -> tuple[int, int]:
    seen = cut(record(place / "run", seed=number), place, 70, seed=number)
    assert seen["refused"] == 0, f"{seen['refused']} images were not opened"
    return seen.total(), seen.total()


def disk(number: int, place: Path) -> tuple[int, int]:
    fresh(place / "run")
    draw = random.Random(number)
    failed = [fail(place / "run", place / "copy", draw.randrange(1, 201)) for _ in range(BATCH)]
    return BATCH, sum(failed)


def killed(number: int, place: Path) -> tuple[int, int]:
    spec = job(write_sources(place, 2))
    return 1, crash_and_resume(spec, place, commits=random.Random(number).randrange(3, 14))


def tests(*arguments: str) -> Callable[[int, Path], tuple[int, int]]:
    """A scene of tests that each fire a fault or more: they run in a process of their own."""

    def play(number: int, place: Path) -> tuple[int, int]:
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-m", "", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
        passed = re.search(r"(\d+) passed", done.stdout)
        assert done.returncode == 0 and passed, done.stdout[-2000:]
        return int(passed[1]), int(passed[1])

    return play


class Resumes:
    """Kills and resumes one long job, and keeps the stamps."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.stamps: list[dict[str, float]] = []

    def play(self, number: int, place: Path) -> tuple[int, int]:
        base = self._place / "base"
        if not base.exists():
            build(base, STEPS)
        self.stamps.append(stamp(base, place))
        return 1, 1

    def table(self) -> list[str]:
        if not self.stamps:
            return []
        out = [f"resume of a job of {STEPS:,} steps after kill -9, seconds after the fault ({len(self.stamps)} kills)"]
        out.append(f"  {'stage':<22}{'p50':>8}{'max':>8}\n  {'fault':<22}{0:8.2f}{0:8.2f}")
        for stage in STAGES:
            times = sorted(one[stage] for one in self.stamps)
            out.append(f"  {stage:<22}{times[len(times) // 2]:8.2f}{times[-1]:8.2f}")
        return out


def scenes(resumes: Resumes) -> list[Scene]:
    processes = ("tests/test_store_processes.py", "tests/test_store_races.py")
    database = ("tests/test_store_postgres.py", "-k", "answer or answers or hard_way or killed or stands")
    cluster = ("tests/test_cluster_faults.py",)
    return [
        Scene("no promise breaks under faults without end (simulator)", 3, safe),
        Scene("every job ends once faults cease (simulator)", 3, live),
        Scene("a power cut loses nothing acknowledged (crash images)", 2, power),
        Scene("a failing disk loses nothing acknowledged (EIO, ENOSPC)", 1, disk),
        Scene("a killed job repeats no finished step (kill -9)", 1, killed),
        Scene("one writer: kills, races, frozen past its hold (both stores)", 1, tests(*processes)),
        Scene("an unknown commit is looked up, not guessed (PostgreSQL)", 1, tests(*database)),
        Scene("a lost node or master costs its leases only (Ray, 3 nodes)", 1, tests(*cluster)),
        Scene("a job of 10,000 steps goes on after kill -9", 2, resumes.play),
    ]


def show(played: list[Scene], stamps: list[str], seconds: float) -> int:
    """Prints the table; returns the exit code."""
    width = max(len(scene.promise) for scene in played)
    print(f"{'promise':<{width}}{'runs':>9}{'faults':>10}{'violations':>12}")
    for scene in played:
        idle = "  no fault fired" if not scene.faults else ""
        print(f"{scene.promise:<{width}}{scene.runs:>9,}{scene.faults:>10,}{len(scene.violations):>12}{idle}")
    print(*stamps, sep="\n")
    violations, faults = sum(len(scene.violations) for scene in played), sum(scene.faults for scene in played)
    print(f"{seconds / 60:.1f} minutes on {time.strftime('%Y-%m-%d')}")
    print(f"total violations {violations}, faults {faults}")
    return 1 if violations or not all(scene.faults for scene in played) else 0


def take_turns(played: list[Scene], minutes: float, place: Path) -> float:
    """Plays scenes until the time is up and each came once, or until Ctrl-C; returns the seconds that it took."""
    began = time.monotonic()
    try:
        while time.monotonic() - began < minutes * 60 or not all(scene.seconds for scene in played):
            first = [scene for scene in played if not scene.seconds]
            (first or sorted(played, key=lambda scene: scene.seconds / scene.share))[0].once(place)
    except KeyboardInterrupt:
        print("stopped; so far:", file=sys.stderr)
    return time.monotonic() - began


def main(minutes: float, only: str) -> int:
    with tempfile.TemporaryDirectory(prefix="swarm-chaos-") as name:
        resumes = Resumes(Path(name))
        played = [scene for scene in scenes(resumes) if only in scene.promise]
        return show(played, resumes.table(), take_turns(played, minutes, Path(name)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", default="", metavar="WORDS", help="only promises with these words")
    chosen = parser.parse_args()
    sys.exit(main(chosen.minutes, chosen.only))
