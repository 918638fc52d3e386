"""The verbs under `swarm bench`: each measures one thing and prints its table and floors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.door import Json, emit, people, verb

if TYPE_CHECKING:
    from swarm.bench.outcome import Outcome

Tokenizer = Annotated[str, typer.Option(help="`embedded`, a tokenizer.json, or empty for an estimate.")]

app = typer.Typer(help="Measure what the machinery costs on this machine.", no_args_is_help=True)


@app.callback()
def _measure() -> None:
    """Measure what the machinery costs on this machine."""


@app.command()
@verb
def overhead(
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Tasks to carry.")] = 20_000,
    shells: Annotated[
        list[str] | None,
        typer.Option("--shell", help="local, ray, or ray+server; may be given several times."),
    ] = None,
    tokenizer: Tokenizer = "embedded",
    agents: Annotated[
        int | None,
        typer.Option("--agents", min=1, metavar="N", help="Tasks that one host works on at once; as the floors, if not given."),
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="LangGraph, AutoGen core and plain Ray as well: pip install 'swarmloom\\[peers]'.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Durable steps a second with a model that costs nothing, against the floors."""
    from swarm.bench.overhead import AGENTS, SHELLS, run_overhead

    _tell(run_overhead(steps, tuple(shells) if shells else SHELLS, tokenizer, agents or AGENTS, peers), as_json)


@app.command()
@verb
def agents(
    agents: Annotated[int, typer.Option("--agents", min=1, metavar="N", help="Agents that are alive at once.")] = 10_000,
    tokenizer: Tokenizer = "embedded",
    as_json: Json = False,
) -> None:
    """How much memory thousands of agents take that are alive at once in one job."""
    from swarm.bench.agents import run_agents

    _tell(run_agents(agents, tokenizer), as_json)


@app.command()
@verb
def board(
    notes: Annotated[int, typer.Option("--notes", min=10, metavar="N", help="Notes on the board.")] = 1_000_000,
    queries: Annotated[int, typer.Option("--queries", min=1, metavar="N", help="Queries of each kind.")] = 2_000,
    seed: Annotated[int, typer.Option("--seed", help="What the notes and queries are drawn with.")] = 0,
    as_json: Json = False,
) -> None:
    """How long queries of a large blackboard take, and how much memory it needs."""
    from swarm.bench.board import run_board

    _tell(run_board(notes, queries, seed), as_json)


@app.command()
@verb
def same(
    engines: Annotated[
        list[str] | None,
        typer.Option("--engine", help="scripted, transformers, or vllm; may be given several times, all if not given."),
    ] = None,
    source: Annotated[str, typer.Option("--source", help="An input as in a job.")] = "python:queue",
    as_json: Json = False,
) -> None:
    """Whether the same job with the same seed gives the same rows, on each engine."""
    from swarm.bench.same import RUNS, run_same

    _tell(run_same(engines or tuple(RUNS), source), as_json)


@app.command()
@verb
def overload(
    jobs: Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Jobs at once.")] = 20,
    passages: Annotated[int, typer.Option("--passages", min=1, metavar="N", help="Passages that each of them reads.")] = 50,
    shells: Annotated[
        list[str] | None,
        typer.Option("--shell", help="shared, processes, ray or endpoint; may be given several times; shared if not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Many jobs with ten times more work than one model takes: longest wait of each, shares, memory, loss."""
    from swarm.bench.overload import run_overload

    _tell(run_overload(jobs, passages, tuple(shells or ("shared",))), as_json)


@app.command()
@verb
def store(
    events: Annotated[int, typer.Option("--events", metavar="N", help="Events of the log that is opened.")] = 1_000_000,
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", help="Steps of the long job; 0 leaves it out. A million take minutes.")
    ] = 100_000,
    postgres: Annotated[
        str, typer.Option("--postgres", metavar="URL", help="A database to append to; a server of its own if not given.")
    ] = "",
    as_json: Json = False,
) -> None:
    """How fast a log grows, folds and opens, and what a step costs after many others."""
    from swarm.bench.store import run_store

    _tell(run_store(events, steps, postgres), as_json)


def _tell(outcome: Outcome, as_json: bool) -> None:
    """Prints an outcome; a floor that was missed makes the exit code 1."""
    from swarm.bench.table import render

    people(as_json).print(render(outcome), markup=False)
    if as_json:
        emit(outcome.document())
    if any(floor.met is False for floor in outcome.floors):
        raise typer.Exit(1)
