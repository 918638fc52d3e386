"""The verbs that look back and branch off: steps, diff, fork.

Owns their options and how steps and differences are put before people.
"""

from __future__ import annotations

import json
import sys
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli.door import Json, RunId, Runs, duration, emit, err, json_seen, number, out, people, the_run, verb
from swarm.cli.jobs import Address, Agents, Local, Overrides, Wait, not_blank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from swarm.report.compare import Claim, Comparison
    from swarm.report.steps import Step
    from swarm.store.interface import Reader

SHOWN = 40
"""Claims of each kind that are printed for people; --json has all."""
IN_MEMORY = 2**20
"""Characters of a long document that are kept in memory until it is whole; more go to a temporary file."""


@verb
def steps(
    id: RunId,
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="Only steps of this role.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only tasks that were given up.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """List the steps of a run: one line for each task that ended. `fork --at` takes their numbers."""
    from dataclasses import asdict

    run = the_run(id, runs)
    with run.reader() as reader:
        if role:
            _check_role(reader, role)
        found = (step for step in _steps(reader) if role in ("", step.role) and (step.failed or not failed))
        if not as_json:
            console = out()
            console.print(f"{'STEP':>7} {'EVENT':>9}  ROLE         OUTCOME       CALLS   TOKENS  SECONDS  TASK")
            for step in found:
                console.print(line_of(step), markup=False)
            return
        # Beside the memory, for there may be millions; and whole, for a damaged log must not leave half a document.
        with SpooledTemporaryFile(IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass") as document:
            document.write("[")
            for at, step in enumerate(found):
                document.write((",\n " if at else "") + json_seen(json.dumps(asdict(step), ensure_ascii=False)))
            document.write("]\n")
            document.seek(0)
            copyfileobj(document, sys.stdout)


def _check_role(reader: Reader, role: str) -> None:
    """Refuses a role that the job has not: a misspelt one has no steps, which would read as if nothing had been done."""
    from swarm.errors import SpecError
    from swarm.events import JobCreated

    created = (event.body for event in reader.life(sound=True) if isinstance(event.body, JobCreated))
    known = {name: None for body in created for name in body.roles}
    if known and role not in known:  # without any the log has lost its beginning, and says so as it is read
        raise SpecError(f"{role!r} is no role of this job", "--role", f"its roles: {', '.join(known)}")


def _steps(reader: Reader) -> Iterator[Step]:
    from swarm.report.steps import steps

    return steps(reader)


def line_of(step: Step) -> str:
    """A step as people read it."""
    outcome = f"failed: {step.outcome}" if step.failed else step.outcome or "done"
    passages = f"{step.spans[0]}" if len(step.spans) == 1 else f"{step.spans[0]}…{step.spans[-1]}" if step.spans else ""
    tokens = step.tokens_in + step.tokens_out
    return (
        f"{step.number:>7} {f'@{step.seq}':>9}  {step.role:<12} {outcome:<13} {step.calls:>5} {tokens:>8,} "
        f"{step.seconds:>8.2f}  {step.task}{f'  passage {passages}' if passages else ''}"
    )


@verb
def fork(
    id: RunId,
    at: Annotated[
        str, typer.Option("--at", metavar="STEP", help="The last step that is kept: its number, or @SEQ; 0 for none.")
    ],
    overrides: Overrides = None,
    new: Annotated[str, typer.Option("--id", metavar="NEW", callback=not_blank, help="Name of the new run.")] = "",
    runs: Runs = None,
    local: Local = False,
    address: Address = "",
    agents: Agents = 64,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Begin a new run with another one's steps up to a point, and go on from there under changed settings.

    What is recorded up to that step is kept and never made again; what was decided after it is not there. `swarm steps`
    lists the steps. The new run has a copy of all it needs: the old one may be removed.
    """
    from dataclasses import replace
    from datetime import datetime

    from swarm.cli.driving import resume_job
    from swarm.cli.jobs import options_of, setting
    from swarm.runtime.fork import fork as make_fork
    from swarm.store.folder import new_id

    source = the_run(id, runs)
    options = options_of(runs, local, address, new, agents, wait)
    target = options.runs.run(new or new_id(source.id, datetime.now().astimezone(), options.runs.ids()))
    made = make_fork(source, target, at, dict(setting(text) for text in overrides or ()))
    what = f", with {', '.join(made.changes)} changed" if made.changes else ""
    err().print(f"{target.id}: {source.id} up to step {made.cut.step} (event {made.cut.seq}){what}", markup=False)
    raise typer.Exit(resume_job(target, replace(options, pinned=True), as_json))


@verb
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A run.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another run.")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Compare two runs: settings, rows, verdicts, sources, costs. Exits with 0 if they say the same, with 1 if not."""
    from swarm.report import gather
    from swarm.report.compare import compare
    from swarm.runtime.session import read_job
    from swarm.store.folder import read_status

    found: list[Any] = []
    for name in (first, second):
        run = the_run(name, runs)
        with run.reader() as reader:  # the log alone does not know whether its driver lives
            answer = gather(reader).model_copy(update={"status": read_status(run).status})
            found.append((answer, read_job(reader)[1]))
    (one, one_spec), (two, two_spec) = found
    comparison = compare(one, two, one_spec, two_spec)
    for line in comparison_lines(one.id, two.id, comparison):
        people(as_json).print(line, markup=False)
    if as_json:
        emit({"a": one.id, "b": two.id} | comparison.document())
    raise typer.Exit(1 if comparison.differs else 0)


def comparison_lines(first: str, second: str, found: Comparison) -> list[str]:
    """A comparison as people read it."""
    lines = [f"setting {name}: {_shown(a)} → {_shown(b)}" for name, (a, b) in found.spec.items()]
    for title, claims in ((first, found.only_first), (second, found.only_second)):
        lines += [f"only in {title}: {_claim(claim)}" for claim in claims[:SHOWN]]
        if len(claims) > SHOWN:
            lines.append(f"only in {title}: {number(len(claims) - SHOWN)} more (--json has all)")
    for a, b in found.changed[:SHOWN]:
        lines.append(f"differs: {_claim(a)}: {', '.join(_how(a, b))}")
    if len(found.changed) > SHOWN:
        lines.append(f"differs: {number(len(found.changed) - SHOWN)} more (--json has all)")
    lines.append(
        f"rows: {number(found.same)} alike, {number(len(found.changed))} with other counts, verdicts or sources, "
        f"{number(len(found.only_first))} only in {first}, {number(len(found.only_second))} only in {second}"
    )
    costs = [(name, a, b) for name, (a, b) in found.costs.items() if (a, b) != (None, None)]
    return lines + [f"{name}: {_figure(name, a)} | {_figure(name, b)}" for name, a, b in costs]


def _claim(claim: Claim) -> str:
    return "; ".join(f"{name} = {value}" for name, value in claim.values.items())


def _how(a: Claim, b: Claim) -> list[str]:
    lost, won = set(a.cites) - set(b.cites), set(b.cites) - set(a.cites)
    pairs = (("count", a.count, b.count), ("verdict", a.verdict, b.verdict))
    how = [f"{name} {one} → {two}" for name, one, two in pairs if one != two]
    how += [f"source − {place}" for place in sorted(lost)[:3]] + [f"source + {place}" for place in sorted(won)[:3]]
    return how or ["sources in another order"]


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)


def _figure(name: str, value: Any) -> str:
    if name == "seconds":
        return duration(value)
    return str(value) if isinstance(value, str) or value is None else number(value) if name != "cost" else f"{value:,.4f}"
