"""A run folder made without Ray, models or a runtime: the coordinator and map_reduce, driven by hand over real text.

Owns the small shell that the tests of reports need, and its reader, which finds `raise` with a regular expression and
gets some of it wrong on purpose. Run as a program it makes a run to look at: `python -m tests.sample_run FOLDER`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from swarm import events as ev
from swarm.agents.roles import find_role
from swarm.coordinator import Coordinator, Grant, JobState, Phase, Report
from swarm.corpus import pin
from swarm.events import Body, body_hash, identity
from swarm.protocol import CallModel, Done, Failed, Material, NoteText, Part, Passage, Said, TaskBrief, create_protocol
from swarm.report.texts import Texts
from swarm.runtime.pins import pin_blocks
from swarm.runtime.prepare import Prepared
from swarm.spec import JobSpec, parse_spec
from swarm.store.folder import RunFolder
from swarm.store.sqlite import SqliteWriter
from swarm.testing.tokenizer import small_tokenizer
from swarm.window.pack import ChatTemplate

TEMPLATE = ChatTemplate({"system": "", "user": "", "assistant": ""}, "")
RAISES: dict[str, Any] = {
    "name": "json-raises",
    "question": "Which function raises which exception?",
    "inputs": [{"source": "python:json", "licence": "PSF-2.0"}],
    "answer": {
        "columns": {
            "function": "qualified name of the function that raises",
            "exception": {"description": "class of the exception", "found_in": "quote"},
        },
        "quote_pattern": "raise",
        "gold": "ast:raises",
    },
    "model": {"engine": "transformers", "price": {"input": 0.1, "output": 0.4}},
}
RAISE = re.compile(r"^[ \t]*(raise +([\w.]+)[^\n]*)", re.M)
WEIGHTS = "sha256:6f1f0c5a9b0e4d2c8a77"


class Canned:
    """Answers as a reader adapter would. `careless`: each fifth row is wrong in one of three ways. `most`: rows after
    which a reader's output is cut off."""

    def __init__(self, careless: bool = True, most: int = 1_000) -> None:
        self.careless, self.most, self.rows = careless, most, 0

    def say(self, role: str, material: Material, parts: Sequence[Part]) -> str:
        match role:
            case "planner":
                return '["search","set"]'
            case "reader":
                return json.dumps(self._read(material.passages[0]), ensure_ascii=False)
            case "verifier":
                return '"yes"' if self._holds(material.notes[0], material.passages[0]) else '"no"'
            case "writer":
                return json.dumps(
                    [self._sentence(n, note.content["values"]) for n, note in enumerate(material.notes, 1)]
                )
            case _:  # a reducer of prose: keeps the first of each two statements, with the numbers of both
                texts = [note.content["values"]["statement"] for note in material.notes]
                pairs = range(0, len(texts), 2)
                return json.dumps([[texts[at], [at + 1, *([at + 2] if at + 1 < len(texts) else [])]] for at in pairs])

    def _read(self, passage: Passage) -> list[list[str]]:
        named = [one for one in RAISE.finditer(passage.text) if one[2].rpartition(".")[2].lstrip("_")[:1].isupper()]
        rows = [[self._function(passage, m.start()), m[2].rpartition(".")[2], m[1][:60]] for m in named]
        for row in rows:
            self.rows += 1
            if self.careless and self.rows % 5 == 0:
                kind = self.rows // 5 % 3
                row[:] = [row[0], "KeyError", row[2]] if kind == 1 else [row[0], row[1], "raise Nothing(of_the_kind)"]
                if kind == 0:
                    row[:] = ["json", row[1], f"raise {row[1]}"]
        return rows

    def _holds(self, note: NoteText, passage: Passage) -> bool:
        return bool(note.content["values"]["function"] == self._function(passage, note.cites[0][1] - passage.start))

    def _function(self, passage: Passage, at: int) -> str:
        """What the breadcrumb names; where that is a class or a file, with the last `def` above the place."""
        _, _, owner = passage.breadcrumb.partition(" (part")[0].rpartition(" > ")
        if " > " in passage.breadcrumb and not owner.startswith("class "):
            return owner
        above = re.findall(r"\bdef (\w+)", passage.text[:at])
        outer = owner.removeprefix("class ") + "." if owner.startswith("class ") else ""
        return outer + above[-1] if above else owner

    def _sentence(self, number: int, values: dict[str, str]) -> list[Any]:
        if number == 3:
            return [f"{values['exception']} is raised often, like OSError.", number]
        places = "place" if values["count"] == "1" else "places"
        return [f"{values['exception']} is raised in {values['count']} {places}.", number]


@dataclass
class HandDriven:
    """A coordinator with a store and a clock that stands still until it is moved."""

    run: RunFolder
    job: Prepared
    store: SqliteWriter
    now: float = 1_790_000_000.0
    state: JobState = field(default_factory=JobState)
    weights: str = WEIGHTS

    def __post_init__(self) -> None:
        self.core = Coordinator(
            self.job.spec, self.job.protocol, self.job.roles, self.job.overhead, self.state, self.store.epoch
        )
        self.canned = Canned()

    @classmethod
    def create(cls, folder: Path, data: dict[str, Any] = RAISES, id: str = "sample") -> HandDriven:
        """A job whose inputs are pinned and whose work is open."""
        spec = parse_spec(data)
        run = RunFolder(folder, id)
        run.create()
        driven = cls(run, prepared(spec, folder), SqliteWriter.open(run.path))
        created, bodies = driven.job.creation(id)
        driven.append(driven.core.record(driven.now, created), bodies)
        driven.append(driven.core.open(driven.now, "laptop", 1, "by hand"))
        for block in pin_blocks(pin(spec.inputs), driven.job, driven.state):
            driven.now += 0.05
            driven.append(driven.core.record(driven.now, *block.events), block.bodies)
        driven.append(driven.core.start(driven.now))
        return driven

    def append(self, events: Sequence[ev.Event], bodies: dict[str, bytes] | None = None) -> None:
        self.store.append(events, bodies or {})

    def reopen(self) -> HandDriven:
        """As after a crash: a new writer and a new fold of the same log; leases that were out are void."""
        self.store.close()
        store = SqliteWriter.open(self.run.path)
        state = JobState()
        for event in store.read():
            state.apply(event)
        driven = HandDriven(self.run, self.job, store, self.now + 3600.0, state, self.weights)
        driven.append(driven.core.open(driven.now, "laptop", 2, "by hand"))
        return driven

    def work(
        self,
        steps: int = 1_000_000,
        hosts: Sequence[str] = ("host-0", "host-1"),
        shuffle: Callable[[list[Grant]], list[Grant]] = list,
        fail: Iterable[int] = (),
    ) -> int:
        """Up to `steps` steps, eight leases a host at a time. Readers of the passages in `fail` give up.

        Returns how many were done.
        """
        failing, done = set(fail), 0
        while done < steps and self.state.phase is Phase.WORKING:
            before = done
            assert done < 20_000, "this job does not come to an end"
            for host in hosts:
                events, grants = self.core.pulled(self.now, host, (), min(8, steps - done))
                events = list(events)
                kept: dict[str, bytes] = {}
                for grant in shuffle(grants):
                    self.now += 0.02
                    events += self._step(host, grant, failing, kept)
                    done += 1
                self.append(events, kept)
            if done == before:  # what is left waits for its time
                self.now += 60.0
        return done

    def _step(self, host: str, grant: Grant, failing: set[int], bodies: dict[str, bytes]) -> list[ev.Event]:
        events: list[Body] = []
        if grant.role == "reader" and failing & set(grant.spans):
            error = b"roles.reader: the output is no list of rows: I am sorry\n  take a larger model"
            bodies[body_hash(error)] = error
            events.append(
                ev.TaskFailed(
                    task=grant.task, token=grant.token, error=body_hash(error), kind="malformed", retry_at=None
                )
            )
        else:
            self._play(grant, events, bodies)
        report = Report(grant.task, grant.token, tuple(events), retryable=not failing)
        return list(self.core.pulled(self.now, host, [report], 0)[0])

    def _play(self, grant: Grant, events: list[Body], bodies: dict[str, bytes]) -> None:
        brief = TaskBrief(grant.task, grant.role, grant.goal, grant.attempt)
        material = self._material(grant)
        said: list[Said] = []
        while isinstance(action := self.job.protocol.turn(brief, material, said), CallModel):
            text, finish = self.canned.say(grant.role, material, action.parts), "stop"
            if grant.role == "reader" and len(rows := json.loads(text)) > self.canned.most:
                text, finish = json.dumps(rows[: self.canned.most])[:-1] + ', ["', "length"
            size = sum(self.job.tokenizer.count(part.text) for part in action.parts)
            output = text.encode("utf-8", "surrogatepass")
            bodies[body_hash(output)] = output
            turn = len(said)
            self.now += 0.11 if grant.role == "reader" else 0.04
            events.append(ev.CallStarted(task=grant.task, turn=turn, sample=0, channel="reader", prompt="", tokens=size,
                                         manifest=(), sampling={}))  # fmt: skip
            events.append(
                ev.CallFinished(task=grant.task, turn=turn, sample=0, output=body_hash(output), tokens_in=size,
                                tokens_out=len(text) // 3, finish=finish, weights=self.weights, seconds=0.11)
            )  # fmt: skip
            said.append(Said(turn, text, finish))
        assert not isinstance(action, Failed), action
        self._post(grant, action, events, bodies)

    def _post(self, grant: Grant, action: Done | Any, events: list[Body], bodies: dict[str, bytes]) -> None:
        for index, post in enumerate(action.notes):
            content = self.job.protocol.note_kinds[post.kind].model_validate(post.content).model_dump()
            packed = msgpack.packb(content, unicode_errors="surrogatepass")
            bodies[body_hash(packed)] = packed
            events.append(
                ev.NotePosted(note=identity(grant.task, index), kind=post.kind, task=grant.task, body=body_hash(packed),
                              status=post.status, verdict=post.verdict, cites=post.cites, links=post.links,
                              flags=dict(post.flags))
            )  # fmt: skip
        events.append(
            ev.TaskFinished(task=grant.task, token=grant.token, outcome=action.outcome, notes=len(action.notes))
        )

    def _material(self, grant: Grant) -> Material:
        texts = Texts(self.store, self.state)
        passages = []
        for span in map(texts.span, grant.spans):
            text = self.store.body(span.digest).decode("utf-8", "surrogatepass")
            path = texts.path(span.document)
            passages.append(
                Passage(span.number, span.document, path, span.start, text, span.tokens, span.breadcrumb, False)
            )
        notes = []
        for note in map(self.state.board.note, grant.reads):
            content = msgpack.unpackb(self.store.body(note.body), unicode_errors="surrogatepass")
            notes.append(NoteText(note.id, note.kind, content, note.cites, note.flags, note.verdict))
        paths = [texts.path(id) for id in list(self.state.documents)[:8]]
        facts = {"documents": len(self.state.documents), "spans": self.state.spans, "paths": paths}
        return Material(tuple(passages), tuple(notes), facts)


def prepared(spec: JobSpec, folder: Path) -> Prepared:
    """The job under a tokenizer that is made on the spot, instead of its model's."""
    protocol, digest = create_protocol(spec)
    found = {name: find_role(name, spec.roles) for name in protocol.roles}
    roles, texts = {n: role for n, (role, _) in found.items()}, {n: text for n, (_, text) in found.items()}
    return Prepared(spec, protocol, digest, roles, texts, small_tokenizer(folder), TEMPLATE, dict.fromkeys(roles, 150))


def finished(folder: Path, data: dict[str, Any] = RAISES, id: str = "sample", **work: Any) -> RunFolder:
    """A run that was worked through to its end."""
    driven = HandDriven.create(folder, data, id)
    driven.work(**work)
    driven.store.close()
    return driven.run


def main(folder: str) -> None:
    from swarm.report import write_report
    from swarm.store.sqlite import SqliteReader

    for source, steps in (("json", 60), ("asyncio", 900)):
        inputs = {"inputs": [{"source": f"python:{source}", "licence": "PSF-2.0"}], "name": f"{source}-raises"}
        driven = HandDriven.create(Path(folder), {**RAISES, **inputs}, f"{source}-raises-1121")
        driven.work(steps=steps)
        driven = driven.reopen()
        driven.work(fail=(37, 38, 120))
        driven.store.close()
        with SqliteReader.open(driven.run.path) as reader:
            for name, digest in write_report(reader, driven.run).items():
                print(driven.run.path / name, digest)


if __name__ == "__main__":
    main(sys.argv[1])
