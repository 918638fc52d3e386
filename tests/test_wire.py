"""What travels between master and hosts comes out as it went in, whatever texts and numbers it holds."""

from __future__ import annotations

import zlib
from typing import Any

import msgpack
import pytest
from hypothesis import given, strategies as st

from swarm import events as ev
from swarm.coordinator import Report
from swarm.events import KINDS, body_hash
from swarm.protocol import Material, NoteText, Passage, Said, TaskBrief
from swarm.runtime.wire import DIRECT, SQUEEZED, Batch, Order, Pull, Work, pack_batch, pack_pull, unpack_batch, unpack_pull

TEXT = st.text(st.characters(), max_size=20)  # lone surrogates as well: damaged files hold them
ID = st.text("0123456789abcdef", min_size=16, max_size=16)
NUMBER = st.integers(0, 2**40)
CITES = st.lists(st.tuples(NUMBER, NUMBER, NUMBER), max_size=3).map(tuple)
PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)
FLAGS = st.dictionaries(TEXT, st.one_of(TEXT, NUMBER, st.booleans(), st.floats(allow_nan=False)), max_size=2)

PASSAGE = st.builds(Passage, NUMBER, ID, TEXT, NUMBER, TEXT, NUMBER, TEXT, st.booleans())
NOTE = st.builds(NoteText, ID, TEXT, PLAIN, CITES, FLAGS, TEXT)
WORK = st.builds(
    Work,
    st.builds(TaskBrief, ID, TEXT, TEXT, NUMBER),
    NUMBER,
    st.builds(
        Material,
        st.lists(PASSAGE, max_size=2).map(tuple),
        st.lists(NOTE, max_size=2).map(tuple),
        st.dictionaries(TEXT, PLAIN, max_size=2),
    ),
    st.lists(st.builds(Said, NUMBER, TEXT, TEXT), max_size=2).map(tuple),
    st.dictionaries(NUMBER, NUMBER, max_size=3),
)

ASCII = st.text("abc xyz", max_size=8)
BODIES = st.one_of(
    st.builds(
        ev.CallStarted, task=ID, turn=NUMBER, sample=NUMBER, channel=ASCII, prompt=ID, tokens=NUMBER,
        manifest=st.lists(st.tuples(ID, ASCII, ASCII, ASCII, st.booleans(), NUMBER), max_size=2).map(tuple),
        sampling=st.dictionaries(ASCII, st.one_of(NUMBER, st.floats(0, 2), ASCII), max_size=2),
    ),
    st.builds(
        ev.CallFinished, task=ID, turn=NUMBER, sample=NUMBER, output=ID, tokens_in=NUMBER, tokens_out=NUMBER,
        finish=ASCII, weights=ASCII, seconds=st.floats(0, 1e6),
    ),
    st.builds(ev.CallFailed, task=ID, turn=NUMBER, sample=NUMBER, kind=ASCII, error=ID),
    st.builds(
        ev.NotePosted, note=ID, kind=ASCII, task=ID, body=ID, status=ASCII, cites=CITES,
        links=st.lists(st.tuples(ASCII, ID), max_size=2).map(tuple), flags=st.dictionaries(ASCII, NUMBER, max_size=2),
    ),
    st.builds(ev.TaskFinished, task=ID, token=NUMBER, outcome=ASCII, notes=NUMBER),
    st.builds(ev.TaskFailed, task=ID, token=NUMBER, error=ID, kind=ASCII, retry_at=st.none()),
)  # fmt: skip
REPORT = st.builds(Report, ID, NUMBER, st.lists(BODIES, max_size=4).map(tuple), st.booleans(), st.floats(0, 1e6))
NUMBERS = st.lists(NUMBER).map(tuple)
HELD = st.dictionaries(ID, st.binary(max_size=40), max_size=3)


@given(st.builds(Batch, st.sampled_from(Order), st.lists(WORK, max_size=2).map(tuple), NUMBERS, NUMBERS))
def test_a_batch_comes_out_as_it_went_in(batch: Batch) -> None:
    assert unpack_batch(pack_batch(batch)) == batch


@given(st.builds(Pull, ASCII, NUMBER, st.lists(REPORT, max_size=3).map(tuple), HELD))
def test_a_pull_comes_out_as_it_went_in(pull: Pull) -> None:
    found = unpack_pull(pack_pull(pull))
    assert found == pull
    for report, sent in zip(found.reports, pull.reports, strict=True):
        assert [type(body) for body in report.events] == [type(body) for body in sent.events]


def test_bodies_travel_as_they_are() -> None:
    data = bytes(range(256)) * 5000
    pull = Pull("h", 1, (), {body_hash(data): data})
    assert unpack_pull(pack_pull(pull)).bodies == pull.bodies


@pytest.mark.parametrize(("passages", "squeezed"), [(1, False), (DIRECT // 1000, True), (SQUEEZED // 1000, False)])
def test_text_is_compressed_where_that_lets_it_travel_with_the_call(passages: int, squeezed: bool) -> None:
    text = "".join(f"line {n} of a passage\n" for n in range(50))
    material = Material((Passage(0, "d", "a.py", 0, text, 300, "", True),))
    batch = Batch(Order.WORK, tuple([Work(TaskBrief(f"t{n}", "reader", "", 1), n, material, (), {}) for n in range(passages)]))
    pull = Pull("h", 1, (), {str(n): text.encode() for n in range(passages)})
    assert unpack_batch(pack_batch(batch)) == batch and unpack_pull(pack_pull(pull)) == pull
    for packed in (pack_batch(batch), pack_pull(pull)):
        assert len(packed) < DIRECT if squeezed else len(packed) > passages * len(text)


def test_a_message_that_swells_beyond_what_is_ever_compressed_is_refused() -> None:
    with pytest.raises(ValueError):
        unpack_pull(zlib.compress(msgpack.packb(("h", 1, [], {"a": b"x" * (SQUEEZED + 1)})), 1))


def test_what_no_event_is_is_refused() -> None:
    packed = msgpack.packb(("h", 1, [("t", 1, True, 0.0, [("TaskFinished", {"task": "t", "token": "no number"})])], {}))
    with pytest.raises(ValueError, match="TaskFinished"):
        unpack_pull(packed)
    with pytest.raises(KeyError):
        unpack_pull(msgpack.packb(("h", 1, [("t", 1, True, 0.0, [("NoSuchKind", {})])], {})))
    assert "TaskFinished" in KINDS


def test_objects_of_other_types_never_come_out() -> None:
    """msgpack's extension types could carry anything: none is accepted."""
    with pytest.raises(ValueError):
        unpack_pull(msgpack.packb(("h", 1, [], {"a": msgpack.ExtType(4, b"x")})))
