"""The soak test: one real job for hours, one fault a minute, and whether anything grows: `make soak HOURS=n`.

Owns the job, the faults, the samples and the verdict. The job runs as any other does, detached, on a scripted model that
costs nothing, and a Supervisor brings it back; each fault must be followed by a newly finished step within a minute. At the
end the whole log is read and checked, and a line is fitted to what was sampled after the warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.events import JobOpened, TaskFinished
from swarm.runtime.driver import Launch, start_again, start_new
from swarm.runtime.supervise import Seen, Supervisor
from swarm.spec import JobSpec, parse_spec
from swarm.store.damage import verify
from swarm.store.folder import RunFolder, read_status
from swarm.testing.invariants import LogWatch
from swarm.testing.soaked import SAMPLES

SOAKED = (sys.executable, "-P", "-m", "swarm.testing.soaked")
FAULTS = ("kill", "freeze", "pause", "terminate")
FAULT_SECONDS = 60.0
FREEZE_SECONDS = 15.0
LIVELY_SECONDS = 60.0
"""Within which a fault must be followed by a new step."""
LOOK_SECONDS = 5.0
AGENTS, CALL_SECONDS = 8, 1.0
RATE = AGENTS / CALL_SECONDS
"""Steps a second at most."""
WARM_UP = 1 / 6
"""Share of the run that is not judged."""
GROWN_UP_SECONDS = 20.0
"""Age of a process from which its size is judged."""
GOAL = 1.0
"""Per cent an hour."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A line through samples: per cent of their mean an hour, and twice its standard error."""

    name: str
    samples: int
    mean: float
    percent: float
    error: float

    @property
    def verdict(self) -> str:
        if self.percent - self.error > GOAL:
            return "grows"
        return "met" if self.percent + self.error <= GOAL else "met within noise" if self.percent <= GOAL else "cannot tell"


@dataclass
class Soak:
    """What a soak has seen."""

    run: RunFolder
    hours: float
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    disk: list[tuple[float, float]] = field(default_factory=list)
    """(time, bytes of the run's folder a finished step)."""
    waits: list[float] = field(default_factory=list)
    """Seconds from each fault to the next finished step."""
    began: float = field(default_factory=time.time)

    def violated(self, what: str) -> None:
        self.violations.append(what)
        print(f"VIOLATION: {what}", flush=True)

    # ---- the run ----

    async def go(self) -> None:
        """Starts the job, harms it until the time is over, and ends it."""
        await start_new(self._spec(), self.run, self._how())
        await self._until(lambda: self._steps() > 0, 300.0)
        supervisor = Supervisor([str(self.run.root)], say=self._heard, program=SOAKED)
        watching = asyncio.create_task(supervisor.watch())
        sampling = asyncio.create_task(self._sample())
        end = time.monotonic() + self.hours * 3600
        try:
            while time.monotonic() < end:
                await asyncio.sleep(min(FAULT_SECONDS, max(0.0, end - time.monotonic())))
                if watching.done():
                    watching.result()  # it failed, and nothing would bring the job back
                if time.monotonic() < end:
                    await self._harm(FAULTS[sum(self.faults.values()) % len(FAULTS)])
        finally:
            for task in (watching, sampling):
                task.cancel()
            await asyncio.gather(watching, sampling, return_exceptions=True)
        await self._until(lambda: self.run.holder() is not None, LIVELY_SECONDS)
        self.run.post("cancel", "the soak is over")
        await self._until(lambda: self.run.holder() is None, 120.0)

    def _how(self) -> Launch:
        return Launch(str(self.run.root), local=True, agents=AGENTS, program=SOAKED)

    def _spec(self) -> JobSpec:
        """A job with more passages than can be read in the time, in which nothing is found."""
        words = ["loom", "warp", "weft", "shuttle", "heddle", "reed", "treadle", "bobbin", "selvage", "pick", "shed", "batten"]
        text = self.run.root / "corpus.txt"
        self.run.root.mkdir(parents=True, exist_ok=True)
        with text.open("w", encoding="utf-8") as file:
            for number in range(int(self.hours * 3600 * RATE * 1.3) + 2000):
                line = " ".join(words[(number * 7 + at * (number % 11 + 1)) % len(words)] for at in range(18))
                file.write(f"Paragraph {number}. {line}.\n\n")
        return parse_spec(
            {
                "name": "soak",
                "question": "Which passage names a sailing ship?",
                "inputs": [str(text)],
                "answer": {"columns": {"ship": "name of the ship"}, "merge": "set"},
                "protocol": {"name": "map_reduce", "options": {"span_tokens": 64}},
                "model": {"engine": "scripted", "name": f"null+slow:{CALL_SECONDS}"},
            }
        )

    def _heard(self, seen: Seen) -> None:
        self.seen[seen.what] += 1
        print(f"{self._clock()}  supervisor: {seen.id} {seen.what} {seen.detail}", flush=True)
        if seen.what == "given up":
            self.violated(f"the job was given up: {seen.detail}")

    async def _harm(self, fault: str) -> None:
        before, began = self._steps(), time.monotonic()
        holder = self.run.holder()
        if holder is None:
            self.violated(f"nobody works on the job {FAULT_SECONDS:g} s after the last fault")
            return
        pid = int(holder.split()[1])
        self.faults[fault] += 1
        match fault:
            case "kill" | "terminate":
                os.kill(pid, signal.SIGKILL if fault == "kill" else signal.SIGTERM)
                await self._until(lambda: self.run.holder() is None, LIVELY_SECONDS)
                before = self._steps() + 1  # what a driver brings as it leaves is no sign of life
            case "freeze":
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(FREEZE_SECONDS)
                os.kill(pid, signal.SIGCONT)
                before, began = self._steps(), time.monotonic()
            case "pause":
                self.run.post("pause", "a fault of the soak")
                await self._until(lambda: self.run.holder() is None, LIVELY_SECONDS)
                before = self._steps()
                await start_again(self.run, self._how())
        if not await self._until(lambda: self._steps() > before and self.run.holder() is not None, LIVELY_SECONDS):
            self.violated(f"no new step within {LIVELY_SECONDS:g} s of fault {sum(self.faults.values())} ({fault})")
        self.waits.append(time.monotonic() - began)
        print(f"{self._clock()}  {fault}: next step after {self.waits[-1]:.1f} s, {self._steps()} steps", flush=True)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            steps = self._steps()
            if steps:
                size = sum(path.stat().st_size for path in self.run.path.rglob("*") if path.is_file())
                self.disk.append((time.time(), size / steps))

    def _steps(self) -> int:
        """Finished steps, near enough: a step of this job is one key of a recorded call."""
        with self.run.reader() as reader:
            return reader.last() // EVENTS_A_STEP

    async def _until(self, condition: Any, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.5)
        return True

    def _clock(self) -> str:
        return time.strftime("%H:%M:%S")

    # ---- the verdict ----

    def check(self) -> int:
        """Reads the whole log and objects to what must not be in it. Returns how many steps were finished."""
        if (damage := verify(self.run.path)) is not None:
            self.violated(str(damage.error()))
        watch, steps, opened = LogWatch(), Counter[str](), 0
        with self.run.reader() as reader:
            for event in reader.read():
                try:
                    watch.see(event)
                except AssertionError as error:
                    self.violated(f"event {event.seq}: {error}")
                    break
                opened += isinstance(event.body, JobOpened)
                if isinstance(event.body, TaskFinished):
                    steps[event.body.task] += 1
        if twice := [task for task, times in steps.items() if times > 1]:
            self.violated(f"{len(twice)} steps were finished twice, such as {twice[0]}")
        if (status := read_status(self.run).status) != "cancelled":
            self.violated(f"the job is {status} at the end")
        print(f"{len(steps)} steps, {opened} masters, supervisor: {dict(self.seen)}")
        return len(steps)

    def slopes(self) -> list[Slope]:
        """What was sampled after the warm-up, as lines."""
        start = self.began + self.hours * 3600 * WARM_UP
        samples = [json.loads(line) for line in (self.run.path / SAMPLES).read_text(encoding="utf-8").splitlines()]
        grown = [one for one in samples if one["time"] >= start and one["age"] >= GROWN_UP_SECONDS]
        out = [
            slope(name, [(one["time"], one[key]) for one in grown], scale)
            for name, key, scale in (
                ("memory, MiB", "rss", 1 / 2**20), ("open files", "files", 1.0), ("append, mean ms", "mean", 1e3),
                ("append, median ms", "median", 1e3),
            )
        ]  # fmt: skip
        return [*out, slope("disk, bytes a step", [pair for pair in self.disk if pair[0] >= start], 1.0)]


EVENTS_A_STEP = 4
"""Lease, call begun, call finished, task finished."""


def slope(name: str, pairs: Sequence[tuple[float, float]], scale: float) -> Slope:
    """Least squares through (seconds, value)."""
    count = len(pairs)
    if count < 3:
        return Slope(name, count, 0.0, 0.0, float("inf"))
    middle = sum(at for at, _ in pairs) / count
    mean = sum(value for _, value in pairs) / count
    spread = sum((at - middle) ** 2 for at, _ in pairs)
    rise = sum((at - middle) * (value - mean) for at, value in pairs) / spread if spread else 0.0
    rest = sum((value - mean - rise * (at - middle)) ** 2 for at, value in pairs)
    error = (rest / (count - 2) / spread) ** 0.5 if spread else float("inf")
    share = 3600 * 100 / mean if mean else 0.0
    return Slope(name, count, mean * scale, rise * share, 2 * error * share)


def report(soak: Soak) -> int:
    """Prints the table and the last line. Returns the exit code."""
    steps = soak.check()
    waits = sorted(soak.waits) or [0.0]
    print(f"\n{'':<20} {'samples':>8} {'mean':>10} {'% an hour':>10} {'± (2 s.e.)':>10}  verdict (goal: ≤ {GOAL:g} %)")
    slopes = soak.slopes()
    for one in slopes:
        print(f"{one.name:<20} {one.samples:>8} {one.mean:>10.3f} {one.percent:>10.2f} {one.error:>10.2f}  {one.verdict}")
    print(f"\nfrom a fault to the next step: median {waits[len(waits) // 2]:.1f} s, longest {waits[-1]:.1f} s")
    grown = sum(one.verdict == "grows" for one in slopes)
    total = sum(soak.faults.values())
    if not total:
        soak.violated("no fault fired")
    faults = ", ".join(f"{count} × {name}" for name, count in soak.faults.items())
    print(f"{soak.hours:g} h, {steps} steps, faults: {faults or 'none'}")
    print(f"total violations {len(soak.violations)}, faults {total}, lines that grow {grown}")
    return int(bool(soak.violations or grown))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--keep", type=Path, help="a folder for the run; by default one that is removed at the end")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarm-soak-") as folder:
        soak = Soak(RunFolder(chosen.keep or Path(folder), "soak"), chosen.hours)
        asyncio.run(soak.go())
        return report(soak)


if __name__ == "__main__":
    sys.exit(main())
