"""The `local` shell: master, host and model on one event loop, in one process."""

from __future__ import annotations

import asyncio

from swarm.errors import SwarmError
from swarm.models.choose import create_model
from swarm.models.interface import Model
from swarm.runtime.collector import calm_collector
from swarm.runtime.host import Host, serve
from swarm.runtime.outside import outside
from swarm.runtime.session import Session


async def work_locally(session: Session, agents: int, model: Model | None = None, patient: bool = False) -> None:
    """Runs the session's job until it rests, on `model` or else on the one that the job names. `patient` is as in
    `Session.open`.

    Raises:
        SwarmError: what made it impossible to go on; the job is left to be resumed. A fault of the program comes out as
            itself, not in a group.
    """
    job = session.job
    model = model or create_model(job.spec.model, job.channels())
    shared = outside(session.run.id, job.spec, session.run.root)
    host = Host("local", job.spec, job.protocol, job.roles, model, agents, session.run.id, shared)
    session.open("local", patient)
    try:
        with calm_collector():
            async with asyncio.TaskGroup() as group:
                group.create_task(session.begin())
                group.create_task(serve(host, session.master))
                group.create_task(session.tend())
    except BaseExceptionGroup as several:
        error = first_error(several)
        raise error from error.__cause__
    session.raise_failed()


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to speak of in a group, however deep it lies: the first that was raised on purpose, else the first."""
    meant, rest = group.split(SwarmError)
    chosen = meant or rest or group
    error = chosen.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
