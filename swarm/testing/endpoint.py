"""A small HTTP server on this machine that answers like an OpenAI endpoint, or fails in a way it is told to.

Owns the server and what it was asked. It runs in threads of its own, so tests of any kind can use it, and
what it answers comes from a script, never from a model.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from swarm.models.scripted import SCRIPTS

OK, SILENT = "ok", "silent"
BEHAVIOURS = (
    OK,
    "401",
    "403",
    "404",
    "429",
    "500",
    "503",
    "nonsense",
    "empty",
    "no-choices",
    "nested",
    "nested-answer",
    "half-character",
    "hang",
    "close",
    "length",
    "die-before",
    "die-after",
    "babble",
    "other-model",
    "filtered",
    "miscounts",
    "floods",
)
"""`close` breaks off in the middle of the answer, `die-before` before the request is read, `die-after` when the work is
done and nothing is sent yet; `hang` says nothing while the list of models still answers; `babble` is no JSON; `nested`
sends NESTED, and `nested-answer` a completion of that text, `half-character` of HALF; `other-model` names another model
than was asked for, `other-model:NAME` the one of this name; `filtered` does the work and withholds it; `miscounts` says
that it took more tokens than 64 bits can count; `floods` never ends its answer."""
NESTED = "[" * 10_000 + "]" * 10_000
"""JSON deeper than parsers go."""
CHARGED = {
    OK, "length", "close", "die-after", "babble", "nested-answer", "half-character", "other-model", "filtered", "miscounts",
}  # fmt: skip
"""Behaviours that do the work, whatever is made of it."""
HALF = '[["Queue.get","Empty \\ud83d"]]'
"""A row whose last character was cut in two."""


class Endpoint:
    """Use as `with Endpoint() as endpoint: … endpoint.url …`.

    Args:
        script: the script (see swarm.models.scripted) that answers. key: the key that callers must send;
        empty takes any. behaviour: how requests are answered once those set by `then` are used up. One of
        BEHAVIOURS; a status may be followed by the seconds of a Retry-After header, as in `429:7`, or in `429:date:7` where
        the header is to be a date.
        models: whether there is a list of models, and who owns them: a name, "" for an answer of 404, or SILENT for none.
    """

    def __init__(self, script: str = "raises", key: str = "", behaviour: str = OK, models: str = "tests") -> None:
        self.script, self.key, self.behaviour, self.models = SCRIPTS[script], key, behaviour, models
        self.requests: list[dict[str, Any]] = []
        """The body of every chat completion asked for, in order of arrival; one that was not read is not among them."""
        self.keys: list[str] = []
        """The idempotency key of each of them."""
        self.charged: list[str] = []
        """The key of each completion whose work was done, whether or not its caller got it: what is paid for."""
        self.failed: list[str] = []
        """How each request was answered that was not answered well."""
        self._next: deque[str] = deque()
        self._arrived = threading.Condition()
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"endpoint": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def then(self, *behaviours: str) -> None:
        """The next requests are answered so, one each."""
        self._next.extend(behaviours)

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def behave_for(self, body: dict[str, Any]) -> str:
        """How to answer this request, where nothing else is set: for endpoints that fail over what they are asked."""
        return OK

    def behave(self) -> str:
        return self._next.popleft() if self._next else self.behaviour

    def wait(self) -> None:
        """Hangs until the server is closed."""
        self._released.wait()

    def arrive(self, body: dict[str, Any], key: str) -> None:
        with self._arrived:
            self.requests.append(body)
            self.keys.append(key)
            self._arrived.notify_all()

    def await_requests(self, count: int, seconds: float = 60.0) -> None:
        """Returns when so many completions were asked for.

        Raises:
            TimeoutError: they were not.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, seconds):
                raise TimeoutError(f"{len(self.requests)} of {count} requests came within {seconds:g} s")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: Endpoint

    def do_GET(self) -> None:
        if self._refused():
            return
        if self.endpoint.models == SILENT:
            self.endpoint.wait()
            self.close_connection = True
        elif self.path.endswith("/models") and self.endpoint.models:
            self._reply(200, {"object": "list", "data": [{"id": "scripted", "owned_by": self.endpoint.models}]})
        else:
            self._reply(404, {"error": {"message": f"no such path {self.path}"}})

    def do_POST(self) -> None:
        behaviour, _, after = self.endpoint.behave().partition(":")
        if behaviour == "die-before":
            self.endpoint.failed.append(behaviour)
            self.close_connection = True
            return
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        key = self.headers.get("Idempotency-Key", "")
        self.endpoint.arrive(body, key)
        if self._refused():
            return
        behaviour = self.endpoint.behave_for(body) if behaviour == OK else behaviour
        if behaviour != OK:
            self.endpoint.failed.append(behaviour)
        if behaviour in CHARGED:
            self.endpoint.charged.append(key)
        match behaviour:
            case "ok" | "length":
                self._reply(200, self._completion(body, "length" if behaviour == "length" else "stop"))
            case "other-model":
                self._reply(200, self._completion(body, "stop") | {"model": after or "someone-else"})
            case "miscounts":
                self._reply(200, self._completion(body, "stop") | {"usage": {"prompt_tokens": 10**20, "completion_tokens": -1}})
            case "filtered":
                held = {"index": 0, "finish_reason": "content_filter", "message": {"role": "assistant", "content": None}}
                self._reply(200, self._completion(body, "stop") | {"choices": [held]})
            case "babble":
                said = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "well, you see"}}
                self._reply(200, self._completion(body, "stop") | {"choices": [said]})
            case "half-character":
                said = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": HALF}}
                self._reply(200, self._completion(body, "stop") | {"choices": [said]})
            case "nested-answer":
                said = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": NESTED}}
                self._reply(200, self._completion(body, "stop") | {"choices": [said]})
            case "nested":
                self._send(200, NESTED.encode(), "application/json")
            case "die-after":
                self.close_connection = True
            case "nonsense":
                self._send(200, b"<html>It works!</html>", "text/html")
            case "empty":
                self._send(200, b"", "application/json")
            case "no-choices":
                self._reply(200, {"object": "chat.completion", "choices": []})
            case "hang":
                self.endpoint.wait()
                self.close_connection = True
            case "floods":
                self._flood()
            case "close":
                self._break_off()
            case _:
                sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
                error = {"error": {"message": f"told to answer {behaviour}, key {sent}"}}
                self._reply(int(behaviour), error, {"Retry-After": _retry_after(after)} if after else {})

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: tests read `requests`."""

    def _refused(self) -> bool:
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self.endpoint.key or sent == self.endpoint.key:
            return False
        self._reply(401, {"error": {"message": f"Incorrect API key provided: {sent}"}})
        return True

    def _completion(self, body: dict[str, Any], finish: str) -> dict[str, Any]:
        messages = body["messages"]
        text = self.endpoint.script("".join(m["content"] for m in messages if m["role"] == "user"))
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
        if list(schema.get("properties", {})) == ["value"]:
            text = json.dumps({"value": json.loads(text)}, indent=1)
        if finish == "length":
            text = text[: len(text) // 2]
        return {
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
            "usage": {
                "prompt_tokens": sum(4 + len(m["content"]) // 4 for m in messages),
                "completion_tokens": 1 + len(text) // 4,
            },
        }

    def _reply(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", headers or {})

    def _send(self, status: int, body: bytes, media: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": media,
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _break_off(self) -> None:
        """Promises a long answer and closes after its beginning."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "4096")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.wfile.flush()
        self.close_connection = True

    def _flood(self) -> None:
        """Sends without end, until nobody listens."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(b"x" * 65536)


def _retry_after(asked: str) -> str:
    """The header's value: seconds, or the date at which they will have passed."""
    kind, _, seconds = asked.partition(":")
    return formatdate(time.time() + float(seconds), usegmt=True) if kind == "date" else asked
