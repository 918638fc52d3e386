"""The verbs that open a run's records: report, artifacts, export, logs, show, replay.

Owns how events, windows and the blackboard are put before people and programs. All of it is read from the log.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli.door import Json, RunId, Runs, delivering, emit, err, json_seen, number, out, people, runs_of, the_run, verb
from swarm.names import LARGEST, counted, reason_body

if TYPE_CHECKING:
    from collections.abc import Iterable

    from swarm.events import Event
    from swarm.store.interface import Reader

FILES = ("answer.json", "report.html", "report.md", "rows.csv", "spec.yaml")
"""What a run holds for people, in the order in which they are likely to want it."""
SHOWN = 160
"""Characters of a field in a line of the log."""


@verb
def report(id: RunId, runs: Runs = None, as_json: Json = False) -> None:
    """Write a run's report anew from its log, and show it. That of a job still at work is marked as a draft."""
    from swarm.cli.driving import answer_document, answer_lines
    from swarm.report import gather, write_report

    run = the_run(id, runs)
    where = people(as_json)
    with run.reader() as reader:
        answer = gather(reader, run.holder() is not None)
        try:
            files = write_report(reader, run)
        finally:  # whoever may not write there can read it all the same
            for line in answer_lines(answer):
                where.print(line, markup=False)
    for name in files:
        where.print(f"{'draft' if answer.draft else 'report'}: {run.path / name}", markup=False)
    if as_json:
        emit(answer_document(answer) | {"files": dict(files)})


@verb
def artifacts(
    id: RunId,
    get: Annotated[str, typer.Option("--get", metavar="NAME", help="Write this file's content to stdout.")] = "",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """List the files that a run produced, or print one of them."""
    from swarm.errors import StoreError

    run = the_run(id, runs)
    found = [run.path / name for name in FILES if (run.path / name).is_file()]
    if get:
        path = next((path for path in found if path.name == get), None)
        if path is None:
            names = ", ".join(path.name for path in found) or "none yet"
            raise StoreError(f"there is no file {get!r}", run.id, f"its files: {names}")
        if sys.stdout.isatty():
            out().print(path.read_text(encoding="utf-8"), markup=False, end="")
            return
        sys.stdout.flush()
        data = path.read_bytes()
        with delivering():
            sys.stdout.buffer.write(data)
        return
    if as_json:
        emit([{"name": path.name, "path": str(path), "bytes": path.stat().st_size} for path in found])
        return
    for path in found:
        out().print(f"{path.name:<12} {number(path.stat().st_size):>10} bytes  {path}", markup=False)


@verb
def export(
    id: RunId,
    events: Annotated[
        bool, typer.Option("--events", help="The events, one JSON object a line, instead of the board.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write here instead of to stdout.")] = None,
    runs: Runs = None,
) -> None:
    """Write the blackboard's graph with its texts, or the whole log, as JSON."""
    from swarm.cli.export import board_document, event_lines

    run = the_run(id, runs)
    with run.reader() as reader:
        import json

        lines = event_lines(reader) if events else [json.dumps(board_document(reader), ensure_ascii=False, indent=1)]
        if to is None:
            for line in lines:
                sys.stdout.write(json_seen(line) + "\n")
            return
        _write(to, lines)
    err().print(f"wrote {to}", markup=False)


def _write(to: Path, lines: Iterable[str]) -> None:
    """Writes lines into a file that a person named: all of them, or none.

    Raises:
        SpecError: it cannot be written.
    """
    from swarm.errors import SpecError
    from swarm.store.blobs import writing_durably

    cure = "name a file, in a folder that is there, has room and may be written to"
    if to.is_dir():
        raise SpecError(f"{to} is a folder", "--to", cure)
    try:
        stream = to.exists() and not to.is_file()  # a pipe, or /dev/null, which no file may take the place of
        with to.open("wb") if stream else writing_durably(to.resolve()) as file:
            for line in lines:
                file.write((json_seen(line) + "\n").encode())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SpecError(f"{to} cannot be written: {error.strerror or error}", "--to", cure) from error


@verb
def logs(
    id: RunId,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="Only events of this kind, such as TaskFailed.")
    ] = "",
    tail: Annotated[
        int, typer.Option("--tail", min=0, max=LARGEST, metavar="N", help="Only the last N of them; 0 for all.")
    ] = 50,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Print the events of a run, with the words of what went wrong."""
    from collections import deque

    from swarm.errors import SpecError
    from swarm.events import KINDS

    if kind and kind not in KINDS:
        raise SpecError(f"there is no kind {kind!r}", "--kind", f"kinds: {', '.join(sorted(KINDS))}")
    run = the_run(id, runs)
    with run.reader() as reader:
        found = deque((event for event in reader.read() if kind in ("", event.kind)), maxlen=tail or None)
        if as_json:
            from swarm.cli.export import event_document

            emit([event_document(event) for event in found])
            return
        for event in found:
            out().print(described(event, reader), markup=False)


def described(event: Event, reader: Reader | None = None) -> str:
    """An event on a line; the words of an error are read from its body."""
    from datetime import datetime

    from swarm.coordinator.tables import failure_word

    fields = []
    for name, value in event.body.__dict__.items():
        text = str(value) if name != "kind" else failure_word(str(value))
        if name == "error" and value and reader is not None:
            text = _words(reader, str(value))
        elif name == "reason" and (hash := reason_body(text)) and reader is not None:
            text = _words(reader, hash)
        if text not in ("", "()", "{}", "None"):
            fields.append(f"{name}={text if len(text) <= SHOWN else text[:SHOWN] + '…'}")
    return f"{event.seq:>7} {datetime.fromtimestamp(event.time):%H:%M:%S} {event.kind:<13} {' '.join(fields)}"


def _words(reader: Reader, hash: str) -> str:
    from swarm.errors import StoreError, on_a_line

    try:
        return on_a_line(reader.body(hash).decode(errors="replace"))
    except StoreError:
        return f"(text withdrawn: {hash})"


@verb
def show(
    call: Annotated[
        str,
        typer.Argument(metavar="CALL", help="TASK, TASK:TURN or TASK:TURN:SAMPLE; a task may be cut short."),
    ],
    run: Annotated[str, typer.Option("--run", metavar="ID", help="The run it belongs to.")] = "latest",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Print the exact window and output of a model call, segment by segment, with where each came from.

    `swarm logs ID --kind CallStarted` lists the calls.
    """
    from swarm.cli.windows import find_calls, last_calls, window_document, window_lines
    from swarm.errors import SpecError
    from swarm.store.place import LATEST

    if call == LATEST or call in runs_of(runs).ids():
        folder = the_run(call, runs)
        with folder.reader() as reader:
            last = last_calls(reader, 3)
        names = "".join(f"\n  swarm show {name} --run {call}{folder.option}" for name in last)
        cure = f"name one of its calls; the last are{names}" if last else "no model has been called in it yet"
        raise SpecError(f"{call} is a run", "CALL", cure)
    folder = the_run(run, runs)
    with folder.reader() as reader:
        calls = find_calls(reader, call)
        if as_json:
            emit([window_document(reader, one) for one in calls])
            return
        for one in calls:
            for line in window_lines(reader, one):
                out().print(line, markup=False)


@verb
def replay(
    id: RunId,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Check every checksum, and that the protocol decides again as it did."),
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Fold a run's log from the beginning; with --verify, name the first difference and exit with 1."""
    from swarm.cli.rehearsal import rehearse
    from swarm.errors import StoreError
    from swarm.runtime.session import fold

    run = the_run(id, runs)
    if verify:
        run.verify()
    document: dict[str, Any] = {"id": run.id, "verified": verify}
    with run.reader() as reader:
        state = fold(reader)
        document |= {
            "events": state.seq,
            "status": state.status or str(state.phase),
            "notes": state.board.kinds(),
        }
        people(as_json).print(f"{run.id}: {counted(state.seq, 'event')} fold to {document['status']}", markup=False)
        if verify:
            outcome = rehearse(reader)
            document |= {"decisions": outcome.decisions, "difference": outcome.difference}
            if outcome.difference:
                where = f"{run.id}, event {outcome.at}"
                raise StoreError(
                    outcome.difference,
                    where,
                    "the protocol or a role differs from what the run was made with",
                )
            text = f"every checksum holds, and the protocol decides {counted(outcome.decisions, 'time')} as it did"
            people(as_json).print(text, markup=False)
    if as_json:
        emit(document)
