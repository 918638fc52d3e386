"""What stands in deploy/: a cluster is really started and stopped by its script, through an ssh that stays on this machine;
manifests and the unit are held against the definitions of those who read them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from swarm.cli import app
from swarm.spec import parse_spec
from tests.commands import ROOT, job_file
from tests.jobs import write_sources
from tests.ray_head import free_ports, holding

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
CRDS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared" / "kuberay-crds"))
"""KubeRay's custom resource definitions, which are too large to keep here."""
SSH = """#!/usr/bin/env bash
# ssh [-o OPTION] MACHINE COMMAND…: a machine is a home folder of this one.
while [ "$1" = -o ]; do shift 2; done
[ "$1" = -- ] && shift
export HOME="$MACHINES/$1"
[ -d "$HOME" ] || { echo "ssh: no route to $1" >&2; exit 255; }
shift
unset RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH RAY_ADDRESS SWARM_RUNS
exec bash -c "$*"
"""


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def entrypoints() -> Iterator[list[str]]:
    for path in MANIFESTS:
        for one in documents(path):
            if one["kind"] == "RayJob":
                yield shlex.split(one["spec"]["entrypoint"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_what_kuberay_defines(path: Path) -> None:
    if not CRDS.is_dir():
        pytest.skip(f"KubeRay's definitions are not in {CRDS}; set KUBERAY_CRDS to a folder that has them")
    from jsonschema import Draft202012Validator

    checked = 0
    for one in documents(path):
        if not one["apiVersion"].startswith("ray.io/"):
            continue
        file = CRDS / f"ray.io_{one['kind'].lower()}s.yaml"
        definition = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
        versions = {version["name"]: version for version in definition["spec"]["versions"]}
        schema = versions[one["apiVersion"].partition("/")[2]]["schema"]["openAPIV3Schema"]
        wrong = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(closed(schema)).iter_errors(one)]
        assert not wrong, wrong
        assert versions[one["apiVersion"].partition("/")[2]]["served"]
        checked += 1
    assert checked == 1


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, which Kubernetes would drop without a word."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def test_manifests_ask_for_tokens_for_the_tested_ray_and_for_jobs_that_parse() -> None:
    lock = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")
    clusters = 0
    for path in MANIFESTS:
        for one in documents(path):
            if one["kind"] == "ConfigMap":
                assert parse_spec(yaml.safe_load(one["data"]["job.yaml"])).model.key == "env:MODEL_KEY"
            spec = one["spec"].get("rayClusterSpec", one["spec"]) if one["kind"].startswith("Ray") else None
            if spec is not None:
                clusters += 1
                assert spec["authOptions"]["mode"] == "token" and f"ray=={spec['rayVersion']}" in lock
                for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                    for container in group["template"]["spec"]["containers"]:
                        assert container["resources"]["limits"].keys() == {"cpu", "memory"}
    assert clusters == len(MANIFESTS) == 2
    assert all(one["spec"]["backoffLimit"] == 0 for path in MANIFESTS for one in documents(path) if one["kind"] == "RayJob")


def test_the_commands_of_manifests_and_unit_are_commands() -> None:
    unit = (DEPLOY / "swarm-supervise.service").read_text(encoding="utf-8")
    commands = [line.partition("=")[2].split() for line in unit.splitlines() if line.startswith("ExecStart=")]
    for program, verb, *arguments in [*entrypoints(), *commands]:
        assert Path(program).name == "swarm"
        said = CliRunner().invoke(app, [verb, "--help"]).output
        assert all(argument in said for argument in arguments if argument.startswith("--")), (verb, arguments)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (DEPLOY / "swarm-supervise.service").read_text(encoding="utf-8")
    copy = tmp_path / "swarm-supervise.service"
    here = Path(sys.executable).parent / "swarm"
    copy.write_text(unit.replace("/opt/swarmloom/.venv/bin/swarm", str(here)), encoding="utf-8")
    ran = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    ours = [line for line in ran.stderr.splitlines() if "swarm" in line]
    assert ran.returncode == 0 and not ours, ran.stderr


def test_the_script_says_how_it_is_used_and_has_no_slips() -> None:
    script = DEPLOY / "machines.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    ran = subprocess.run([script], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "machines.sh start HEAD" in ran.stderr
    if (checker := shutil.which("shellcheck")) is not None:
        checked = subprocess.run([checker, script], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


def test_a_machine_that_is_out_of_reach_keeps_no_other_from_being_stopped(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text(SSH, encoding="utf-8")
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "head" / ".swarmloom").mkdir(parents=True)
    head = subprocess.Popen(["bash", "-c", "exec -a 'ray start' sleep 60"])
    (tmp_path / "head" / ".swarmloom" / "pid").write_text(str(head.pid), encoding="utf-8")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MACHINES": str(tmp_path)}

    def stop(*machines: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DEPLOY / "machines.sh", "stop", *machines], capture_output=True, text=True, env=environment, check=False
        )

    with ThreadPoolExecutor() as reaping:
        reaping.submit(head.wait)
        said = stop("head", "gone")
    assert said.returncode == 1 and said.stdout == "head: stopped\n", said.stderr
    assert "machines.sh: gone: could not stop" in said.stderr and head.returncode == -signal.SIGTERM
    said = stop("head", "-v")
    assert said.returncode == 1 and said.stderr == "machines.sh: -v: is no machine\n" and not said.stdout
    assert stop("head").stdout == "head: nothing to stop\n"


@pytest.mark.ray
def test_a_head_and_a_worker_are_started_run_a_job_and_are_stopped(tmp_path: Path) -> None:
    machines = Path(tmp_path / "machines")
    port, dashboard, *agents = free_ports(4)
    for name, agent in zip(("me@127.0.0.1", "127.0.0.1"), agents, strict=True):
        (machines / name / ".swarmloom").mkdir(parents=True)
        options = f"--num-cpus=1 --dashboard-agent-listen-port={agent} --object-store-memory=100000000"
        if name.startswith("me@"):
            options += f" --ray-client-server-port={free_ports(1)[0]} --temp-dir=/tmp/m{port}"
        (machines / name / ".swarmloom" / "ray-options").write_text(options, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH, encoding="utf-8")
    (tmp_path / "bin" / "ssh").chmod(0o755)
    token = tmp_path / "keys" / "token"
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SWARM_"))}
    environment = keep | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "MACHINES": str(machines), "PYTHONPATH": str(ROOT),
        "RAY_AUTH_TOKEN_PATH": str(token), "SWARM_BIN": str(Path(sys.executable).parent), "SWARM_PORT": str(port),
        "SWARM_DASHBOARD_PORT": str(dashboard), "SWARM_RUNS": str(tmp_path / "runs"),
    }  # fmt: skip

    def ran(*command: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, cwd=tmp_path, env=environment | more, check=False
        )

    try:
        said = ran(DEPLOY / "machines.sh", "start", "me@127.0.0.1", "127.0.0.1")
        assert said.returncode == 0, said.stdout + said.stderr
        assert "me@127.0.0.1: head started\n127.0.0.1: worker started\n" in said.stdout
        for file in (token, machines / "127.0.0.1" / ".swarmloom" / "token"):
            assert file.stat().st_mode & 0o777 == 0o600 and file.read_text() == token.read_text() and len(token.read_text()) == 64
        file = job_file(tmp_path, write_sources(tmp_path, 3))
        url = f"http://127.0.0.1:{dashboard}"
        job = ran(sys.executable, "-m", "swarm", "submit", file, "--address", url, "--id", "both", "--wait", "--json")
        assert job.returncode == 0, job.stderr
        header = {"Authorization": f"Bearer {token.read_text()}"}
        nodes = httpx.get(f"{url}/nodes?view=summary", headers=header).json()["data"]["summary"]
        assert [node["raylet"]["state"] for node in nodes] == ["ALIVE", "ALIVE"], "the worker has joined"
        again = ran(DEPLOY / "machines.sh", "start", "me@127.0.0.1")
        assert again.stdout.startswith("me@127.0.0.1: runs already")
        lost = ran(DEPLOY / "machines.sh", "start", "me@127.0.0.1", "nowhere")
        assert lost.returncode == 1 and "machines.sh: nowhere: could not start" in lost.stderr
    finally:
        stopped = ran(DEPLOY / "machines.sh", "stop", "me@127.0.0.1", "127.0.0.1")
        shutil.rmtree(f"/tmp/m{port}", ignore_errors=True)
    assert stopped.stdout == "127.0.0.1: stopped\nme@127.0.0.1: stopped\n", stopped.stderr
    assert not holding(str(machines)), "nothing that was started is left"
