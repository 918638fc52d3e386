"""The verbs under `swarm bench`: each measures one thing and prints its table and floors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.door import Json, emit, people, verb

if TYPE_CHECKING:
    from swarm.bench.outcome import Outcome

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
    tokenizer: Annotated[
        str, typer.Option(help="`embedded`, a tokenizer.json, or empty for an estimate.")
    ] = "embedded",
    agents: Annotated[
        int, typer.Option("--agents", min=1, metavar="N", help="Tasks that one host works on at once.")
    ] = 64,
    as_json: Json = False,
) -> None:
    """Durable steps a second with a model that costs nothing, against the floors."""
    from swarm.bench.overhead import SHELLS, run_overhead

    _tell(run_overhead(steps, tuple(shells) if shells else SHELLS, tokenizer, agents), as_json)


def _tell(outcome: Outcome, as_json: bool) -> None:
    """Prints an outcome; a floor that was missed makes the exit code 1."""
    from swarm.bench.table import render

    people(as_json).print(render(outcome), markup=False)
    if as_json:
        emit(outcome.document())
    if any(floor.met is False for floor in outcome.floors):
        raise typer.Exit(1)
