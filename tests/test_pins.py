"""Pinning: how much is cut and made durable at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from swarm.coordinator import JobState
from swarm.corpus import pin
from swarm.errors import CorpusError
from swarm.events import SpansPinned
from swarm.runtime.pins import BLOCK, check_unchanged, pin_blocks
from tests.jobs import job
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
