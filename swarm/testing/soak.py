"""The soak test: one real job for hours, one fault a minute, and whether anything grows: `make soak HOURS=n`.

Owns the job, the faults and the account. The job runs as any other does, detached, on a scripted model that costs nothing,
and a Supervisor brings it back; each fault must be followed by a newly finished step within a minute. In the first quarter
of each hour the faults end the driver; in the other three it lives on under all of them, so that it can be seen whether a
process grows. At the end the whole log is read and checked, and lines are fitted to what was sampled.
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
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.events import JobOpened, TaskFinished
from swarm.runtime.driver import SWARM, Launch, start_again, start_new
from swarm.runtime.supervise import Seen, Supervisor
from swarm.spec import JobSpec, parse_spec
from swarm.store.connection import open_reading
from swarm.store.damage import verify
from swarm.store.folder import RunFolder, read_status
from swarm.testing.invariants import LogWatch
from swarm.testing.slopes import GOAL, Slope, slope
from swarm.testing.soaked import SAMPLES

SOAKED = (sys.executable, "-P", "-m", "swarm.testing.soaked")
ENDING = ("kill", "freeze", "pause", "terminate")
"""Faults of the first quarter of each hour. Most of them end the driver."""
LASTING = ("freeze", "intruder", "reader")
"""Faults of the rest of it, which a driver outlives: it is stopped for a while, another driver wants its job, and a process
that follows its log is killed as it reads."""
FAULT_SECONDS = 60.0
FREEZE_SECONDS = 15.0
READ_SECONDS = 5.0
LIVELY_SECONDS = 60.0
"""Within which a fault must be followed by a new step."""
LOOK_SECONDS = 5.0
AGENTS, CALL_SECONDS = 8, 0.5
RATE = AGENTS / CALL_SECONDS
"""Steps a second at most."""
WARM_UP_SECONDS = 1200.0
"""Age of a process from which it is judged whether it grows: by then a master remembers as many passages as it ever will."""
BEGUN_SECONDS = 60.0
"""Age of a process from which its appends are judged."""
NOISE = 20.0
"""Per cent an hour. How long an append takes depends on what else the machine does, and no line through an hour of that is
exact to 1 %: one that is known better than this must not be seen to grow, and the table says how well it is known."""


class Finished:
    """Counts the finished steps in a log that grows."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._read, self._steps = run, 0, 0

    def count(self) -> int:
        with self._run.reader() as reader:
            for event in reader.read(after=self._read):
                self._read = event.seq
                self._steps += isinstance(event.body, TaskFinished)
        return self._steps


@dataclass
class Soak:
    """What a soak has seen."""

    run: RunFolder
    hours: float
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    disk: list[tuple[float, float]] = field(default_factory=list)
    """(time, bytes by which the run's folder has grown for each finished step)."""
    waits: list[float] = field(default_factory=list)
    """Seconds from each fault to the next finished step."""

    def __post_init__(self) -> None:
        self.finished = Finished(self.run)

    def violated(self, what: str) -> None:
        self.violations.append(what)
        print(f"VIOLATION: {what}", flush=True)

    # ---- the run ----

    async def go(self) -> None:
        """Starts the job, harms it until the time is over, and ends it."""
        await start_new(self._spec(), self.run, self._how())
        await self._until(lambda: self.finished.count() > 0, 900.0)
        supervisor = Supervisor([str(self.run.root)], say=self._heard, program=SOAKED)
        watching = asyncio.create_task(supervisor.watch())
        sampling = asyncio.create_task(self._sample())
        began = time.monotonic()
        end = began + self.hours * 3600
        try:
            while time.monotonic() < end:
                await asyncio.sleep(min(FAULT_SECONDS, max(0.0, end - time.monotonic())))
                if watching.done():
                    watching.result()  # it failed, and nothing would bring the job back
                if (now := time.monotonic()) < end:
                    await self._harm(fault_at(now - began, self.hours * 3600, sum(self.faults.values())))
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
        """A job with more passages than can be read in the time, in which nothing is found. Their texts repeat, so that
        what remembers texts is soon full."""
        words = ["loom", "warp", "weft", "shuttle", "heddle", "reed", "treadle", "bobbin", "selvage", "pick", "shed", "batten"]
        text = self.run.root / "corpus.txt"
        self.run.root.mkdir(parents=True, exist_ok=True)
        with text.open("w", encoding="utf-8") as file:
            for number in range(int(self.hours * 3600 * RATE * 1.3) + 2000):
                file.write(" ".join(words[(number * 7 + at * (number % 11 + 1)) % len(words)] for at in range(22)) + ".\n\n")
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
        holder = self.run.holder()
        if holder is None:
            self.violated(f"nobody works on the job {FAULT_SECONDS:g} s after the last fault")
            return
        pid, began = int(holder.split()[1]), time.monotonic()
        self.faults[fault] += 1
        match fault:
            case "kill" | "terminate":
                os.kill(pid, signal.SIGKILL if fault == "kill" else signal.SIGTERM)
                await self._left(fault)
            case "pause":
                self.run.post("pause", "a fault of the soak")
                await self._left(fault)
                await start_again(self.run, self._how())
            case "freeze":
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(FREEZE_SECONDS)
                os.kill(pid, signal.SIGCONT)
                began = time.monotonic()
            case "intruder":
                if not await self._refused():
                    self.violated("a second driver took the job, or said nothing of why it did not")
            case "reader":
                watching = await asyncio.create_subprocess_exec(*self._swarm("watch"), **self._aside())
                await asyncio.sleep(READ_SECONDS)
                if watching.returncode is not None:
                    self.violated(f"`swarm watch` ended by itself, with exit code {watching.returncode}")
                else:
                    watching.kill()
                    await watching.wait()
        before = self.finished.count()  # what a driver brings as it leaves is no sign of life
        if not await self._until(lambda: self.finished.count() > before and self.run.holder() is not None, LIVELY_SECONDS):
            self.violated(f"no new step within {LIVELY_SECONDS:g} s of fault {sum(self.faults.values())} ({fault})")
        self.waits.append(time.monotonic() - began)
        print(f"{self._clock()}  {fault}: next step after {self.waits[-1]:.1f} s, {self.finished.count()} steps", flush=True)

    async def _left(self, fault: str) -> None:
        if not await self._until(lambda: self.run.holder() is None, LIVELY_SECONDS):
            self.violated(f"the driver still holds its job {LIVELY_SECONDS:g} s after fault {fault}")

    async def _refused(self) -> bool:
        """Whether a second driver leaves the job alone and says who has it."""
        other = await asyncio.create_subprocess_exec(*self._swarm("resume"), "--local", **self._aside())
        said, _ = await other.communicate()
        return other.returncode == 1 and b"in use" in said

    def _swarm(self, verb: str) -> tuple[str, ...]:
        return (*SWARM, verb, self.run.id)

    def _aside(self) -> dict[str, Any]:
        environment = {**os.environ, "SWARM_RUNS": str(self.run.root)}
        return {"env": environment, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}

    async def _sample(self) -> None:
        size, steps = self._size(), self.finished.count()  # the inputs are in it, and what a log takes to begin with
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.disk.append((time.time(), (self._size() - size) / max(1, self.finished.count() - steps)))

    def _size(self) -> int:
        return lasting_bytes(self.run)

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
            self.violated(str(damage.error(self.run.option)))
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
        """What was sampled of grown-up processes, and of the disk since the first of them was one, as lines."""
        lines = (self.run.path / SAMPLES).read_text(encoding="utf-8").splitlines()
        return lines_through([json.loads(line) for line in lines], self.disk)


def lasting_bytes(run: RunFolder) -> int:
    """Bytes that a run adds to for ever: what its log holds, whichever of its files a page lies in just now, its free pages, and
    what lies beside it. The write-ahead log's own file only swings, and so does what is left empty inside of pages: with the
    order in which agents' records come it is a fiftieth of all more or less, for minutes. Our samples are not the run's."""
    beside = [path for path in run.path.rglob("*") if path.is_file() and path.name != SAMPLES]
    return held_bytes(run.log) + sum(path.stat().st_size for path in beside if not path.name.startswith(run.log.name))


def held_bytes(log: Path) -> int:
    """Bytes of all that stands in an SQLite file, its pending write-ahead log included, and of its free pages."""
    with closing(open_reading(log)) as connection:
        held: Any = connection.execute("SELECT sum(pgsize - unused) FROM dbstat WHERE aggregate = TRUE").get
        free, size = connection.pragma("freelist_count"), connection.pragma("page_size")
        return int(held) + int(str(free)) * int(str(size))


def fault_at(seconds: float, of: float, number: int) -> str:
    """The fault that comes so many seconds after the beginning of a soak that lasts `of` seconds."""
    hour = min(of, 3600.0)
    kinds = ENDING if seconds % hour < hour / 4 else LASTING
    return kinds[number % len(kinds)]


def lines_through(samples: Iterable[Mapping[str, float]], disk: Iterable[tuple[float, float]]) -> list[Slope]:
    """The lines of the table, through what drivers wrote of themselves and (time, bytes a finished step) of the folder.

    Whether a process grows is looked for within each that has grown up. An append depends on the log, not on the process; its
    work is held against a fixed piece of work of the same moment, as the machine's pace changes.
    """
    every = list(samples)
    grown: defaultdict[int, list[Mapping[str, float]]] = defaultdict(list)
    for one in every:
        if one["age"] >= WARM_UP_SECONDS:
            grown[int(one["pid"])].append(one)

    memory = {pid: [(one["time"], one["rss"]) for one in each] for pid, each in grown.items()}
    files = {pid: [(one["time"], one["files"]) for one in each] for pid, each in grown.items()}
    work, took = ([(one["time"], one[key]) for one in every if one["age"] >= BEGUN_SECONDS] for key in ("work", "append"))
    start = min((at for pairs in memory.values() for at, _ in pairs), default=0.0)
    return [
        slope("memory, MiB", memory, 1 / 2**20),
        slope("open files", files),
        slope("append, paces of work", {0: work}, vague=NOISE),
        slope("append, ms", {0: took}, 1e3, NOISE),
        slope("disk, bytes a step", {0: [pair for pair in disk if pair[0] >= start]}),
    ]


def report(soak: Soak) -> int:
    """Prints the table and the last line. Returns the exit code."""
    steps = soak.check()
    waits = sorted(soak.waits) or [0.0]
    print(f"\n{'':<22} {'minutes':>8} {'mean':>10} {'% an hour':>10} {'± (2 s.e.)':>10}  verdict (goal: ≤ {GOAL:g} %)")
    slopes = soak.slopes()
    for one in slopes:
        print(f"{one.name:<22} {one.minutes:>8} {one.mean:>10.3f} {one.percent:>10.2f} {one.error:>10.2f}  {one.verdict}")
    print(f"\nfrom a fault to the next step: median {waits[len(waits) // 2]:.1f} s, longest {waits[-1]:.1f} s")
    unmet = sum(not one.met for one in slopes)
    total = sum(soak.faults.values())
    if not total:
        soak.violated("no fault fired")
    faults = ", ".join(f"{count} × {name}" for name, count in soak.faults.items())
    print(f"{soak.hours:g} h, {steps} steps, faults: {faults or 'none'}")
    print(f"total violations {len(soak.violations)}, faults {total}, lines not met {unmet}")
    return int(bool(soak.violations or unmet))


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
