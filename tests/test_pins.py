"""Pinning: how much is cut and made durable at a time."""

from __future__ import annotations

from pathlib import Path

from swarm.coordinator import JobState
from swarm.corpus import pin
from swarm.events import SpansPinned
from swarm.runtime.pins import BLOCK, pin_blocks
from tests.jobs import job
from tests.sample_run import prepared


def test_equal_passages_are_pinned_in_blocks_of_a_bounded_number(tmp_path: Path) -> None:
    file = tmp_path / "line.txt"
    file.write_text("x " * 300_000)
    spec = job(file)
    counts = [
        sum(event.count for event in block.events if isinstance(event, SpansPinned))
        for block in pin_blocks(pin(spec.inputs), prepared(spec, tmp_path), JobState())
    ]
    assert sum(counts) > 2 * BLOCK > max(counts)
