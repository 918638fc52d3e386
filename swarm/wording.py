"""What pydantic finds wrong with settings, in words that name the field, the value and the cure.

Owns how such an error is said; what is checked stands with the settings.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

HIDDEN = "hidden"
"""The type of an error whose value is not to be shown: it may be a secret."""
_SECRET = re.compile(r"keys?$|token$|secret|passw|passphrase|pwd|auth|credential|bearer", re.IGNORECASE)
"""What is in the names of settings that people put secrets into, whether or not there are such settings."""
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
NAMES = "^[a-z][a-z0-9_"
"""How the patterns of names begin."""
_WORDS = {
    "string_too_short": "is empty",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be settings by name",
    "model_type": "must be settings by name",
    "tuple_type": "must be a list",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
}


class _Short(reprlib.Repr):
    """Values for messages: cut while they are written, for a few lines of YAML aliases can stand for gigabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 200, 200

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 256 else f"a number of {x.bit_length()} bits"


_SHORT = _Short()


def explain(error: ValidationError, model: type[BaseModel], where: str, data: Any = None) -> tuple[str, str, str]:
    """Turns pydantic's report into (message, where, cure) of our errors. `data` is what was validated, if it was written by
    people, whose short forms pydantic does not know."""
    first, more = error.errors()[0], error.error_count() - 1
    path = ".".join(_as_written(first["loc"], data))
    place = f"{where}: {path}" if path else where
    value = first["input"]
    hidden = (
        first["type"] == HIDDEN or isinstance(value, (dict, BaseModel)) or any(_SECRET.search(str(part)) for part in first["loc"])
    )
    shown = without_secrets(_SHORT.repr(value))
    if first["type"] == "extra_forbidden":
        message = "is no setting" + ("" if hidden else f" (value {shown})")
        cure = f"known settings there: {', '.join(_known(model, first['loc']))}"
    elif first["type"] == "missing":
        message, cure = "is missing", "add it"
    elif first["type"] == "too_short":
        message, cure = "holds nothing", "name at least one"
    else:
        got = "" if hidden or value == "" else f", got {shown}"
        message, cure = f"{_worded(first)}{got}"[:600], "change that value"
        if first["type"] in ("value_error", HIDDEN):
            cure = ""
    return message, place, cure + (f" (and {more} more problem{'s' * (more > 1)})" if more else "")


def _as_written(loc: tuple[int | str, ...], data: Any) -> list[str]:
    """The way to a setting as people wrote it: columns by name, and no further than a value that stands for several settings."""
    parts: list[str] = []
    here = data or {}
    for part in loc:
        if isinstance(here, dict):
            if parts[-1:] == ["columns"] and isinstance(part, int):
                part = list(here)[part]
            here = here.get(part, {})
        elif isinstance(here, list):
            here = here[part] if isinstance(part, int) and part < len(here) else {}
        else:
            break
        parts.append(str(part))
    return parts


def without_secrets(text: str) -> str:
    """The text without the user and password of any address in it."""
    return _USERINFO.sub("…@", text)


def _known(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The names of the settings beside the one at `loc`."""
    current: Any = model
    for part in loc[:-1]:
        current = _inside(current, part)
    found = _model_in(current)
    return sorted(found.model_fields) if found is not None else []


def _inside(annotation: Any, part: int | str) -> Any:
    """What a value of this type holds at a name or an index."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[-1]
    model = _model_in(annotation)
    if isinstance(part, int) or model is None:
        return model
    field = model.model_fields.get(part)
    return field.annotation if field else None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _worded(error: ErrorDetails) -> str:
    """An error of a validation in words that follow the setting's name; those of our own checks as they are."""
    pattern = error.get("ctx", {}).get("pattern", "")
    if pattern.startswith(NAMES):
        return f"must be lower-case letters, digits{', _ and -' if '-]' in pattern else ' and _'}, and begin with a letter"
    words = _WORDS.get(error["type"])
    return words.format(**error.get("ctx", {})) if words else error["msg"].removeprefix("Value error, ")
