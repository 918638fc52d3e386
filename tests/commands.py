"""The command line for tests: in this process through its door, or as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from swarm.cli import app
from tests.jobs import job

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def swarm(*arguments: object, stdin: str = "") -> Said:
    """Runs a command in this process. An exception that gets through is a failure of the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Starts a command as a process of its own."""
    command = [sys.executable, "-m", "swarm", *(str(argument) for argument in arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        **options,
    )


def job_file(folder: Path, source: Path, **changes: Any) -> Path:
    """A job file like `tests.jobs.job`, with top-level settings changed as they stand, right or wrong."""
    data = job(source).model_dump(mode="json", exclude_defaults=True)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**data, **changes}, sort_keys=False), encoding="utf-8")
    return path
