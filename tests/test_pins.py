"""Pinning: how much is cut and made durable at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from swarm.coordinator import JobState
from swarm.corpus import pin
from swarm.errors import CorpusError, ExitCode
from swarm.events import SpansPinned
from swarm.runtime.pins import BLOCK, came_later, check_unchanged, pin_blocks
from tests.commands import job_file, swarm
from tests.jobs import job, write_sources
from tests.sample_run import RAISES, HandDriven, prepared


def test_equal_passages_are_pinned_in_blocks_of_a_bounded_number(tmp_path: Path) -> None:
    file = tmp_path / "line.txt"
    file.write_text("x " * 300_000)
    spec = job(file)
    counts = [
        sum(event.count for event in block.events if isinstance(event, SpansPinned))
        for block in pin_blocks(pin(spec.inputs), prepared(spec, tmp_path), JobState())
    ]
    assert sum(counts) > 2 * BLOCK > max(counts)


def test_a_file_that_came_later_and_has_the_name_of_another_changes_no_input(tmp_path: Path) -> None:
    for name in ("x/src/a.py", "y/src/b.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"# {name}\n")
    inputs = {"inputs": [str(tmp_path / "x/src"), str(tmp_path / "y/src")]}
    driven = HandDriven.create(tmp_path, {**RAISES, **inputs})
    check = partial(check_unchanged, driven.job, driven.state, lambda hash: driven.store.body(hash).decode())
    (tmp_path / "y/src/a.py").write_text("# came later\n")
    check()
    (tmp_path / "x/src/a.py").write_text("# changed\n")
    with pytest.raises(CorpusError, match="changed or gone") as error:
        check()
    assert error.value.where == "src/a.py"
    driven.store.close()


def test_of_two_documents_of_one_name_the_one_that_is_gone_is_named(tmp_path: Path) -> None:
    for name in ("x/src/a.py", "y/src/a.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"# {name}\n")
    driven = HandDriven.create(tmp_path, {**RAISES, "inputs": [str(tmp_path / "x/src"), str(tmp_path / "y/src")]})
    (tmp_path / "y/src/a.py").rename(tmp_path / "y/src/b.py")
    with pytest.raises(CorpusError, match="changed or gone") as error:
        check_unchanged(driven.job, driven.state, lambda hash: driven.store.body(hash).decode())
    assert error.value.where.endswith("y/src/a.py")
    driven.store.close()


def test_files_that_came_later_are_told_from_those_that_are_read_or_left_out(tmp_path: Path) -> None:
    for name in ("x/src/a.py", "y/src/a.py", "y/src/empty.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("" if "empty" in name else f"# {name}\n")
    driven = HandDriven.create(tmp_path, {**RAISES, "inputs": [str(tmp_path / "x/src"), str(tmp_path / "y/src")]})
    later = partial(came_later, driven.job.spec.inputs, driven.state, driven.store)
    assert later() == []
    (tmp_path / "y/src/b.py").write_text("# came later\n")
    assert later() == ["src/b.py"]
    (tmp_path / "x/src").rename(tmp_path / "gone")
    assert later() == [], "which is said as an error"
    driven.store.close()


def test_a_resume_says_which_files_came_too_late_for_the_job(tmp_path: Path) -> None:
    code = write_sources(tmp_path, 4)
    path = job_file(tmp_path, code, budget={"calls": 20, "reserve": 0.2})
    runs = ("--runs", tmp_path / "runs")
    assert swarm("run", path, "--local", *runs).code == ExitCode.BUDGET
    (code / "later.py").write_text("# came later\n")
    said = swarm("resume", "latest", "--local", "--budget", "calls=none", *runs)
    assert said.code == 0 and "note: 1 file that came later will not be read by this job: code/later.py" in said.err
