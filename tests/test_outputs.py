"""What a report says of outputs that are of less use than they look: cut off, or too late."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from swarm.cli.driving import answer_lines
from swarm.coordinator import Grant, JobState, Report
from swarm.events import Body, CallFinished, CallStarted, Event, TaskAdded, TaskFinished, TaskLeased, body_hash
from swarm.report import Answer, gather, write_report
from swarm.report.markdown import render_markdown
from swarm.report.notices import notices
from swarm.report.outputs import Outputs
from swarm.store.sqlite import SqliteReader
from tests.sample_run import Canned, HandDriven


def answer_of(driven: HandDriven) -> Answer:
    driven.store.close()
    with SqliteReader.open(driven.run.path) as reader:
        return gather(reader)


def one_call(grant: Grant) -> Report:
    """What a host did on a lease that called a model and finished."""
    began = CallStarted(task=grant.task, turn=0, sample=0, channel="", prompt="", tokens=100, manifest=(), sampling={})
    ended = CallFinished(task=grant.task, turn=0, sample=0, output=body_hash(b"[]"), tokens_in=100, tokens_out=2,
                         finish="stop", weights="sha256:1", seconds=1.0)  # fmt: skip
    return Report(grant.task, grant.token, (began, ended, TaskFinished(task=grant.task, token=grant.token, outcome="", notes=0)))


def late(driven: HandDriven, grants: Sequence[Grant]) -> tuple[Answer, str]:
    """What the report says once answers came in on leases that had ended."""
    driven.append(driven.core.pulled(driven.now, "slow", list(map(one_call, grants)), 0)[0])
    answer = answer_of(driven)
    (notice,) = [one for one in notices(answer) if one.title == "Answers too late"]
    return answer, notice.text


def test_an_answer_that_came_after_the_end_was_paid_for_once(tmp_path: Path) -> None:
    driven = HandDriven.create(tmp_path)
    events, grants = driven.core.pulled(driven.now, "slow", (), 1)
    driven.append([*events, *driven.core.end(driven.now, "cancelled", "enough")])
    answer, says = late(driven, grants)
    assert (answer.too_late.calls, answer.paid_twice.calls, answer.calls) == (1, 0, 1)
    assert "1 call of at most 102 tokens was answered too late to count: the job had ended" in says and "twice" not in says


def test_only_calls_that_were_answered_again_were_paid_for_twice(tmp_path: Path) -> None:
    driven = HandDriven.create(tmp_path)
    driven.work(steps=1)  # the plan
    events, grants = driven.core.pulled(driven.now, "slow", (), 2)
    driven.append([*events, *driven.core.lost(driven.now, "slow", "silent")])
    events, others = driven.core.pulled(driven.now, "quick", (), 500)
    (again,) = [one for one in others if one.task == grants[0].task]
    driven.append([*events, *driven.core.pulled(driven.now, "quick", [one_call(again)], 0)[0]])
    driven.append(driven.core.end(driven.now, "cancelled", "enough"))
    answer, says = late(driven, grants)
    assert (answer.too_late.calls, answer.paid_twice.calls, answer.calls) == (2, 1, 4)
    assert says.endswith("1 of them was answered a second time: paid for twice.")


def test_outputs_that_were_cut_off_are_counted_with_their_passages(tmp_path: Path) -> None:
    driven = HandDriven.create(tmp_path)
    driven.canned = Canned(careless=False, most=1)
    driven.work()
    answer = answer_of(driven)
    with driven.run.reader() as reader:
        write_report(reader, driven.run)
    (cut,) = answer.cut_off
    place = cut.first[0]
    (notice,) = [one for one in notices(answer) if one.title == "Outputs cut off"]
    assert (cut.role, cut.outputs) == ("reader", cut.passages) and answer.coverage.spans_read == answer.coverage.spans
    assert notice.text.startswith(f"{cut.outputs} outputs of role reader were cut off at the most tokens that it may write")
    assert f"at {place.document}:{place.line}, " in notice.text and f" and {cut.passages - 3} more: rows" in notice.text
    assert "max_tokens" in notice.text and "span_tokens" in notice.text
    assert any(notice.text.startswith(line) for line in answer_lines(answer)), "the account says it as well"
    said = "Every passage of every input was read. Of some, the output was cut off: see above."
    assert said in render_markdown(answer) and said in driven.run.report_html.read_text(encoding="utf-8")


@pytest.mark.parametrize(("turns", "about"), [(3, {7}), (1, {5, 6, 7})])
def test_where_a_task_has_a_turn_for_each_passage_the_one_is_named_whose_output_was_cut_off(turns: int, about: set[int]) -> None:
    state, outputs = JobState(), Outputs()
    task = TaskAdded(task="t", role="notetaker", goal="", spans=(5, 6, 7), reads=(), query=None, priority=0)
    leased = TaskLeased(task="t", host="h", token=1, until=9.0, attempt=1, reserved=0, calls=9)
    ended = TaskFinished(task="t", token=1, outcome="", notes=0)
    calls: list[Body] = []
    for turn in range(turns):
        calls.append(CallStarted(task="t", turn=turn, sample=0, channel="", prompt="", tokens=9, manifest=(), sampling={}))
        calls.append(CallFinished(task="t", turn=turn, sample=0, output="", tokens_in=9, tokens_out=2,
                                  finish="length" if turn == turns - 1 else "stop", weights="", seconds=0.0))  # fmt: skip
    for seq, body in enumerate([task, leased, *calls, ended], 1):
        event = Event(seq, float(seq), 1, 0, "", body)
        state.apply(event)
        outputs.follow(event, state)
    assert outputs.cut_off == {"notetaker": 1} and outputs.cut_spans["notetaker"] == about
