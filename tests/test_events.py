"""Event bodies keep what they hold on their way to the disk and back, and refuse what they cannot read."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import msgpack
import pytest
from hypothesis import given, settings, strategies as st

from swarm.errors import StoreError
from swarm.events import KINDS, Body, Decided, JobEnded
from swarm.payload import MAX_PAYLOAD, decode, encode

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
PLAIN = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | TEXT
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: INTEGERS,
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    NoneType: st.none(),
    Any: st.recursive(
        PLAIN,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=5,
    ),
}


def of_type(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of the types that event fields are made of."""
    if annotation in SCALARS:
        return SCALARS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return st.one_of([of_type(argument) for argument in arguments])
    if origin is dict:
        return st.dictionaries(of_type(arguments[0]), of_type(arguments[1]), max_size=4)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(of_type(arguments[0]), max_size=4).map(tuple)
    assert origin is tuple, f"a field of type {annotation}: say here how to draw one"
    return st.tuples(*[of_type(argument) for argument in arguments])


def bodies_of(kind: type[Body]) -> st.SearchStrategy[Body]:
    return st.builds(kind, **{name: of_type(field.annotation) for name, field in kind.model_fields.items()})


BODIES = st.one_of([bodies_of(kind) for kind in KINDS.values()])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_body_comes_back_equal_and_encodes_to_the_same_bytes(kind: type[Body]) -> None:
    @settings(max_examples=40)
    @given(bodies_of(kind))
    def check(body: Body) -> None:
        payload = encode(body)
        found = decode(kind.__name__, kind.version, payload)
        assert found == body and type(found) is kind
        assert encode(found) == payload

    check()


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_store_error(kind: str, payload: bytes) -> None:
    try:
        found = decode(kind, KINDS[kind].version, payload)
    except StoreError:
        return
    assert type(found) is KINDS[kind]


@given(BODIES, st.data())
def test_a_cut_payload_is_refused(body: Body, data: st.DataObject) -> None:
    payload = encode(body)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(StoreError, match="damaged"):
        decode(body.__class__.__name__, body.version, payload[:cut])


def test_newer_older_and_unknown_events_are_refused_by_name() -> None:
    payload = encode(JobEnded(status="done"))
    with pytest.raises(StoreError, match=r"JobEnded version 2; .* up to version 1"):
        decode("JobEnded", 2, payload)
    with pytest.raises(StoreError, match="damaged JobEnded"):
        decode("JobEnded", 0, payload)
    with pytest.raises(StoreError, match="'JobMelted'"):
        decode("JobMelted", 1, payload)


def test_extra_fields_and_extension_types_are_refused() -> None:
    for fields in (
        {"status": "done", "colour": "red"},
        {"status": msgpack.ExtType(4, b"x")},
        ["done"],
        {1: "done"},
    ):
        with pytest.raises(StoreError, match="damaged JobEnded"):
            decode("JobEnded", 1, msgpack.packb(fields))


def test_a_payload_too_large_names_its_kind_and_the_cure() -> None:
    with pytest.raises(StoreError, match=r"Decided takes \d+ bytes\n.*as a body"):
        encode(Decided(state={"all": "x" * MAX_PAYLOAD}))
