"""The verbs that start work: run, ask, plan, resume.

Owns their options, and how a job is put together from a file, overrides, or a bare question.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli.door import Json, RunId, Runs, emit, people, runs_of, the_run, verb

if TYPE_CHECKING:
    from swarm.runtime.launch import Options
    from swarm.spec import JobSpec


def not_blank(option: typer.CallbackParam, context: typer.Context, value: str) -> str:
    """Refuses an empty name that was given: a script's variable may be unset."""
    source = context.get_parameter_source(str(option.name))
    if not value and source is not None and source.name != "DEFAULT":
        raise typer.BadParameter("is empty; give a name, or leave the option out")
    return value


Local = Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")]
Address = Annotated[
    str,
    typer.Option("--address", metavar="HOST:PORT", help="Join this Ray cluster (`auto`: the one on this machine)."),
]
Id = Annotated[
    str,
    typer.Option("--id", metavar="ID", callback=not_blank, help="Name of the run; made from the job's name if not given."),
]
Agents = Annotated[
    int,
    typer.Option(
        "--agents", min=1, metavar="N", help="Tasks that one host works on at once; twice model.concurrency at most."
    ),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="If the job asks a person, stay until it is answered, instead of leaving with code 5.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in --set budget.tokens=50000."),
]
JobFile = Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file; `-` reads it from stdin.")]
Detach = Annotated[
    bool, typer.Option("--detach", help="Start a driver that outlives this terminal, and return once it has begun.")
]
DEFAULT_COLUMN = "answer=a short answer to the question, copied from the passage"


@verb
def run(
    job: JobFile,
    runs: Runs = None,
    local: Local = False,
    address: Address = "",
    id: Id = "",
    agents: Agents = 64,
    wait: Wait = False,
    overrides: Overrides = None,
    detach: Detach = False,
    once: Annotated[bool, typer.Option("--once", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Run a job and write its report.

    Ctrl-C pauses the job: what is under way is finished and kept. `swarm resume` goes on.
    """
    from swarm.cli.driving import run_job, run_once

    spec = read_job(job, overrides or [])
    if once:
        raise typer.Exit(run_once(spec, options_of(runs, local, address, id, agents, wait), as_json))
    if detach:
        from swarm.cli.detached import submit_detached

        submit_detached(spec, runs, options_of(runs, local, address, id, agents, wait, detach), as_json)
        return
    raise typer.Exit(run_job(spec, options_of(runs, local, address, id, agents, wait), as_json))


@verb
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Files, folders, globs, python:PACKAGE or text:…")
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="NAME=DESCRIPTION", help="A column of the answer; may be given several times."
        ),
    ] = None,
    merge: Annotated[str, typer.Option(help="How rows are merged: auto, set, count, group, top-k, join.")] = "set",
    model: Annotated[
        str, typer.Option(help="`embedded`, a folder or hub name, or the endpoint's model name.")
    ] = "embedded",
    model_url: Annotated[str, typer.Option("--model-url", metavar="URL", help="An OpenAI-compatible endpoint.")] = "",
    key: Annotated[str, typer.Option(metavar="env:NAME", help="The variable that holds the endpoint's key.")] = "",
    runs: Runs = None,
    local: Local = False,
    address: Address = "",
    id: Id = "",
    agents: Agents = 64,
    wait: Wait = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Ask a question about files, without a job file.

    The answer is a table with one column, `answer`, each value copied from a passage and shown with its quote. Name
    your own columns with --column: the embedded reader follows what they say.
    """
    from swarm.cli.driving import run_job

    fields: dict[str, Any] = {
        "name": "ask",
        "question": question,
        "inputs": list(paths),
        "answer": {"columns": dict(_column(text) for text in columns or [DEFAULT_COLUMN]), "merge": merge},
        "model": {
            "name": model,
            **({"engine": "openai", "url": model_url} if model_url else {}),
            **({"key": key} if key else {}),
        },
    }
    spec = put_together(fields, overrides or [], "ask")
    raise typer.Exit(run_job(spec, options_of(runs, local, address, id, agents, wait), as_json))


@verb
def plan(job: JobFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Say what a job will take, as ranges, and spend nothing."""
    from swarm.cli.driving import plan_lines
    from swarm.plan import plan_job

    planned = plan_job(read_job(job, overrides or []))
    for line in plan_lines(planned):
        people(as_json).print(line, markup=False)
    if as_json:
        emit(planned.document())


@verb
def resume(
    id: RunId,
    pinned: Annotated[
        bool, typer.Option("--pinned", help="Go on with the run's own copy of inputs that have changed.")
    ] = False,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", metavar="LIMIT=+MORE", help="Give it more: tokens=+200000, money=5, seconds=none, …"),
    ] = None,
    runs: Runs = None,
    local: Local = False,
    address: Address = "",
    agents: Agents = 64,
    wait: Wait = False,
    detach: Detach = False,
    at: Annotated[int | None, typer.Option("--at", hidden=True)] = None,
    since: Annotated[int | None, typer.Option("--since", hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """Go on with a job that was paused, interrupted or killed, or that rests over its budget and is given more.

    Nothing that is recorded is done again. An input that has changed since stops the job, unless --pinned is given.
    """
    from dataclasses import replace

    from swarm.cli.driving import resume_job, tell_standing
    from swarm.runtime.people import waits_in_vain

    options = options_of(runs, local, address, "", agents, wait, detach)
    options = replace(options, pinned=pinned, budget=tuple(budget or ()), at=at, since=since)
    if detach:
        if not budget and waits_in_vain(run := the_run(id, runs)):
            raise typer.Exit(tell_standing(run, as_json))
        from swarm.cli.detached import resume_detached

        resume_detached(id, runs, options, as_json)
        return
    raise typer.Exit(resume_job(the_run(id, runs), options, as_json))


def options_of(
    runs: str | None, local: bool, address: str, id: str, agents: int, wait: bool, detach: bool = False
) -> Options:
    from swarm.errors import SpecError
    from swarm.runtime.launch import Options

    if local and address:
        raise SpecError("--local and --address exclude each other", "--address", "leave one of the two out")
    if detach and wait:
        cure = "leave --wait out: `swarm supervise` goes on with the job once it is answered"
        raise SpecError("--detach and --wait exclude each other", "--wait", cure)
    return Options(runs_of(runs), "local" if local else "ray", address, agents, id, wait=wait)


# ---- jobs ----


def read_job(source: str, overrides: list[str]) -> JobSpec:
    """The job of a file, or of stdin, with settings from the command line put over it.

    Raises:
        SpecError: what is wrong, by file and field.
    """
    from swarm.people_yaml import read_yaml
    from swarm.prices import priced
    from swarm.spec import load_spec

    if source != "-":
        spec = load_spec(Path(source))
        return put_together(spec.model_dump(mode="json"), overrides, source) if overrides else priced(spec, os.environ)
    return put_together(read_yaml(sys.stdin.read(), "stdin"), overrides, "stdin")


def put_together(fields: Any, overrides: list[str], where: str) -> JobSpec:
    """A job from plain data and overrides; relative paths are taken from the working folder."""
    from swarm.prices import priced
    from swarm.spec import anchored, parse_spec

    if isinstance(fields, dict):
        for text in overrides:
            _override(fields, text)
    return priced(anchored(parse_spec(fields, where), Path.cwd()), os.environ)


def _override(fields: dict[str, Any], text: str) -> None:
    """Puts one KEY=VALUE into nested settings."""
    from swarm.runtime.fork import put

    put(fields, *setting(text))


def setting(text: str) -> tuple[str, Any]:
    """The name and value of KEY=VALUE; the value is read as YAML.

    Raises:
        SpecError: it is no such thing.
    """
    from swarm.errors import SpecError
    from swarm.people_yaml import read_yaml

    key, mark, value = text.partition("=")
    if not mark or not key:
        raise SpecError(f"{text!r} sets nothing", "--set", "write KEY=VALUE, such as budget.tokens=50000")
    return key, read_yaml(value, f"--set {key}")


def _column(text: str) -> tuple[str, str]:
    from swarm.errors import SpecError
    from swarm.spec import COLUMN

    name, mark, description = text.partition("=")
    if not mark:
        cure = "write NAME=DESCRIPTION, such as exception='name of the exception'"
        raise SpecError(f"{text!r} has no description", "--column", cure)
    if not re.match(COLUMN, name.strip()):
        cure = "a name holds lower-case letters, digits and _, begins with a letter, and has 40 characters at most"
        raise SpecError(f"{name.strip()!r} is no name for a column", "--column", cure)
    return name.strip(), description.strip()
