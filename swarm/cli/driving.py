"""Driving a job from the command line: the plan before, the view while it runs, and the account after it.

Owns the one road of `run`, `ask` and `resume`, and which of them a request takes that may have been made before. How a job
runs is the runtime's business; what a report is, that of `swarm.report`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from swarm.cli.door import duration, emit, err, error_document, number, say_error
from swarm.cli.live import Face, face, follow, tick
from swarm.cli.people import question_lines
from swarm.coordinator import JobState, Phase
from swarm.coordinator.budget import limits_reached, money
from swarm.coordinator.ending import most_frequent
from swarm.coordinator.state import OVER_BUDGET
from swarm.coordinator.tables import failure_word
from swarm.corpus import glance
from swarm.errors import ExitCode, ModelError, ProtocolError, SpecError, StoreError, SwarmError
from swarm.names import counted
from swarm.plan import Plan, Range, amounts, estimate, measure
from swarm.report import Answer, gather, render
from swarm.report.answer import WHY_GIVEN_UP
from swarm.report.drawing import shortened
from swarm.report.notices import cut_off_words
from swarm.runtime.driver import last_event
from swarm.runtime.launch import Opened, Options, run_again, run_new, stopped
from swarm.runtime.outbox import untold, untold_words
from swarm.runtime.people import questions, waits_in_vain
from swarm.runtime.pins import came_later
from swarm.runtime.prepare import prepare, raise_budget
from swarm.runtime.session import check, check_open, read_job
from swarm.runtime.supervise import orphaned
from swarm.spec import JobSpec
from swarm.store.folder import RunFolder, read_sound_status, read_status, reason_words
from swarm.store.interface import Reader
from swarm.store.place import LATEST

STATUS_EXIT = {
    "done": ExitCode.DONE,
    "failed": ExitCode.FAILED,
    "budget": ExitCode.BUDGET,
    "cancelled": ExitCode.CANCELLED,
}
LOOK_SECONDS = 0.5
"""How long a run is left alone that somebody else may just have taken."""
ATTEMPTS = 3
"""How often a run is looked at anew because somebody else was quicker."""


class Drive:
    """What goes on beside a job: something to look at, from the first second to the last."""

    def __init__(self, as_json: bool, new: bool = False) -> None:
        self.as_json, self.console, self._new = as_json, err(), new
        self.shown: Face = face(self.console)
        self.plan: Plan | None = None
        self._run: RunFolder | None = None
        self._beside: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Drive:
        self._beside = asyncio.create_task(tick(self.shown))
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if self._beside is not None:
            self._beside.cancel()
            await asyncio.gather(self._beside, return_exceptions=True)  # a view that breaks never stops a job
        self.shown.close()
        paused = isinstance(error, (ModelError, ProtocolError))  # if nobody has cancelled it meanwhile
        if self._run is not None and paused and not read_status(self._run).ended:
            self.console.print(f"resume with: swarm resume {self._run.id}{self._run.option}", markup=False)

    def opened(self, spec: JobSpec) -> Callable[[Opened], None]:
        """What to do once the run's log can be read: say where it is, and watch it."""

        def callback(opened: Opened) -> None:
            self._run = opened.run
            self.shown.say(f"run {opened.run.id} in {opened.run.path}")
            if not Path(opened.run.where).is_relative_to(opened.run.path):
                self.shown.say(f"its log: {opened.run.where}")
            if self._new and not opened.run.is_latest():
                link = opened.run.root / LATEST
                self.shown.say(f"note: {link} is not a link of swarm's, so `latest` does not lead to this run")
            if opened.dashboard:
                self.shown.say(f"Ray dashboard: {opened.dashboard}")
            if self._beside is not None:
                self._beside.cancel()
            self._beside = asyncio.create_task(follow(opened.run, spec, self.shown, lambda progress: False))

        return callback


def run_job(spec: JobSpec, options: Options, as_json: bool) -> int:
    """Runs a new job and says everything about it. Returns the exit code."""
    options.check_id()
    glance(spec.inputs)
    return asyncio.run(_run_job(spec, options, as_json))


def resume_job(run: RunFolder, options: Options, as_json: bool) -> int:
    """Goes on with a job and says everything about it. Returns the exit code."""
    return asyncio.run(_resume_job(run, options, as_json))


def run_once(spec: JobSpec, options: Options, as_json: bool) -> int:
    """Does a job under its id, whatever there is of it: begins it, goes on with it, or only says how it ended or why it rests,
    after following whoever works on it now. So a request that is made again is the same job. Returns the exit code.

    Raises:
        SpecError: the id is another job's.
        SwarmError: what kept the job from starting or going on.
    """
    run = options.runs.run(options.id)
    for last in (*[False] * (ATTEMPTS - 1), True):
        seen = _last_seen(run)
        try:
            return _go_on(run, spec, options, as_json) if seen else run_job(spec, options, as_json)
        except StoreError:
            time.sleep(LOOK_SECONDS)
            if last or (run.holder() is None and last_event(run) == seen):
                raise  # nobody else begins it or goes on with it, or has done so meanwhile
    raise AssertionError("the last attempt returns or raises")


def _last_seen(run: RunFolder) -> int:
    """The number of a run's last event, once nobody is about to write its first."""
    holder = None
    while not (last := last_event(run)) and (now := run.holder()) is not None:
        if holder is None:
            err().print(f"{now} begins run {run.id}: waiting for its first event", markup=False)
        holder = now
        time.sleep(LOOK_SECONDS)
    return last


def _go_on(run: RunFolder, spec: JobSpec, options: Options, as_json: bool) -> int:
    with run.reader() as reader:
        _, pinned, _ = read_job(reader)
    if pinned.request() != spec.request():
        cure = "choose another one, or submit just what was submitted before"
        raise SpecError(f"{run.id!r} stands for another job among the runs in {options.runs}", "--key or --id", cure)
    if (holder := run.holder()) is not None:
        asyncio.run(_watched(run, pinned, holder))
    known = read_sound_status(run)
    if orphaned(run, known, max(time.time(), known.updated)):
        return resume_job(run, replace(options, at=known.events), as_json)
    return asyncio.run(_told(run, pinned, as_json))


async def _watched(run: RunFolder, spec: JobSpec, holder: str) -> None:
    """Follows a run until whoever works on it has left."""
    shown = face(err())
    try:
        shown.say(f"run {run.id} in {run.path} is worked on by {holder}: followed until it rests")
        await follow(run, spec, shown, lambda progress: not progress.held)
    finally:
        shown.close()


def tell_standing(run: RunFolder, as_json: bool) -> int:
    """Says how a job stands that nobody works on. Returns the exit code."""
    with run.reader() as reader:
        _, spec, _ = read_job(reader)
    return asyncio.run(_told(run, spec, as_json))


async def _told(run: RunFolder, spec: JobSpec, as_json: bool) -> int:
    """Says how a job stands that nobody works on."""
    async with Drive(as_json) as drive:
        drive.shown.say(f"{spec.name}: {spec.question}")
    return _account(run, drive)


async def _run_job(spec: JobSpec, options: Options, as_json: bool) -> int:
    async with Drive(as_json, new=True) as drive:
        drive.shown.say(f"{spec.name}: {spec.question}")
        drive.shown.stage("reading the inputs")
        try:
            checked = await asyncio.to_thread(check, spec)
            drive.plan = await asyncio.to_thread(lambda: estimate(checked[0], measure(*checked)))
        except asyncio.CancelledError:  # by Ctrl-C
            raise stopped(None) from None
        for line in plan_lines(drive.plan):
            drive.shown.say(line)
        drive.shown.stage(_starting(options))
        run = await run_new(spec, options, render, drive.opened(spec), checked)
    return _account(run, drive)


async def _resume_job(run: RunFolder, options: Options, as_json: bool) -> int:
    known = read_sound_status(run)
    with run.reader() as reader:
        state, spec, roles = read_job(reader)
        later = came_later(spec.inputs, state, reader) if state.phase is not Phase.ENDED else []
    if known.unreported:
        await run_again(run, options, render, lambda opened: None)
        return await _told(run, spec, as_json)
    check_open(run, state, options.at)  # before a cluster is started for nothing
    if options.budget:
        raise_budget(prepare(spec, roles), state, run.size(), options.budget)
    if not options.wait and not options.budget and waits_in_vain(run):
        return await _told(run, spec, as_json)
    async with Drive(as_json) as drive:
        drive.shown.say(f"{spec.name}: {spec.question}")
        if later:
            names = ", ".join(later[:3]) + (", …" if len(later) > 3 else "")
            drive.shown.say(f"note: {counted(len(later), 'file')} that came later will not be read by this job: {names}")
        drive.shown.stage(_starting(options))
        await run_again(run, options, render, drive.opened(spec))
    return _account(run, drive)


def _starting(options: Options) -> str:
    if options.shell == "local":
        return "starting in this process"
    return f"joining Ray at {options.address}" if options.address else "starting Ray"


# ---- before ----


def plan_lines(plan: Plan) -> list[str]:
    """A plan as people read it."""
    size = plan.input
    about = "" if size.exact else "about "
    lines = [f"input: {counted(size.documents, 'document')}, {about}{counted(size.spans, 'passage')}, "
             f"{about}{counted(size.tokens, 'token')}"]  # fmt: skip
    if size.skipped:
        why = "; ".join(f"{number(count)} × {reason}" for reason, count in size.skipped.items())
        lines.append(f"left out: {why} (the report lists them, with what helps)")
    lines.extend(f"note: {remark}" for remark in size.remarks[:5])
    if plan.calls is None or plan.total_calls is None or plan.tokens is None:
        return [*lines, f"plan: unknown calls, tokens and time ({plan.rate})"]
    calls = ", ".join(f"{role} {_range(count)}" for role, count in plan.calls.items())
    lines.append(
        f"plan: {_range(plan.total_calls)} calls ({calls}), {_range(plan.tokens)} tokens, {_time(plan)}{_money(plan)}"
    )
    return lines + [f"budget: {line}" for line in plan.over]


def _range(of: Range) -> str:
    low, high = number(of.low), number(of.high)
    return low if low == high else f"{low} to {high}"


def _time(plan: Plan) -> str:
    if plan.seconds is None:
        return f"time unknown ({plan.rate})"
    return f"{duration(plan.seconds.low)} to {duration(plan.seconds.high)} ({plan.rate})"


def _money(plan: Plan) -> str:
    return "" if plan.money is None else f", {amounts(plan.money)} {plan.currency}"


# ---- after ----


def _account(run: RunFolder, drive: Drive) -> int:
    """What came of the job: on stdout for people or as one document, and the exit code."""
    with run.reader() as reader:
        state, spec, _ = read_job(reader)
        error = _why_paused(reader, state)
        answer = gather(reader, run.holder() is not None) if state.settled else None
    for line in account_lines(run, state, spec, drive.plan, answer):
        drive.console.print(line, markup=False)
    if drive.as_json:
        emit(account_document(run, state, drive.plan, answer, error))
    if error is not None:
        say_error(error)
    stuck = state.phase is Phase.PAUSED and state.reason.startswith("stuck:")
    if state.phase is Phase.WAITING or stuck:
        return int(ExitCode.WAITING)
    return int(STATUS_EXIT.get(state.status, ExitCode.FAILED))


def _why_paused(reader: Reader, state: JobState) -> SwarmError | None:
    """The error behind a pause that nobody asked for: the model refused."""
    kind, _, hash = state.reason.partition(":")
    if state.phase is not Phase.PAUSED or kind != "model":
        return None
    where, _, text = reader.body(hash).decode(errors="replace").partition(": ")
    message, _, cure = text.partition("\n")
    return ModelError(message or where, where if message else "model", cure.strip())


def account_lines(run: RunFolder, state: JobState, spec: JobSpec, plan: Plan | None, answer: Any) -> list[str]:
    """How a job ended, what it cost, and how far off the plan was."""
    spent, lines = state.total(), []
    seconds = state.seconds(state.time)
    cost = money(spec.model.price, spent.tokens_in, spent.tokens_out)
    priced = f", {cost:,.2f} {spec.model.price.currency}" if spec.model.price else ""
    status = state.status or str(state.phase)
    why = reason_of(run, state)
    if status == "budget":
        why = why.removeprefix(OVER_BUDGET)
    reason = f" ({why})" if why and not state.reason.startswith("model:") else ""
    lines.append(
        f"{status}{reason}: {counted(spent.calls, 'call')}, {counted(spent.tokens, 'token')}, {duration(seconds)}{priced}"
    )
    if (doubt := state.doubt(run.holder() is not None)).calls:
        lines.append(
            f"in doubt: {counted(doubt.calls, 'call')} of at most {counted(doubt.tokens, 'token')} may have been paid for "
            "without an answer on record"
        )
    if state.failed:
        lines.append(given_up_line(run, state))
    with run.reader() as reader:
        lines += [f"not told: {line}" for line in untold_words(untold(reader, run.holder() is not None))]
    if plan is not None and plan.calls is not None and state.phase is Phase.ENDED:
        lines.append("against the plan: " + ", ".join(_off(plan, spent.calls, spent.tokens, seconds)))
    if answer is not None:
        lines.extend(answer_lines(answer))
        lines.append(f"report: {run.report_html}")
    if state.phase is Phase.WAITING:
        lines.extend(question_lines(run))
    if state.phase is not Phase.ENDED:
        more = "".join(f" --budget {name}=+MORE" for name in limits_reached(state))
        lines.append(f"resume with: swarm resume {run.id}{more}{run.option}")
    return lines


def reason_of(run: RunFolder, state: JobState) -> str:
    """Why a job stands as it does, in words."""
    with run.reader() as reader:
        return reason_words(reader, state.reason)


def given_up_line(run: RunFolder, state: JobState) -> str:
    """How many tasks were given up, and what most of them were given up for."""
    kind, error = most_frequent(state.failed)
    why = WHY_GIVEN_UP.get(kind, failure_word(kind))
    if error:
        with run.reader() as reader:
            why = reason_words(reader, f"model:{error}")
    told = f"`swarm logs {run.id} --kind TaskFailed{run.option}`"
    return f"{counted(len(state.failed), 'task')} given up: {shortened(why, 200)} ({told})"


def answer_lines(answer: Answer) -> list[str]:
    """How much was found, and the score where gold was given."""
    found = (
        counted(len(answer.rows), "row") if answer.rows is not None else counted(len(answer.statements or ()), "statement")
    )
    cover = answer.coverage
    lines = [
        f"answer: {found}, each with its source; {number(cover.spans_read)} of {counted(cover.spans, 'passage')} read"
    ]
    lines.extend(cut_off_words(one) for one in answer.cut_off)
    if (left := answer.unjudged) is not None:
        lines.append(f"not verified: {number(left.rows)} of {counted(left.of, 'row')}: {shortened(left.reason, 200)}")
    if (score := answer.score) is not None:
        if score.gold_rows or score.found_rows or not score.problem:
            apart = ", one for each document" if score.found_rows > len(answer.rows or ()) else ""
            lines.append(
                f"score: precision {score.precision:.3f}, recall {score.recall:.3f}, F1 {score.f1:.3f} "
                f"({score.matched} of {score.gold_rows} gold rows found, {counted(score.found_rows, 'row')} given{apart})"
            )
        if score.problem:
            lines.append(f"score: {score.problem}")
    return lines


def answer_document(answer: Answer) -> dict[str, Any]:
    """The answer as `answer.json` has it."""
    return answer.model_dump(mode="json", exclude_none=True)


def _off(plan: Plan, calls: int, tokens: int, seconds: float) -> list[str]:
    pairs = [("call", calls, plan.total_calls), ("token", tokens, plan.tokens)]
    found = [
        f"{counted(actual, name)} ({_range(planned)} planned{_verdict(actual, planned)})"
        for name, actual, planned in pairs
        if planned is not None
    ]
    if plan.seconds is not None:
        planned = f"{duration(plan.seconds.low)} to {duration(plan.seconds.high)}"
        found.append(f"{duration(seconds)} ({planned} planned{_verdict(seconds, plan.seconds)})")
    return found


def _verdict(actual: float, planned: Range) -> str:
    if actual < planned.low:
        return f", {1 - actual / planned.low:.0%} less than the least"
    if actual > planned.high:
        return f", {actual / planned.high - 1:.0%} more than the most" if planned.high else ", none expected"
    return ""


def account_document(
    run: RunFolder, state: JobState, plan: Plan | None, answer: Answer | None, error: SwarmError | None
) -> dict[str, Any]:
    """The one document of `--json`: the answer, or how the job stands without one."""
    document: dict[str, Any] = answer_document(answer) if answer is not None else {
        "id": run.id, "status": str(state.phase), "tokens": state.total().tokens, "seconds": state.seconds(state.time),
    }  # fmt: skip
    document |= {"run": str(run.path)}
    if plan is not None:
        document["plan"] = plan.document()
    if state.phase is Phase.WAITING:
        document["questions"] = [asdict(question) for question in questions(run)]
    if error is not None:
        document["error"] = error_document(error)
    return document
