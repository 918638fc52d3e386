"""Drivers: what runs a job, as whoever started it sees it from outside.

Owns the driver that is a process of this machine, and what a driver's last words mean. How a job stands is in its log; a
driver only says why there is none, or why it left.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO, Any, Protocol

from swarm import errors
from swarm.errors import SwarmError
from swarm.spec import JobSpec


class Driver(Protocol):
    """What runs a job."""

    async def ended(self) -> bool:
        """Whether it has left the job."""
        ...

    async def error(self) -> SwarmError | None:
        """What a driver that has ended could not do; None if it did what it should, or the log says why not."""
        ...


class DriverProcess:
    """A driver on this machine, and what it says; both are gone from here when the handle is."""

    def __init__(self, command: list[str], spec: JobSpec, environment: Mapping[str, str]) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the driver
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        assert self._process.stdin is not None, "stdin is a pipe"
        self._process.stdin.write(json.dumps(spec.model_dump(mode="json")).encode())
        self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ended(self) -> bool:
        return self._process.poll() is not None

    async def error(self) -> SwarmError | None:
        if not self._process.poll():
            return None
        self._said.seek(0)
        document = last_document(self._said.read().decode(errors="replace"))
        if document is None:
            return SwarmError(f"the driver ended with exit code {self._process.returncode}", "swarm run")
        return error_in(document)


def last_document(said: str) -> dict[str, Any] | None:
    """The JSON document that a driver prints last, among whatever else it has said; None if it came to none."""
    start = said.rfind("\n{\n") + 1 if not said.startswith("{\n") else 0
    if not said.startswith("{\n", start):
        return None
    try:
        document, _ = json.JSONDecoder().raw_decode(said, start)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def error_in(document: dict[str, Any]) -> SwarmError | None:
    """The error that a driver's document tells of, as it was raised there."""
    said = document.get("error")
    if said is None:
        return None
    kind = getattr(errors, said["kind"], SwarmError)
    found: SwarmError = kind(said["message"], said["where"], said["cure"])
    return found
