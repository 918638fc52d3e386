"""A board answers the same whether its notes stand in the graph or lie packed in the archive, at a fraction of the size."""

from __future__ import annotations

import random
from collections.abc import Sequence
from sys import getsizeof

import pytest
from hypothesis import given, settings, strategies as st

from swarm.board import Board
from swarm.board.archive import BLOCK
from swarm.board.index import Index
from swarm.board.order import LONGEST, Order, Position
from swarm.errors import ProtocolError
from swarm.events import Body, NoteJudged, NotePosted, body_hash, identity
from swarm.testing.invariants import questioned

FEW = 8
"""Notes that stay in the graph in these tests."""


def happenings(count: int, seed: int) -> list[Body | str]:
    """Notes that cite and link, verdicts on old and new ones, some of them twice, and the ids of notes to be withdrawn."""
    draw, made, linked = random.Random(seed), list[str](), set[str]()
    out: list[Body | str] = []
    for at in range(count):
        if at % 40 == 39 and (free := [note for note in made if note not in linked]):
            out.append(draw.choice(free))
            made.remove(str(out[-1]))
            continue
        if made and draw.random() < 0.4:
            note = draw.choice(made if draw.random() < 0.3 else made[-20:])
            out.append(NoteJudged(note=note, verdict=draw.choice(("supported", "unsupported")), task="judge"))
            continue
        links = {draw.choice(made) for _ in range(draw.randrange(3))} if made else set()
        linked |= links
        cites = tuple((draw.randrange(40), start, start + 5) for start in range(draw.randrange(3)))
        made.append(identity(seed, at))
        out.append(
            NotePosted(
                note=made[-1], kind=draw.choice(("row", "finding")), task=f"t{at // 3}", body=identity(at) * 2, cites=cites,
                links=tuple(("derives-from", other) for other in sorted(links)), status=draw.choice(("", "old")),
                flags={"count": at, "given": "é"},
            )
        )
    return out


def fold(board: Board, bodies: Sequence[Body | str], first: int = 1) -> Board:
    for seq, body in enumerate(bodies, first):
        if isinstance(body, NotePosted):
            board.post(body, seq)
        elif isinstance(body, NoteJudged):
            board.judge(body)
        elif isinstance(body, str):
            board.withdraw([body])
    return board


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 600), share=st.floats(0, 1))
def test_an_archive_changes_no_answer(seed: int, count: int, share: float) -> None:
    bodies = happenings(count, seed)
    whole, packed = fold(Board(near=10**9), bodies), fold(Board(near=FEW), bodies)
    assert questioned(packed) == questioned(whole) and packed.edges == whole.edges
    cut = int(share * count)
    half = fold(Board(near=FEW), bodies[:cut])
    again = Board.unpacked(*half.packed(), near=FEW)
    assert questioned(again) == questioned(half)
    again = fold(again, bodies[cut:], cut + 1)
    assert questioned(again) == questioned(whole) and again.edges == whole.edges
    assert again.packed() == packed.packed(), "what comes after a snapshot is as if there had been none"


def test_only_the_notes_touched_last_stand_in_the_graph() -> None:
    board = fold(Board(near=FEW), happenings(2000, 1))
    notes = [id for id, data in board.graph.nodes(data=True) if "note" in data]
    assert FEW <= len(notes) < FEW + BLOCK and len(board) > 1000
    bare = [node for node, data in board.graph.nodes(data=True) if "note" not in data]
    assert all(board.graph.pred[node] for node in bare), "what nothing of the graph leads to is not in it"


def test_an_archived_note_is_known() -> None:
    board, bodies = Board(near=0), happenings(300, 2)
    fold(board, bodies)
    first = bodies[0]
    assert isinstance(first, NotePosted) and len(board.archive) > 100
    with pytest.raises(ProtocolError, match="twice"):
        board.post(first, 400)
    with pytest.raises(ProtocolError, match="no note 0123"):
        board.note("0123")
    board.post(NotePosted(note="new", kind="row", task="t", body="b", links=(("refines", first.note),)), 400)
    assert [view.id for view in board.provenance("new")][:2] == ["new", first.note]


def test_an_archived_note_takes_about_a_hundred_bytes() -> None:
    board, count = Board(near=0), 12_000
    for at in range(1, count + 1):
        note = identity("note", at)
        board.post(
            NotePosted(note=note, kind="row", task=identity("task", at), body=body_hash(note.encode()), cites=((at, 10, 50),),
                       flags={"count": 1}), at,
        )  # fmt: skip
        board.judge(NoteJudged(note=note, verdict="unchecked", task="t"))
    assert count - len(board.archive) < BLOCK
    assert 40 < getsizeof(board.archive) / count < 140
    ((_, order),) = ((key, order) for key, order in board._orders.items() if len(order))
    order.pack()
    assert getsizeof(order) / count < 45


def test_many_things_of_one_name_cost_no_walk() -> None:
    index = Index()
    for number in range(5000):
        index.add("all of them", number)
        index.add("all of them", number)
        index.add(str(number), number)
    assert index.get("all of them") == list(range(4999, -1, -1))
    assert all(number in index.get(str(number)) for number in range(5000)) and index.get("none") == []


def test_names_are_found_while_their_table_is_outgrown() -> None:
    index, sizes = Index(), [1]
    first = getsizeof(index)
    for number in range(12_000):
        index.add(f"name {number}", number)
        index.add(f"name {number // 2}", number)
        sizes += [size for size in (round(getsizeof(index) / first),) if size != sizes[-1]]
        for other in (0, number // 2, number):
            assert other in index.get(f"name {other}")
    assert all(set(index.get(f"name {number}")) == {number, 2 * number, 2 * number + 1} for number in range(6000))
    assert sizes == [1, 3, 2, 6, 4, 12, 8, 24, 16], "the old table and one of twice its size, and then that one alone"


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_an_order_is_sorted_whatever_is_added_and_removed(seed: int) -> None:
    draw = random.Random(seed)
    positions: list[Position] = [(draw.randrange(500), number, "b", str(number)) for number in range(34 * LONGEST)]
    first = 33 * LONGEST
    order, held = Order(positions[:first]), set(positions[:first])
    for position in positions[first:]:
        order.add(position)
        held.add(position)
        if draw.random() < 0.5:
            gone = draw.choice(positions[:200])
            if gone in held:
                order.remove(gone)
                held.remove(gone)
    assert list(order) == sorted(held) and len(order) == len(held)


@pytest.mark.parametrize(
    "names", [("0aff", "10ff"), ("0aff", "10"), ("0AFF", "10FF"), ("0a ff", "10 ff"), ("abc", "def"), ("é", ""), ("",)]
)
def test_names_of_every_form_come_out_of_an_order_as_they_went_in(names: tuple[str, ...]) -> None:
    positions: list[Position] = sorted((1, number, name, other) for number, name in enumerate(names) for other in names)
    order = Order(positions)
    order.pack()
    assert list(order) == positions
    order.add((2, 0, names[0], "other"))
    assert list(order) == [*positions, (2, 0, names[0], "other")]


def test_an_order_that_is_emptied_can_be_filled_again() -> None:
    positions: list[Position] = [(number, 0, "b", "n") for number in range(3 * LONGEST)]
    order = Order()
    for _ in range(2):
        for position in positions:
            order.add(position)
        for position in positions:
            order.remove(position)
        assert list(order) == [] and len(order) == 0
