"""The README's commands, read from the README and run.

Every `swarm …` line is run, block by block in the README's order, in a scratch folder of runs where each command finds what
its reader would have by then. `run`, `ask` and `resume` work in this process, without a cluster; `run` and `ask` with the
scripted model on a tiny input (`small` says with which options). The rest is run as it stands, and where the README shows an
output, the command has to print lines of that shape. `NOT_RUN` lists the lines that are not run, with the reason: of those
the options are checked, and `make` against the Makefile. `.ci/run` is checked against the README.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from swarm.runtime.fork import fork
from swarm.store.folder import read_status
from swarm.store.runs import Runs
from tests.commands import Said, job_file, start, swarm
from tests.jobs import job, run, state_of, write_sources

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

ANOTHER = "no command of swarm's"
NOT_RUN = {
    "make demo": "minutes; its job is that of `swarm run`, which is run",
    "make test": "this test is part of it",
    "make chaos": "minutes; tests/test_chaos.py tries its account",
    "make mutants": "minutes; tests/test_broken_builds.py looks that each fits",
    "source .venv/bin/activate": ANOTHER,
    "export SWARM_RUNS=postgresql://USER@HOST/DATABASE": "needs a database; tests/test_runs_postgres.py has one",
    "swarm submit JOB.yaml --address http://HEAD:8265 --wait": "needs a cluster; tests/test_submit.py has one",
    "swarm bench store --steps 0": "minutes; tests/test_bench.py measures less of it",
    "RAY_AUTH_MODE=token ray start --head": ANOTHER,
    "cat submit.py": ANOTHER,
    "python submit.py": "needs a cluster; tests/test_submit.py has one",
    "kill -9 10695": ANOTHER,
}
"""The README's lines that are not run here, and why."""

EXPECTED = {
    "plan": (0, "passages"),
    "run": (0, "report:"),
    "ask": (0, "report:"),
    "watch": (0, "done:"),
    "resume": (0, "done:"),
    "show": (0, "Passage:"),
    "replay": (0, "the protocol decides"),
    "list": (0, "STATUS"),
    "doctor": (0, ""),
    "cost": (0, "reader"),
    "tell": (0, "heard"),
    "pause": (0, "pause"),
    "cancel": (0, "cancelled"),
    "inbox": (0, "swarm approve"),
    "approve": (0, "approved"),
    "reject": (0, "rejected"),
    "steps": (0, "STEP"),
    "fork": (0, "up to step"),
    "diff": (1, "setting answer.merge"),
    "gc": (0, "can be freed"),
}
"""How each verb that is run ends, and words that it says. A fork that differs from its source ends `diff` with 1."""


@dataclass(frozen=True)
class Shown:
    """A command of the README, without its comment, and the output that stands below it."""

    command: str
    output: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)


def blocks() -> list[list[Shown]]:
    """The commands (`$ …`) of each block that shows some."""
    found = []
    for text in re.findall(r"^```(?:console|text)\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        block: list[Shown] = []
        for line in text.splitlines():
            if line.startswith("$ "):
                block.append(Shown(re.split(r"\s+#\s", line.removeprefix("$ "))[0].strip()))
            elif block:
                block[-1].output.append(line)
        found += [block] if block else []
    return found


def commands() -> list[str]:
    return [shown.command for block in blocks() for shown in block]


class Desk:
    """A scratch folder of runs at which a block is followed: the latest run is a finished one, and what a command needs to
    find there is put there before it. RUN, TASK and PATH... stand for what they mean."""

    def __init__(self, folder: Path, ids: list[str]) -> None:
        self.source, self.runs = write_sources(folder, copies=2), Runs(folder / "runs")
        self.finished = run(job(self.source), folder / "runs", id="finished")
        self.finished.make_latest()
        for id in ids:
            self.kill(id)
        self.driver: subprocess.Popen[str] | None = None

    def leave(self) -> None:
        if self.driver is not None:
            self.driver.kill()
            self.driver.communicate()

    def follow(self, words: list[str]) -> Said:
        """Runs a command as a reader would who got there."""
        verb = words[1]
        if "--budget" in words:
            self.spend()
        elif verb == "resume" and "latest" in words:
            self.kill("killed")
        elif verb in ("tell", "pause", "cancel"):
            self.work()
        elif verb in ("inbox", "approve", "reject"):
            self.ask()
        return swarm(*small(self._meant(words), self.source)[1:])

    def kill(self, id: str) -> None:
        """Puts there what is left of a job that was killed after some steps; it is the latest."""
        fork(self.finished, self.runs.run(id), "5", {})

    def spend(self) -> None:
        """Puts there a job that rests at its limit; it is the latest."""
        spent = run(job(self.source, budget={"tokens": 4_000}), self.runs.root, id="spent")
        assert read_status(spent).status == "budget"
        spent.make_latest()

    def work(self) -> None:
        """Sees to it that the latest run is one that a driver is or was at work on, in a process of its own."""
        if self.driver is None:
            slow = job_file(self.source.parent, self.source, model={"engine": "scripted", "name": "raises+slow:1"})
            self.driver = start("run", slow, "--local", "--agents", 1, "--runs", self.runs.root, "--id", "at-work")
            assert self.driver.stderr is not None
            assert any("working…" in line for line in self.driver.stderr)

    def ask(self) -> None:
        """Sees to it that a run asks a person."""
        if not self.asking():
            options = {"span_tokens": 160, "approve_plan": True}
            protocol = {"name": "map_reduce", "options": options}
            run(job(self.source, protocol=protocol), self.runs.root, id=f"asks-{len(self.runs.ids())}")

    def asking(self) -> list[str]:
        return [one.id for one in self.runs.list() if one.status == "waiting"]

    def _meant(self, words: list[str]) -> list[str]:
        task = next(iter(state_of(self.finished).board.notes("row"))).task
        meant = {"RUN:1": f"{(self.asking() or ['none'])[0]}:1", "RUN": self.finished.id, "TASK": task}
        return [meant.get(word, word) for word in words if word != "PATH..."] + [str(self.source)] * ("PATH..." in words)


def small(words: list[str], source: Path) -> list[str]:
    """A command that costs nothing: the scripted model and a tiny input, without a cluster."""
    if words[1] not in ("run", "ask", "resume"):
        return words
    if "--address" in words:
        at = words.index("--address")
        words = words[:at] + words[at + 2 :]
    words = [*words, "--local"]
    if words[1] != "resume":
        words += ["--set", "model={engine: scripted, name: raises}"]
    return [*words, "--set", f"inputs=[{source}]"] if words[1] == "run" else words


def shape(line: str) -> str:
    """A line with its figures and lengths of time left out."""
    line = re.sub(r"\d[\d.]* (?:s|min|h)\b(?: \d+ (?:s|min))?", "TIME", line)
    return " ".join(re.sub(r"\d[\d,.]*", "N", line).split())


TIME_OF_DAY = re.compile(r"\d\d:\d\d:\d\d ")
"""So begins a line of progress: which of them come depends on the clock."""


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block[0].command[:40])
def test_a_block_of_the_readme_works(block: list[Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here = [shown for shown in block if shown.command not in NOT_RUN]
    new = [shown.command for shown in run_here if shown.words[0] != "swarm" or shown.words[1] not in EXPECTED]
    assert not new, "neither in NOT_RUN, with a reason, nor in EXPECTED"
    if not run_here:
        return
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SWARM_RUNS", str(tmp_path / "runs"))
    desk = Desk(tmp_path, sorted(set(re.findall(r"\braises-[0-9a-f]{16}\b", str(run_here)))))
    try:
        for shown in run_here:
            said, (code, words) = desk.follow(shown.words), EXPECTED[shown.words[1]]
            assert said.code == code and words in said.out + said.err, f"{shown.command}: {said}"
            printed = {shape(line) for line in (said.err + said.out).splitlines()}
            samples = [line for line in shown.output if line != "…" and not TIME_OF_DAY.match(line)]
            assert not [line for line in samples if shape(line) not in printed], f"{shown.command}: {said}"
    finally:
        desk.leave()


def test_every_line_that_is_not_run_is_in_the_readme() -> None:
    assert not NOT_RUN.keys() - set(commands())


def test_every_command_that_is_only_mentioned_or_not_run_exists_with_its_options() -> None:
    lines = {line for line in NOT_RUN if line.startswith("swarm ")} | set(re.findall(r"`(swarm [^`]+)`", README))
    assert len(lines) > 10
    for line in sorted(lines):
        said = swarm(*shlex.split(line)[1:], "--help")
        assert said.code == 0, f"{line}: {said.err}"


def test_every_make_command_has_its_target_and_ci_runs_the_tests() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [line.removeprefix("make ") for line in commands() if line.startswith("make ")]
    assert {"demo", "test"} <= set(named) <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_a_reader_is_told_where_swarm_is_before_the_first_use_of_it() -> None:
    """`make demo` installs it where no shell looks."""
    verbs = [line.split()[0] for line in commands()]
    assert "source .venv/bin/activate" in commands()[: verbs.index("swarm")]


def test_every_file_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`((?:examples|swarm|roles|protocols|deploy|tests)/[\w./-]+)`", README))
    assert named and not [name for name in named if not (ROOT / name).exists()]


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
