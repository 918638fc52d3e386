"""The window of a model call, put together again from the log.

Owns finding a call by its name and showing every segment of its prompt: text, kind, origin, whose words they are, and
how many tokens. It reads the manifest that was recorded with the call, and composes nothing anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from swarm.errors import SpecError, StoreError
from swarm.events import CallFailed, CallFinished, CallStarted
from swarm.names import is_number
from swarm.store.interface import Reader
from swarm.window.pack import CHATML, ENDPOINT

Key = tuple[str, int, int]


@dataclass(slots=True)
class Call:
    """A call as its events tell it; neither `finished` nor `failed` means that its host was lost."""

    started: CallStarted
    role: str = ""
    finished: CallFinished | None = None
    failed: CallFailed | None = None

    @property
    def name(self) -> str:
        return f"{self.started.task}:{self.started.turn}:{self.started.sample}"


def find_calls(reader: Reader, name: str) -> list[Call]:
    """The calls that TASK, TASK:TURN or TASK:TURN:SAMPLE means; the task's id may be cut short.

    Raises:
        SpecError: the name has another form.
        StoreError: no call, or calls of several tasks, fit.
    """
    task, *numbers = name.split(":")
    if not task or len(numbers) > 2 or not all(map(is_number, numbers)):
        raise SpecError(f"{name!r} names no call", "CALL", "write TASK, TASK:TURN or TASK:TURN:SAMPLE")
    wanted = [int(part) for part in numbers]
    calls: dict[Key, Call] = {}
    for event in reader.read():
        body = event.body
        if not isinstance(body, CallStarted | CallFinished | CallFailed) or not body.task.startswith(task):
            continue
        key = (body.task, body.turn, body.sample)
        if [*key[1:]][: len(wanted)] != wanted:
            continue
        if isinstance(body, CallStarted):
            calls[key] = Call(body)
        elif key in calls and isinstance(body, CallFinished):
            calls[key].finished = body
        elif key in calls and isinstance(body, CallFailed):
            calls[key].failed = body
    tasks = sorted({key[0] for key in calls})
    if not tasks:
        raise StoreError(f"there is no call {name!r}", "CALL", "`swarm logs ID --kind CallStarted` lists the calls")
    if len(tasks) > 1:
        raise StoreError(f"{name!r} could be of {', '.join(tasks[:5])}", "CALL", "write more of the task's id")
    return list(calls.values())


def last_calls(reader: Reader, most: int) -> list[str]:
    """The names of the calls that were begun last, at most so many, each once though it was made again."""
    begun: dict[str, None] = {}
    for event in reader.read():
        if isinstance(event.body, CallStarted):
            name = Call(event.body).name
            begun.pop(name, None)
            begun[name] = None
            if len(begun) > most:
                del begun[next(iter(begun))]
    return list(begun)


def window_lines(reader: Reader, call: Call) -> Iterator[str]:
    """A call for people."""
    started = call.started
    sampling = ", ".join(f"{name} {value}" for name, value in started.sampling.items() if value not in ("", None))
    yield f"══ call {call.name} · {started.tokens} prompt tokens · channel {started.channel or 'base'} · {sampling}"
    for number, (digest, kind, origin, trust, train, tokens) in enumerate(started.manifest, 1):
        may = "may be learned from" if train else "not to be learned from"
        yield f"── [{number}] {kind}{f' · {origin}' if origin else ''} · {trust} · {tokens} tokens · {may}"
        text = text_of(reader, digest)
        yield text if text is not None else f"(its text is not in the log: {digest})"
    template = started.tokens - sum(row[5] for row in started.manifest)
    yield f"── chat template · {template} tokens · {_checked(call)}"
    yield from _end(reader, call)


def _end(reader: Reader, call: Call) -> Iterator[str]:
    if call.finished is not None:
        done = call.finished
        yield f"══ output · {done.tokens_out} tokens · {done.finish} · {done.seconds:.2f} s · by {done.weights}"
        yield text_of(reader, done.output) or "(withdrawn)"
    elif call.failed is not None:
        yield f"══ failed · {call.failed.kind}"
        yield text_of(reader, call.failed.error) or "(withdrawn)"
    else:
        yield "══ no answer is recorded"


def window_document(reader: Reader, call: Call) -> dict[str, Any]:
    """A call for programs."""
    started = call.started
    names = ("digest", "kind", "origin", "trust", "train", "tokens")
    segments = [{**dict(zip(names, row, strict=True)), "text": text_of(reader, row[0])} for row in started.manifest]
    document: dict[str, Any] = {
        "call": call.name, "channel": started.channel, "prompt": started.prompt, "tokens": started.tokens,
        "sampling": started.sampling, "segments": segments, "output": None, "error": None,
    }  # fmt: skip
    if call.finished is not None:
        done = call.finished
        document |= {
            "output": text_of(reader, done.output), "tokens_out": done.tokens_out, "finish": done.finish,
            "seconds": done.seconds, "weights": done.weights,
        }  # fmt: skip
    if call.failed is not None:
        document |= {"error": text_of(reader, call.failed.error), "kind": call.failed.kind}
    return document


def text_of(reader: Reader, digest: str) -> str | None:
    """A text by its hash; None where it is not in the store."""
    try:
        return reader.body(digest).decode("utf-8", "replace")
    except StoreError:
        return None


def _checked(call: Call) -> str:
    """Whether the segments listed are the prompt that was sent, told from its digest."""
    for template in (CHATML, ENDPOINT):
        digest = hashlib.blake2b(template.name.encode(), digest_size=16)
        for segment in call.started.manifest:
            digest.update(f"{'system' if segment[1] == 'role' else 'user'}\0{segment[0]}\0".encode())
        if digest.hexdigest() == call.started.prompt:
            return f"digest {call.started.prompt} holds"
    return f"digest {call.started.prompt}"
