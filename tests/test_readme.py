"""The README's commands, read from the README and run.

Those that would read a whole package with the model are run on a small input (`--set inputs=…`), on the same road; the
two `make` commands are checked against the Makefile, and `.ci/run` against the README.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.commands import swarm
from tests.jobs import job, run, state_of, write_sources

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Each `$ …` line of the README's console blocks, without its comment."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [re.split(r"\s+#\s", line.removeprefix("$ "))[0].strip() for line in lines]


def of(verb: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in commands() if line.startswith(f"swarm {verb}")]


def test_every_make_command_has_its_target_and_ci_runs_the_tests() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [line.removeprefix("make ") for line in commands() if line.startswith("make ")]
    assert {"demo", "test"} <= set(named) <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_command_that_the_readme_shows_exists() -> None:
    verbs = {shlex.split(line)[1] for line in commands() if line.startswith("swarm ")}
    assert len(verbs) > 5
    for verb in verbs:
        assert swarm(verb, "--help").code == 0, verb


def test_a_reader_is_told_where_swarm_is_before_the_first_use_of_it() -> None:
    """`make demo` installs it where no shell looks."""
    verbs = [line.split()[0] for line in commands()]
    assert "source .venv/bin/activate" in commands()[: verbs.index("swarm")]


def test_every_file_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`((?:examples|swarm|roles|protocols|deploy|tests)/[\w./-]+)`", README))
    assert named and not [name for name in named if not (ROOT / name).exists()]


def test_the_commands_about_runs_work_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(job(write_sources(tmp_path)), tmp_path / "runs")
    folder.make_latest()
    monkeypatch.setenv("SWARM_RUNS", str(tmp_path / "runs"))
    task = next(iter(state_of(folder).board.notes("row"))).task
    for verb in ("watch", "show", "cost", "replay", "list", "inbox", "steps", "doctor"):
        for arguments in of(verb):
            said = swarm(*[task if argument == "TASK" else argument for argument in arguments])
            assert said.code == 0 and said.out.strip(), f"{verb}: {said.err}"
    for arguments in of("resume"):
        said = swarm(*arguments)
        assert said.code == 1 and "has ended" in said.err


def test_the_plan_works_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for arguments in of("plan"):
        said = swarm(*arguments)
        assert said.code == 0 and "passages" in said.out + said.err


def test_the_python_example_compiles_and_its_names_exist() -> None:
    import swarm as package

    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    for block in code:
        compile(block, "README.md", "exec")
        for name in re.findall(r"\bswarm\.(\w+)", block):
            assert name in package.__all__, name


def test_the_job_in_the_readme_is_a_job() -> None:
    import yaml

    from swarm.spec import parse_spec

    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert blocks and all(parse_spec(yaml.safe_load(block), "README").answer.columns for block in blocks)


def test_no_one_is_told_how_this_machine_is_called() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    private = re.compile(r"(?<![\w.])/(work|root)/")
    endings = (".md", ".toml", ".yaml", ".py", ".txt")
    texts = [ROOT / name for name in tracked if name.endswith(endings) and (ROOT / name).is_file()]
    assert not [path.name for path in texts if path.name != Path(__file__).name and private.search(path.read_text("utf-8"))]
