"""The coordinator: turns what happened into what happens next, for one job.

Owns leases with fencing tokens, retries, budgets, admission and the calling of the protocol. It is pure: each method
takes the time and what came in, and returns events that are already folded into the state; making them durable, and
handing out the grants only afterwards, is the shell's part. Every lease ends exactly once: finished, failed, or ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from swarm import events as ev
from swarm.agents.roles import Role
from swarm.coordinator import budget
from swarm.coordinator.closing import drafted, kept_back
from swarm.coordinator.commands import check_command, event_of, remembered
from swarm.coordinator.ending import last_word
from swarm.coordinator.faults import back_off
from swarm.coordinator.leases import Grant, Report, calls_alone, strayed
from swarm.coordinator.needs import Needs
from swarm.coordinator.notices import PROTOCOL, due, notice_key
from swarm.coordinator.state import AGENT_BUDGET, OVER_BUDGET, JobState, Phase, RangeRow, TaskRow
from swarm.coordinator.stuck import Watch
from swarm.errors import ProtocolError
from swarm.events import Body, Event, body_hash, identity
from swarm.names import range_task
from swarm.payload import encode
from swarm.protocol import WORD, Ask, Command, Decision, Finish, SwarmProtocol, TaskView, View
from swarm.spec import JobSpec

LEASE_SECONDS = 120.0
"""How long a silent host keeps its leases."""


class Coordinator:
    """Decides for one job. `state` is the fold of its log; every event returned is in it already."""

    def __init__(
        self,
        spec: JobSpec,
        protocol: SwarmProtocol,
        roles: Mapping[str, Role],
        overhead: Mapping[str, int],
        state: JobState,
        epoch: int,
    ) -> None:
        self.spec, self.protocol, self.roles, self.overhead, self.state = spec, protocol, roles, overhead, state
        self.epoch = epoch
        self.budget = budget.effective(spec.budget, state.raised)
        self.needs = Needs(protocol, roles, overhead, spec.model.window, state, self.budget)
        self.disk = 0
        """Bytes that the run takes, as the shell last saw it; needed where the budget has a limit for it."""
        self.stale = 0
        """Reports that came after their lease had ended; they are refused."""
        self.refused: tuple[int, ...] = ()
        """Tokens of the refused among the reports that came last."""
        self.texts: dict[str, bytes] = {}
        """Bodies that the events of late name and that came from the protocol; the shell takes them out."""
        self.watch = Watch(spec.stuck.steps, state)
        self._out: list[Event] = []
        self._now = 0.0

    # ---- what comes in ----

    def record(self, now: float, *bodies: Body) -> list[Event]:
        """Facts that call for no decision: the corpus, the report, a pause."""
        self._begin(now)
        for body in bodies:
            self._emit(body, key=notice_key(body))
        return self._notified()

    def open(self, now: float, host: str, pid: int, shell: str, software: str = "") -> list[Event]:
        """A master took the job; leases of an earlier one end, and work goes on where the log stops."""
        self._begin(now)
        self._emit(ev.JobOpened(epoch=self.epoch, host=host, pid=pid, shell=shell, software=software))
        return self._notified()

    def start(self, now: float) -> list[Event]:
        """The corpus is pinned: the protocol opens the work. Does nothing where that has happened already.

        Raises (as do the others that may ask the protocol):
            ProtocolError: the protocol failed, or asked for what can't be. State and log differ then: make neither
                durable, fold the log anew, and `salvage`.
        """
        self._begin(now)
        if not self.state.memory.get("started"):
            event = self._emit(ev.Decided(state={"started": True}))
            self._carry_out(lambda: self.protocol.start(self._view(None)), event)
        self._hear_kept()
        return self._notified()

    def pulled(self, now: float, host: str, reports: Sequence[Report], want: int) -> tuple[list[Event], list[Grant]]:
        """A host brings what it did and asks for up to `want` further tasks. `refused` says which reports came too late."""
        self._begin(now)
        paused = self.state.phase is Phase.PAUSED  # then no further call is let out
        took = [self._salvage(one, "paused") if paused and one.asks else self._take(one) for one in reports]
        self.refused = tuple([one.token for one, taken in zip(reports, took, strict=True) if not taken])
        self._look()
        grants = self._lease(host, want) if want > 0 else []
        return self._notified(), grants

    def salvage(self, now: float, reports: Sequence[Report], reason: str) -> list[Event]:
        """What hosts bring when the protocol has failed, which is asked nothing here: calls that have a result are on record, so
        that nobody pays again. A lease ends where its task would have, or where a further call waits to be let out, which
        is refused; the task goes on there under a mended protocol. The job pauses for `reason`."""
        self._begin(now)
        self.refused = tuple([report.token for report in reports if not self._salvage(report, "the protocol failed")])
        known = self.state.phase is Phase.PAUSED and self.state.reason.startswith(PROTOCOL)
        if not (known or self.state.settled):
            self._emit(ev.PhaseChanged(phase=Phase.PAUSED, reason=reason))
        return self._notified()

    def _salvage(self, report: Report, reason: str) -> bool:
        if not self._take(calls_alone(report)):
            return False
        if report.events and (report.asks or report.last):
            self._emit(ev.LeaseEnded(task=report.task, token=report.token, reason=reason))
        return not report.asks

    def lost(self, now: float, host: str, reason: str) -> list[Event]:
        """A host is gone, or silent for too long: its tasks go back."""
        self._begin(now)
        for row in [row for row in self.state.tasks.values() if row.token and row.host == host]:
            self._emit(ev.LeaseEnded(task=row.id, token=row.token, reason=reason))
        return self._notified()

    def look(self, now: float) -> tuple[list[Event], dict[str, list[int]]]:
        """What time alone brings: where the seconds of the budget are over, work that makes calls is broken off, and the end
        begins; where the model never answered, and nothing else is left to do than to wait for it, the job pauses. Also returns
        host → tokens of the leases that were ended; these calls are of no use any more."""
        self._begin(now)
        ended: dict[str, list[int]] = {}
        over = budget.late(self.budget, self.state, self._now, reserve=False)
        if over is not None and self.state.phase is Phase.WORKING and self.state.memory.get("started"):
            self._break_off(over, ended)
        state, faults = self.state, self.state.faults
        busy = state.phase is not Phase.WORKING or state.leased or state.next_ready(self._now) is not None
        if not busy and state.later and faults.unheard(self._now, state.later[0][0]):
            self._emit(ev.PhaseChanged(phase=Phase.PAUSED, reason=f"model:{faults.said}"))
        return self._notified(), ended

    def pause(self, now: float, reason: str) -> list[Event]:
        """No further work is granted; what is leased may still be reported."""
        self._begin(now)
        if self.state.phase in (Phase.WORKING, Phase.PINNING, Phase.WAITING):
            self._emit(ev.PhaseChanged(phase=Phase.PAUSED, reason=reason))
        return self._notified()

    def told(self, now: float, body: str, by: str, message: str) -> list[Event]:
        """A person's word, in the body of this hash: the protocol may act on it. A message is heard once, and not after the
        end."""
        self._begin(now)
        if message not in self.state.heard and self.state.phase is not Phase.ENDED:
            self._heard(self._emit(ev.PersonSaid(body=body, by=by, message=message), key=f"word:{message}"))
        return self._notified()

    def answered(self, now: float, answer: ev.ApprovalAnswered) -> list[Event]:
        """An answer to a question. One to a question that is not open any more changes nothing."""
        self._begin(now)
        self._answer_question(answer)
        return self._notified()

    def lapse(self, now: float) -> list[Event]:
        """Answers the questions that have been open for as long as they may with their default."""
        self._begin(now)
        for row in list(self.state.questions.values()):
            if row.until is not None and row.until <= self._now:
                self._answer_question(ev.ApprovalAnswered(question=row.id, verdict="lapsed", answer=row.default))
        return self._notified()

    def _answer_question(self, answer: ev.ApprovalAnswered) -> None:
        if answer.question not in self.state.questions or self.state.phase is Phase.ENDED:
            return
        tasks = self.state.questions[answer.question].tasks
        self._heard(self._emit(answer, key=f"question:{answer.question}"), tasks)
        if self.state.phase is Phase.WAITING:
            self._emit(ev.PhaseChanged(phase=Phase.WORKING, reason="answered"))

    def _heard(self, event: Event, tasks: tuple[str, ...] = ()) -> None:
        """Acts on what a person said, or answered about `tasks`, if it is not kept until the draft of an end is taken back."""
        state, body = self.state, event.body
        if state.phase is Phase.ENDED or event.seq in state.kept:
            return
        if not tasks:
            self._carry_out(lambda: self.protocol.react(state.memory, event, self._view(None)), event)
        elif isinstance(body, ev.ApprovalAnswered) and body.verdict != "approved":
            for row in [state.tasks[task] for task in tasks if task in state.tasks]:
                self._give_up(row, "in-doubt")

    def _hear_kept(self) -> None:
        """Acts on what was kept, once: after a change of the budget, or at a start if that was made without the protocol."""
        for event, tasks in kept_back(self.state):
            self._emit(ev.Decided(state={}), event.seq)
            self._heard(event, tasks)

    def change_budget(self, now: float, who: str, new: Mapping[str, float | None]) -> list[Event]:
        """A person gave the job more, or less; work that had been refused can come up again, and a draft of the end goes with
        its questions. What people said meanwhile is acted on now."""
        self._begin(now)
        for row in drafted(self.state):
            self._emit(ev.ApprovalAnswered(question=row.id, verdict="withdrawn"), key=f"question:{row.id}")
        old = {name: budget.limit(self.budget, name) for name in new}
        self._emit(ev.BudgetChanged(who=who, old=old, new=dict(new)))
        self.budget = self.needs.budget = budget.effective(self.spec.budget, self.state.raised)
        self._hear_kept()
        return self._notified()

    def end(self, now: float, status: str, reason: str) -> list[Event]:
        """The job ends by order of a person or because it cannot go on."""
        self._begin(now)
        if self.state.phase is not Phase.ENDED:
            self._emit(ev.JobEnded(status=status, reason=reason))
        return self._notified()

    # ---- reports ----

    def _take(self, report: Report) -> bool:
        """Whether the report was taken. Of one whose lease has ended only the spending is."""
        row = self.state.tasks.get(report.task)
        ended = row is None or row.token != report.token or self.state.phase is Phase.ENDED
        if row is None or ended or report.repeats(row.said or ()):
            self.stale += 1
            for stray in strayed(report, self.state.ledger.fenced.get(report.token)):
                self._emit(stray)
            return False
        for body in report.events:
            if isinstance(body, ev.CallFinished):
                self._emit(body, key=f"{body.task}:CallFinished:{body.turn}:{body.sample}")
            elif isinstance(body, ev.TaskFinished):
                brief = TaskView(row.id, row.role, row.goal, row.spans, row.reads, body.outcome)
                self._ended(brief, self._emit(body))
            elif isinstance(body, ev.TaskFailed):
                self._failed(body, row, report)
            else:
                self._emit(body)
        return True

    def _failed(self, body: ev.TaskFailed, row: TaskRow, report: Report) -> None:
        """Says when a task is tried again: never, if that is of no use, or after a while that grows with its failures.

        Where it failed because nothing answers, the task is sound: it stays, and the job pauses instead.
        """
        if body.kind == AGENT_BUDGET and self.state.closing is None and self.needs.left(row) is not None:
            self._park(row, body)
            return
        brief = TaskView(row.id, row.role, row.goal, row.spans, row.reads, "failed")
        counts = self.state.faults.counts(body.kind, row.heard, row.counted, self._now)
        last = not report.retryable or (counts and row.failures + 1 >= self.roles[row.role].attempts)
        unanswered = self.state.faults.unanswered(body.kind, last, self._now)
        wait = max(back_off(row.setbacks, self.spec.seed, row.id, row.attempt), report.after)
        retry_at = None if last and not unanswered else self._now + wait
        event = self._emit(body.model_copy(update={"retry_at": retry_at}))
        if unanswered:
            if self.state.phase is Phase.WORKING:
                self._emit(ev.PhaseChanged(phase=Phase.PAUSED, reason=f"model:{body.error}"))
        elif retry_at is None:
            self._ended(brief, event)

    def _ended(self, task: TaskView, event: Event) -> None:
        self._carry_out(lambda: self.protocol.react(self.state.memory, event, self._view(task)), event)

    def _look(self) -> None:
        """If the job does not move on, the protocol is asked for another plan; if that has not helped, the job pauses."""
        reason = self.watch.stuck()
        if not reason or self.state.phase is not Phase.WORKING:
            return
        times = 2 if self.state.stuck and not self.watch.moved else 1
        event = self._emit(ev.Stuck(reason=reason, steps=self.watch.idle, times=times))
        self.watch.again()
        if times == 1:
            self._carry_out(lambda: self.protocol.react(self.state.memory, event, self._view(None)), event)
        else:
            self._emit(ev.PhaseChanged(phase=Phase.PAUSED, reason=f"stuck: {reason}"), event.seq)

    # ---- leases ----

    def _lease(self, host: str, want: int) -> list[Grant]:
        grants: list[Grant] = []
        waiting: set[str] = set()
        """Roles that have reached a limit of their own, unless what is running costs less than was reserved for it."""
        while len(grants) < want and self.state.phase is Phase.WORKING:
            row = self.state.next_ready(self._now, waiting)
            if row is None:
                if waiting or not self._stalled():
                    break
                continue
            if isinstance(row, TaskRow) and row.doubt and self.spec.model.in_doubt == "ask":
                self._ask_to_pay_again(row)
                continue
            need = self.needs.of(row)
            refusal = self.needs.overspent(row) or self._check(need)
            if refusal is not None:
                if not refusal.role and self.state.leased:
                    break  # what is running may cost less than was reserved for it
                if refusal.role and self.state.reserved_calls_by[row.role]:
                    waiting.add(row.role)
                else:
                    self._refuse(row, refusal)
            elif isinstance(row, RangeRow):
                grants.extend(self._grant_range(row, host, need, want - len(grants)))
            else:
                grants.append(self._grant(row, host, need.tokens, need.calls))
        return grants

    def _check(self, need: budget.Need) -> budget.Refusal | None:
        return budget.check(self.budget, self.spec.model.price, self.state, self._now, self.disk, need)

    def _grant(self, row: TaskRow, host: str, tokens: int, calls: int) -> Grant:
        self._emit(ev.TaskLeased(
            task=row.id, host=host, token=self.state.token + 1, until=self._now + LEASE_SECONDS, attempt=row.attempt + 1,
            reserved=tokens, calls=calls,
        ))  # fmt: skip
        reads = row.reads if row.query is None else self.state.board.answer(row.query)
        return self._granted(row, reads, self._words(row.role))

    def _grant_range(self, row: RangeRow, host: str, need: budget.Need, most: int) -> list[Grant]:
        """Leases the next tasks of a range in one event: as many as are wanted, or half as often as it takes to be paid for."""
        state, first, count = self.state, row.next, min(most, row.stop - row.next)
        while count > 1 and self._check(replace(need, tokens=count * need.tokens, calls=count * need.calls)) is not None:
            count //= 2
        lease = ev.RangeLeased(
            range=row.id, host=host, first=first, count=count, token=state.token + 1, until=self._now + LEASE_SECONDS,
            reserved=need.tokens, calls=need.calls,
        )  # fmt: skip
        self._emit(lease)
        words = self._words(row.role)
        return [self._granted(state.tasks[range_task(row.id, at)], (), words) for at in range(first, first + count)]

    def _granted(self, row: TaskRow, reads: tuple[str, ...], words: tuple[str, ...]) -> Grant:
        said, left = tuple(row.said or ()), self.needs.left(row)
        return Grant(row.id, row.role, row.goal, row.token, row.attempt, row.spans, reads, said, words, left)

    def _words(self, role: str) -> tuple[str, ...]:
        return tuple(note.id for note in self.state.board.notes(WORD)) if self.roles[role].hears else ()

    def _refuse(self, row: TaskRow | RangeRow, refusal: budget.Refusal) -> None:
        """A limit keeps a task from starting. It waits, or its role stops, or everything but the end; what the end itself
        cannot pay for is given up."""
        if self.state.closing is not None:
            if isinstance(row, RangeRow):
                raise ProtocolError("added a range of tasks after the budget was reached", "protocol")
            self._give_up(row, AGENT_BUDGET if refusal.role == budget.AGENT else "budget")
        elif refusal.role == budget.AGENT and isinstance(row, TaskRow):
            self._park(row, self._unheld(row, AGENT_BUDGET))
        else:
            self._reached(refusal, closing=not refusal.role)

    def _park(self, row: TaskRow, failed: ev.TaskFailed) -> None:
        """An agent has spent what one may: its task waits for more of it. The limit is told of once."""
        self._emit(failed.model_copy(update={"retry_at": self._now}))
        refusal = self.needs.reached(row)
        if (refusal.role, refusal.limit) not in {(one.role, one.limit) for one in self.state.limits}:
            self._reached(refusal, closing=False)

    def _reached(self, refusal: budget.Refusal, closing: bool) -> None:
        """Tells the protocol of a limit: that a role has stopped, or that it must end with what it has."""
        whole = closing and not refusal.role
        stopped = {refusal.role, *self.state.stopped}
        still = tuple(sorted(name for name, role in self.roles.items() if (role.reserve or not whole) and name not in stopped))
        event = self._emit(
            ev.BudgetReached(limit=refusal.limit, allowed=refusal.allowed, spent=refusal.spent, still=still,
                             role=refusal.role, closing=closing)
        )  # fmt: skip
        self._carry_out(lambda: self.protocol.react(self.state.memory, event, self._view(None)), event)

    def _break_off(self, over: budget.Refusal, ended: dict[str, list[int]]) -> None:
        """The seconds are over: for work that may not spend the reserve, or for all that makes calls. Code ends by itself."""
        state, whole = self.state, budget.late(self.budget, self.state, self._now, reserve=True) is not None
        ordinary = {name for name, role in self.roles.items() if not role.reserve}
        rows = [row for row in state.tasks.values() if row.token and row.reserved_calls and (whole or row.role in ordinary)]
        for row in rows:
            ended.setdefault(row.host, []).append(row.token)
            self._emit(ev.LeaseEnded(task=row.id, token=row.token, reason="budget"))
        if state.closing is not None:
            for row in rows:
                if state.phase is Phase.WORKING:
                    self._give_up(row, "budget")
        elif not state.leased and (rows or any(state.open[role] for role in ordinary)):
            self._reached(over, closing=True)

    def _ask_to_pay_again(self, first: TaskRow) -> None:
        """Asks a person about all tasks with a call in doubt at once; they wait, and the others go on. In a draft of the end it
        asks about the draft's."""
        state, since = self.state, self.state.closing.seq if self.state.closing is not None else 0
        rows = [row for row in state.tasks.values() if row.doubt and row.order > since and not (row.token or state.waits(row))]
        text = (
            f"{len(rows)} tasks lost a call that may have been paid for. Make these calls again, though they may be paid "
            "twice? Approved they are made again; rejected the tasks are given up and reported."
        )
        self._question(Ask(text), identity("in-doubt", first.id, self.state.seq), tasks=tuple([row.id for row in rows]))

    def _give_up(self, task: TaskRow, kind: str) -> None:
        """Ends a task that nobody holds, and the protocol goes on without it."""
        brief = TaskView(task.id, task.role, task.goal, task.spans, task.reads, "failed")
        self._ended(brief, self._emit(self._unheld(task, kind)))

    def _unheld(self, task: TaskRow, kind: str) -> ev.TaskFailed:
        """The failure of a task that nobody holds."""
        grant = self._grant(task, "coordinator", 0, 0)
        return ev.TaskFailed(task=task.id, token=grant.token, error="", kind=kind, retry_at=None)

    def _rest(self, cause: int = 0) -> None:
        """The end over a budget is reached: the job waits for more of it."""
        reason = OVER_BUDGET + "; ".join(dict.fromkeys(f"{budget.words(one)} is reached" for one in self.state.limits))
        self._emit(ev.PhaseChanged(phase=Phase.PAUSED, reason=reason), cause)

    def _stalled(self) -> bool:
        """True if no work is left that could ever end the job, so that it came to an end just now, or waits for a person."""
        state = self.state
        if state.leased or state.later or not state.memory.get("started"):
            return False
        if state.closing is not None:
            self._rest()
        elif state.questions:
            numbers = ", ".join(str(row.number) for row in state.questions.values())
            self._emit(ev.PhaseChanged(phase=Phase.WAITING, reason=f"for an answer to question {numbers}"))
        elif state.left_out():
            last = next(one for one in reversed(state.limits) if one.role in state.stopped)
            self._reached(budget.Refusal(last.limit, last.allowed, last.spent, last.role), closing=True)
        else:
            self._emit(ev.JobEnded(status="failed", reason="the protocol left no work and did not finish"))
        return True

    # ---- the protocol's answers ----

    def _view(self, ended: TaskView | None) -> View:
        state = self.state
        return View(
            self.spec, state.spans, len(state.documents), state.board, MappingProxyType(state.open), ended,
            state.closing is not None, state.span_tokens, self.needs.room,
        )  # fmt: skip

    def _carry_out(self, ask: Callable[[], Decision], cause: Event) -> None:
        """Appends what the protocol answers, in the transaction of the event that caused it."""
        try:
            decision = ask()
            if decision.state:
                self._emit(remembered(decision.state, self.protocol), cause.seq)
            for index, command in enumerate(decision.commands):
                first = len(self._out)
                self._command(command, cause.seq, index)
                for event in self._out[first:]:
                    encode(event.body)  # what can't be packed is known here to be the protocol's
        except ProtocolError:
            raise
        except (Exception, SystemExit) as error:  # someone else's code: whatever it raises is its fault, and named so
            raise ProtocolError(
                f"failed at event {cause.seq} ({cause.kind}): {type(error).__name__}: {error}",
                f"protocol {self.protocol.name}", "mend it and resume the job",
            ) from error  # fmt: skip

    def _command(self, command: Command, cause: int, index: int) -> None:
        check_command(command, self.protocol, self.roles, self.state)
        match command:
            case Ask():
                self._question(command, self._new_id(cause, index), cause)
            case Finish() if self.state.left_out():
                self._rest(cause)
            case Finish():
                self._emit(last_word(self.state, command), cause)
            case _:
                if (body := event_of(command, self._new_id(cause, index))) is not None:
                    self._emit(body, cause)

    def _question(self, command: Ask, id: str, cause: int = 0, tasks: tuple[str, ...] = ()) -> None:
        text = command.question.encode("utf-8", "replace")
        self.texts[body_hash(text)] = text
        asked = ev.ApprovalAsked(
            question=id, number=self.state.asked + 1, text=body_hash(text), options=command.options, task=command.task,
            default=command.default, until=self._now + command.seconds if command.seconds else None, tasks=tasks,
        )  # fmt: skip
        self._emit(asked, cause, f"question:{id}")

    def _new_id(self, cause: int, index: int) -> str:
        return identity(self.state.created.job if self.state.created else "", cause, index)

    # ---- events ----

    def _begin(self, now: float) -> None:
        self._now, self._out = max(now, self.state.time), []

    def _emit(self, body: Body, cause: int = 0, key: str = "") -> Event:
        state = self.state
        event = Event(state.seq + 1, self._now, self.epoch, cause, key, body)
        state.apply(event)
        self.watch.see(event)
        self._out.append(event)
        return event

    def _notified(self) -> list[Event]:
        """What happened, with the notices that it calls for at its end, so that they stand between no event and what it
        causes."""
        for notice in due(self.spec, self.budget, self.state, self._now, self.disk, self._out):
            self._emit(notice, key=notice_key(notice))
        return self._out
