"""What a test tells `make chaos`: each fault at the moment when it has fired, and each time that it has measured.

Owns the file that both write to and read from, and the seed that chaos hands on. A test that runs by itself tells nobody, and
draws what it always draws.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

FILE, SEED = "SWARM_TEST_FAULTS", "SWARM_TEST_SEED"


def fired(fault: str, times: int = 1) -> None:
    """Tells that a fault has fired, so many times."""
    _tell({"fault": fault, "times": times})


def measured(what: str, seconds: float) -> None:
    """Tells how long something took."""
    _tell({"measured": what, "seconds": seconds})


def drawing(seed: int) -> random.Random:
    """The draws of a test: the same each time, unless chaos says otherwise."""
    return random.Random(seed + int(os.environ.get(SEED, 0)))


def _tell(what: dict[str, object]) -> None:
    if place := os.environ.get(FILE):
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        with open(place, "a", encoding="utf-8") as file:
            file.write(json.dumps({**what, "test": test}) + "\n")


@dataclass
class Told:
    """What the tests of one process have told."""

    faults: int = 0
    tests: set[str] = field(default_factory=set)
    """Those in which a fault fired."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, file: Path) -> Told:
        told = cls()
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            said = json.loads(line)
            if "fault" in said and said["times"]:
                told.faults += said["times"]
                told.tests.add(said["test"])
            elif "measured" in said:
                told.seconds[said["measured"]].append(said["seconds"])
        return told
