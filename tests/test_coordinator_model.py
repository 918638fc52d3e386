"""The coordinator beside a plain table of who holds what: any order of pulls, reports, losses, pauses and new masters."""

from __future__ import annotations

from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from swarm import events as ev
from swarm.coordinator import Grant, Phase
from swarm.testing.invariants import LogWatch
from tests.desk import ROLES, SPANS, Desk, Plain, called, done, failed, readers

HOSTS = st.sampled_from("abc")


class Table(RuleBasedStateMachine):
    """What the coordinator must agree with: task → holder, failures and time of the next attempt."""

    grants = Bundle("grants")

    @initialize()
    def begin(self) -> None:
        self.desk = Desk(Plain(readers()))
        self.untouched = SPANS
        self.held: dict[str, tuple[int, str]] = {}
        self.waiting: dict[str, float] = {}
        self.failures: dict[str, int] = {}
        self.finished: set[str] = set()
        self.given_up: set[str] = set()
        self.stale, self.token, self.phase = 0, 0, Phase.WORKING

    # ---- what befalls it ----

    @rule(target=grants, host=HOSTS, want=st.integers(1, 3))
    def pull(self, host: str, want: int) -> Any:
        now = max(self.desk.now, self.desk.state.time)
        due = [task for task, at in self.waiting.items() if at <= now]
        granted = self.desk.pull(want=want, host=host)
        working = self.phase is Phase.WORKING
        assert len(granted) == (min(want, len(due) + self.untouched) if working else 0)
        for grant in granted:
            assert grant.token == self.token + 1 and grant.task not in self.held
            assert grant.task not in self.finished and grant.task not in self.given_up
            self.token = grant.token
            if grant.task in self.waiting:
                assert grant.task in due
                del self.waiting[grant.task]
            else:
                self.untouched -= 1
            self.held[grant.task] = (grant.token, host)
        return multiple(*granted)

    @rule(grant=grants, times=st.integers(1, 2))
    def finish(self, grant: Grant, times: int) -> None:
        for _ in range(times):
            self.desk.pull(done(grant, *called(grant)), want=0)
            if self._current(grant):
                del self.held[grant.task]
                self.finished.add(grant.task)
                self.failures.pop(grant.task, None)
                self._settle()
            else:
                self.stale += 1

    @rule(grant=grants, useless=st.booleans())
    def fail(self, grant: Grant, useless: bool) -> None:
        current = self._current(grant)
        self.desk.pull(failed(grant, kind="crashed", retryable=not useless), want=0)
        if not current:
            self.stale += 1
            return
        del self.held[grant.task]
        self.failures[grant.task] = self.failures.get(grant.task, 0) + 1
        if useless or self.failures[grant.task] >= ROLES["reader"].attempts:
            self.given_up.add(grant.task)
            self._settle()
        else:
            self.waiting[grant.task] = self.desk.last(ev.TaskFailed).retry_at

    @rule(host=HOSTS)
    def lose(self, host: str) -> None:
        ended = self.desk.keep(self.desk.core.lost(self.desk.now, host, "gone"))
        assert {event.body.task for event in ended} == {task for task, (_, by) in self.held.items() if by == host}
        for event in ended:
            self._release(event.body.task)

    @precondition(lambda self: self.phase is not Phase.ENDED)
    @rule()
    def another_master(self) -> None:
        self.desk.resumed()
        for task in list(self.held):
            self._release(task)
        self.failures.clear()
        self.stale, self.phase = 0, Phase.WORKING

    @rule()
    def pause(self) -> None:
        self.desk.keep(self.desk.core.pause(self.desk.now, "lunch"))
        self.phase = Phase.PAUSED if self.phase is Phase.WORKING else self.phase

    @rule(seconds=st.sampled_from([-3600.0, -1.0, 0.5, 5.0, 100.0]))
    def clock(self, seconds: float) -> None:
        self.desk.now += seconds

    # ---- what must hold ----

    @invariant()
    def agrees(self) -> None:
        state = self.desk.state
        assert {row.id: (row.token, row.host) for row in state.tasks.values() if row.token} == self.held
        assert {row.id for row in state.tasks.values() if not row.token} == self.waiting.keys()
        assert state.finished["reader"] == len(self.finished)
        assert {task for task, *_ in state.failed} == self.given_up
        assert (state.phase, state.token, self.desk.core.stale) == (self.phase, self.token, self.stale)

    @invariant()
    def keeps_its_promises(self) -> None:
        watch = LogWatch()
        for event in self.desk.log:
            watch.see(event)

    def _current(self, grant: Grant) -> bool:
        return self.phase is not Phase.ENDED and self.held.get(grant.task, (0, ""))[0] == grant.token

    def _release(self, task: str) -> None:
        del self.held[task]
        row = self.desk.state.tasks[task]
        self.waiting[task] = row.retry_at

    def _settle(self) -> None:
        if not self.untouched and not self.held and not self.waiting:
            self.phase = Phase.ENDED


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=40, stateful_step_count=40)
