"""The scene of `make chaos` that kills drivers with kill -9: at a named commit, and the next time at a random moment.

Owns where it is killed. Both are drawn from the whole length of the job, which one undisturbed run has measured before: its
commits and seconds are counted. A kill that comes when the job has ended already is none.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from swarm.cli.rehearsal import rehearse
from swarm.store.folder import RunFolder
from swarm.testing.invariants import LogWatch
from tests.jobs import events_of, job, state_of, write_sources
from tests.test_runtime_local import go_on

ROOT = Path(__file__).resolve().parent.parent
NEVER = 0
"""The commit at which no driver kills itself."""


class Kills:
    """Kills one job in many places. What it is compared with, and what its length is, comes from a run in `place`."""

    commits = 0
    """Of the undisturbed run."""
    seconds = 0.0
    """From its begin to its end."""

    def __init__(self, place: Path, copies: int = 6, slow: float = 0.05) -> None:
        self._place, self._copies, self._slow = place, copies, slow
        self.undisturbed = RunFolder(place, "undisturbed")

    def measure(self) -> None:
        """Runs the job once without a fault."""
        self._place.mkdir()
        model = {"engine": "scripted", "name": f"raises+slow:{self._slow}"}
        spec = job(write_sources(self._place, self._copies), model=model)
        self._spec.write_text(yaml.safe_dump(spec.model_dump(mode="json")), encoding="utf-8")
        with self._driver(self.undisturbed, NEVER) as process:
            began = time.monotonic()
            assert process.stdout
            self.commits = int(process.stdout.readline())
            self.seconds = time.monotonic() - began

    def where(self, number: int) -> int | float:
        """At which commit the job is killed, or after how many seconds."""
        draw = random.Random(number)
        return draw.uniform(0.0, self.seconds) if number % 2 else draw.randint(1, self.commits)

    def play(self, number: int, place: Path) -> tuple[int, int]:
        if not self.commits:
            self.measure()
        return 1, self.kill(RunFolder(place, "killed"), self.where(number))

    def kill(self, folder: RunFolder, where: int | float) -> bool:
        """Kills the job there and resumes it; whether that came before its end."""
        with self._driver(folder, where if isinstance(where, int) else NEVER) as process:
            try:
                process.wait(where if isinstance(where, float) else 120)
            except subprocess.TimeoutExpired:
                process.kill()
            assert process.wait() in (0, -signal.SIGKILL)
        early = not state_of(folder).settled
        if early:
            go_on(folder, self.undisturbed)
        self._replay(folder)
        return early

    def _replay(self, folder: RunFolder) -> None:
        """Every checksum holds, every promise of a log is kept, and the protocol decides again as it did."""
        folder.verify()
        watch = LogWatch()
        for event in events_of(folder):
            watch.see(event)
        with folder.reader() as reader:
            assert not (outcome := rehearse(reader)).difference, outcome

    @property
    def _spec(self) -> Path:
        return self._place / "job.yaml"

    @contextmanager
    def _driver(self, folder: RunFolder, commit: int) -> Iterator[subprocess.Popen[str]]:
        """A driver that has just begun."""
        command = [sys.executable, "-m", "tests.crashing_driver", str(self._spec), str(folder.root), folder.id, str(commit)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout and process.stdout.readline() == "begun\n"
                yield process
            finally:
                process.kill()
