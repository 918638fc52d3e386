"""A simulated job that people take part in: they say something now and then, and answer what they are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from swarm import events as ev
from swarm.coordinator import Phase
from swarm.events import Event, body_hash
from swarm.runtime.master import pack_word
from swarm.testing.simulator import NONE, Simulation
from tests.simulated import SPAN_TOKENS

SAID = pack_word("look at the tests too", "ann@here")
APPROVED: dict[str, Any] = {
    "protocol": {"name": "map_reduce", "options": {"span_tokens": SPAN_TOKENS, "approve_plan": True}},
}


class Peopled(Simulation):
    """Somebody says something now and then, and answers what is asked, at times twice and at times after a crash."""

    rejects = 0.0
    """How likely a question about calls in doubt is answered with a no."""

    def step(self) -> None:
        chance = self.random.random()
        if self.faults == NONE and self.state.questions:
            chance = 0.05
        if chance < 0.02:
            self.bodies[body_hash(SAID)] = SAID
            self.deliver(lambda: self.core.told(self.now, body_hash(SAID), "ann", f"m{self.steps}"), "said")
        elif chance < 0.1:
            asked = [(row.id, "rejected" if row.tasks and self.random.random() < self.rejects else "approved")
                     for row in self.state.questions.values()]  # fmt: skip
            for question, verdict in [*asked, *self.past]:
                given = ev.ApprovalAnswered(question=question, verdict=verdict, answer="count", by="ann")
                self.deliver(lambda given=given: self.core.answered(self.now, given), "answered")  # type: ignore[misc]
        elif self.state.phase is Phase.WAITING and self.faults != NONE and chance < 0.3:
            self.seen["restarted while waiting"] += 1
            self.restart()
        super().step()

    @property
    def past(self) -> list[tuple[str, str]]:
        """Questions that were answered, and how."""
        answers = [event.body for event in self.log if isinstance(event.body, ev.ApprovalAnswered)]
        return [(answer.question, answer.verdict) for answer in answers]

    def deliver(self, decide: Callable[[], Sequence[Event]], what: str) -> None:
        """A message is handed over until it is durable: a crash before the commit leaves it in the inbox."""
        for crashes in range(3):
            events = decide()
            if crashes == 0 and self.faults != NONE and self.random.random() < 0.3:
                self.seen[f"{what}, crashed before the commit"] += 1
                self.restart()
                continue
            self._commit(events)
            self.seen[what] += bool(events)
            if self.random.random() < 0.7:
                return  # else the message is still there, and is handed over once more
