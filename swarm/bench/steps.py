"""Events of null steps, made up without a job: what a store and a fold are measured with.

Owns their form: four events a step and a lease for many, of the sizes that `swarm bench overhead` gives rise to. They fold
to a state like any other log.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from swarm import events as ev
from swarm.events import Body, Event, identity
from swarm.names import range_task

EVENTS_A_STEP = 4
"""Leases aside."""
RANGE = identity("range")
AT_ONCE = 64
"""Steps whose events stand together, as they do where a host brings several at a time."""
_MANIFEST = tuple(
    (identity("segment", at) * 2, kind, "", trust, at == 3, 60)
    for at, (kind, trust) in enumerate(
        [("system", "operator"), ("question", "person"), ("format", "operator"), ("span", "corpus"), ("end", "operator")]
    )
)


def null_log(epoch: int, steps: int) -> Iterator[Event]:
    """The events of a job that has carried so many steps, from its first event on."""
    yield from (Event(seq, 1e9 + seq / 1e4, epoch, 0, _key(body), body) for seq, body in enumerate(_bodies(epoch, steps), 1))


def _key(body: Body) -> str:
    return f"{body.task}:CallFinished:0:0" if isinstance(body, ev.CallFinished) else ""


def _bodies(epoch: int, steps: int) -> Iterator[Body]:
    yield ev.JobCreated(job="bench", name="bench", spec="", protocol="none", protocol_digest="", roles={}, notes="",
                        tokenizer="", seed=0, software="")  # fmt: skip
    yield ev.JobOpened(epoch=epoch, host="here", pid=1, shell="bench")
    yield ev.SpansPinned(document="d", first=0, count=steps, tokens=300 * steps, block="")
    yield ev.CorpusPinned(documents=1, spans=steps, tokens=300 * steps)
    yield ev.RangeAdded(range=RANGE, role="reader", first=0, stop=steps)
    numbers = iter(range(steps))
    while batch := list(islice(numbers, AT_ONCE)):
        yield ev.RangeLeased(range=RANGE, host="host", first=batch[0], count=len(batch), token=batch[0] + 1, until=1e9,
                             reserved=512, calls=1)  # fmt: skip
        for number in batch:
            yield from _step(number)


def _step(number: int) -> Iterator[Body]:
    task, output = range_task(RANGE, number), identity("output", number) * 2
    yield ev.CallStarted(task=task, turn=0, sample=0, channel="reader", prompt=output, tokens=420, manifest=_MANIFEST,
                         sampling={"max_tokens": 96, "temperature": 0.0, "seed": number, "schema": output})  # fmt: skip
    yield ev.CallFinished(task=task, turn=0, sample=0, output=output, tokens_in=420, tokens_out=24, finish="stop",
                          weights="null", seconds=0.0)  # fmt: skip
    yield ev.NotePosted(note=identity(task, 0), kind="row", task=task, body=output, cites=((number, 10, 70),),
                        flags={"at": number})  # fmt: skip
    yield ev.TaskFinished(task=task, token=number + 1, outcome="rows", notes=1)
