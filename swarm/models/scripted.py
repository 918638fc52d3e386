"""Answers by rule instead of by weights: for tests and for measuring everything but the model.

Owns the scripts. Each is a pure function of the prompt's text, so a job on one gives the same answer every
time; it says so wherever its weights are named (`scripted:NAME`). No job with real questions should use it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator

from swarm.errors import ModelError
from swarm.models.interface import Completion, Request
from swarm.models.loading import load
from swarm.window.pack import ChatTemplate
from swarm.window.tokens import Tokenizer

QUOTE = 60
"""Characters of a scripted quote at most, as in the readers' training data."""


class ScriptedModel:
    """Answers by the script that `name` says.

    Args:
        name: a script, and with `+` what befalls its calls: `raises`, `raises+slow:0.05`, `echo+flaky:3`.
            Scripts: `raises` (reads Python passages for raise statements, judges, plans and writes),
            `first-line` (one row from each passage's first line), `echo` (the prompt's last line), `null`
            (`[]`). `load:SECONDS` is the time until it is ready; `slow:SECONDS` delays each call; `flaky:N` fails every N-th
            call, once; `hang:N` answers no call after the N-th.

    Raises:
        ModelError: there is no such script.
    """

    def __init__(self, name: str, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.name, self.tokenizer, self.template = name, tokenizer, template
        script, *effects = name.split("+")
        settings = dict(effect.partition(":")[::2] for effect in effects)
        known = script in SCRIPTS and settings.keys() <= {"load", "slow", "flaky", "hang"}
        if not known or not all(re.fullmatch(r"\d+(\.\d+)?", value) for value in settings.values()):
            raise ModelError(
                f"there is no script {name!r}",
                "model.name",
                f"scripts: {', '.join(SCRIPTS)}; after one of them +load:SECONDS, +slow:SECONDS, +flaky:N or +hang:N",
                kind="refused",
                retryable=False,
            )
        self._script = SCRIPTS[script]
        self._load = float(settings.get("load", 0))
        self._delay = float(settings.get("slow", 0))
        self._every = int(float(settings.get("flaky", 0)))
        self._left = int(float(settings["hang"])) if "hang" in settings else None
        self._calls: set[str] = set()

    async def start(self) -> None:
        if self._load:
            await load(time.sleep, self._load)

    async def close(self) -> None:
        return None

    def weights(self, channel: str) -> str:
        return f"scripted:{self.name}"

    async def complete(self, request: Request) -> Completion:
        began = time.monotonic()
        if self._delay:
            await asyncio.sleep(self._delay)
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                await asyncio.Event().wait()
        if self._every and request.key not in self._calls:
            self._calls.add(request.key)
            if len(self._calls) % self._every == 0:
                raise ModelError(f"the script {self.name} fails here on purpose", "model.name", kind="broken")
        text = self._script(asked(request))
        return Completion(
            text=text,
            tokens_in=request.prompt.tokens,
            tokens_out=self.tokenizer.count(text),
            finish="stop",
            weights=self.weights(request.channel),
            seconds=time.monotonic() - began,
        )


def asked(request: Request) -> str:
    """What the agent says to the model, the role's own prompt left out."""
    return "".join(segment.text for segment in request.prompt.segments if segment.speaker == "user")


def answer_raises(text: str) -> str:
    """Answers as each role's contract asks; the form of the prompt says which role is speaking."""
    if "\nClaim: " in text:
        return _verdict(text)
    if "\nFindings:\n" in text:
        return _json([[_sentence(claim), number] for number, claim in _numbered(text)])
    if "\nStatements:\n" in text:
        return _json([[claim, [number]] for number, claim in _numbered(text)])
    if "\nPassage: " in text:
        columns, breadcrumb, passage = _reading(text)
        return _json([_row(columns, *found) for found in raises(breadcrumb, passage)])
    if "\nInput: " in text:
        return _json(["search", "set"])
    return text.strip().splitlines()[-1]


def answer_first_line(text: str) -> str:
    """One row for each passage: its first word in every column, its first line as the quote. Other roles as
    `raises`."""
    if "\nPassage: " not in text or "\nClaim: " in text:
        return answer_raises(text)
    columns, _, passage = _reading(text)
    words = re.search(r"\w+", passage)
    line = next((line.strip() for line in passage.splitlines() if line.strip()), "")
    return _json([[words.group()] * len(columns) + [line[:QUOTE]]]) if words else "[]"


SCRIPTS: dict[str, Callable[[str], str]] = {
    "raises": answer_raises,
    "first-line": answer_first_line,
    "echo": lambda text: text.strip().splitlines()[-1],
    "null": lambda text: "[]",
}


def raises(breadcrumb: str, passage: str) -> Iterator[tuple[str, str, str]]:
    """(function's qualified name, exception, quote) of each raise statement that names a class."""
    place = breadcrumb.rpartition(" > ")[2] if " > " in breadcrumb else ""
    place = re.sub(r" \(part \d+\)$", "", place).removeprefix("class ")
    scopes: list[tuple[int, str]] = []
    for line in passage.splitlines():
        indent = len(line) - len(line.lstrip())
        if opened := re.match(r"\s*(?:async\s+)?(?:def|class)\s+(\w+)", line):
            scopes = [*(scope for scope in scopes if scope[0] < indent), (indent, opened[1])]
        if found := re.match(r"\s*(raise\s+(?:\w+\.)*([A-Z]\w*).*)", line):
            inside = _joined(place, [name for level, name in scopes if level < indent])
            yield inside or "<module>", found[2], found[1].rstrip()[:QUOTE]


def _joined(place: str, names: list[str]) -> str:
    """The breadcrumb's name and those that the passage opens as one, what they share said once."""
    parts = place.split(".") if place else []
    shared = next(n for n in range(min(len(parts), len(names)), -1, -1) if parts[len(parts) - n :] == names[:n])
    return ".".join([*parts, *names[shared:]])


def _sentence(claim: str) -> str:
    """`exception = OSError; count = 2` in words."""
    values = [part.partition(" = ") for part in claim.split("; ")]
    return f"The {' and the '.join(f'{name} is {value}' for name, _, value in values)}."


def _row(columns: list[str], function: str, exception: str, quote: str) -> list[str]:
    return [exception if re.search("exception|error|raise", name) else function for name in columns] + [quote]


def _verdict(text: str) -> str:
    """Yes if every value of the claim stands in the quote, the breadcrumb or the passage, dotted names part
    by part."""
    passage, _, asked = text.rpartition("\nClaim: ")
    claim, _, quote = asked.partition("\n")
    evidence = passage.partition("\nPassage: ")[2] + quote
    values = [part.partition(" = ")[2] for part in claim.split("; ")]
    parts = [part for value in values for part in value.split(".") if part]
    return _json("yes" if parts and all(part in evidence for part in parts) else "no")


def _reading(text: str) -> tuple[list[str], str, str]:
    """(column names, breadcrumb, passage) of a reader's prompt."""
    head, _, rest = text.partition("\nPassage: ")
    breadcrumb, _, passage = rest.partition("\n")
    schema = head.rpartition("Columns: ")[2].rpartition("; quote = ")[0]
    return re.findall(r"(?:^|; )([a-z][a-z0-9_]*) = ", schema), breadcrumb, passage


def _numbered(text: str) -> list[tuple[int, str]]:
    return [(int(number), line) for number, line in re.findall(r"^\[(\d+)\] (.*)$", text, re.MULTILINE)]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
