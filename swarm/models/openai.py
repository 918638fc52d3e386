"""Calls to any endpoint that speaks OpenAI's chat completions.

Owns one HTTP request for each call and the naming of what went wrong with it; whether a call is tried again
is the coordinator's decision. What answered is only what the endpoint says it is, so its weights are
`declared:MODEL`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from swarm.errors import ModelError
from swarm.models.grammar import plain_schema
from swarm.models.interface import Completion, Request, Sampling
from swarm.names import plain
from swarm.spec import ModelSpec
from swarm.window.pack import ENDPOINT, ChatTemplate
from swarm.window.tokens import Tokenizer

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_SECONDS = 86_400.0
"""What a Retry-After may ask for at most."""
MOST_BYTES = 8 << 20
"""What a reply can be long at most: the longest that a model writes is far below."""
MOST_TOKENS = 1 << 31
"""What a call can have taken at most; who counts more is not believed."""
VERSION = re.compile(r"([-@_]\d{4}-\d\d-\d\d|[-@_]\d\d-\d{4}|[-@_]\d{3,8}|[-@_]v\d[\d.]*(:\d+)?|[-:@]latest)*")
"""What may follow a model's name and leave it the same model: dates and versions. `-mini`, `-4` or `.1` is another one."""
SHOWN = 300
"""Characters of an endpoint's own words that an error repeats."""
REJECTIONS = (400, 413, 422)
"""What is answered to a request that is too long, or otherwise not to be had; the next one may well be."""


class EndpointModel:
    """Answers over HTTP.

    Raises (when made):
        ModelError: the environment variable that should hold the key is not set.
    """

    template: ChatTemplate = ENDPOINT
    start_s = 20.0
    """How long the list of models is waited for: whoever is silent for longer may be waking up."""

    def __init__(self, spec: ModelSpec, tokenizer: Tokenizer) -> None:
        self._spec, self.tokenizer = spec, tokenizer
        self._key = _key(spec.key)
        self._url = spec.url.rstrip("/")
        self._client: httpx.AsyncClient | None = None
        self._any_schema = False
        self._listed = False
        """Whether the endpoint's own list of models holds ours."""
        self._calls_itself = ""
        """What the endpoint says that it answers as, where it does not say our name."""

    async def start(self) -> None:
        """Opens the connections and asks once for the list of models, so that a wrong address or key shows at
        once. An endpoint without such a list, or that is still silent, is taken as it is."""
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=httpx.Limits(
                max_connections=self._spec.concurrency, max_keepalive_connections=self._spec.concurrency
            ),
            timeout=None,  # one limit for the whole call, below
            trust_env=urlsplit(self._url).hostname not in LOOPBACK,
        )
        try:
            response = await self._send("GET", "/models", min(self.start_s, self._spec.timeout_s))
            if response.status_code in (401, 403):
                raise self._refusal(response)
        except BaseException as error:
            if isinstance(error, ModelError) and error.kind == "timeout":
                return
            await self.close()
            raise
        # Servers built on vLLM take any schema; others want an object at its top.
        self._any_schema = response.status_code == 200 and '"owned_by":"vllm"' in response.text.replace(" ", "")
        self._listed = response.status_code == 200 and json.dumps(self._spec.name) in response.text

    def weights(self, channel: str) -> str:
        return f"declared:{self._spec.name}"

    async def complete(self, request: Request) -> Completion:
        began = time.monotonic()
        wrapped = not self._any_schema and _needs_object(request.sampling.schema)
        # Whoever knows keys answers a call that is made again without making, or charging, it twice.
        response = await self._send(
            "POST", "/chat/completions", self._spec.timeout_s, self._body(request, wrapped), {"Idempotency-Key": request.key}
        )
        if response.status_code != 200:
            raise self._refusal(response)
        text, finish, used = self._read(response)
        if request.sampling.schema:
            text = compact(text, wrapped)
        text = plain(text)
        return Completion(
            text=text,
            tokens_in=used.get("prompt_tokens", request.prompt.tokens),
            tokens_out=used.get("completion_tokens", self.tokenizer.count(text)),
            finish=finish,
            weights=self.weights(request.channel),
            seconds=time.monotonic() - began,
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _body(self, request: Request, wrapped: bool) -> dict[str, Any]:
        sampling: Sampling = request.sampling
        # OpenAI's own newer models refuse the old name of this limit, most other servers know only that.
        limit = "max_completion_tokens" if urlsplit(self._url).hostname == "api.openai.com" else "max_tokens"
        body: dict[str, Any] = {
            "model": self._spec.name,
            "messages": [one | {"content": plain(one["content"])} for one in request.prompt.messages()],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            limit: sampling.max_tokens,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.schema:
            schema = plain_schema(wrap(sampling.schema) if wrapped else sampling.schema)
            form = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body

    async def _send(
        self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        if self._client is None:
            raise ModelError("the model is not running", "model", "start it before the first call", retryable=False)
        address = self._url + path
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(method, address, json=body, headers=headers) as response,
            ):
                return await self._whole(response)
        except TimeoutError:
            raise ModelError(
                f"{address} gave no answer within {seconds:g} s",
                "model.timeout_s",
                "check that the server runs, and its load; raise model.timeout_s, or lower model.concurrency",
                kind="timeout",
                doubt=True,
            ) from None
        except (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as problem:
            raise ModelError(
                f"{self._url} does not answer: {problem}",
                "model.url",
                "check the address, and that the server runs",
                kind="unreachable",
            ) from None
        except httpx.HTTPError as problem:
            raise ModelError(
                f"{address} broke off its answer: {problem or type(problem).__name__}",
                "model.url",
                "see the server's log",
                doubt=True,
            ) from None

    async def _whole(self, response: httpx.Response) -> httpx.Response:
        """The response with its content, which must end."""
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > MOST_BYTES:
                raise ModelError(
                    f"{self._url} answers more than {MOST_BYTES >> 20} MiB", "model.url",
                    "check that it is a model's endpoint, and that it minds max_tokens", kind="broken", doubt=True,
                )  # fmt: skip
        coded = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in coded]
        return httpx.Response(response.status_code, headers=headers, content=bytes(content))

    def _read(self, response: httpx.Response) -> tuple[str, str, dict[str, int]]:
        """(text, finish, tokens used) of a reply, or an error that says in what it is none."""
        try:
            data = response.json()
            choice = data["choices"][0]
            text, reason = choice["message"]["content"], choice.get("finish_reason")
            used, name = data.get("usage") or {}, str(data.get("model") or "")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._nonsense(response) from None
        if reason == "content_filter":
            raise ModelError(
                f"{self._url} withheld its answer (content filter)", "model", kind="rejected", retryable=False, doubt=True
            )
        self._check_identity(name)
        if not isinstance(text, str) or not isinstance(used, dict):
            raise self._nonsense(response)
        counted = {name: number for name, number in used.items() if type(number) is int and 0 <= number <= MOST_TOKENS}
        return text, "length" if reason == "length" else "stop", counted

    def _check_identity(self, said: str) -> None:
        """Refuses the answer of another model than was asked for. A date or version after the name, or a provider before it, is
        still the same model; where the endpoint does not list our name, it is an alias, and must go on meaning what it
        meant first."""
        ours, theirs = self._spec.name.rpartition("/")[2], said.rpartition("/")[2]
        if not said or (theirs.startswith(ours) and VERSION.fullmatch(theirs, len(ours))):
            return
        if not self._listed and self._calls_itself in ("", said):
            self._calls_itself = said
            return
        asked = self._calls_itself or self._spec.name
        raise ModelError(
            f"{self._url} was asked for {asked!r} and answers as {said!r}", "model.name",
            "check what the endpoint serves under that name", kind="broken", doubt=True,
        )  # fmt: skip

    def _nonsense(self, response: httpx.Response) -> ModelError:
        return ModelError(
            f"{self._url} answers nonsense, no chat completion: {self._words(response)!r}",
            "model.url",
            "check that the address ends in /v1 and belongs to an OpenAI-compatible server",
            kind="broken",
            doubt=True,
        )

    def _refusal(self, response: httpx.Response) -> ModelError:
        """The error that a status other than 200 stands for."""
        status, said = response.status_code, self._words(response)
        start = f"{self._url} answers {status}"
        if status in (401, 403):
            name = self._spec.key.removeprefix("env:")
            cure = f"check the key in the environment variable {name}" if name else "give a key: `key: env:NAME`"
            return ModelError(
                f"{start}: it does not accept the key", "model.key", cure, kind="refused", retryable=False
            )
        if status == 404:
            return ModelError(
                f"{start}: it does not know the model {self._spec.name!r} or the path: {said}",
                "model.name",
                "check model.name, and that model.url ends in /v1",
                kind="refused",
                retryable=False,
            )
        after = _seconds(response.headers.get("retry-after", ""), response.headers.get("date", ""))
        if status == 429 or (status == 503 and after):
            wait = f"; it asks to wait {after:g} s" if after else ""
            return ModelError(
                f"{start}: too many requests{wait}",
                "model",
                "lower model.concurrency, or say what it allows: model.rate",
                kind="overloaded",
                after=after,
            )
        if status == 408:
            return ModelError(f"{start}: it timed out: {said}", "model", "lower model.concurrency", kind="timeout", doubt=True)
        if status >= 500:
            passed_on = status in (502, 504)  # a gateway's: what stands behind it may have answered
            return ModelError(f"{start}: {said}", "model.url", "see the server's log", kind="broken", doubt=passed_on)
        return ModelError(
            f"{start}: {said}",
            "model",
            "check model.url, model.window and the model's own limits",
            kind="rejected" if status in REJECTIONS else "refused",
            retryable=False,
        )

    def _words(self, response: httpx.Response) -> str:
        """The beginning of what the endpoint said, on one line and without the key, should it repeat it."""
        text = response.text
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            error = response.json()["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:SHOWN] or "(nothing)"


def wrap(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with an object at its top, as OpenAI's strict mode wants it: the value stands under
    `value`."""
    return {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
    }


def compact(text: str, wrapped: bool) -> str:
    """JSON as the engines here write it: without the wrapper and without white space. What is no JSON (an
    output that was cut off, or an endpoint that ignores the schema) only loses the wrapper's beginning; the
    agent judges it."""
    try:
        value = json.loads(text)
        if wrapped and isinstance(value, dict) and set(value) == {"value"}:
            value = value["value"]
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):  # thousands of open brackets are no JSON either
        return re.sub(r'^\s*\{\s*"value"\s*:\s*', "", text) if wrapped else text


def _needs_object(schema: dict[str, Any]) -> bool:
    return bool(schema) and schema.get("type") != "object"


def _seconds(after: str, now: str) -> float:
    """The seconds that a Retry-After header asks for: a number, or a date, which is compared with the reply's own."""
    with contextlib.suppress(ValueError):
        return min(max(0.0, float(after)), MOST_SECONDS)
    try:
        until = parsedate_to_datetime(after).timestamp()
        began = parsedate_to_datetime(now).timestamp() if now else time.time()
    except (ValueError, OverflowError):  # no date, or one that no clock shows
        return 0.0
    return min(max(0.0, until - began), MOST_SECONDS)


def _key(name: str) -> str:
    if not name:
        return ""
    variable = name.removeprefix("env:")
    value = os.environ.get(variable, "").strip()
    if not value or not (value.isascii() and value.isprintable()):
        raise ModelError(
            f"the environment variable {variable} {'holds no key' if value else 'is not set'}",
            "model.key",
            f"export {variable}=… before the run",
            kind="refused",
            retryable=False,
        )
    return value
