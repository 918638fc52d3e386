"""Writing to the log of a job that nobody works on: a pause with its reason, its end, or what became of a notice.

Owns taking the job without its protocol, its model or its inputs, so that it also works for a job whose driver can't
start. It grants nothing, and asks no protocol.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

from swarm import __version__, events as ev
from swarm.coordinator import JobState
from swarm.coordinator.budget import effective
from swarm.coordinator.notices import due, notice_key
from swarm.errors import BusyError
from swarm.events import CARETAKER, Body, Event, body_hash
from swarm.runtime.master import pack_word
from swarm.runtime.session import fields_of, read_job
from swarm.store.folder import RunFolder
from swarm.store.interface import Writer


class Caretaker:
    """Holds a run for as long as the `with` lasts."""

    def __init__(self, run: RunFolder, store: Writer, clock: Callable[[], float]) -> None:
        self.run, self.store, self._clock = run, store, clock
        self.state: JobState
        self.state, self.spec, _ = read_job(store)
        opened = ev.JobOpened(
            epoch=store.epoch, host=socket.gethostname(), pid=os.getpid(), shell=CARETAKER, software=__version__
        )
        self.append([opened, ev.TailCut(bytes=store.torn)] if store.torn else [opened], {})

    @classmethod
    def take(cls, run: RunFolder, at: int | None = None, clock: Callable[[], float] = time.time) -> Self:
        """Takes a run; with `at` only if its log still ends with the event of that number.

        Raises:
            BusyError: someone holds it, or it has moved on.
            StoreError: its log is damaged.
        """
        store = run.writer()
        try:
            if at is not None and store.last() != at:
                cure = f"`swarm status {run.id}{run.option}` says how it stands"
                raise BusyError("has moved on since it was looked at", run.id, cure)
            return cls(run, store, clock)
        except BaseException:
            store.close()
            raise

    def append(self, bodies: list[Body], texts: Mapping[str, bytes]) -> None:
        """Appends facts, with the notices that they call for, and returns when they are durable."""
        now = max(self._clock(), self.state.time)
        events = [self._event(body, now) for body in bodies]
        budget = effective(self.spec.budget, self.state.raised)
        events += [self._event(one, now) for one in due(self.spec, budget, self.state, now, self.run.size(), events)]
        self.store.append(events, texts)

    def end(self, status: str, reason: str, of_reason: Mapping[str, bytes] = MappingProxyType({})) -> None:
        """Ends the job. What people said to it meanwhile stands before its end, together with which it becomes durable: a
        word that the protocol was not asked about must not stay with a job that goes on."""
        words: dict[str, Body] = {}
        texts = dict(of_reason)
        for message in self.run.messages():
            said = fields_of(message.text)
            if message.kind == "tell" and said.keys() == {"text", "by"}:
                data = pack_word(**said)
                texts[body_hash(data)] = data
                words[message.id] = ev.PersonSaid(body=body_hash(data), by=said["by"], message=message.id)
        unheard = [word for message, word in words.items() if message not in self.state.heard]
        self.append([*unheard, ev.JobEnded(status=status, reason=reason)], texts)
        for id in words:
            self.run.heard(id)

    def _event(self, body: Body, now: float) -> Event:
        key = f"word:{body.message}" if isinstance(body, ev.PersonSaid) else notice_key(body)
        event = Event(self.state.seq + 1, now, self.store.epoch, 0, key, body)
        self.state.apply(event)
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.store.close()
