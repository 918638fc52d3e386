"""A Ray head of one's own for tests: a real `ray start --head` on free ports, in a folder of its own, with a token."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.commands import ROOT, Said

START_SECONDS = 120.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, found together so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def holding(text: str) -> list[int]:
    """The processes of this machine, but for this one, that have a text in their arguments or environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if text.encode() in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return [process for process in found if process != os.getpid()]


class RayHead:
    """A head that lives until `stop`. Its environment has this Python first on the PATH, and this checkout to import."""

    def __init__(self, token: str = "f" * 64, python: Path = Path(sys.executable).parent) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # Ray's sockets want a short path
        self.token_file = self.folder / "token"
        self.token_file.write_text(token, encoding="ascii")
        self.token_file.chmod(0o600)
        gcs, dashboard, agent, agent_grpc, metrics, client, env_agent = free_ports(7)
        self.address, self.url = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        self.metrics = f"http://127.0.0.1:{metrics}/metrics"
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--num-cpus=2",
            f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
            f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}",
            f"--runtime-env-agent-port={env_agent}", f"--temp-dir={self.folder / 's'}", "--disable-usage-stats",
            "--object-store-memory=100000000",
        ]  # fmt: skip
        self.said = self.folder / "said.txt"
        with self.said.open("wb") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=self._environment(python), cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        try:
            asyncio.run(self._answers())
        except BaseException:
            self.stop()
            raise

    def _environment(self, python: Path) -> dict[str, str]:
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SWARM_"))}
        return keep | self.token() | {
            "PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1",
            "RAY_metrics_report_interval_ms": "1000",
        }  # fmt: skip

    def token(self) -> dict[str, str]:
        """What a client's environment must hold to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}

    def run(self, *command: object, **environment: str) -> Said:
        """A command of this Python with the head's token, unless the environment says otherwise. It is a process of its own,
        because Ray reads its token once in a process."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SWARM_"))}
        ran = subprocess.run(
            [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT,
            env=keep | self.token() | environment, check=False,
        )  # fmt: skip
        return Said(ran.returncode, ran.stdout, ran.stderr)

    def submit(self, folder: Path, file: Path, *arguments: object, **environment: str) -> Said:
        """Submits a job file, with its runs in `folder`."""
        where = ("--address", self.url, "--runs", folder / "runs")
        return self.run("-m", "swarm", "submit", file, *where, *arguments, **environment)

    def ask(self, path: str) -> Any:
        """What the dashboard's own API says."""
        token = {"Authorization": f"Bearer {self.token_file.read_text(encoding='ascii')}"}
        return httpx.get(f"{self.url}{path}", headers=token).json()

    def processes(self) -> list[int]:
        """Those that belong to this head."""
        return holding(str(self.folder))

    async def _answers(self) -> None:
        """Until the head answers; a submission waits for its agents by itself."""
        async with asyncio.timeout(START_SECONDS), httpx.AsyncClient() as client:
            while True:
                assert self._process.poll() is None, self.said.read_text()
                try:
                    await client.get(f"{self.url}/api/version")
                    return
                except httpx.HTTPError:
                    await asyncio.sleep(0.1)

    def kill(self) -> None:
        """Ends every process of the cluster at once, as if the machine had lost its power. What they held is free then."""
        ending = []
        for process in self.processes():
            with suppress(ProcessLookupError):
                ending.append(os.pidfd_open(process))
                signal.pidfd_send_signal(ending[-1], signal.SIGKILL)
        for end in ending:
            select.select([end], [], [])
            os.close(end)
        self._process.wait()

    def stop(self) -> None:
        """Ends the head as Ctrl-C does, then what is left of it, and removes its folder."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
