"""What happened when: who worked on what, which passages were read, and how long the job was held.

Owns the parts of a log that its fold forgets and a report shows. It is a second, small projection of the same events;
its size depends on the number of passages and lanes, not on the number of steps.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from swarm import events as ev
from swarm.coordinator import JobState, Phase
from swarm.coordinator.budget import AGENT
from swarm.events import Event
from swarm.names import counted
from swarm.report.shapes import Lane, Moment, Timeline

BINS = 96
"""Bins of a timeline at most; when a job grows longer its bins grow wider."""
LANES = 24
"""Lanes drawn at most; beyond that the hosts of a role are put together."""
FIRST_WIDTH = 0.05


@dataclass(slots=True)
class _Lane:
    tasks: int = 0
    seconds: float = 0.0
    busy: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Lease:
    role: str
    host: str
    since: float
    spans: tuple[int, ...]


class Activity:
    """Follows a log beside its fold: call `follow` with each event after the state has applied it."""

    def __init__(self) -> None:
        self.read: set[int] = set()
        """Numbers of the passages that a reading task has finished."""
        self.reading_roles: set[str] = set()
        """Roles that ranges of passages were given to. While there are none, whoever is given passages reads."""
        self.why_failed: dict[int, tuple[str, str]] = {}
        """Passage → (kind, error body) of the last reading task that was given up on it."""
        self.judged_nothing: set[str] = set()
        """Tasks that were to judge notes, and were given up before they could."""
        self.channels: defaultdict[str, set[str]] = defaultdict(set)
        """Weights → the channels that they answered."""
        self.sessions = 0
        self.events = 0
        """Number of the last event that belongs to the work, and not to its report."""
        self.ended = 0.0
        self._leases: dict[str, _Lease] = {}
        self._calling: dict[str, str] = {}
        """Task → the channel of its last call."""
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._moments: list[Moment] = []
        self._width = FIRST_WIDTH
        self._before = 0.0
        """Seconds of work in earlier sessions."""
        self._opened = -1.0
        """Log time at which the present session began; negative while nobody holds the job."""
        self._last = 0.0

    @property
    def seconds(self) -> float:
        """Seconds that the job was held, over all sessions, up to the last event that belongs to the work."""
        return self._at(self._last)

    def follow(self, event: Event, state: JobState) -> None:
        body = event.body
        if not isinstance(body, ev.ReportWritten):
            self.events = event.seq
        match body:
            case ev.JobOpened(shell=ev.DESK | ev.CARETAKER) | ev.Forked():  # nobody works on it, nor holds the fork yet
                self._close(self._last)
            case ev.JobOpened():
                self._close(self._last)
                self.sessions += 1
                if self.sessions > 1:
                    self._moments.append(Moment(at=self._before, what="resumed"))
                self._opened = event.time
            case ev.RangeAdded():
                self.reading_roles.add(body.role)
            case ev.TaskLeased() | ev.RangeLeased():
                for task, *_ in body.leases():
                    row = state.tasks[task]
                    self._leases[task] = _Lease(row.role, body.host, self._at(event.time), row.spans)
            case ev.CallStarted():
                self._calling[body.task] = body.channel
            case ev.CallFinished():
                self.channels[body.weights].add(self._calling.pop(body.task, ""))
            case ev.CallFailed():
                self._calling.pop(body.task, None)
            case ev.TaskFinished():
                lease = self._release(body.task, event.time, finished=True)
                if lease and self._reads(lease):
                    self.read.update(lease.spans)
            case ev.TaskFailed():
                lease = self._release(body.task, event.time)
                if lease and body.retry_at is None and self._reads(lease):
                    self.why_failed.update(dict.fromkeys(lease.spans, (body.kind, body.error)))
            case ev.NoteJudged(verdict="unchecked"):
                self.judged_nothing.add(body.task)
            case ev.LeaseEnded():
                self._release(body.task, event.time)
            case ev.TailCut():
                what = f"{counted(body.bytes, 'byte')} of an unfinished commit cut off"
                self._moments.append(Moment(at=self._at(event.time), what=what))
            case ev.CorpusPinned():
                self._moments.append(Moment(at=self._at(event.time), what="inputs pinned"))
            case ev.BudgetReached():
                whose = "an agent's " if body.role == AGENT else f"{body.role}'s " if body.role else ""
                self._moments.append(Moment(at=self._at(event.time), what=f"{whose}budget of {body.limit} reached"))
            case ev.BudgetChanged():
                self._moments.append(Moment(at=self._at(event.time), what=f"budget changed: {', '.join(body.new)}"))
            case ev.PhaseChanged() if body.phase in (Phase.PAUSED, Phase.WAITING):
                what = "paused" if body.phase == Phase.PAUSED else "waits for a person"
                self._moments.append(Moment(at=self._at(event.time), what=what))
                self._before, self._opened = self._at(event.time), -1.0  # leases that are out still bring results
            case ev.PhaseChanged() if self._opened < 0 and state.opened_at:
                self._opened = event.time
            case ev.PersonSaid():
                self._moments.append(Moment(at=self._at(event.time), what="a person said something"))
            case ev.JobEnded():
                self._moments.append(Moment(at=self._at(event.time), what=f"ended: {body.status}"))
                self._close(event.time)
                self.ended = event.time
        if self._opened >= 0 and self.events == event.seq:
            self._last = event.time

    def timeline(self) -> Timeline:
        """The lanes so far, leases that are still out included."""
        now = self._last
        for lease in self._leases.values():
            self._busy(lease, self._at(now))
        self._leases.clear()
        lanes = self._lanes if len(self._lanes) <= LANES else self._by_role()
        bins = max((len(lane.busy) for lane in lanes.values()), default=0)
        return Timeline(
            seconds=round(self.seconds, 3),
            width=self._width,
            lanes=tuple(
                Lane(host=host, role=role, tasks=lane.tasks, seconds=round(lane.seconds, 3),
                     busy=tuple(round(one, 3) for one in lane.busy + [0.0] * (bins - len(lane.busy))))
                for (host, role), lane in lanes.items()
            ),
            moments=tuple(moment.model_copy(update={"at": round(moment.at, 3)}) for moment in self._moments[:64]),
        )  # fmt: skip

    def _reads(self, lease: _Lease) -> bool:
        return not self.reading_roles or lease.role in self.reading_roles

    def _at(self, time: float) -> float:
        """Seconds of work at a time of the log."""
        return self._before + (max(0.0, time - self._opened) if self._opened >= 0 else 0.0)

    def _close(self, time: float) -> None:
        """A session is over. The leases of one that was killed are taken to have lasted until its last event."""
        now = self._at(time)
        for lease in self._leases.values():
            self._busy(lease, now)
        self._leases.clear()
        self._before, self._opened = now, -1.0

    def _release(self, task: str, time: float, finished: bool = False) -> _Lease | None:
        lease = self._leases.pop(task, None)
        if lease:
            self._busy(lease, self._at(time))
            self._lanes[lease.host, lease.role].tasks += finished
        return lease

    def _busy(self, lease: _Lease, until: float) -> None:
        while until > self._width * BINS:
            self._width *= 2
            for lane in self._lanes.values():
                lane.busy = [sum(lane.busy[at : at + 2]) for at in range(0, len(lane.busy), 2)]
        lane = self._lanes.setdefault((lease.host, lease.role), _Lane())
        lane.seconds += until - lease.since
        first, last = int(lease.since / self._width), int(until / self._width)
        lane.busy.extend([0.0] * (last + 1 - len(lane.busy)))
        for at in range(first, last + 1):
            overlap = min(until, (at + 1) * self._width) - max(lease.since, at * self._width)
            lane.busy[at] += max(0.0, overlap)

    def _by_role(self) -> dict[tuple[str, str], _Lane]:
        together: dict[tuple[str, str], _Lane] = {}
        hosts = len({host for host, _ in self._lanes})
        for (_, role), lane in self._lanes.items():
            whole = together.setdefault((f"{hosts} hosts", role), _Lane())
            whole.tasks += lane.tasks
            whole.seconds += lane.seconds
            whole.busy.extend([0.0] * (len(lane.busy) - len(whole.busy)))
            for at, busy in enumerate(lane.busy):
                whole.busy[at] += busy
        return together
