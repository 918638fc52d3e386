"""The environment that Ray, and every process of ours under it, runs in: tokens on, usage reports off.

Owns these settings and the moment at which they are made: before the first import of ray, which reads them once.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait take the cores from everything else
    "PYTHONSAFEPATH": "1",  # a queue.py in the working folder must not shadow the one that Ray's processes import
}


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes the settings, where the person has not made them otherwise. Call it before anything imports ray."""
    for name, value in SETTINGS.items():
        environment.setdefault(name, value)
