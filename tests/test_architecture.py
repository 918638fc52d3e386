"""What the source must look like: which layer imports which, what loads lightly, what the public names are.

Reads the files with `ast` and never runs them, but for the few that must start without heavy packages.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent

PUBLIC = frozenset(
    [
        "Answer", "AnswerSpec", "BudgetSpec", "ClusterError", "Column", "CorpusError", "Event", "ExitCode",
        "InputSpec", "JobHandle", "JobSpec", "ModelError", "ModelSpec", "Price", "ProtocolError",
        "ProtocolSpec", "SpecError", "StoreError", "SwarmError", "WeightsError", "WindowError",
        "load_spec", "resume", "run", "submit",
    ]
)
"""The names that `swarm` promises. A name added here is kept for good."""

# Lowest first. A module may import its own layer and those below, adapters excepted.
LAYERS: dict[str, tuple[str, ...]] = {
    "vocabulary": ("errors", "names", "spec", "events", "payload", "prices", "shipped", "wording", "people_yaml", "__version__"),
    "pure": ("board", "window", "protocol", "rows", "gold", "coordinator", "agents"),
    "interfaces": (),  # the module `interface` of each adapter
    "adapters": ("store", "models", "corpus", "tools"),
    "runtime": ("runtime",),
    "doors": ("testing", "report", "learn", "bench", "plan"),
    "commands": ("cli", "api", "__main__", ""),  # "" is `swarm` itself
}
ORDER = list(LAYERS)
LAYER_OF = {room: layer for layer, rooms in LAYERS.items() for room in rooms}
UNSAFE = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
VAGUE = {"utils", "util", "helpers", "manager", "base", "common", "misc"}
MAX_LINES = 500


@dataclass(frozen=True)
class Import:
    """`line` of `importer` loads `target`, a dotted module name."""

    importer: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def sources(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


MODULES = {module_name(file): file for file in sources("swarm", "protocols")}


def imports(file: Path, loading: bool = False) -> Iterator[Import]:
    """Every import of the file, also inside functions; `from a import b` names a.b if that is a module.

    With `loading`, only those that run when the module loads.
    """
    name = module_name(file)
    for node in tree(file).body if loading else ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (Import(name, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: write the import from the top, not relative"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                known = inner in MODULES or inner == "swarm.__version__"
                yield Import(name, node.lineno, inner if known else str(node.module))


def room(module: str) -> str:
    """The first name below `swarm`; empty for `swarm` itself."""
    return module.partition(".")[2].partition(".")[0]


def layer(module: str) -> str:
    if module.startswith("protocols"):
        return "pure"
    found = LAYER_OF.get(room(module))
    assert found, f"{module}: no layer is named for {room(module)!r}; add it to LAYERS where it belongs"
    return "interfaces" if found == "adapters" and module.endswith(".interface") else found


def all_imports(*folders: str) -> list[Import]:
    return [one for file in sources(*folders) for one in imports(file)]


def package(one: Import) -> str:
    return one.target.partition(".")[0]


def inside(one: Import) -> bool:
    return package(one) in ("swarm", "protocols")


def upward(one: Import) -> bool:
    here, there = layer(one.importer), layer(one.target)
    if ORDER.index(there) > ORDER.index(here):
        return True
    # Adapters know each other's interfaces only.
    return here == there == "adapters" and room(one.importer) != room(one.target)


def test_imports_point_down_the_layers() -> None:
    wrong = [str(one) for one in all_imports("swarm", "protocols") if inside(one) and upward(one)]
    assert not wrong, "\n".join(wrong)


def test_the_package_imports_no_protocol_and_no_test() -> None:
    wrong = [str(one) for one in all_imports("swarm") if package(one) in ("protocols", "tests")]
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_import_each_other_as_they_load() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    found = (one for file in sources("swarm") for one in imports(file, loading=True))
    graph.add_edges_from((one.importer, one.target) for one in found if inside(one))
    rings = [sorted(ring) for ring in nx.strongly_connected_components(graph) if len(ring) > 1]
    assert not rings, rings


def test_only_the_runtime_imports_ray() -> None:
    everything = all_imports("swarm", "protocols")
    wrong = [str(one) for one in everything if package(one) == "ray" and room(one.importer) != "runtime"]
    assert not wrong, "\n".join(wrong)


def test_nothing_pickles() -> None:
    wrong = [str(one) for one in all_imports("swarm", "protocols") if package(one) in UNSAFE]
    assert not wrong, "\n".join(wrong)


def test_tests_neither_patch_nor_sleep() -> None:
    wrong = [str(one) for one in all_imports("tests") if one.target.startswith("unittest.mock")]
    for file in sources("tests"):
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.sleep", "monkeypatch.setattr"):
                wrong.append(f"{module_name(file)}:{node.lineno} uses {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", sources("swarm", "protocols", "tests"), ids=module_name)
def test_each_file_says_what_it_owns_and_is_not_too_long(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(tree(file)), "begins with no docstring"
    assert text.count("\n") <= MAX_LINES, f"has more than {MAX_LINES} lines"
    assert file.stem not in VAGUE, "has a name that says nothing"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("swarm", "torch transformers vllm ray peft tokenizers numpy networkx"),
        ("swarm.spec", "torch transformers vllm ray peft tokenizers numpy networkx"),
        ("swarm.protocol", "torch transformers vllm ray peft tokenizers numpy"),
        ("swarm.cli", "torch transformers vllm ray peft"),
    ],
)
def test_importing_stays_light(module: str, heavy: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({heavy.split()!r}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.split() == []


def test_the_public_names_are_pinned() -> None:
    import swarm

    names = list(getattr(swarm, "__all__", ()))
    assert sorted(names) == sorted(PUBLIC)
    assert len(names) <= 40
    assert all(hasattr(swarm, name) for name in names)
