"""The verb `submit`: a job for a cluster that runs already, started by its head.

Owns what is said of such a job, and passing on what its driver says. How it is sent is the runtime's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli.door import Json, Runs, emit, err, error_document, say_error, verb
from swarm.cli.jobs import Agents, Id, JobFile, Overrides, not_blank, read_job
from swarm.errors import ExitCode

if TYPE_CHECKING:
    from swarm.runtime.submission import RemoteDriver
    from swarm.spec import JobSpec

Head = Annotated[str, typer.Option("--address", metavar="URL", help="The head's dashboard, as http://HEAD:8265.")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow the job to its end, and end with its exit code.")]
Key = Annotated[
    str,
    typer.Option(
        "--key", metavar="KEY", callback=not_blank,
        help="The request's own name: submitted again under it, it is the same job.",
    ),
]  # fmt: skip


@verb
def submit(
    job: JobFile,
    address: Head = "http://127.0.0.1:8265",
    wait: Wait = False,
    id: Id = "",
    key: Key = "",
    runs: Runs = None,
    agents: Agents = 64,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Have the head of a Ray cluster run a job.

    Returns once the job's log is there, or says what was wrong. Inputs, role files and the folder of the runs are taken to
    be on the cluster's file system, under the same paths as here. A second submission with the same --key or --id means the
    same job: one that has lost its driver, or was answered, goes on. A token is taken from RAY_AUTH_TOKEN or
    RAY_AUTH_TOKEN_PATH.
    """
    spec = read_job(job, overrides or [])
    try:
        code = asyncio.run(_submit(spec, runs, address, id, key, agents, wait, as_json))
    except KeyboardInterrupt:
        err().print("no longer watched; a job that was submitted goes on")
        raise typer.Exit(130) from None
    raise typer.Exit(code)


async def _submit(
    spec: JobSpec, runs: str | None, address: str, id: str, key: str, agents: int, wait: bool, as_json: bool
) -> int:
    from swarm.api import send

    driver = await send(spec, runs, address, id, key or None, agents)
    run, say = driver.run, err().print
    say(f"{'submitted before' if driver.found else 'submitted'} as {driver.id} to {address}", markup=False)
    say("inputs and role files are read on the cluster, under the paths they have here", markup=False)
    if wait:
        async for line in _for_people(driver.words()):
            say(line, markup=False)
        return await _ended(driver, as_json)
    await driver.opened()
    say(f"run {run.id}: {run.where} (on the cluster)", markup=False)
    say(f"dashboard: {address.rstrip('/')}/#/jobs/{driver.id}", markup=False)
    say(f"follow with: swarm watch {run.id}{run.option}", markup=False)
    if as_json:
        emit(_place(driver))
    return 0


async def _ended(driver: RemoteDriver, as_json: bool) -> int:
    """Says what came of a driver that has ended; the exit code."""
    error, code = await driver.error(), await driver.exit_code()
    if as_json:
        document: dict[str, Any] = await driver.document() or {}
        if error is not None:
            document["error"] = error_document(error)
        emit(document | _place(driver))
    if code == ExitCode.WAITING:
        how = f"once it is answered, submitting it again under its --key, or as --id {driver.run.id}, goes on"
        err().print(how, markup=False)
    if error is not None:
        say_error(error)
        return code or int(error.exit_code)
    return code


def _place(driver: RemoteDriver) -> dict[str, str]:
    run = driver.run
    return {
        "id": run.id, "run": str(run.path), "report": str(run.report_html), "submission": driver.id, "address": driver.address,
    }  # fmt: skip


async def _for_people(words: AsyncIterator[str]) -> AsyncIterator[str]:
    """The lines of what a driver says that are for people: without its document, and the errors, which are told apart."""
    rest, inside = "", False
    async for text in words:
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            inside = inside or line == "{" or line.startswith("error: ")
            if not inside:
                yield line
