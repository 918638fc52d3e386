"""What people say to a job, on the pure core: words are heard once, questions are answered once, and survive every crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from swarm import events as ev
from swarm.coordinator import Phase
from swarm.events import Event, body_hash
from swarm.protocol import WORD, AddTask, Ask, Decision, Finish, View
from swarm.testing.simulator import STORM, Simulation
from tests.desk import Desk, Plain, done, readers
from tests.peopled import APPROVED, SAID, Peopled
from tests.simulated import simulate


def asking(*commands: Any, then: Callable[[View, Event], Decision] | None = None) -> Desk:
    return Desk(Plain(*(commands or (Ask("Go on?", ("left", "right")),)), then=then))


def answer(desk: Desk, verdict: str = "approved", number: int = 1, **given: str) -> list[Event]:
    question = next(event.body.question for event in desk.log if isinstance(event.body, ev.ApprovalAsked))
    assert number == 1
    return desk.keep(
        desk.core.answered(desk.now, ev.ApprovalAnswered(question=question, verdict=verdict, by="ann", **given))
    )


def phase(desk: Desk) -> Phase:
    return desk.state.phase


# ---- questions ----


def test_a_job_with_an_open_question_and_nothing_else_to_do_waits() -> None:
    desk = asking()
    assert desk.pull() == [] and desk.state.phase is Phase.WAITING
    assert desk.state.reason == "for an answer to question 1"
    asked = desk.last(ev.ApprovalAsked)
    assert (asked.number, asked.options, desk.core.texts[asked.text]) == (1, ("left", "right"), b"Go on?")


def test_other_work_goes_on_while_a_question_is_open() -> None:
    desk = asking(Ask("Go on?"), readers(1), then=lambda view, event: Decision())
    grant = desk.one()
    assert phase(desk) is Phase.WORKING
    assert desk.pull(done(grant)) == [] and phase(desk) is Phase.WAITING


def test_an_answer_is_handed_to_the_protocol_and_the_work_goes_on() -> None:
    desk = asking(then=lambda view, event: Decision({"way": event.body.answer}, [AddTask("reader", spans=(0,))]))
    desk.pull()
    answer(desk, answer="left")
    assert desk.state.phase is Phase.WORKING and desk.state.memory["way"] == "left" and not desk.state.questions
    assert desk.kinds()[-4:] == ["ApprovalAnswered", "Decided", "TaskAdded", "PhaseChanged"]
    assert desk.one().role == "reader"


def test_a_second_answer_changes_nothing() -> None:
    desk = asking(then=lambda view, event: Decision({}, [AddTask("reader", spans=(0,))]))
    assert answer(desk) and not answer(desk, "rejected")
    assert desk.kinds().count("ApprovalAnswered") == 1


def test_an_answer_may_end_the_job() -> None:
    desk = asking(then=lambda view, event: Decision({}, [Finish("cancelled", f"person:{event.body.why}")]))
    desk.pull()
    answer(desk, "rejected", why="abc")
    assert (desk.state.phase, desk.state.status, desk.state.reason) == (Phase.ENDED, "cancelled", "person:abc")
    assert not answer(desk), "nothing is answered after the end"


def test_a_question_survives_its_master() -> None:
    desk = asking(then=lambda view, event: Decision({}, [Finish()]))
    desk.pull()
    desk.resumed()
    assert desk.state.phase is Phase.WAITING and [row.number for row in desk.state.questions.values()] == [1]
    answer(desk)
    assert desk.state.status == "done"


def test_a_job_that_waits_is_paused_and_waits_again_when_it_goes_on() -> None:
    desk = asking()
    desk.pull()
    desk.keep(desk.core.pause(desk.now, "lunch"))
    assert phase(desk) is Phase.PAUSED
    desk.resumed().pull()
    assert phase(desk) is Phase.WAITING


def test_waiting_for_a_person_is_no_time_of_the_budget() -> None:
    desk = asking(then=lambda view, event: Decision({}, [AddTask("reader", spans=(0,))]))
    desk.now += 10
    desk.pull()
    for _ in range(2):
        desk.now += 1000
        desk.resumed()
    answer(desk)
    desk.now += 5
    desk.one()
    assert desk.state.seconds(desk.now) == 15


def test_a_question_lapses_after_its_time() -> None:
    desk = asking(
        Ask("Go on?", ("left", "right"), default="right", seconds=60),
        then=lambda view, event: Decision({"way": [event.body.verdict, event.body.answer]}, [Finish()]),
    )
    desk.pull()
    assert not desk.core.lapse(desk.now + 59)
    desk.keep(desk.core.lapse(desk.now + 60))
    assert desk.state.memory["way"] == ["lapsed", "right"] and desk.state.status == "done"


def test_questions_are_numbered_in_the_order_in_which_they_are_asked() -> None:
    desk = asking(Ask("One?"), Ask("Two?"), then=lambda view, event: Decision())
    assert [row.number for row in desk.state.questions.values()] == [1, 2]
    answer(desk)
    desk.pull()
    assert desk.state.reason == "for an answer to question 2"


# ---- words ----


def test_a_word_is_handed_to_the_protocol_once() -> None:
    desk = asking(readers(2))
    for _ in range(2):
        desk.keep(desk.core.told(desk.now, body_hash(SAID), "ann", "m1"))
    assert [kind for kind, _ in desk.protocol.seen] == ["PersonSaid"]
    desk.resumed()
    assert not desk.core.told(desk.now, body_hash(SAID), "ann", "m1"), "nor is it heard again after a crash"


def test_nothing_is_heard_after_the_end() -> None:
    desk = asking(readers(1))
    desk.keep(desk.core.end(desk.now, "cancelled", "x"))
    assert not desk.core.told(desk.now, body_hash(SAID), "ann", "m1")


# ---- under faults ----

STEPS = 6000
SEEDS = 40


def peopled(seed: int) -> Simulation:
    return simulate(seed, STORM, changes=APPROVED, make=Peopled)


def test_questions_survive_every_crash_and_are_answered_once() -> None:
    befell: Counter[str] = Counter()
    for seed in range(SEEDS):
        one = peopled(seed)
        one.run(STEPS)
        assert one.state.status == "done", f"seed {seed} ends {one.state.status or 'never'}"
        kinds = Counter(event.kind for event in one.log)
        assert kinds["ApprovalAsked"] == kinds["ApprovalAnswered"] == 1
        messages = [event.body.message for event in one.log if isinstance(event.body, ev.PersonSaid)]
        assert len(set(messages)) == len(messages) == one.state.board.count(WORD)
        assert one.state.memory["merge"] == "count", "the person's answer overrode the planner"
        first = next(event.seq for event in one.log if isinstance(event.body, ev.RangeAdded))
        assert first > next(event.seq for event in one.log if isinstance(event.body, ev.ApprovalAnswered))
        befell.update(one.seen)
    for name in ("said", "answered", "said, crashed before the commit", "answered, crashed before the commit",
                 "restarted while waiting"):  # fmt: skip
        assert befell[name], f"{name} never happened"


def test_the_findings_do_not_depend_on_what_befell_the_question() -> None:
    findings = []
    for seed in range(8):
        one = peopled(seed)
        one.run(STEPS)
        findings.append([(kind, content, cites) for kind, content, cites, _ in one.findings()])
    assert findings[0] and all(found == findings[0] for found in findings)
