"""The parts of a report one by one: scores, gold, drawings, passages, and the forms that text takes."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from swarm import events as ev
from swarm.board import Board
from swarm.cli.driving import answer_lines
from swarm.coordinator import JobState
from swarm.events import Event, NotePosted
from swarm.gold import raises, raises_in
from swarm.report import Answer, gather, picture
from swarm.report.activity import BINS, LANES, Activity
from swarm.report.drawing import NARROW, NARROW_LEFT, chart, flow, shortened, spoken_seconds
from swarm.report.html import visible
from swarm.report.markdown import code, escaped
from swarm.report.notices import notices
from swarm.report.shapes import Lane, Moment, Timeline
from swarm.store.sqlite import SqliteReader
from tests.sample_run import RAISES, Canned, HandDriven

SOURCE = """
raise AtModuleLevel
class Box:
    raise InClassBody
    def open(self):
        if self.shut:
            raise errors.Shut(self) from None
        def inner():
            raise Inner
        try:
            inner()
        except Inner as problem:
            raise
        except Shut as problem:
            raise problem
        raise Shut("again").with_traceback(None)
    async def close(self):
        raise Generic[int]("x")
        raise self._Private()
        raise factory()()
"""


def test_gold_counts_raises_inside_functions_by_class() -> None:
    assert raises_in(SOURCE) == [
        ("Box.open", "Shut"), ("Box.open.inner", "Inner"), ("Box.close", "Generic"), ("Box.close", "_Private"),
    ]  # fmt: skip
    assert [one.node.lineno for one in raises(ast.parse(SOURCE))] == [7, 9, 18, 19]


@pytest.mark.parametrize("text", ["def f(:", "x = '\0'"])
def test_gold_refuses_what_is_not_python(text: str) -> None:
    with pytest.raises(ValueError):
        raises_in(text)


# ---- scores ----


def scored(folder: Path, gold: Any, careless: bool = False) -> Answer:
    """A run whose gold is `gold`: a rule, or rows for a file."""
    if not isinstance(gold, str):
        (folder / "gold.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in gold), encoding="utf-8")
        gold = str(folder / "gold.jsonl")
    source = folder / "a.py"
    source.write_text("def f(x):\n    raise TypeError(x)\n\n\ndef g(x):\n    raise KeyError(x)\n", encoding="utf-8")
    spec = {**RAISES, "inputs": [str(source)], "answer": {**RAISES["answer"], "gold": gold}}
    driven = HandDriven.create(folder, spec)
    driven.canned = Canned(careless)
    driven.work()
    driven.store.close()
    with SqliteReader.open(driven.run.path) as reader:
        return gather(reader)


def row(function: str, exception: str, **more: str) -> dict[str, str]:
    return {"function": function, "exception": exception, **more}


@pytest.mark.parametrize(
    ("gold", "precision", "recall", "f1"),
    [
        ("ast:raises", 1.0, 1.0, 1.0),
        ([row("f", "TypeError"), row(" g", "KeyError ")], 1.0, 1.0, 1.0),
        ([row("f", "TypeError"), row("f", "TypeError")], 0.5, 1.0, 0.6667),
        ([row("f", "TypeError"), row("g", "KeyError"), row("h", "OSError")], 1.0, 0.6667, 0.8),
        ([row("h", "OSError")], 0.0, 0.0, 0.0),
        ([row("f", "TypeError", document="a.py"), row("g", "KeyError", document="b.py")], 0.5, 0.5, 0.5),
        ([row("f", "TypeError", why="one line\u2028or two"), row("g", "KeyError")], 1.0, 1.0, 1.0),
    ],
)
def test_scores(tmp_path: Path, gold: Any, precision: float, recall: float, f1: float) -> None:
    score = scored(tmp_path, gold).score
    assert score and not score.problem
    assert (score.precision, score.recall, score.f1) == (precision, recall, f1)
    assert score.gold_rows - score.matched == len(score.missed)
    assert score.found_rows - score.matched == len(score.invented)


def test_a_row_that_stands_in_several_documents_is_said_to_count_for_each(tmp_path: Path) -> None:
    answer = scored(tmp_path, "ast:raises")
    assert answer.rows and answer.score
    assert answer_lines(answer)[-1].endswith("(2 of 2 gold rows found, 2 rows given)")
    more = answer.model_copy(update={"score": answer.score.model_copy(update={"found_rows": 3})})
    assert answer_lines(more)[-1].endswith("(2 of 2 gold rows found, 3 rows given, one for each document)")


def test_rows_are_judged_where_gold_can_exist_and_both_are_said(tmp_path: Path) -> None:
    sources = {
        "a.py": "def f(x):\n    raise TypeError(x)\n",
        "b.md": "    def f(x):\n        raise TypeError(x)\n",
        "c.py": "def g(:\n    raise KeyError(x)\n",
    }
    for name, text in sources.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    driven = HandDriven.create(tmp_path, {**RAISES, "inputs": [str(tmp_path / name) for name in sources]})
    driven.canned = Canned(careless=False)
    driven.work()
    driven.store.close()
    with SqliteReader.open(driven.run.path) as reader:
        answer = gather(reader)
    score = answer.score
    assert score and (score.precision, score.recall, score.found_rows, score.not_judged) == (1.0, 1.0, 1, 2)
    *_, line, problem = answer_lines(answer)
    assert line == "score: precision 1.000, recall 1.000, F1 1.000 (1 of 1 gold rows found, 1 row given)"
    assert problem.startswith("score: c.py ") and problem.endswith(
        "; 2 rows of documents that were not parsed as Python are not judged"
    )


def test_there_is_no_score_where_no_document_parses(tmp_path: Path) -> None:
    broken = tmp_path / "c.py"
    broken.write_text("def g(:\n    raise KeyError(x)\n", encoding="utf-8")
    driven = HandDriven.create(tmp_path, {**RAISES, "inputs": [str(broken)]})
    driven.work()
    driven.store.close()
    with SqliteReader.open(driven.run.path) as reader:
        line = answer_lines(gather(reader))[-1]
    assert line.startswith("score: c.py ") and "precision" not in line


@pytest.mark.parametrize(
    ("gold", "says"),
    [
        ("/nowhere/gold.jsonl", "cannot be read"),
        ([], "the gold gold.jsonl holds no row"),
        ([{"function": "f"}], "line 1 of the gold gold.jsonl is no row"),
        ([row("f", "TypeError", document="a.py"), row("g", "KeyError")], "some rows"),
    ],
)
def test_gold_that_cannot_be_had_is_said_and_costs_no_answer(tmp_path: Path, gold: Any, says: str) -> None:
    answer = scored(tmp_path, gold)
    assert answer.score and says in answer.score.problem
    assert len(answer.rows or ()) == 2


# ---- drawings ----


def many_rows(rows: int, documents: int) -> Board:
    board = Board()
    for at in range(rows):
        board.post(NotePosted(note=f"r{at}", kind="row", task="t", body="", cites=((at % documents, 0, 1),)), at)
    return board


def test_the_picture_stays_small_and_loses_no_row() -> None:
    board = many_rows(500, 80)
    groups = [(f"value {at % 30}", [f"r{at}"]) for at in range(400)]
    drawn = picture.draw(board, lambda note: f"d{note.cites[0][0]}.py", groups, [("sentence 1", ["r0", "r30"])])
    assert len(drawn.nodes) <= 3 * (picture.MOST + 1) + 8
    for column, count in ((0, 500), (1, 500), (2, 400), (3, 2)):
        assert sum(node.count for node in drawn.nodes if node.column == column) == count
    assert sum(link.count for link in drawn.links if link.source.startswith("0.")) == 500
    boxes = flow(drawn).boxes
    for one in boxes:
        below = [other for other in boxes if other.x == one.x and other.y > one.y]
        assert all(one.y + one.height <= other.y for other in below)
        assert one.y + one.height <= flow(drawn).height


def leased(state: JobState, activity: Activity, steps: int, hosts: int) -> None:
    """A job of many steps, folded from events made here."""
    seq = 0

    def happened(time: float, body: ev.Body) -> None:
        nonlocal seq
        seq += 1
        event = Event(seq, time, 1, 0, "", body)
        state.apply(event)
        activity.follow(event, state)

    happened(100.0, ev.JobOpened(epoch=1, host="h", pid=1, shell="local"))
    happened(100.0, ev.RangeAdded(range="r", role="reader", first=0, stop=steps))
    for at in range(steps):
        time = 100.0 + at * 0.5
        host = f"host-{at % hosts}"
        happened(time, ev.TaskLeased(task=f"t{at}", host=host, token=at + 1, until=time + 9, attempt=1, reserved=0,
                                     range="r", index=at))  # fmt: skip
        happened(time + 0.4, ev.TaskFinished(task=f"t{at}", token=at + 1, outcome="none", notes=0))


@pytest.mark.parametrize("hosts", [2, LANES + 6])
def test_the_timeline_of_many_steps_stays_small_and_keeps_its_sums(hosts: int) -> None:
    state, activity = JobState(), Activity()
    leased(state, activity, 3000, hosts)
    timeline = activity.timeline()
    assert len(timeline.lanes) == (hosts if hosts <= LANES else 1)
    assert all(len(lane.busy) <= BINS + 1 for lane in timeline.lanes)
    assert sum(sum(lane.busy) for lane in timeline.lanes) == pytest.approx(3000 * 0.4, rel=1e-3)
    assert sum(lane.tasks for lane in timeline.lanes) == 3000 == len(activity.read)
    assert timeline.seconds == pytest.approx(2999 * 0.5 + 0.4)
    drawn = chart(timeline)
    assert len(drawn.ticks) <= 8 and all(x <= drawn.right + 1 for x, _ in drawn.ticks)


def worked(start: float, seconds: float) -> Timeline:
    """One agent that works from `start` on, in bins of a second."""
    busy = tuple(float(start <= at) for at in range(int(seconds)))
    lane = Lane(host="a-host-with-a-long-name", role="reader", tasks=5, seconds=seconds - start, busy=busy)
    return Timeline(seconds=seconds, width=1.0, lanes=(lane,), moments=(Moment(at=0.2, what="inputs pinned"),))


def test_a_timeline_begins_with_the_work_and_not_with_the_loading_of_the_model() -> None:
    late, soon = chart(worked(37.0, 41.0)), chart(worked(2.0, 41.0))
    assert (late.before, soon.before) == (37.0, 0.0)
    assert [text for _, text in late.ticks] == ["37 s", "38 s", "39 s", "40 s", "41 s"]
    assert late.moments[0][0] == late.left, "what was before stands at the left end"
    points = [float(x) for x in re.findall(r"[ML]([\d.]+),", late.strips[0].path)]
    assert min(points) == late.left and max(points) == late.right
    assert chart(Timeline(seconds=0.0, width=1.0, lanes=(), moments=())).before == 0.0


def test_the_timeline_of_a_phone_holds_all_that_the_wide_one_does() -> None:
    wide, narrow = chart(worked(2.0, 41.0)), chart(worked(2.0, 41.0), NARROW, NARROW_LEFT)
    assert narrow.width <= 360 and narrow.right < narrow.width
    points = [float(x) for x in re.findall(r"[ML]([\d.]+),", narrow.strips[0].path)]
    assert min(points) == narrow.left and narrow.right - 10 < max(points) <= narrow.right
    assert 2 <= len(narrow.ticks) < len(wide.ticks) and len(narrow.moments) == len(wide.moments)


# ---- forms of text ----


@pytest.mark.parametrize(
    ("seconds", "spoken"),
    [
        (0, "0 s"),
        (0.42, "0.42 s"),
        (48.2, "48 s"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_times_are_spoken(seconds: float, spoken: str) -> None:
    assert spoken_seconds(seconds) == spoken


def test_text_is_shortened_to_one_line() -> None:
    assert shortened("a\n  b", 9) == "a b"
    assert shortened("abcdefgh", 4) == "abc…" and shortened("abcdefgh", 4, keep_end=True) == "…fgh"


def test_markdown_shows_text_as_it_is() -> None:
    assert escaped("<b>*x*</b>\n[a](b)") == "&lt;b&gt;\\*x\\*&lt;/b&gt; \\[a\\](b)"
    assert code("a `b` c") == "``a `b` c``" and code("`") == "`` ` ``"


def test_what_turns_text_unseen_is_made_visible() -> None:
    assert visible("a\u202eb\0c") == "a\ufffdb\ufffdc"
    assert visible("שלום\n\tx") == "שלום\n\tx"


def test_weights_that_an_endpoint_declares_are_a_notice(tmp_path: Path) -> None:
    answer = scored(tmp_path, "ast:raises")
    assert notices(answer) == []
    declared = answer.weights[0].model_copy(update={"name": "declared:gpt", "kind": "declared"})
    (notice,) = notices(answer.model_copy(update={"weights": (declared,)}))
    assert notice.title == "Declared model" and "gpt" in notice.text
