"""The command `swarm`: which verbs there are.

Owns the list and its order. Each verb stands in the file of its group; none loads anything heavy before it runs.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from swarm import __version__
from swarm.cli.bench import app as bench
from swarm.cli.catalogue import models, protocols, roles
from swarm.cli.cost import cost
from swarm.cli.detached import supervise
from swarm.cli.doctor import doctor
from swarm.cli.door import open_streams, say_error
from swarm.cli.history import diff, fork, steps
from swarm.cli.jobs import ask, plan, resume, run
from swarm.cli.people import approve, cancel, inbox, pause, reject, tell
from swarm.cli.records import artifacts, export, logs, replay, report, show
from swarm.cli.retention import gc
from swarm.cli.runs import list_, rm, status, watch
from swarm.cli.submit import submit
from swarm.errors import SwarmError
from swarm.models.loading import left_loading

app = typer.Typer(
    name="swarm",
    help="Agents with bounded windows answer questions over input of any size, and every claim cites its source.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"swarmloom {__version__}", flush=True)
        raise typer.Exit


@app.callback()
def _everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """What holds for every verb."""


_PANELS = {
    "Work": (run, ask, plan, submit, resume, fork),
    "Runs": (list_, status, watch, supervise, gc, rm),
    "People": (pause, cancel, tell, inbox, approve, reject),
    "Results and how they came about": (report, artifacts, export, logs, show, steps, diff, cost, replay),
    "What there is": (roles, protocols, models, doctor),
}
for _panel, _verbs in _PANELS.items():
    for _verb in _verbs:
        app.command(_verb.__name__.rstrip("_"), rich_help_panel=_panel)(_verb)
app.add_typer(bench, name="bench", rich_help_panel="What there is")


def main() -> None:
    """Runs the command line. A model whose loading was given up keeps nobody."""
    open_streams()
    try:
        app()
    except SwarmError as error:  # help that cannot be written: a verb's own errors end there
        say_error(error)
        sys.exit(int(error.exit_code))
    except SystemExit as ended:
        if not left_loading():
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1)
