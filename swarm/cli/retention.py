"""The verb `gc`: what lies about in runs and serves nothing, and its removal."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm.cli.door import Json, Runs, emit, number, people, runs_of, the_run, verb


@verb
def gc(
    id: Annotated[str, typer.Argument(metavar="[ID]", help="A run; all runs that nobody works on, if not given.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only listed.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Say what runs hold that nothing needs, and remove it with --yes. Events and their texts always stay."""
    from swarm.errors import StoreError

    place = runs_of(runs)
    chosen = [the_run(id, runs)] if id else [run for run in map(place.run, place.ids()) if run.exists()]
    rows = []
    for left in place.beside(remove=yes) if not id else ():
        if left.kept:
            people(as_json).print(f"{left.file}: left alone: {left.kept}", markup=False)
            continue
        rows.append({"run": "", "what": left.what, "bytes": left.size, "file": str(left.file)})
        people(as_json).print(f"{left.what}: {left.file}", markup=False)
    for run in chosen:
        try:
            if not id and run.holder():
                continue
            found = run.free() if yes else run.needless()
        except StoreError as error:
            if id:
                raise
            people(as_json).print(f"{run.id}: left alone: {error.message}", markup=False)
            continue
        for one in found:
            rows.append({"run": run.id, "what": one.what, "bytes": one.size, "file": str(one.file or "")})
            people(as_json).print(f"{run.id}: {one.what}: {number(one.size)} bytes {one.file or ''}".rstrip(), markup=False)
    total = sum(int(str(row["bytes"])) for row in rows)
    done = "freed" if yes else "can be freed with --yes"
    people(as_json).print(f"{number(total)} bytes {done}", markup=False)
    if as_json:
        emit({"removed": yes, "bytes": total, "rows": rows})
