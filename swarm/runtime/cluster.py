"""Starting or joining a Ray cluster.

Owns the connection and the translation of Ray's errors into ours. What environment Ray is started in, `environment` says.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from swarm.errors import AwayError, ClusterError, SwarmError
from swarm.names import is_number

NAMESPACE = "swarm"
ANSWER_SECONDS = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that this process is connected to. `ours` says whether it ends with this process."""

    dashboard: str
    ours: bool


def connect(address: str, dashboard: bool = True) -> Cluster:
    """Joins the cluster at `address` (HOST:PORT, or `auto` for one on this machine), or starts one where it is empty.

    Raises:
        ClusterError: nothing answers there, or it does not let us in.
    """
    _ensure_token()
    if address and address != "auto":
        _check_answers(address)
    try:
        context = ray.init(
            address=address or "local", namespace=NAMESPACE, include_dashboard=dashboard if not address else None,
            configure_logging=True, logging_level=logging.ERROR, log_to_driver=False,
        )  # fmt: skip
    except Exception as error:  # Ray raises bare Exceptions as well when one of its processes does not start
        said = (str(error).splitlines() or [type(error).__name__])[0]
        kind = AwayError if address else ClusterError
        raise kind(
            f"did not let this driver in: {said}", f"Ray at {address or 'this machine'}",
            "check that it runs (`ray status`), its version, and RAY_AUTH_TOKEN",
        ) from error  # fmt: skip
    url = context.dashboard_url if hasattr(context, "dashboard_url") else ""
    return Cluster(f"http://{url}" if url else "", not address)


def _ensure_token() -> None:
    """A token for the cluster that we start, if there is none: Ray looks for it in its own default file."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    if not (Path.home() / ".ray" / "auth_token").exists():
        from ray._private.authentication.authentication_token_setup import generate_and_save_token

        generate_and_save_token()


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    where = f"Ray at {address}"
    if address.startswith(("http://", "https://")):
        raise ClusterError("is the address of a dashboard", where, "`swarm submit` has the head of that cluster run a job")
    no_address = ClusterError("is no address", where, "give HOST:PORT of the head node, such as 10.0.0.1:6379, or `auto`")
    if not host or not is_number(port) or not 1 <= int(port) <= 65535:
        raise no_address
    try:
        with socket.create_connection((host, int(port)), ANSWER_SECONDS):
            pass
    except ValueError as error:  # a name that no host can have, such as one with an empty part
        raise no_address from error
    except OSError as error:
        raise AwayError(
            f"does not answer: {error.strerror or error}", where, "start it with `ray start --head`, or leave --address out"
        ) from error


async def answer(reference: Awaitable[T]) -> T:
    """Waits for a remote call, and raises our own errors as they were raised there.

    Raises:
        SwarmError: what the call raised.
        ClusterError: the actor is gone, or the call failed in a way that is nobody's contract.
    """
    try:
        return await reference
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, BaseException) else error
        if isinstance(cause, SwarmError):
            raise cause from None
        raise ClusterError(f"a remote call failed: {type(cause).__name__}: {cause}", "ray") from error
    except RayActorError as error:
        raise ClusterError(f"an actor is gone: {str(error).splitlines()[0]}", "ray") from error
    except RayError as error:
        said = (str(error).splitlines() or [""])[0]
        raise ClusterError(f"a remote call failed: {type(error).__name__}: {said}", "ray") from error


def is_gone(error: ClusterError) -> bool:
    """Whether an error that `answer` raised here says that the actor is gone, or cannot be reached."""
    return isinstance(error.__cause__, RayActorError)


def kill(actor: Any) -> None:
    """Ends an actor at once."""
    ray.kill(actor, no_restart=True)


def disconnect() -> None:
    """Leaves the cluster; one that we started ends."""
    ray.shutdown()


