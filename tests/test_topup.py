"""A job over its budget, from the command line: its report, what it says, more budget, and what it cost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from swarm.coordinator import Phase
from swarm.events import BudgetChanged
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder
from tests.commands import swarm
from tests.jobs import answered, events_of, finished, job, state_of, write_sources

PRICED = {"engine": "scripted", "name": "raises", "price": {"input": 1.0, "output": 4.0}}


def started(folder: Path, budget: dict[str, Any], **changes: Any) -> tuple[RunFolder, Any]:
    """Runs a job of 20 passages with one agent until it rests; the run, and what the command said."""
    answer = job(folder).answer.model_copy(update={"merge": "set"})
    spec: JobSpec = job(write_sources(folder, 4), budget=budget, answer=answer.model_dump(), **changes)
    path = folder / "job.yaml"
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    said = swarm("run", path, "--local", "--agents", 1, "--runs", folder / "runs", "--id", "one")
    return RunFolder(folder / "runs", "one"), said


def resumed(run: RunFolder, *words: str) -> Any:
    more = [part for word in words for part in ("--budget", word)]
    return swarm("resume", run.id, "--local", "--agents", 1, "--runs", run.root, *more)


def answer_of(run: RunFolder) -> Any:
    return json.loads(run.answer.read_text(encoding="utf-8"))


def rows_of(run: RunFolder) -> list[dict[str, str]]:
    return [row["values"] for row in answer_of(run)["rows"]]


def test_a_job_over_its_budget_rests_with_a_report_and_goes_on_with_more(tmp_path: Path) -> None:
    whole, said = started(tmp_path / "whole", {})
    assert said.code == 0
    run, said = started(tmp_path, {"calls": 20, "reserve": 0.2})
    assert said.code == 3 and f"resume with: swarm resume {run.id} --budget calls=+MORE" in said.err
    state, answer = state_of(run), answer_of(run)
    where = ("--runs", run.root)
    assert "budget" in swarm("list", *where).out and "--budget calls=+MORE" in swarm("status", run.id, *where).out
    told = swarm("tell", run.id, "hear me", *where)
    assert told.code == 0 and f"once the job has more budget; go on with: swarm resume {run.id} --budget calls=" in told.err
    assert "nobody works on this run (it is budget)" in swarm("pause", run.id, *where).err
    assert (state.phase, state.status) == (Phase.PAUSED, "budget") and state.total().calls <= 20
    assert answer["status"] == "budget" and answer["limits"] == [{"limit": "calls", "allowed": 20.0, "spent": 14.0, "role": ""}]
    assert answer["unread"][0]["reason"] == "the budget of 20 calls was reached first" and answer["sentences"]
    assert "Stopped by its budget" in run.report_markdown.read_text(encoding="utf-8")
    before = events_of(run)

    said = resumed(run)
    assert said.code == 3 and "the budget of 20 calls is reached" in said.err and "--budget calls=+MORE" in said.err
    assert events_of(run) == before, "nothing happens without more"

    said = resumed(run, "calls=+3")
    assert said.code == 3 and state_of(run).finished["reader"] > state.finished["reader"], "a little more, and it rests again"
    said = resumed(run, "calls=none")
    assert said.code == 0, said.err
    events = events_of(run)
    assert rows_of(run) == rows_of(whole) and answer_of(run)["status"] == "done" and not answer_of(run)["limits"]
    assert len(set(answered(events))) == len(answered(events)) and len(set(finished(events))) == len(finished(events))
    assert finished(events)[: len(finished(before))] == finished(before), "no finished step is done again"
    changed = [event.body for event in events if isinstance(event.body, BudgetChanged)]
    assert [one.new for one in changed] == [{"calls": 23}, {"calls": None}] and all("@" in one.who for one in changed)
    assert swarm("replay", run.id, "--verify", "--runs", run.root).code == 0
    assert resumed(run, "calls=5").code == 1, "it has ended"


def test_rows_that_no_verifier_could_be_paid_for_are_unchecked_and_judged_later(tmp_path: Path) -> None:
    whole, _ = started(tmp_path / "whole", {})
    run, said = started(tmp_path, {"roles": {"verifier": {"calls": 6}}})
    assert said.code == 3 and "the budget of role verifier of 6 calls" in said.err
    assert not answer_of(run)["unread"], "readers go on"
    unjudged = [one for one in answer_of(run)["unverified"] if one["verdict"] == "unchecked"]
    judged = len(rows_of(run))
    assert (judged and len(unjudged) == len(rows_of(whole)) * 4 - judged) or len(unjudged) >= 8
    assert {one["reason"] for one in unjudged} == {"the budget was reached before a verifier could judge it"}
    assert "unchecked; the budget was reached" in run.report_markdown.read_text(encoding="utf-8")
    said = resumed(run, "roles.verifier.calls=+100")
    assert said.code == 0 and not answer_of(run)["unverified"] and rows_of(run) == rows_of(whole)


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("calls=5", "15 are spent already"),
        ("roles.poet.calls=5", "--budget roles.poet: 'poet' is no role of protocol map_reduce"),
        ("roles.reader.tokens=1", "--budget roles.reader.tokens: 1 may not do for the first task of role reader"),
        ("agent.tokens=1", "--budget agent.tokens: 1 may not do for the first task of role"),
        ("money=5", "--budget money: the price of model 'raises' is not known"),
        ("calls=-5", "more than 0"),
        ("cals=5", "there is no limit"),
    ],
)
def test_more_that_is_none_is_refused_and_nothing_happens(tmp_path: Path, word: str, problem: str) -> None:
    run, _ = started(tmp_path, {"calls": 20, "reserve": 0.2})
    before = events_of(run)
    said = resumed(run, word)
    assert said.code == 2 and problem in said.err
    assert "starting" not in said.err, "it is known before anything is started"
    assert events_of(run) == before


def test_agents_that_have_spent_what_one_may_wait_for_more_and_go_on_with_it(tmp_path: Path) -> None:
    rolling = {"name": "rolling", "options": {"span_tokens": 64, "passages": 4}}
    whole, _ = started(tmp_path / "whole", {}, protocol=rolling)
    run, said = started(tmp_path, {"agent": {"calls": 3}}, protocol=rolling)
    assert said.code == 3 and f"swarm resume {run.id} --budget agent.calls=+MORE" in said.err
    answer = answer_of(run)
    assert answer["limits"] == [{"limit": "calls", "allowed": 3.0, "spent": 3.0, "role": "(agent)"}] and not answer["given_up"]
    assert answer["unread"][0]["reason"] == "the budget of one agent of 3 calls was reached first"
    assert "The budget of one agent of 3 calls was reached" in run.report_markdown.read_text(encoding="utf-8")
    assert set(calls_by_task(run)) == {3}
    assert resumed(run).code == 3 and set(calls_by_task(run)) == {3}, "nothing happens without more"
    assert resumed(run, "tokens=1000000").code == 3 and set(calls_by_task(run)) == {3}, "or with more of something else"
    said = resumed(run, "agent.calls=+1")
    assert said.code == 0, said.err
    assert rows_of(run) == rows_of(whole) and max(calls_by_task(run)) == 4
    assert swarm("replay", run.id, "--verify", "--runs", run.root).code == 0


def calls_by_task(run: RunFolder) -> list[int]:
    """How many calls each task took that took any."""
    return list(Counter(task for task, _, _ in answered(events_of(run))).values())


def test_costs_add_up_to_what_the_fold_says(tmp_path: Path) -> None:
    flaky = {**PRICED, "name": "raises+flaky:4"}
    run, said = started(tmp_path, {"calls": 25, "reserve": 0.2, "money": 5}, model=flaky)
    assert said.code == 3
    spent, calls_failed = state_of(run).total(), state_of(run).calls_failed
    for by in ("role", "role,model", "agent", "model,role,agent"):
        document = swarm("cost", "one", "--runs", run.root, "--by", by, "--json").document
        total = document["total"]
        assert (total["calls"], total["tokens_in"], total["tokens_out"]) == (spent.calls, spent.tokens_in, spent.tokens_out)
        for name in ("calls", "tokens", "failed", "repeats", "reserve", "money"):
            assert sum(row[name] for row in document["rows"]) == pytest.approx(total[name])
        assert total["failed"] == calls_failed > 0 and total["reserve"] >= 1
        assert total["money"] == pytest.approx((spent.tokens_in + 4 * spent.tokens_out) / 1e6)
    assert {"limit": "calls", "allowed": 25, "spent": spent.calls} in document["budget"]
    shown = swarm("cost", "one", "--runs", run.root)
    assert shown.code == 0 and "reader" in shown.out and "(no answer)" in shown.out and "USD" in shown.out
    wrong = swarm("cost", "one", "--runs", run.root, "--by", "day")
    assert wrong.code == 2 and "role, agent, model" in wrong.err
