"""Whether the same job with the same seed gives the same rows.

Owns running one small job several times on each engine and counting the rows that are not the same in all runs. Engines
that answer one call at a time must not differ at all; one that batches calls may, and how far it does is printed.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack

from swarm.bench.outcome import Floor, Outcome
from swarm.errors import SpecError
from swarm.runtime.launch import Options, run_new
from swarm.runtime.session import fold
from swarm.spec import AnswerSpec, Column, InputSpec, JobSpec, ModelSpec, ProtocolSpec
from swarm.store.folder import RunFolder
from swarm.store.runs import Runs

RUNS = {"scripted": 2, "transformers": 2, "vllm": 3}
ABOUT = (
    "One job, run anew each time with the same seed: which function raises which exception, in one module of "
    "the standard library, without a verifier. Rows are compared with their values, quotes, places and "
    "verdicts. scripted and transformers get one call at a time; vllm batches as it likes.",
)
Row = tuple[str, ...]


def run_same(engines: Sequence[str] = tuple(RUNS), source: str = "python:queue") -> Outcome:
    """Runs the job two or three times on each engine.

    Args:
        engines: of `scripted`, `transformers` and `vllm`; the latter two run the embedded model.
        source: an input as in a job.

    Raises:
        SpecError: there is no such engine.
        SwarmError: an engine's packages are missing, or a run failed.
    """
    rows: list[dict[str, Any]] = []
    for engine in engines:
        runs = RUNS.get(engine)
        if runs is None:
            raise SpecError(f"there is no engine {engine!r} here", "--engine", f"choose from {', '.join(RUNS)}")
        rows.append(_compare(_spec(engine, source), runs))
    floors = [
        Floor.at_most(f"rows that differ, {row['engine']}", 0, row["differ"]) for row in rows if row["engine"] != "vllm"
    ]
    return Outcome("same", ABOUT, tuple(rows), tuple(floors))


def _compare(spec: JobSpec, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as name:
        began = time.perf_counter()
        found = [_rows(spec, Path(name), number) for number in range(runs)]
        seconds = time.perf_counter() - began
    alike, all_rows = set.intersection(*map(set, found)), set.union(*map(set, found))
    return {
        "engine": spec.model.engine,
        "runs": runs,
        "rows": len(found[0]),
        "differ": len(all_rows - alike),
        "order_same": all(rows == found[0] for rows in found) if all_rows == alike else False,
        "seconds": round(seconds, 1),
    }


def _rows(spec: JobSpec, root: Path, number: int) -> list[Row]:
    """What one run found, in the order of the text."""
    run = asyncio.run(run_new(spec, Options(Runs(root), "local", id=f"run-{number}"), lambda _: {}, lambda _: None))
    return found_rows(run)


def found_rows(run: RunFolder) -> list[Row]:
    """The rows of a run's log, those that code rejected included: kind, values, quote, places and verdict."""
    with run.reader() as reader:
        state = fold(reader)
        notes = [note for kind in ("row", "rejected", "finding") for note in state.board.notes(kind)]
        bodies = reader.bodies({note.body for note in notes})
    contents = [msgpack.unpackb(bodies[note.body], unicode_errors="surrogatepass") for note in notes]
    return [
        (note.kind, repr(content["values"]), content.get("quote", ""), repr(note.cites), note.verdict)
        for note, content in zip(notes, contents, strict=True)
    ]


def _spec(engine: str, source: str) -> JobSpec:
    name, concurrency = "raises" if engine == "scripted" else "embedded", 16 if engine == "vllm" else 1
    model = {"engine": engine, "name": name, "concurrency": concurrency, "timeout_s": 600}
    return JobSpec(
        name="same",
        question="Which function raises which exception?",
        inputs=(InputSpec(source=source),),
        answer=AnswerSpec(
            columns=(
                Column(name="function", description="qualified name of the function", found_in="passage"),
                Column(name="exception", description="name of the exception that it raises", found_in="quote"),
            ),
            merge="set",
        ),
        protocol=ProtocolSpec(options={"verify": False, "headlines": 0}),
        model=ModelSpec.model_validate(model),
        seed=7,
    )
