"""The verbs that look after runs: list, status, watch, rm.

Owns what they show of a run's standing, which they read from its log.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli.door import Json, RunId, Runs, duration, emit, err, number, out, people, runs_of, the_run, verb
from swarm.errors import SpecError
from swarm.names import LARGEST, counted

if TYPE_CHECKING:
    from rich.console import Console

    from swarm.cli.live import Progress
    from swarm.runtime.outbox import Untold
    from swarm.store.folder import RunFolder, RunStatus

WIDEST = 1000
"""Characters of a line at most."""


@verb
def list_(runs: Runs = None, as_json: Json = False) -> None:
    """List the runs, the newest first."""

    place = runs_of(runs)
    found = place.list()
    if as_json:
        emit([_fields(one) for one in found])
    elif not found:
        out().print(f"no runs in {place}", markup=False)
    else:
        out().print(_table(found, out()))


def _fields(one: RunStatus) -> dict[str, Any]:
    from dataclasses import asdict

    return {name: value for name, value in asdict(one).items() if name != "code"}


def _table(found: list[RunStatus], console: Console) -> Any:
    """A line for each run, however long: a terminal folds it, and a pipe must not lose a column."""
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("ID", "STATUS", "EVENTS", "STARTED", "WORKED ON BY"):
        table.add_column(title, justify="right" if title == "EVENTS" else "left", no_wrap=True)
    for one in found:
        started = f"{datetime.fromtimestamp(one.created):%Y-%m-%d %H:%M}" if one.created else ""
        table.add_row(one.id, Text(one.status), number(one.events), started, one.holder or "")
    table.width = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    return table


@verb
def status(id: RunId, runs: Runs = None, as_json: Json = False) -> None:
    """Say how a run stands: its phase, tasks by role, notes, cost and what is left of the budget."""
    from dataclasses import asdict

    from swarm.runtime.outbox import untold
    from swarm.store.folder import read_sound_status

    run = the_run(id, runs)
    known = read_sound_status(run)
    progress = _progress(run)
    with run.reader() as reader:
        failed = untold(reader, known.holder is not None)
    for line in _status_lines(run, known, progress, failed):
        people(as_json).print(line, markup=False)
    if as_json:
        emit(_status_document(run, known, progress) | {"untold": [asdict(one) for one in failed]})


def _progress(run: RunFolder) -> Progress:
    from swarm.cli.live import Progress
    from swarm.runtime.opening import open_state
    from swarm.runtime.session import read_job

    with run.reader() as reader:
        _, spec, _ = read_job(reader)
        return Progress(spec, open_state(reader).state)


def _status_lines(run: RunFolder, known: RunStatus, progress: Progress, failed: list[Untold]) -> list[str]:
    from swarm.coordinator.budget import limits_reached
    from swarm.coordinator.state import OVER_BUDGET
    from swarm.runtime.outbox import untold_words
    from swarm.store.folder import reason_words

    state = progress.state
    spent, now = state.total(), time.time() if known.holder else state.time
    lines = [
        f"{run.id}: {known.status}{f', worked on by {known.holder}' if known.holder else ''}",
    ]
    if known.detail and (known.ended or known.status in ("paused", "budget")):
        why = known.detail.removeprefix(OVER_BUDGET) if known.status == "budget" else known.detail
        lines.append(f"  reason    {why}")
    lines += [
        f"  {progress.spec.question}",
        f"  corpus    {counted(len(state.documents), 'document')}, {counted(state.spans, 'passage')}, "
        f"{counted(state.span_tokens, 'token')}",
    ]
    lines += [f"  {name:<9} {number(done)} of {counted(known, 'task')}" for name, done, known in progress.roles()]
    lines += [
        f"  board     {progress.notes()}",
        f"  spent     {counted(spent.calls, 'call')}, {counted(spent.tokens, 'token')}, {duration(state.seconds(now))}",
        f"  budget    {progress.budget_left(now)}",
    ]
    if failing := state.faults.failing:
        with run.reader() as reader:
            why = reason_words(reader, f"model:{state.faults.said}")
        lines.append(f"  model     has failed {counted(len(failing), 'task')} since it last answered: {why}")
    if state.failed:
        told = f"swarm logs {run.id} --kind TaskFailed{run.option}"
        lines.append(f"  given up  {counted(len(state.failed), 'task')} (`{told}`)")
    lines += [f"  not told  {line}" for line in untold_words(failed)]
    if known.status in ("paused", "interrupted", "answered", "budget") and not known.ended:
        more = "".join(f" --budget {name}=+MORE" for name in limits_reached(state))
        lines.append(f"  go on with: swarm resume {run.id}{more}{run.option}")
    if state.questions and not state.status:
        from swarm.cli.people import question_lines

        lines += [f"  {line}" for line in question_lines(run)]
    return lines


def _status_document(run: RunFolder, known: RunStatus, progress: Progress) -> dict[str, Any]:
    from swarm.cli.live import budget_used

    state, spent = progress.state, progress.state.total()
    now = time.time() if known.holder else state.time
    return _fields(known) | {
        "question": progress.spec.question,
        "corpus": {"documents": len(state.documents), "spans": state.spans, "tokens": state.span_tokens},
        "roles": {name: {"done": done, "known": known} for name, done, known in progress.roles()},
        "notes": state.board.kinds(),
        "calls": spent.calls,
        "tokens": spent.tokens,
        "seconds": round(state.seconds(now), 3),
        "budget_used": budget_used(progress.spec, state, now, run.size()),
        "failed": len(state.failed),
        "files": state.files,
    }


@verb
def watch(
    id: RunId,
    after: Annotated[
        int | None,
        typer.Option("--after", min=0, max=LARGEST, metavar="SEQ", help="Print each event after this number instead."),
    ] = None,
    runs: Runs = None,
) -> None:
    """Follow a run until it rests. Ends with it; Ctrl-C ends only the watching."""
    run = the_run(id, runs)
    if after is not None:
        asyncio.run(_stream(run, after))
        return
    asyncio.run(_watch(run))


async def _watch(run: RunFolder) -> None:
    from swarm.cli.driving import account_lines
    from swarm.cli.live import face, follow
    from swarm.store.folder import read_sound_status

    if (known := read_sound_status(run)).status in ("interrupted", "answered"):
        onward = f"swarm resume {run.id}{run.option}"
        out().print(f"{run.id} is {known.status}: nobody works on it; go on with: {onward}", markup=False)
        return
    spec = _progress(run).spec
    shown = face(err())
    try:
        progress = await follow(run, spec, shown, _rests)
    finally:
        shown.close()
    for line in account_lines(run, progress.state, spec, None, None):
        out().print(line, markup=False)


def _rests(progress: Progress) -> bool:
    from swarm.coordinator import Phase

    return progress.state.phase is Phase.ENDED or not progress.held


async def _stream(run: RunFolder, after: int) -> None:
    from swarm.api import JobHandle
    from swarm.cli.records import described

    with run.reader() as reader:
        async for event in JobHandle(run).events(after):
            out().print(described(event, reader), markup=False)


@verb
def rm(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Runs to delete, with their logs and reports.")],
    runs: Runs = None,
) -> None:
    """Delete runs and all their files. One that is being worked on is refused."""
    from swarm.store.place import LATEST

    found = [(id, the_run(id, runs)) for id in ids]
    for id, run in found:
        if id not in (run.id, LATEST):
            raise SpecError(f"{id!r} is only the beginning of {run.id!r}", "rm", "give the whole id")
    for _, run in found:
        run.remove()
        err().print(f"removed {run.id}", markup=False)
