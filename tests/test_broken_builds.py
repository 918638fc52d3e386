"""That the broken builds still fit the source, and that their tests are there. `make mutants` runs them."""

from __future__ import annotations

import re

import pytest

from tests.broken_builds import BUILDS, BrokenBuild
from tests.mutants import ROOT, judged, main

TWICE = range(1, 9)
"""Builds that two tests must catch, each of their variants."""


def test_all_of_them_are_listed() -> None:
    numbers = [build.number for build in BUILDS]
    assert numbers == sorted(numbers) and set(numbers) == set(range(1, 24))
    for build in BUILDS:
        assert build.number not in TWICE or len(set(build.tests)) >= 2, build.name


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: f"{build.number} {build.name}")
def test_a_broken_build_fits_the_source_and_names_its_tests(build: BrokenBuild) -> None:
    if build.waits:
        assert not build.patches and not build.tests
        return
    for patch in build.patches:
        text = (ROOT / patch.file).read_text(encoding="utf-8")
        assert text.count(patch.old) == 1, patch
        compile(text.replace(patch.old, patch.new), patch.file, "exec")
    assert build.tests
    for test in build.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test


def test_a_build_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["3", "99"]) == 2
    said = capsys.readouterr()
    assert "no build 99" in said.err and not said.out, "nothing was run"


def test_a_test_that_passes_catches_nothing() -> None:
    harmless = BrokenBuild(0, "harmless", (), ("tests/test_no_pickle.py::test_no_module_reads_pickles",))
    caught, words = judged(harmless)
    assert not caught and words == "NOT CAUGHT: tests/test_no_pickle.py::test_no_module_reads_pickles passes"
