"""How long a job takes to go on after a kill -9, stage by stage, as an observer beside it sees it.

Owns the killing and the stamps; the stages of the new process are told by `stamped_driver.py`, on the same clock.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    "detected", "process ready", "log read", "fold done", "lease won", "first durable event", "first token",
    "throughput regained",
)  # fmt: skip
"""In the order in which they come; all are seconds after the fault."""
WINDOW = 0.5
"""Seconds over which a rate is taken."""
REGAINED = 0.8
"""The share of the rate before the fault that counts as having it back."""
STEADY = 4
"""Windows that a job works before it is killed."""


def build(place: Path, steps: int) -> Path:
    """A folder with a run of so many durable steps, killed in the midst of its work."""
    place.mkdir()
    command = [sys.executable, "-m", "tests.stamped_driver", "build", str(place), "long", str(steps)]
    code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=600).returncode
    assert code == -signal.SIGKILL, f"the job of {steps} steps ended with {code} before it could be killed"
    return place


def stamp(base: Path, place: Path) -> dict[str, float]:
    """Kills a copy of a run while it works, resumes it, and says when each stage was reached, in seconds."""
    shutil.copytree(base / "long", place / "long")
    with driver(place) as process:
        ticks = steps_of(process)
        rate = 0.0
        for _ in range(STEADY):
            rate = rate_over(ticks)
        fault = time.monotonic()
        process.kill()
        process.wait()
    detected = time.monotonic()
    out = {"detected": detected - fault}
    with driver(place) as process:
        recent: list[tuple[float, int]] = []
        for said in lines(process):
            if "stage" in said:
                out.setdefault(said["stage"], said["at"] - fault)
                continue
            out.setdefault("first durable event", said["at"] - fault)
            recent = [one for one in recent if one[0] > said["at"] - WINDOW] + [(said["at"], said["steps"])]
            if (recent[-1][1] - recent[0][1]) / WINDOW >= REGAINED * rate and "first token" in out:
                out["throughput regained"] = said["at"] - fault
                break
    shutil.rmtree(place / "long")
    assert out.keys() >= set(STAGES), f"never reached: {set(STAGES) - out.keys()}"
    return out


@contextmanager
def driver(place: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.stamped_driver", "resume", str(place), "long"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout
    for line in process.stdout:
        yield json.loads(line)


def steps_of(process: subprocess.Popen[str]) -> Iterator[tuple[float, int]]:
    for said in lines(process):
        if said.get("steps"):
            yield said["at"], said["steps"]


def rate_over(ticks: Iterator[tuple[float, int]]) -> float:
    """Steps a second over one window."""
    began, first = next(ticks)
    for at, steps in ticks:
        if at - began >= WINDOW:
            return (steps - first) / (at - began)
    raise AssertionError("the job ended before it could be killed")
