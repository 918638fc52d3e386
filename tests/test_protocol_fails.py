"""A protocol that fails while its job is at work: what was answered is on record and paid once, the job waits for a person who
mends it, and goes on from there."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from swarm import events as ev
from swarm.errors import ProtocolError, StoreError
from swarm.events import Event
from swarm.protocol import AddRange, AddTask, Ask, Decision, Finish, find_protocol
from swarm.runtime.launch import Opened, Options, run_new
from swarm.runtime.supervise import orphaned
from swarm.runtime.wire import Order, Pull
from swarm.shipped import shipped
from swarm.store.folder import RunFolder, read_status
from swarm.store.runs import Runs
from swarm.testing.invariants import LogWatch, differences, folded
from tests.desk import SPANS, Desk, Plain, done, readers
from tests.jobs import answered, contents, events_of, finished, job, resume, run, state_of, write_sources
from tests.test_master import finished as over, ran, started

MENDED = (shipped("protocols") / "rolling.py").read_text()
REACT = "        ended = view.ended\n        if isinstance(event.body, Stuck):\n"
START = "        size = self.options.passages\n"
PRICED = {"engine": "scripted", "name": "raises", "price": {"input": 1, "output": 1, "currency": "EUR"}}


def broken(at: str, condition: str = "True") -> str:
    """The protocol with a fault at a place."""
    assert MENDED.count(at) == 1
    return MENDED.replace(at, f"        if {condition}:\n            raise KeyError('left')\n{at}")


AT_AN_END = broken(REACT, "event.kind == 'TaskFinished' and view.ended.role == 'notetaker'")


def spec(tmp_path: Path, source: str, **changes: Any) -> Any:
    path = tmp_path / "mine.py"
    path.write_text(source)
    protocol = {"name": str(path), "options": {"span_tokens": 64, "passages": 2}}
    return job(write_sources(tmp_path, 4), **{"protocol": protocol, **changes})


def checked(folder: RunFolder) -> list[Event]:
    """A log in which every call that began has ended once, and nothing is in doubt."""
    events, watch = events_of(folder), LogWatch()
    for event in events:
        watch.see(event)
    begun = Counter((one.body.task, one.body.turn, one.body.sample) for one in events if isinstance(one.body, ev.CallStarted))
    assert Counter(answered(events)) == begun and max(begun.values(), default=1) == 1
    assert state_of(folder).ledger.doubt().calls == 0
    return events


def pauses(events: list[Event]) -> list[str]:
    return [one.body.reason for one in events if isinstance(one.body, ev.PhaseChanged) and one.body.phase == "paused"]


@pytest.mark.parametrize("model", [PRICED, {"engine": "scripted", "name": "raises"}], ids=["billed", "not billed"])
@pytest.mark.parametrize("agents", [1, 8])
def test_no_answer_is_lost_or_asked_for_again_when_the_protocol_fails(tmp_path: Path, model: Any, agents: int) -> None:
    undisturbed = run(spec(tmp_path, MENDED, model=model), tmp_path / "runs", id="two", agents=agents)
    made = spec(tmp_path, AT_AN_END, model=model, notify={"command": ["true"]})
    folder = RunFolder(tmp_path / "runs", "one")
    with pytest.raises(ProtocolError, match=r"protocol rolling: failed at event \d+ \(TaskFinished\): KeyError: 'left'"):
        run(made, folder.root, id="one", agents=agents)
    first = checked(folder)
    assert len(answered(first)) >= 2 and not finished(first)
    (reason,) = pauses(first)
    with folder.reader() as reader:
        assert reader.body(reason.removeprefix("protocol:")).decode().startswith("protocol rolling: failed at event")
    folder.verify()
    status = read_status(folder)
    assert status.status == "paused" and "KeyError: 'left'. Mend it and resume" in status.detail
    assert not orphaned(folder, status, status.updated + 999), "a supervisor leaves it to a person"
    sent = [one.body.notice for one in first if isinstance(one.body, ev.NoticeSent)]
    assert [notice.partition(":")[0] for notice in sent] == ["waiting"]

    with pytest.raises(ProtocolError):
        resume(folder, agents=agents)
    again = checked(folder)
    assert len(pauses(again)) == 2 and set(answered(first)) <= set(answered(again))

    (tmp_path / "mine.py").write_text(MENDED)
    resume(folder, agents=agents)
    last = checked(folder)
    assert state_of(folder).status == "done"
    assert Counter(answered(last)) == Counter({**dict.fromkeys(answered(again), 1), **dict.fromkeys(answered(last), 1)})
    assert len(answered(last)) == len(answered(events_of(undisturbed)))
    assert contents(folder, "finding") == contents(undisturbed, "finding") != []


def test_a_protocol_that_cannot_begin_leaves_a_job_that_says_so(tmp_path: Path) -> None:
    made, folder = spec(tmp_path, broken(START)), RunFolder(tmp_path / "runs", "one")
    with pytest.raises(ProtocolError, match=r"failed at event \d+ \(Decided\): KeyError"):
        run(made, folder.root, id="one")
    assert len(pauses(checked(folder))) == 1 and not answered(events_of(folder))
    (tmp_path / "mine.py").write_text(MENDED)
    resume(folder)
    assert state_of(folder).status == "done"


def test_a_word_over_which_the_protocol_fails_is_heard_once_it_is_mended(tmp_path: Path) -> None:
    slow = {**PRICED, "name": "raises+slow:0.2"}
    made = spec(tmp_path, broken(REACT, "event.kind == 'PersonSaid'"), model=slow)
    folder = RunFolder(tmp_path / "runs", "one")

    def say(opened: Opened) -> None:
        opened.run.post("tell", json.dumps({"text": "skip the tests", "by": "ann"}))

    with pytest.raises(ProtocolError, match="PersonSaid"):
        asyncio.run(run_new(made, Options(Runs(folder.root), "local", id="one", agents=4), lambda _: {}, say))
    first = checked(folder)
    assert len(folder.messages()) == 1 and len(pauses(first)) == 1
    (tmp_path / "mine.py").write_text(MENDED)
    resume(folder, agents=4)
    assert sum(isinstance(one.body, ev.PersonSaid) for one in checked(folder)) == 1
    assert not folder.messages() and state_of(folder).status == "done"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (AddTask("poet", spans=(0,)), "role 'poet', which it does not list"),
        (AddTask("reader", spans=(SPANS,)), f"passage {SPANS}, which there is not"),
        (AddTask("reader", spans=(-1,)), "passage -1, which there is not"),
        (AddTask("reader", reads=("nowhere",)), "note 'nowhere', which is not on the board"),
        (AddRange("poet", 0, 1), "role 'poet', which it does not list"),
        (AddRange("reader", 0, SPANS + 1), f"passage {SPANS}, which there is not"),
        (Ask("Go on?", ("left",), default="right"), "default 'right', which is not among the options"),
        (Ask("Go on?", ("left", "")), "an option that is empty"),
        (Ask("Go on?", seconds=float("nan")), "asks for nan seconds"),
        (Ask("Go on?", seconds=-3), "asks for -3 seconds"),
        (Finish("zed"), "finishes as 'zed', which is no end"),
        ("finish", "answered with 'finish', which is no command"),
    ],
)
def test_what_a_protocol_asks_for_in_vain_is_its_fault_and_no_event(command: Any, says: str) -> None:
    """Else a host would be handed it, and fail in the same way at each start of the job."""
    with pytest.raises(ProtocolError, match=re.escape(says)):
        Desk(Plain(command))


@pytest.mark.parametrize(
    "command", [AddRange("reader", 0, 1, goal="\ud800"), AddTask("reader", goal="\ud800"), Finish("done", "\ud800")]
)
def test_what_no_log_can_hold_is_the_protocols_fault(command: Any) -> None:
    with pytest.raises(ProtocolError, match=r"protocol plain: failed at event \d+ .* holds what no log can"):
        Desk(Plain(command))


def test_the_protocol_that_works_is_the_one_of_its_digest(tmp_path: Path) -> None:
    """Saved again within a second, and as long as before: Python would take its compiled form for that of the new one."""
    file, digests = tmp_path / "mine.py", set[str]()
    for status in ("done", "gone"):
        file.write_text(f"STATUS = {status!r}\ndef create(spec): ...\n", encoding="utf-8")
        os.utime(file, (1e9, 1e9))
        module, digest = find_protocol(str(file))
        digests.add(digest)
        assert status == module.STATUS
    assert len(digests) == 2


def test_a_protocol_that_another_thread_loads_just_now_is_given_whole(tmp_path: Path) -> None:
    file, gate = tmp_path / "mine.py", tmp_path / "gate"
    os.mkfifo(gate)
    file.write_text(f"open({str(gate)!r}).read()\ndef create(spec): ...\n", encoding="utf-8")
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(find_protocol, str(file))
        with open(gate, "w"):  # which somebody reads by now; its end lets them go on
            two = threads.submit(find_protocol, str(file))
            wait([two], timeout=0.5)  # in which it would be given what there is
    assert one.result() == two.result()


def test_a_protocol_may_be_a_package(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "words.py").write_text("WORD = 'word'\n", encoding="utf-8")
    source = "from .words import WORD\nNAME = __spec__.name\ndef create(spec): ...\n"
    (tmp_path / "mine" / "__init__.py").write_text(source, encoding="utf-8")
    module, _ = find_protocol(str(tmp_path / "mine" / "__init__.py"))
    assert module.WORD == "word" and module.__name__ == module.NAME


def test_a_protocol_that_wants_the_program_to_end_has_failed() -> None:
    def leave(view: Any, event: Any) -> Decision:
        raise SystemExit(3)

    desk = Desk(Plain(readers(2), then=leave))
    report = done(desk.one())
    with pytest.raises(ProtocolError, match="SystemExit: 3"):
        desk.pull(report)


@pytest.mark.parametrize("state", [{"done": {0: "x"}}, {"done": {"a", "b"}}, {"done": 2**64}], ids=["keys", "set", "number"])
def test_what_no_log_gives_back_is_never_remembered(state: dict[str, Any]) -> None:
    """Else a job would work to its end, and nobody could read its log."""
    desk = Desk(Plain(readers(2), then=lambda view, event: Decision(state)))
    report = done(desk.one())
    with pytest.raises(ProtocolError, match="remembers what no log can hold"):
        desk.pull(report)


def test_a_protocol_is_given_what_the_log_gives_back() -> None:
    mine = [1]
    desk = Desk(Plain(readers(2), then=lambda view, event: Decision({"seen": (mine, "x")})))
    desk.pull(done(desk.one()))
    mine.append(2)
    assert desk.state.memory["seen"] == [[1], "x"]


@pytest.mark.parametrize(
    ("command", "event"),
    [
        (AddTask("reader", spans=(SPANS - 1,)), "TaskAdded"),
        (AddRange("reader", 0, SPANS), "RangeAdded"),
        (AddRange("reader", SPANS, SPANS), "Decided"),
    ],
)
def test_what_is_there_may_be_asked_for(command: Any, event: str) -> None:
    assert Desk(Plain(command)).kinds()[-1] == event


class Failing:
    """A protocol that raises when a task has ended, and counts how often it was asked."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.asked = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def react(self, state: Any, event: Event, view: Any) -> Any:
        self.asked += 1
        raise KeyError("left")


def test_a_protocol_that_fails_costs_no_pull_of_its_round_and_is_not_asked_again() -> None:
    async def scene() -> None:
        master, store, _ = started()
        failing = master.coordinator.protocol = Failing(master.job.protocol)
        first = await master.pull(Pull("h", 1))
        other = asyncio.create_task(master.pull(Pull("i", 2)))
        await asyncio.sleep(0)  # it is decided, and waits for the commit
        batch = await master.pull(Pull("h", 1, over(first), {"b": b"text"}))
        granted = await other
        assert (batch.order, len(granted.work), failing.asked) == (Order.STOP, 2, 1)
        assert isinstance(master.failed, ProtocolError) and not master.resting and master.broken is None
        assert {work.token for work in granted.work} == {row.token for row in master.state.tasks.values() if row.token}
        assert store.held["b"] == b"text", "later events may name it"
        assert (await master.pull(Pull("i", 2, over(granted)))).order is Order.STOP
        master.expire()
        assert master.resting and failing.asked == 1
        assert not differences(folded(store.events), master.state)
        (pause,) = [event.body for event in store.events if isinstance(event.body, ev.PhaseChanged)]
        assert b"KeyError: 'left'" in store.held[pause.reason.removeprefix("protocol:")]

    ran(scene())


def test_a_store_that_fails_while_the_protocol_fails_ends_the_master() -> None:
    async def scene() -> None:
        master, store, _ = started()
        master.coordinator.protocol = Failing(master.job.protocol)
        first = await master.pull(Pull("h", 1))
        kept = list(store.events)
        store.full = True
        results = await asyncio.gather(master.pull(Pull("i", 1)), master.pull(Pull("h", 1, over(first))), return_exceptions=True)
        assert all(isinstance(result, StoreError) for result in results) and isinstance(master.broken, StoreError)
        assert store.events == kept

    ran(scene())
