"""Nothing that comes from a log or the wire is ever unpickled: a pickle runs what its writer likes."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from swarm.errors import StoreError
from swarm.events import KINDS
from swarm.payload import decode
from swarm.runtime.wire import unpack_batch, unpack_pull

ROOT = Path(__file__).resolve().parent.parent
RUNNERS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "jsonpickle"}


class Touch:
    """Unpickling one leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "run"
    payload = pickle.dumps(Touch(trap), protocol)
    for kind, model in KINDS.items():
        with pytest.raises(StoreError):
            decode(kind, model.version, payload)
    for unpack in (unpack_batch, unpack_pull):
        with pytest.raises((ValueError, TypeError)):
            unpack(payload)
    assert not trap.exists()
    pickle.loads(payload)
    assert trap.exists(), "the trap works"


def test_no_module_reads_pickles() -> None:
    found = []
    for path in sorted((ROOT / "swarm").rglob("*.py")) + sorted((ROOT / "protocols").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.partition(".")[0] in RUNNERS]
    assert not found
