"""Which installed Python files may be learnt from, and which are kept apart for judging.

Owns the split by package (standard library and site-packages) and the guard against copies: a passage that
mostly consists of lines of a held-out package is not trained on, wherever it was found. It does not cut or
label anything.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT = (
    "asyncio",
    "concurrent",
    "email",
    "http",
    "importlib",
    "logging",
    "multiprocessing",
    "pydoc_data",
    "tarfile",
    "unittest",
    "zipfile",
)
SKIPPED = frozenset(
    {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "_vendor", "vendored", "__pycache__"}
)
# Installed packages with plain, hand-written Python; the big ones are read in part (see `FILES_EACH`).
PACKAGES = [
    "PIL",
    "aiohappyeyeballs",
    "aiohttp",
    "aiosignal",
    "anyio",
    "attr",
    "bs4",
    "cachetools",
    "cbor2",
    "cffi",
    "click",
    "cloudpickle",
    "colorful",
    "dill",
    "distlib",
    "dns",
    "docstring_parser",
    "dotenv",
    "email_validator",
    "fastapi",
    "filelock",
    "fsspec",
    "google",
    "grpc",
    "h11",
    "httpcore",
    "httpx",
    "hypothesis",
    "idna",
    "ijson",
    "jinja2",
    "jmespath",
    "jsonschema",
    "jwt",
    "lark",
    "loguru",
    "markdown_it",
    "markupsafe",
    "mcp",
    "mpmath",
    "msgpack",
    "multidict",
    "networkx",
    "numba",
    "numpy",
    "openai",
    "packaging",
    "peft",
    "pip",
    "pkg_resources",
    "platformdirs",
    "prometheus_client",
    "psutil",
    "pyasn1",
    "pycparser",
    "pydantic",
    "pygments",
    "referencing",
    "requests",
    "rich",
    "safetensors",
    "setuptools",
    "smart_open",
    "soupsieve",
    "starlette",
    "supervisor",
    "sympy",
    "tqdm",
    "typer",
    "urllib3",
    "uvicorn",
    "virtualenv",
    "watchfiles",
    "websockets",
    "yaml",
    "yarl",
    "zmq",
]
FILES_EACH = 60
LONGEST_FILE = 200_000
SHORTEST_LINE = 24


@dataclass(frozen=True)
class SourceFile:
    """One Python file: the package it counts for, its path as a corpus would call it, and its text."""

    package: str
    path: str
    text: str


def held_out(packages: Iterable[str] = HELD_OUT) -> Iterator[SourceFile]:
    """Files of the packages that are judged on; complete, in order of path."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for package in packages:
        yield from _files(library, package, limit=10_000)


def training() -> Iterator[SourceFile]:
    """Files that may be learnt from: the rest of the standard library, then site-packages, each in part."""
    library = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(
        {
            _stem(path)
            for path in library.iterdir()
            if path.suffix == ".py" or (path / "__init__.py").is_file()
        }
    )
    for package in names:
        if package not in HELD_OUT and package not in SKIPPED:
            yield from _files(library, package, FILES_EACH)
    site = Path(sysconfig.get_paths()["purelib"])
    for package in PACKAGES:
        yield from _files(site, package, FILES_EACH)


def guarded_lines() -> frozenset[str]:
    """Every telling line of the held-out packages, stripped."""
    return frozenset(line for file in held_out() for line in telling_lines(file.text))


def telling_lines(text: str) -> list[str]:
    """Lines long enough to say where they come from, stripped."""
    return [line.strip() for line in text.splitlines() if len(line.strip()) >= SHORTEST_LINE]


def is_copy(text: str, guarded: frozenset[str]) -> bool:
    """Whether at least half of the telling lines of `text` stand in the held-out packages as well."""
    lines = telling_lines(text)
    return bool(lines) and 2 * sum(line in guarded for line in lines) >= len(lines)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".py")


def _files(root: Path, package: str, limit: int) -> Iterator[SourceFile]:
    single = root / f"{package}.py"
    found = [single] if single.is_file() else sorted((root / package).rglob("*.py"))
    paths = [path for path in found if not SKIPPED & set(path.relative_to(root).parts)]
    step = max(1, -(-len(paths) // limit))  # spread over the package, the same files each time
    for path in paths[::step]:
        if path.stat().st_size <= LONGEST_FILE or package in HELD_OUT:
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                yield SourceFile(package, path.relative_to(root).as_posix(), text)
