"""Typed values as plain data and back: what a snapshot is packed with.

Owns the way from dataclasses, event bodies, enums, tuples and counters to lists, numbers and strings that msgpack can
hold, by their annotations alone. It knows no field by name, so that a field added to a state is packed like the others;
an annotation that it can't follow is refused when the codec is made, not when a job is opened.
"""

from __future__ import annotations

import types
import typing
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel

PLAIN = (str, int, float, bool, bytes, type(None))
"""Types that msgpack gives back as it got them."""

CONTAINERS = (tuple, list, deque, set, frozenset, Counter, dict, Mapping)


class Codec(NamedTuple):
    """`shape` says what the plain form is made of: two codecs of one shape read each other's output."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    shape: str


def _same(value: Any) -> Any:
    return value


@cache
def codec(annotation: Any) -> Codec:
    """The codec of a type.

    Raises:
        TypeError: the type can't be packed; the text says which.
    """
    if annotation is Any or annotation in PLAIN or annotation is None:
        return Codec(_same, _same, getattr(annotation, "__name__", str(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return Codec(lambda value: value.value, annotation, annotation.__name__)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        shape = f"{annotation.__name__}:{getattr(annotation, 'version', 1)}"
        return Codec(lambda value: value.model_dump(), annotation.model_validate, shape)
    if is_dataclass(annotation) and isinstance(annotation, type):
        return _dataclass(annotation)
    return _generic(annotation)


def _dataclass(kind: type) -> Codec:
    hints = typing.get_type_hints(kind)
    parts = [(one.name, codec(hints[one.name])) for one in fields(kind)]
    shape = f"{kind.__name__}({', '.join(f'{name}: {part.shape}' for name, part in parts)})"
    return Codec(
        lambda value: [part.encode(getattr(value, name)) for name, part in parts],
        lambda data: kind(**{name: part.decode(one) for (name, part), one in zip(parts, data, strict=True)}),
        shape,
    )


def _generic(annotation: Any) -> Codec:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _union(annotation, arguments)
    if origin not in CONTAINERS:
        raise TypeError(f"a snapshot can't hold a {annotation}: use plain data, dataclasses, tuples, lists or dicts")
    inner = [codec(one) for one in arguments if one is not Ellipsis]
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(tuple, inner[0])
    if origin is tuple:
        return Codec(
            lambda value: [part.encode(one) for part, one in zip(inner, value, strict=True)],
            lambda data: tuple([part.decode(one) for part, one in zip(inner, data, strict=True)]),
            f"tuple[{', '.join(part.shape for part in inner)}]",
        )
    if origin in (list, deque):
        return _sequence(origin, inner[0])
    if origin in (set, frozenset):
        found = _sequence(origin, inner[0])
        return found._replace(encode=lambda value: sorted(map(inner[0].encode, value)))
    if origin is Counter:
        return _mapping(Counter, inner[0], codec(int))
    return _mapping(dict, *inner)


def _union(annotation: Any, arguments: tuple[Any, ...]) -> Codec:
    if all(one in PLAIN for one in arguments):
        return Codec(_same, _same, str(annotation))
    some = [one for one in arguments if one is not type(None)]
    if len(some) != 1:
        raise TypeError(f"a snapshot can't tell the types of {annotation} apart")
    part = codec(some[0])
    return Codec(
        lambda value: None if value is None else part.encode(value),
        lambda data: None if data is None else part.decode(data),
        f"{part.shape}?",
    )


def _sequence(kind: type, part: Codec) -> Codec:
    if part.encode is _same:
        return Codec(list, kind, f"{kind.__name__}[{part.shape}]")
    return Codec(
        lambda value: [part.encode(one) for one in value],
        lambda data: kind([part.decode(one) for one in data]),
        f"{kind.__name__}[{part.shape}]",
    )


def _mapping(kind: type, key: Codec, value: Codec) -> Codec:
    """A list of pairs: keys may be tuples, and their order is kept."""
    return Codec(
        lambda held: [[key.encode(one), value.encode(other)] for one, other in held.items()],
        lambda data: kind({key.decode(one): value.decode(other) for one, other in data}),
        f"{kind.__name__}[{key.shape}, {value.shape}]",
    )
