"""The host: what it reports of a task, whatever its model says and its protocol does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from swarm import events as ev
from swarm.agents.roles import parse_role
from swarm.coordinator import Report
from swarm.errors import ModelError
from swarm.models.interface import Completion, Request
from swarm.protocol import Done, Failed, Material, NoteText, Passage, Post, Said, TaskBrief, create_protocol
from swarm.runtime.host import Host
from swarm.runtime.wire import Batch, Order, Pull, Work
from swarm.window.pack import CHATML
from swarm.window.tokens import ApproximateTokenizer
from tests.simulated import ROLLING, passage, roles_of, spec

ROW = [["f0", "ValueError", "raise ValueError(0)"]]


class OneTask:
    """A master that has one task to give, and keeps what it is brought."""

    def __init__(self, work: Work) -> None:
        self.work: Work | None = work
        self.reports: list[Report] = []
        self.bodies: dict[str, bytes] = {}

    async def pull(self, pull: Pull) -> Batch:
        self.reports += pull.reports
        self.bodies |= pull.bodies
        work, self.work = self.work, None
        if work is not None:
            return Batch(Order.WORK, (work,))
        return Batch(Order.STOP if self.over else Order.WORK)

    @property
    def events(self) -> list[Any]:
        return [body for report in self.reports for body in report.events]

    @property
    def over(self) -> bool:
        return any(isinstance(body, (ev.TaskFinished, ev.TaskFailed)) for body in self.events)

    def error(self) -> str:
        failed = self.events[-1]
        assert isinstance(failed, ev.TaskFailed)
        return self.bodies[failed.error].decode()


class ManyTasks(OneTask):
    """A master that gives all its tasks at once."""

    def __init__(self, works: tuple[Work, ...]) -> None:
        super().__init__(works[0])
        self.works, self.count = works, len(works)

    async def pull(self, pull: Pull) -> Batch:
        self.reports += pull.reports
        works, self.works = self.works, ()
        ended = sum(isinstance(body, (ev.TaskFinished, ev.TaskFailed)) for body in self.events)
        await asyncio.sleep(0)
        return Batch(Order.STOP if ended == self.count else Order.WORK, works)


class Says:
    """A model that says one thing after another, and keeps what it was asked."""

    tokenizer, template = ApproximateTokenizer(), CHATML

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []
        self.answered_by: list[str] = []
        """The weights of each answer; when there are none left, `says`."""

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def weights(self, channel: str) -> str:
        return "says"

    async def complete(self, request: Request) -> Completion:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        weights = self.answered_by.pop(0) if self.answered_by else "says"
        return Completion(answer, request.prompt.tokens, 5, "stop", weights, 0.1)


class Counts(Says):
    """A model that takes its time over each call, and keeps how many were in flight at most."""

    def __init__(self, rounds: int = 20) -> None:
        super().__init__()
        self.rounds, self.flying, self.peak, self.calls = rounds, 0, 0, 0

    async def complete(self, request: Request) -> Completion:
        self.flying, self.calls = self.flying + 1, self.calls + 1
        self.peak = max(self.peak, self.flying)
        for _ in range(self.rounds):  # every other task of the loop has its turn while this call is in flight
            await asyncio.sleep(0)
        self.flying -= 1
        return Completion("[]", request.prompt.tokens, 1, "stop", "counts", 0.0)


class Listens(OneTask):
    """A master that lets the model answer once it has heard of the host five times."""

    def __init__(self, work: Work, answers: asyncio.Event) -> None:
        super().__init__(work)
        self.answers, self.pulls = answers, 0

    async def pull(self, pull: Pull) -> Batch:
        self.pulls += 1
        if self.pulls == 5:
            self.answers.set()
        return await super().pull(pull)


class Waits(Says):
    """A model that does not answer before it may."""

    def __init__(self, *answers: str) -> None:
        super().__init__(*answers)
        self.may = asyncio.Event()

    async def complete(self, request: Request) -> Completion:
        await self.may.wait()
        return await super().complete(request)


def worked(
    model: Says, task: str = "t", passages: tuple[Passage, ...] = (passage(0),), said: tuple[Said, ...] = (),
    samples: Mapping[int, int] | None = None, seed: int = 0, **changes: Any,
) -> OneTask:  # fmt: skip
    job = spec(seed=seed, **changes)
    protocol, _ = create_protocol(job)
    role = "notetaker" if "notetaker" in protocol.roles else "reader"
    master = OneTask(Work(TaskBrief(task, role, "", 1), 7, Material(passages), said, samples or {}))
    host = Host("h", job, protocol, roles_of(protocol.roles), model, 2)
    asyncio.run(asyncio.wait_for(host.run(master), 60))
    return master


def kinds(master: OneTask) -> list[str]:
    return [type(body).__name__ for body in master.events]


def test_a_step_is_its_call_its_notes_and_its_end() -> None:
    master = worked(Says(json.dumps(ROW)))
    assert kinds(master) == ["CallStarted", "CallFinished", "NotePosted", "TaskFinished"]
    started, finished, note, end = master.events
    assert started.tokens == finished.tokens_in > sum(row[5] for row in started.manifest) > 0, (
        "the rest is the template's"
    )
    assert master.bodies[finished.output] == json.dumps(ROW).encode() and (end.token, end.outcome) == (7, "rows")
    assert note.cites[0][0] == 0 and note.body in master.bodies


def test_an_output_that_breaks_its_contract_is_drawn_again_warmer_and_then_given_up() -> None:
    model = Says("babble", "babble", json.dumps(ROW))
    master = worked(model)
    assert kinds(master)[-2:] == ["NotePosted", "TaskFinished"]
    assert [body.sample for body in master.events if isinstance(body, ev.CallFinished)] == [0, 1, 2]
    temperatures = [request.sampling.temperature for request in model.asked]
    assert temperatures[0] == 0 and min(temperatures[1:]) > 0
    assert len({request.sampling.seed for request in model.asked}) == 3
    given_up = worked(Says(*["babble"] * 3))
    assert "is no list of rows: babble" in given_up.error() and not given_up.reports[-1].retryable


def test_the_seed_of_a_draw_depends_on_the_jobs_seed_and_the_prompt_and_not_on_ids() -> None:
    def seeds(task: str, **how: Any) -> list[int | None]:
        model = Says("babble", json.dumps(ROW))
        worked(model, task, **how)
        return [request.sampling.seed for request in model.asked]

    assert seeds("one") == seeds("two") != seeds("one", seed=5)
    assert seeds("one") != seeds("one", passages=(passage(1),))


@pytest.mark.parametrize("text", ["\ud800", "is no \udfff text"])
def test_an_output_with_half_a_character_fails_its_task_and_not_the_host(text: str) -> None:
    master = worked(Says(text, text, text))
    assert kinds(master)[-1] == "TaskFailed" and "\\ud" in master.error()


def test_an_error_whose_text_has_half_a_character_is_recorded() -> None:
    master = worked(Says(ModelError("the endpoint says \ud800", kind="broken")))
    assert kinds(master) == ["CallStarted", "CallFailed", "TaskFailed"]
    assert "\\ud800" in master.error() and master.reports[-1].retryable


class TwoNotes:
    """Posts two notes, of which the second is of no kind that its protocol knows."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def turn(self, task: Any, material: Any, transcript: Any) -> Any:
        return Done((Post("row", {"values": {}, "quote": ""}), Post("row", {"no": "such field"})), "rows")


class OddOutcome(TwoNotes):
    """Posts a note, and calls the outcome what no outcome can be."""

    def turn(self, task: Any, material: Any, transcript: Any) -> Any:
        return Done((Post("row", {"values": {}, "quote": ""}),), 5)  # type: ignore[arg-type]


class Leaves(TwoNotes):
    """Wants the program to end."""

    def turn(self, task: Any, material: Any, transcript: Any) -> Any:
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("kind", "says"), [(TwoNotes, "ValidationError"), (OddOutcome, "ValidationError"), (Leaves, "SystemExit: 3")]
)
def test_an_attempt_that_fails_over_what_it_brings_leaves_none_of_it_behind(kind: type[TwoNotes], says: str) -> None:
    """Or the next attempt's notes, which have the same ids, would be there already."""
    job = spec()
    protocol, _ = create_protocol(job)
    master = OneTask(Work(TaskBrief("t", "reader", "", 1), 7, Material((passage(0),)), (), {}))
    host = Host("h", job, kind(protocol), roles_of(protocol.roles), Says(), 1)
    asyncio.run(asyncio.wait_for(host.run(master), 60))
    assert kinds(master) == ["TaskFailed"] and says in master.error()


def test_a_role_without_a_model_makes_no_call_for_which_nothing_is_set_aside() -> None:
    job, model = spec(), Says(json.dumps(ROW))
    protocol, _ = create_protocol(job)
    master = OneTask(Work(TaskBrief("t", "reader", "", 1), 7, Material((passage(0),)), (), {}))
    roles = roles_of(protocol.roles)
    roles = {**roles, "reader": roles["reader"].model_copy(update={"weights": "none"})}
    asyncio.run(asyncio.wait_for(Host("h", job, protocol, roles, model, 1).run(master), 60))
    assert kinds(master) == ["TaskFailed"] and not model.asked
    assert "roles.reader.weights: its role never calls a model" in master.error()


def test_a_note_of_a_kind_that_the_role_does_not_write_is_refused_once_and_leaves_nothing_behind() -> None:
    """It is the protocol's fault, or the role file's: a further attempt would do the same."""
    job, model = spec(), Says(json.dumps(ROW))
    protocol, _ = create_protocol(job)
    master = OneTask(Work(TaskBrief("t", "reader", "", 1), 7, Material((passage(0),)), (), {}))
    roles = roles_of(protocol.roles)
    roles = {**roles, "reader": roles["reader"].model_copy(update={"writes": ("rejected", "plan")})}
    asyncio.run(asyncio.wait_for(Host("h", job, protocol, roles, model, 1).run(master), 60))
    assert kinds(master) == ["CallStarted", "CallFinished", "TaskFailed"] and not master.reports[-1].retryable
    assert master.error() == (
        "roles.reader.writes: its task posts a note of kind 'row', and the role writes rejected, plan\n"
        "  name that kind in the role's file, or mend the protocol"
    )


@pytest.mark.parametrize("reads", [(), ("word",), ("row",)])
def test_a_task_reads_what_its_protocol_gives_it_whatever_kinds_the_role_was_pinned_with(reads: tuple[str, ...]) -> None:
    """A log of before a shipped role's file named a further kind is resumed with that older file, and loses nothing by it."""
    job, model = spec(), Says('"yes"')
    protocol, _ = create_protocol(job)
    row = {"values": {"function": "f0", "exception": "ValueError"}, "quote": "raise ValueError(0)"}
    note = NoteText("n", "row", row, ((0, 0, 5),), {}, "")
    master = OneTask(Work(TaskBrief("t", "verifier", "", 1), 7, Material((passage(0),), (note,)), (), {}))
    roles = roles_of(protocol.roles)
    roles = {**roles, "verifier": roles["verifier"].model_copy(update={"reads": reads})}
    asyncio.run(asyncio.wait_for(Host("h", job, protocol, roles, model, 1).run(master), 60))
    assert kinds(master)[-1] == "TaskFinished" and len(model.asked) == 1


def test_a_role_whose_file_does_not_say_what_it_writes_may_post_any_kind() -> None:
    job = spec()
    protocol, _ = create_protocol(job)
    master = OneTask(Work(TaskBrief("t", "reader", "", 1), 7, Material((passage(0),)), (), {}))
    roles = roles_of(protocol.roles)
    silent = {**roles, "reader": parse_role("---\nname: reader\nabout: reads\n---\nRead.\n", "reader.md")}
    asyncio.run(asyncio.wait_for(Host("h", job, protocol, silent, Says(json.dumps(ROW)), 1).run(master), 60))
    assert kinds(master) == ["CallStarted", "CallFinished", "NotePosted", "TaskFinished"]


def test_each_turn_of_a_long_task_is_brought_as_it_happens() -> None:
    passages = tuple(passage(number) for number in range(3))
    master = worked(Says("[]", "[]", "[]"), passages=passages, **ROLLING)
    ended = [[type(body).__name__ for body in report.events] for report in master.reports]
    assert ended == [["CallStarted", "CallFinished"]] * 3 + [["TaskFinished"]]


def test_a_task_goes_on_where_another_host_stopped() -> None:
    passages = tuple(passage(number) for number in range(3))
    whole = Says("[]", "[]", "[]")
    worked(whole, passages=passages, **ROLLING)
    rest = Says("[]")
    said = (Said(0, "[]"), Said(1, "[]"))
    master = worked(rest, passages=passages, said=said, samples={0: 1, 1: 1}, **ROLLING)
    assert kinds(master) == ["CallStarted", "CallFinished", "TaskFinished"]
    assert [request.prompt.digest for request in rest.asked] == [whole.asked[2].prompt.digest]


def test_a_recorded_output_that_broke_its_contract_is_drawn_again_as_the_next_sample() -> None:
    model = Says(json.dumps(ROW))
    master = worked(model, said=(Said(0, "babble"),), samples={0: 1})
    assert master.events[0].sample == 1 and kinds(master)[-1] == "TaskFinished"


def test_each_turn_has_its_own_draws_and_a_lease_makes_no_more_calls_than_are_reserved_for_it() -> None:
    """Another lease goes on with what is recorded: a long task is not given up over outputs that were mended at once."""
    passages, attempts = tuple(passage(number) for number in range(5)), roles_of(("notetaker",))["notetaker"].attempts
    first = Says("no", "[]", "no", "[]", "[]", "no", *["[]"] * 3)
    master = worked(first, passages=passages, **ROLLING)
    assert kinds(master)[-1] == "TaskFailed" and master.events[-1].kind == "malformed" and master.reports[-1].retryable
    assert len(first.asked) == 6 <= len(passages) + attempts - 1
    said = (*[Said(turn, "[]") for turn in range(3)], Said(3, "no"))
    master = worked(Says("[]", "[]"), passages=passages, said=said, samples={0: 2, 1: 2, 2: 1, 3: 1}, **ROLLING)
    assert [(body.turn, body.sample) for body in master.events if isinstance(body, ev.CallFinished)] == [(3, 1), (4, 0)]
    assert kinds(master)[-1] == "TaskFinished"


def test_a_turn_whose_every_draw_breaks_its_contract_ends_a_long_task() -> None:
    passages, attempts = tuple(passage(number) for number in range(5)), roles_of(("notetaker",))["notetaker"].attempts
    master = worked(Says("[]", "[]", *["no"] * attempts), passages=passages, **ROLLING)
    assert master.events[-1].kind == "malformed" and not master.reports[-1].retryable


class NeverContent:
    """Takes each output, and at the end neither the last nor the one before it."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.back = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def turn(self, task: Any, material: Any, transcript: Any) -> Any:
        if len(transcript) == len(material.passages):
            self.back = 1
            return Failed("is not the last word")
        if self.back:
            self.back = 0
            return Failed("neither")
        return self.inner.turn(task, material, transcript)


def test_a_protocol_that_turns_down_what_it_took_before_does_not_go_on_for_ever() -> None:
    job, passages = spec(**ROLLING), (passage(0), passage(1), passage(2))
    protocol, _ = create_protocol(job)
    said, retryable = tuple[Said, ...](), True
    for _ in range(2):
        master = OneTask(Work(TaskBrief("t", "notetaker", "", 1), 7, Material(passages), said, {}))
        host = Host("h", job, NeverContent(protocol), roles_of(protocol.roles), Says(*["[]"] * 9), 1)
        asyncio.run(asyncio.wait_for(host.run(master), 30))
        said, retryable = tuple(Said(turn, "[]") for turn in range(3)), master.reports[-1].retryable
    assert kinds(master)[-1] == "TaskFailed" and not retryable


def test_a_passage_that_does_not_fit_names_the_window_and_is_not_tried_again() -> None:
    long = Passage(0, "d", "p", 0, "word " * 4000, 4000, "p", False)
    master = worked(Says(), passages=(long,))
    assert "largest part is the span s:0" in master.error() and not master.reports[-1].retryable


def test_a_refusal_is_told_with_its_kind() -> None:
    master = worked(Says(ModelError("401", kind="refused", retryable=False)))
    assert master.events[-1].kind == "refused" and not master.reports[-1].retryable


@pytest.mark.parametrize("limit", [1, 3, 64])
def test_no_more_calls_are_in_flight_than_the_job_allows(limit: int) -> None:
    agents = 8
    job = spec(model={"engine": "scripted", "name": "raises", "concurrency": limit})
    protocol, _ = create_protocol(job)
    master = ManyTasks(
        tuple(Work(TaskBrief(f"t{n}", "reader", "", 1), n, Material((passage(n),)), (), {}) for n in range(agents))
    )
    model = Counts()
    host = Host("h", job, protocol, roles_of(protocol.roles), model, 2 * agents)
    asyncio.run(asyncio.wait_for(host.run(master), 60))
    assert model.peak == min(limit, agents) and model.calls == agents and model.flying == 0


def test_a_call_records_the_weights_that_the_model_says_answered() -> None:
    """And not those that it was asked for, or that it named before."""
    model = Says("babble", json.dumps(ROW))
    model.answered_by = ["declared:first", "sha256:second"]
    master = worked(model)
    finished = [body for body in master.events if isinstance(body, ev.CallFinished)]
    assert [body.weights for body in finished] == ["declared:first", "sha256:second"]
    assert model.weights("reader") not in [body.weights for body in finished]


class Drops(OneTask):
    """A master that takes the lease back when the second call has gone out, and stops when the host has reported on it."""

    def __init__(self, work: Work, model: Hangs) -> None:
        super().__init__(work)
        self.model = model

    async def pull(self, pull: Pull) -> Batch:
        batch = await super().pull(pull)
        dropped = (7,) if self.model.asked[1:] and not self.over else ()
        return Batch(batch.order, batch.work, (), dropped)


class Hangs(Says):
    """A model that never answers when it has nothing more to say."""

    async def complete(self, request: Request) -> Completion:
        if not self.answers:
            self.asked.append(request)
            await asyncio.Event().wait()
        return await super().complete(request)


def test_a_call_that_nobody_waits_for_any_more_is_dropped_and_what_it_has_cost_is_brought() -> None:
    job, model = spec(), Hangs("babble")
    protocol, _ = create_protocol(job)
    master = Drops(Work(TaskBrief("t", "reader", "", 1), 7, Material((passage(0),)), (), {}), model)
    host = Host("h", job, protocol, roles_of(protocol.roles), model, 1, heartbeat=0.01)
    asyncio.run(asyncio.wait_for(host.run(master), 30))
    assert kinds(master) == ["CallStarted", "CallFinished", "CallStarted", "TaskFailed"] and master.events[-1].kind == "dropped"
    assert host.busy == 0 and len(model.asked) == 2


def test_a_host_whose_tasks_take_long_lets_its_master_hear_of_it() -> None:
    """Or its leases would be taken back while it works."""
    job, model = spec(), Waits(json.dumps(ROW))
    protocol, _ = create_protocol(job)
    master = Listens(Work(TaskBrief("t", "reader", "", 1), 7, Material((passage(0),)), (), {}), model.may)
    host = Host("h", job, protocol, roles_of(protocol.roles), model, 1, heartbeat=0.01)
    asyncio.run(asyncio.wait_for(host.run(master), 30))
    assert kinds(master)[-1] == "TaskFinished" and master.pulls > 5
