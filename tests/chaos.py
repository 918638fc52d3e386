"""`make chaos MINUTES=n`: the long versions of the tests under faults, and a table of what they found.

Owns the turn-taking and the table. Each scene is one promise and a way to put it to the test once more under another seed;
it says how many faults fired, and raises whatever breaks the promise. The scene that is furthest behind its share of the
time comes next, and each comes at least once. A promise that no fault was tried on counts as broken, and a floor that was
not measured as missed. Draws go by the seed that the table names: another one each day, unless it is given.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swarm.coordinator.coordinator import LEASE_SECONDS
from tests.chaos_kills import Kills
from tests.crash_images import cut, fail, fresh, record
from tests.fired import FILE, SEED, Told
from tests.resume_stamps import STAGES, build, stamp
from tests.test_cluster_faults import NODE_LOSS
from tests.test_simulator import KINDS, run_live, run_safe

ROOT = Path(__file__).resolve().parent.parent
STEPS = 10_000
"""Steps of the job that is killed and timed."""
RESUME_SECONDS = 3.0
"""Within which such a job goes on, beyond the loading of its model."""
SEEDS = 1_000_000
"""Draws that belong to one seed."""


@dataclass
class Scene:
    """A promise, and how it is tried once: a seed and an empty folder → further runs, and the faults that fired."""

    promise: str
    share: float
    """Of the time, beside those of the other scenes."""
    play: Callable[[int, Path], tuple[int, int]]
    runs: int = 0
    faults: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def once(self, place: Path, seed: int) -> None:
        began, number = time.monotonic(), seed * SEEDS + self.runs
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
    return 70, seen["harmed"]


def disk(number: int, place: Path) -> tuple[int, int]:
    fresh(place / "run")
    draw = random.Random(number)
    failed = [fail(place / "run", place / "copy", draw.randrange(1, 201)) for _ in range(BATCH)]
    return BATCH, sum(failed)


class PlayedTests:
    """Scenes of tests that run in a process of their own, and the times that they measured.

    A run is a test in which a fault fired, and a fault is what a test has told of: see `fired.py`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def scene(self, *arguments: str) -> Callable[[int, Path], tuple[int, int]]:
        def play(number: int, place: Path) -> tuple[int, int]:
            command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-m", "", "-p", "no:cacheprovider", *arguments]
            said = {**os.environ, FILE: str(place / "faults"), SEED: str(number)}
            done = subprocess.run(command, cwd=ROOT, env=said, capture_output=True, text=True, timeout=1800)
            told = Told.read(place / "faults")
            for what, seconds in told.seconds.items():
                self.seconds.setdefault(what, []).extend(seconds)
            assert done.returncode == 0, f"{told.faults} faults fired\n{done.stdout[-2000:]}"
            return len(told.tests), told.faults

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


def scenes(resumes: Resumes, kills: Kills, tests: PlayedTests) -> list[Scene]:
    """Shares go by what a fault costs: one of a cluster takes ten seconds and its share of the start of that cluster."""
    processes = ("tests/test_store_processes.py", "tests/test_store_races.py")
    unknown = "(answer or answers or hard_way or killed or stands or unknown) and not there"
    database = ("tests/test_store_postgres.py", "-k", unknown)
    engine = "tests/test_models_real.py::test_an_engine_that_dies_is_named_and_started_again"
    cluster = ("tests/test_cluster_faults.py", "tests/test_cluster.py", "-k", "restarts or lost or dies")
    return [
        Scene("no promise breaks under faults without end (simulator)", 2.5, safe),
        Scene("every job ends once faults cease (simulator)", 2.5, live),
        Scene("a power cut loses nothing acknowledged (crash images)", 1, power),
        Scene("a failing disk loses nothing acknowledged (EIO, ENOSPC)", 0.5, disk),
        Scene("a killed job repeats no finished step (kill -9)", 2, kills.play),
        Scene("one writer: kills, races, frozen past its hold (both stores)", 2, tests.scene(*processes)),
        Scene("an unknown commit is looked up, not guessed (PostgreSQL)", 1, tests.scene(*database)),
        Scene("every charged call is on the account (failing model server)", 1, tests.scene("tests/test_model_faults.py")),
        Scene("an engine that dies is started again (vLLM, kill -9)", 0.5, tests.scene(engine)),
        Scene("a lost node, host, server or master costs its leases only (Ray)", 4, tests.scene(*cluster)),
        Scene("a job outlives its whole cluster (Ray, a new and empty one)", 2, tests.scene("tests/test_head_lost.py")),
        Scene("a job of 10,000 steps goes on after kill -9", 2, resumes.play),
    ]


@dataclass(frozen=True, slots=True)
class Floor:
    """A time that was promised, and the times that were measured."""

    what: str
    promised: float
    seconds: Sequence[float]

    @property
    def met(self) -> bool:
        return bool(self.seconds) and max(self.seconds) <= self.promised

    def __str__(self) -> str:
        times = sorted(self.seconds)
        if not times:
            return f"{self.what}: not measured; promised: {self.promised:g} s: MISSED"
        found = f"p50 {times[len(times) // 2]:.2f} s, max {times[-1]:.2f} s of {len(times)}"
        return f"{self.what}: {found}; promised: {self.promised:g} s: {'met' if self.met else 'MISSED'}"


def floors(played: list[Scene], resumes: Resumes, tests: PlayedTests) -> list[Floor]:
    """What was promised about times, for the scenes that were played."""
    fresh = [one["first durable event"] for one in resumes.stamps]
    out = {
        "10,000 steps": Floor("from kill -9 to the first new durable event, no model to load", RESUME_SECONDS, fresh),
        "lost node": Floor(NODE_LOSS, LEASE_SECONDS + 10, tests.seconds.get(NODE_LOSS, [])),
    }
    return [floor for words, floor in out.items() if any(words in scene.promise for scene in played)]


def show(played: list[Scene], stamps: list[str], met: Sequence[Floor], seconds: float, seed: int) -> int:
    """Prints the table; returns the exit code."""
    width = max(len(scene.promise) for scene in played)
    print(f"{'promise':<{width}}{'runs':>9}{'faults':>10}{'violations':>12}")
    for scene in played:
        idle = "  no fault fired" if not scene.faults else ""
        print(f"{scene.promise:<{width}}{scene.runs:>9,}{scene.faults:>10,}{len(scene.violations):>12}{idle}")
    print(*stamps, *met, sep="\n")
    violations, faults = sum(len(scene.violations) for scene in played), sum(scene.faults for scene in played)
    print(f"{seconds / 60:.1f} minutes on {time.strftime('%Y-%m-%d')}, seed {seed} (--seed {seed} draws the same)")
    print(f"total violations {violations}, faults {faults}")
    kept = not violations and all(scene.faults for scene in played) and all(floor.met for floor in met)
    return 0 if kept else 1


def take_turns(played: list[Scene], minutes: float, place: Path, seed: int) -> float:
    """Plays scenes until the time is up and each came once, or until Ctrl-C; returns the seconds that it took."""
    began = time.monotonic()
    try:
        while time.monotonic() - began < minutes * 60 or not all(scene.seconds for scene in played):
            first = [scene for scene in played if not scene.seconds]
            (first or sorted(played, key=lambda scene: scene.seconds / scene.share))[0].once(place, seed)
    except KeyboardInterrupt:
        print("stopped; so far:", file=sys.stderr)
    return time.monotonic() - began


def main(minutes: float, only: str, seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="swarm-chaos-") as name:
        resumes, kills, tests = Resumes(Path(name)), Kills(Path(name) / "kills"), PlayedTests()
        played = [scene for scene in scenes(resumes, kills, tests) if only in scene.promise]
        seconds = take_turns(played, minutes, Path(name), seed)
        return show(played, resumes.table(), floors(played, resumes, tests), seconds, seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", default="", metavar="WORDS", help="only promises with these words")
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")), help="of all draws; the date if not given")
    chosen = parser.parse_args()
    sys.exit(main(chosen.minutes, chosen.only, chosen.seed))
