"""The blackboard: queries that hide who finished first, evidence down to the text, its form as plain data."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, strategies as st

from swarm.board import Board
from swarm.errors import ProtocolError
from swarm.events import NoteJudged, NotePosted

Cites = tuple[tuple[int, int, int], ...]
Links = tuple[tuple[str, str], ...]


def posted(
    note: str, kind: str = "row", cites: Cites = (), links: Links = (), task: str = "t", status: str = ""
) -> NotePosted:
    return NotePosted(note=note, kind=kind, task=task, body=f"body-{note}", status=status, cites=cites, links=links)


def board_of(*events: NotePosted | NoteJudged) -> Board:
    board = Board()
    for seq, event in enumerate(events, 1):
        if isinstance(event, NotePosted):
            board.post(event, seq)
        else:
            board.judge(event)
    return board


def ids(board: Board, kind: str, verdict: str | None = None, status: str | None = None) -> list[str]:
    return [note.id for note in board.notes(kind, verdict, status)]


def judged(note: str, verdict: str) -> NoteJudged:
    return NoteJudged(note=note, verdict=verdict, task="verifier")


TREE = (
    posted("r1", cites=((7, 70, 75),)),
    posted("r2", cites=((3, 30, 31), (9, 90, 91))),
    posted("f1", "finding", cites=((3, 30, 31),), links=(("derives-from", "r2"), ("derives-from", "r1"))),
    posted("h1", "headline", links=(("derives-from", "r1"), ("derives-from", "r2"))),
    posted("s1", "sentence", links=(("states", "h1"),)),
)


@given(
    places=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_posting_never_shows(places: list[tuple[int, int]], order: Random) -> None:
    notes = [posted(f"n{at}", cites=((span, start, start + 1),)) for at, (span, start) in enumerate(places)]
    verdicts = [judged(f"n{at}", ("supported", "unsupported", "unchecked")[at % 3]) for at in range(0, len(notes), 2)]
    straight = board_of(*notes, *verdicts)
    mixed = list(notes)
    order.shuffle(mixed)
    other = board_of(*mixed, *reversed(verdicts))
    for verdict in (None, "", "supported", "unsupported", "unchecked"):
        assert ids(straight, "row", verdict) == ids(other, "row", verdict)
    found = [note.cites[0][:2] for note in straight.notes("row")]
    assert found == sorted(found)


def test_queries_select_by_kind_verdict_and_status() -> None:
    board = board_of(
        posted("b", cites=((2, 0, 1),)), posted("a", cites=((1, 0, 1),)), posted("c", cites=((3, 0, 1),)),
        posted("x", "rejected", cites=((1, 0, 1),)), posted("y", "sentence", status="rejected"),
        judged("b", "supported"), judged("a", "unsupported"), judged("a", "supported"),
    )  # fmt: skip
    assert ids(board, "row") == ["a", "b", "c"]
    assert ids(board, "row", "supported") == ["a", "b"]
    assert ids(board, "row", "unsupported") == []
    assert ids(board, "row", "") == ["c"]
    assert ids(board, "sentence", status="") == [] and ids(board, "sentence", status="rejected") == ["y"]
    assert (board.count("row"), board.count("row", "supported"), board.count("nothing")) == (3, 2, 0)
    assert board.kinds() == {"rejected": 1, "row": 3, "sentence": 1}
    assert len(board) == 5


def test_a_task_finds_its_own_notes_and_a_span_those_that_cite_it() -> None:
    board = board_of(posted("a", cites=((1, 0, 4), (1, 6, 9)), task="t1"), posted("b", cites=((1, 2, 3),), task="t2"))
    assert [note.id for note in board.by_task("t1")] == ["a"]
    assert board.by_task("t3") == []
    assert [note.id for note in board.citing(1)] == ["a", "b"]
    assert board.citing(99) == []


def test_provenance_leads_from_a_sentence_down_to_its_spans() -> None:
    board = board_of(*TREE)
    assert [note.id for note in board.provenance("s1")] == ["s1", "h1", "r1", "r2"]
    assert board.spans("s1") == [(3, 30, 31), (7, 70, 75), (9, 90, 91)]
    assert board.spans("r1") == [(7, 70, 75)]


def test_the_graph_itself_is_a_plain_networkx_graph() -> None:
    graph = board_of(*TREE).graph
    assert set(graph.successors("f1")) == {"r1", "r2", "s:3"}
    assert graph.has_edge("s1", "h1", key="states")
    assert graph.has_edge("r2", "s:9", key="cites:90:91")


def test_the_export_is_json_and_holds_every_edge() -> None:
    board = board_of(*TREE, judged("r1", "supported"))
    plain = json.loads(json.dumps(board.export()))
    notes = {note["id"]: note for note in plain["notes"]}
    assert set(notes) == {"r1", "r2", "f1", "h1", "s1"}
    assert notes["r1"]["verdict"] == "supported" and notes["r1"]["body"] == "body-r1"
    assert ["f1", "derives-from", "r2"] in plain["links"] and ["s1", "states", "h1"] in plain["links"]
    assert sorted(plain["cites"]) == [["f1", 3, 30, 31], ["r1", 7, 70, 75], ["r2", 3, 30, 31], ["r2", 9, 90, 91]]
    assert len(plain["links"]) + len(plain["cites"]) == board.graph.number_of_edges()


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (posted("r1"), "posted note r1 twice"),
        (posted("new", links=(("derives-from", "nowhere"),)), "nowhere, which is not on the board"),
        (judged("nowhere", "supported"), "there is no note nowhere"),
    ],
)
def test_what_does_not_fit_the_board_is_refused_and_changes_nothing(event: NotePosted | NoteJudged, says: str) -> None:
    board = board_of(*TREE)
    before = board.export()
    with pytest.raises(ProtocolError, match=says):
        if isinstance(event, NotePosted):
            board.post(event, 99)
        else:
            board.judge(event)
    assert board.export() == before and len(board) == 5
