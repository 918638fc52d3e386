"""What holds for every test: how hypothesis draws, and nothing else.

Fakes are classes in `swarm/testing/`; fixtures stand beside the tests that use them. The markers are in
pyproject.toml.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that does other work as well. The same examples are
# drawn each time, so that a failure on one machine is a failure on all.
settings.register_profile(
    "swarm", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("swarm")
