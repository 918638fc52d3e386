"""Runs each broken build's tests against it: `python -m tests.mutants [NUMBER…]`, or `make mutants`.

Owns the copy of the tree, the patching of it, and the table. First the named tests run on an unbroken copy, where all must
pass; a build counts as caught only if every test that is named for it fails, and none merely cannot be run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.broken_builds import BUILDS, BrokenBuild

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("swarm", "protocols", "tests", "pyproject.toml")
"""What patches or tests change; the rest is linked."""
SECONDS = 600
"""No test that is named takes as long; one that does with a broken build has hung, and counts as not caught."""


def copy_tree(target: Path) -> None:
    """A tree to break: copies of the code, links to the rest."""
    for entry in ROOT.iterdir():
        if entry.name in COPIED:
            ignore = shutil.ignore_patterns("__pycache__")
            copy = shutil.copytree(entry, target / entry.name, ignore=ignore) if entry.is_dir() else None
            if copy is None:
                shutil.copy(entry, target / entry.name)
        elif not entry.name.startswith(".git"):
            (target / entry.name).symlink_to(entry)


def broken(build: BrokenBuild, tree: Path) -> None:
    """Applies a build's patches.

    Raises:
        ValueError: one of them no longer fits the source.
    """
    for patch in build.patches:
        path = tree / patch.file
        text = path.read_text(encoding="utf-8")
        if text.count(patch.old) != 1:
            raise ValueError(f"{build.number}: the patch of {patch.file} fits {text.count(patch.old)} places, not one")
        path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")


def run(tree: Path, tests: Sequence[str]) -> dict[str, bool | None]:
    """Runs tests in a tree: name → whether all of its cases passed; None: it could not be run."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", "-m", "", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return dict.fromkeys(tests)
    said = re.findall(r"^(PASSED|FAILED|ERROR) (\S+?)(?:\[.*)?$", re.sub(r" - .*", "", done.stdout), re.MULTILINE)
    out: dict[str, bool | None] = {}
    for test in tests:
        words = {word for word, name in said if name == test}
        out[test] = None if not words or "ERROR" in words else "FAILED" not in words
    return out


def judged(build: BrokenBuild) -> tuple[bool, str]:
    """Whether a build is caught, and by what, or why not."""
    with tempfile.TemporaryDirectory(prefix="swarm-mutant-") as name:
        tree = Path(name)
        copy_tree(tree)
        try:
            broken(build, tree)
        except ValueError as error:
            return False, str(error)
        results = run(tree, build.tests)
    missed = [f"{test} {'passes' if passed else 'cannot be run'}" for test, passed in results.items() if passed is not False]
    names = ", ".join(test.partition("::")[2] for test in build.tests)
    return (not missed, f"caught by {names}" if not missed else f"NOT CAUGHT: {'; '.join(missed)}")


def main(numbers: Sequence[str]) -> int:
    known = {str(build.number) for build in BUILDS}
    if unknown := sorted(set(numbers) - known):
        print(f"there is no build {', '.join(unknown)}: they are numbered 1 to {BUILDS[-1].number}", file=sys.stderr)
        return 2
    chosen = [build for build in BUILDS if not numbers or str(build.number) in numbers]
    began = time.monotonic()
    named = sorted({test for build in chosen for test in build.tests})
    with tempfile.TemporaryDirectory(prefix="swarm-mutant-") as name:
        copy_tree(Path(name))
        failing = [test for test, passed in run(Path(name), named).items() if not passed]
    print(f"unbroken: {len(named) - len(failing)} of {len(named)} named tests pass", flush=True)
    for test in failing:
        print(f"  does not pass without any fault: {test}")
    missed: set[int] = set()
    for build in chosen:
        if build.waits:
            print(f"{build.number:3}  {build.name}: not applicable yet: {build.waits}", flush=True)
            continue
        good, words = judged(build)
        missed |= set() if good else {build.number}
        print(f"{build.number:3}  {build.name}: {words}", flush=True)
    print(f"{time.monotonic() - began:.0f} s")
    total = {build.number for build in chosen}
    waiting = {build.number for build in chosen if build.waits}
    print(f"{len(total - missed - waiting)}/{len(total)}")
    return 1 if failing or missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
