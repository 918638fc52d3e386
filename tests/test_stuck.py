"""Jobs that go round in circles are noticed soon; jobs that only find nothing for long are not taken for such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarm import events as ev
from swarm.coordinator import Phase, Report
from swarm.protocol import AddTask, Decision, Passage
from swarm.testing.looping import ROLES as ROUND, WAYS, Looping
from swarm.testing.simulator import STORM, Simulation
from tests.commands import job_file, swarm
from tests.desk import ROLES, Desk, Plain, called, done
from tests.jobs import write_sources
from tests.simulated import PROSE, ROLLING, SPAN_TOKENS, answer, passage, simulate, spec

WITHIN = 50
"""Steps from the beginning of a loop to the alarm."""
STEPS = 4000


def looping(way: str, seed: int, **how: Any) -> Simulation:
    """A job that reads some passages, and then goes round: how exactly depends on the seed."""
    protocol = Looping(way, period=1 + seed % 4, width=1 + seed % 2, **how)
    texts = [passage(number) for number in range(5 + 6 * seed)]
    return Simulation(spec(seed=seed), protocol, ROUND, texts, lambda text: f"said {text}", seed)


def alarms(one: Simulation) -> list[ev.Stuck]:
    return [event.body for event in one.log if isinstance(event.body, ev.Stuck)]


def until_paused(one: Simulation) -> Simulation:
    while not one.ended and one.state.phase is not Phase.PAUSED:
        one.step()
        assert one.steps < STEPS, "it was never noticed"
    return one


def steps_between(one: Simulation, first: type[ev.Body], last: int) -> int:
    """Steps finished from the beginning of the loop to an event."""
    begin = next(e.seq for e in one.log if isinstance(e.body, ev.Decided) and "looping" in e.body.state)
    return sum(isinstance(event.body, ev.TaskFinished) and begin < event.seq < last for event in one.log)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("way", WAYS)
def test_a_planted_loop_is_found_within_fifty_steps(way: str, seed: int) -> None:
    one = until_paused(looping(way, seed))
    first, second = [event for event in one.log if isinstance(event.body, ev.Stuck)]
    assert steps_between(one, ev.Stuck, first.seq) <= WITHIN
    assert (first.body.times, second.body.times) == (1, 2)
    paused = one.log[second.seq]
    assert paused.body == ev.PhaseChanged(phase="paused", reason=f"stuck: {second.body.reason}")
    shows = {"call": "the same call again and again", "drafts": "tasks in a circle"}
    assert first.body.reason == shows.get(way, first.body.reason)
    assert one.run(one.steps).seq == len(one.log), "and the log folds to the same state"


def test_a_protocol_that_plans_anew_goes_on() -> None:
    one = looping("circle", 1, obeys=True)
    one.run(STEPS)
    assert one.state.status == "done" and [alarm.times for alarm in alarms(one)] == [1]


def test_a_person_who_resumes_it_gives_it_two_more_chances() -> None:
    one = until_paused(looping("task", 0))
    one.restart()
    assert one.state.stuck == 0
    assert [alarm.times for alarm in alarms(until_paused(one))] == [1, 2, 1, 2]


def empty(number: int) -> Passage:
    return Passage(number, "d", "p", 1000 * number, f"x{number} = {number}\n", SPAN_TOKENS, "p", False)


def refusing(text: str) -> str:
    return '"no"' if "\nClaim: " in text else answer(text)


def healthy() -> list[tuple[str, Simulation]]:
    """Twenty jobs that get somewhere: with faults, with long stretches of nothing, with nothing that holds."""
    kinds: dict[str, dict[str, Any]] = {"map_reduce": {}, "rolling": ROLLING, "prose": PROSE}
    out = [(f"{kind}, storm {seed}", simulate(seed, STORM, changes=kinds[kind])) for kind in kinds for seed in range(4)]
    for count in (300, 2000):
        out.append((f"{count} empty", simulate(0, texts=[empty(number) for number in range(count)], hosts=1, agents=8)))
    for seed in range(3):
        one = simulate(seed, passages=120)
        one.answer = refusing
        out.append((f"nothing holds {seed}", one))
    out.append(("many statements", simulate(0, passages=90, changes=PROSE)))
    out.append(("rolling through much", simulate(0, passages=200, changes=ROLLING)))
    out.append(("the same passage everywhere", simulate(0, texts=[
        Passage(number, "d", "p", 1000 * number, "def f():\n    raise ValueError\n", SPAN_TOKENS, "p > f", False)
        for number in range(120)
    ])))  # fmt: skip
    return out


def test_no_healthy_job_is_taken_for_a_loop() -> None:
    jobs = healthy()
    assert len(jobs) == 20
    for name, one in jobs:
        while not one.ended and one.steps < 20_000:
            one.step()
        assert one.state.status == "done", f"{name} ends {one.state.status or 'never'}"
        assert not alarms(one), f"{name}: {alarms(one)}"


def test_an_agent_that_makes_the_same_call_turn_after_turn_is_stuck() -> None:
    roles = {**ROLES, "reader": ROLES["reader"].model_copy(update={"turns": 100})}
    desk = Desk(Plain(AddTask("reader"), then=lambda view, event: Decision()), roles, stuck={"steps": 10})
    grant = desk.one()
    for turn in range(12):
        began, ended = called(grant, turn=turn)
        desk.pull(Report(grant.task, grant.token, (began.model_copy(update={"prompt": "p"}), ended)), want=0)
    assert desk.last(ev.Stuck).reason == "the same call again and again"


def test_a_stuck_job_leaves_with_the_code_for_waiting(tmp_path: Path) -> None:
    own = tmp_path / "round.py"
    own.write_text("from swarm.testing.looping import Looping\n\n\ndef create(spec):\n    return Looping('task')\n")
    for name in ROUND:
        (tmp_path / f"{name}.md").write_text(f"---\nname: {name}\nabout: goes round\nmax_tokens: 16\n---\nGo round.\n")
    roles = {name: str(tmp_path / f"{name}.md") for name in ROUND}
    path = job_file(tmp_path, write_sources(tmp_path), protocol={"name": str(own)}, roles=roles,
                    model={"engine": "scripted", "name": "echo"})  # fmt: skip
    said = swarm("run", path, "--local", "--runs", tmp_path / "runs", "--id", "one")
    assert said.code == 5 and "paused (stuck: the same" in said.err, said.err
    assert swarm("replay", "one", "--verify", "--runs", tmp_path / "runs").code == 0


def test_zero_never_looks() -> None:
    again = Plain(AddTask("reader", "g"), then=lambda view, event: Decision({}, [AddTask("reader", "g")]))
    desk = Desk(again, stuck={"steps": 0})
    for _ in range(100):
        desk.pull(done(desk.one()), want=0)
    assert "Stuck" not in desk.kinds()
