"""What people say to a job, from any process: pause, cancel, a word, and answers to its questions.

Owns the check that a job is in a state for it, and the way there: through the inbox to whoever works on the job; where
nobody does, this process is its master for as long as it takes to hear what waits there. What a job makes of it is
decided by the coordinator and the protocol.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from swarm.coordinator import Phase
from swarm.errors import SpecError, StoreError, SwarmError
from swarm.events import DESK, ApprovalAnswered, ApprovalAsked, PhaseChanged
from swarm.runtime.caretaker import Caretaker
from swarm.runtime.driver import is_starting
from swarm.runtime.launch import Render, cancel_resting, hear_cancel
from swarm.runtime.master import persons_reason
from swarm.runtime.session import PASSING, PAUSED_BY_A_PERSON, Session, person
from swarm.runtime.supervise import may_go_on, orphaned
from swarm.store.folder import RunFolder, RunStatus, read_sound_status, read_status, sound
from swarm.store.interface import Reader

LONGEST_WORD = 1000
"""Characters of a word: what is longer fits into no small window."""
HEARD_SECONDS = 20.0
"""How long a master that is at work may take to hear a message before that is told as it is."""
LOOK_SECONDS = 0.1
ATTEMPTS = 3
"""How often this process tries to hear a message itself, when whoever works on the job leaves just then."""


def waits_in_vain(run: RunFolder) -> bool:
    """Whether to go on with a job would change nothing: it waits for a person, who has not answered yet.

    Raises:
        StoreError: it cannot be gone on with.
    """
    known = read_sound_status(run)
    return known.status == "waiting" and not may_go_on(run, max(time.time(), known.updated))


@dataclass(frozen=True, slots=True)
class Question:
    """A question that nobody has answered yet. `until` is when `default` counts as the answer, in seconds since 1970."""

    run: str
    number: int
    id: str
    text: str
    options: tuple[str, ...]
    default: str
    until: float | None
    asked: float

    @property
    def name(self) -> str:
        return f"{self.run}:{self.number}"


def questions(run: RunFolder) -> list[Question]:
    """The open questions of a job, in the order in which they were asked; none of one that has ended."""
    if read_status(run).ended:
        return []
    with run.reader() as reader:
        events = list(reader.keyed("question:"))
        over = {event.body.question for event in events if isinstance(event.body, ApprovalAnswered)}
        return [
            Question(
                run.id, event.body.number, event.body.question, _text(reader, event.body.text), event.body.options,
                event.body.default, event.body.until, event.time,
            )
            for event in events
            if isinstance(event.body, ApprovalAsked) and event.body.question not in over
        ]  # fmt: skip


def pause(run: RunFolder, reason: str = "") -> bool:
    """Asks a job that is at work to pause. One that has lost its driver, and that a supervisor would start again or somebody
    starts just now, is paused when this returns. Returns whether it is.

    Raises:
        StoreError: nobody works on it, and nobody would by itself; or it is damaged.
    """
    known = read_status(run)
    if known.holder is not None:
        run.post("pause", reason)
        return False
    sound(run, known)
    if known.ended or not (is_starting(run) or orphaned(run, known, time.time())):
        cure = "" if known.ended else f"`swarm resume {run.id}{run.option}` goes on with it"
        raise StoreError(f"nobody works on this run (it is {known.status}), so it can't be paused", run.id, cure)
    try:
        pause_resting(run, reason, known.events)
        return True
    except StoreError:
        if run.holder() is None:
            raise
        run.post("pause", reason)  # somebody has just taken it up
        return False


def pause_resting(run: RunFolder, reason: str, at: int) -> None:
    """Has a job that nobody works on rest until a person resumes it, if its log still ends with the event of number `at`.

    Raises:
        StoreError: somebody has taken it up, or did so in between.
    """
    with Caretaker.take(run, at) as keeper:
        given, texts = persons_reason(reason, PAUSED_BY_A_PERSON)
        keeper.append([PhaseChanged(phase="paused", reason=given)], texts)


def cancel(run: RunFolder, reason: str, render: Render) -> None:
    """Asks a job that is at work to end; ends one that nobody works on, and writes its report.

    Raises:
        StoreError: it has ended, or is damaged.
    """
    known = _open(run)
    if known.holder is None:
        cancel_resting(run, reason, render)
        return
    run.post("cancel", reason)
    if run.holder() is None:  # whoever worked on it has left, with or without a look at this
        hear_cancel(run, render)


def tell(run: RunFolder, text: str) -> int:
    """Leaves a word for a job's coordinator, durably. Returns the number of the event that it became, or 0 if the job
    hears it later, when somebody works on it again.

    Raises:
        SpecError: it is blank or too long.
        StoreError: the job has ended, or did so before it heard the word.
    """
    if not text.strip():
        raise SpecError("says nothing", "tell", "write what the job should know")
    if len(text) > LONGEST_WORD:
        cure = f"say it in {LONGEST_WORD:,} characters; longer text belongs into the inputs"
        raise SpecError(f"has {len(text):,} characters, too many for a window", "tell", cure)
    _open(run)
    message = run.post("tell", json.dumps({"text": text.strip(), "by": person()}))
    _until(lambda: _event(run, f"word:{message}") > 0 or read_status(run).holder is None)
    heard = _event(run, f"word:{message}")
    if not heard and read_status(run).ended:
        run.heard(message)
        raise StoreError("the job ended before it heard this", run.id, "its report stands as it is")
    return heard


def answer(run: RunFolder, number: int | None, verdict: str, render: Render, chosen: str = "", why: str = "") -> Question:
    """Answers a question: `verdict` is `approved`, with an option or none, or `rejected`, with a reason.

    Returns when the answer is durable in the job's log. One that could not be given is never heard later: people may have
    answered otherwise by then.

    Raises:
        SpecError: there is no such question, or no such option.
        StoreError: it is answered already, the job has ended, or its master does not hear.
        SwarmError: nobody works on the job, and it cannot be taken up to hear this.
    """
    asked = _asked(run, number)
    if chosen and chosen not in asked.options:
        known = f"its options are {', '.join(asked.options)}" if asked.options else "it has none: approve or reject it"
        raise SpecError(f"{chosen!r} is no answer to question {asked.number}", "--answer", known)
    given = {"question": asked.id, "verdict": verdict, "answer": chosen, "why": why, "by": person()}
    message = run.post("answer", json.dumps(given))
    for _ in range(ATTEMPTS):
        heard = _until(lambda: _answered(run, asked.id) is not None or run.holder() is None)
        if not heard or _answered(run, asked.id) is not None:
            break
        try:
            attend(run, render)
        except BaseException as error:
            if run.holder() is None:  # nobody was quicker: it can't be taken up
                run.heard(message)
                raise
            if not isinstance(error, SwarmError):
                raise
    event = _answered(run, asked.id)
    if event is None:
        run.heard(message)
        cure = f"`swarm status {run.id}{run.option}` says how it stands"
        raise StoreError(f"question {asked.number} could not be answered", run.id, cure)
    if event.message != message:
        raise _too_late(run, asked.number, event)
    return asked


def attend(run: RunFolder, render: Render) -> None:
    """Is the master of a job that nobody works on until it has heard what waits in its inbox.

    A job that rests for a person stays paused all the while; one that waited for the answer, or whose driver left, is left as
    one that somebody should go on with; of one that comes to its end by it, the report is written.

    Raises:
        SwarmError: somebody works on it, or it cannot be taken up.
    """
    session = Session.resume(run, pinned=True)
    try:
        master, reason = session.master, session.master.state.reason
        master.open(DESK, pause=reason if master.state.phase is Phase.PAUSED and reason not in PASSING else "")
        session.hear()
        session.raise_failed()
        if master.state.settled:
            session.reported(render(run))
    finally:
        session.store.close()


def _open(run: RunFolder) -> RunStatus:
    known = read_status(run)
    if known.ended:
        raise StoreError(f"this job has ended ({known.status})", run.id, "`swarm report` shows what it found")
    return sound(run, known)


def _asked(run: RunFolder, number: int | None) -> Question:
    """The question that a person means."""
    _open(run)
    waiting = questions(run)
    if number is None and len(waiting) == 1:
        return waiting[0]
    found = next((one for one in waiting if one.number == number), None)
    if found is not None:
        return found
    with run.reader() as reader:
        events = list(reader.keyed("question:"))
    asked = {event.body.question: event.body.number for event in events if isinstance(event.body, ApprovalAsked)}
    for event in events:
        meant = number if number is not None or waiting else len(asked)  # none is open: the last one was meant
        if isinstance(event.body, ApprovalAnswered) and asked[event.body.question] == meant:
            raise _too_late(run, meant, event.body)
    names = ", ".join(one.name for one in waiting)
    if number is None and waiting:
        raise SpecError(f"asks {len(waiting)} questions", run.id, f"name one of them: {names}")
    what = "no question" if number is None else f"no question {number}"
    raise SpecError(f"asks {what}", run.id, f"open: {names}" if names else "`swarm inbox` shows what is asked")


def _too_late(run: RunFolder, number: int, event: ApprovalAnswered) -> StoreError:
    by = f" by {event.by}" if event.by else ""
    return StoreError(f"question {number} is answered already: {event.verdict}{by}", run.id, "`swarm inbox` shows what is open")


def _answered(run: RunFolder, question: str) -> ApprovalAnswered | None:
    with run.reader() as reader:
        bodies = [event.body for event in reader.keyed(f"question:{question}")]
    return next((body for body in bodies if isinstance(body, ApprovalAnswered)), None)


def _event(run: RunFolder, key: str) -> int:
    with run.reader() as reader:
        return next((event.seq for event in reader.keyed(key)), 0)


def _until(holds: Callable[[], bool]) -> bool:
    """Waits until something holds; False if it takes too long."""
    deadline = time.monotonic() + HEARD_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def rests(run: RunFolder, seconds: float) -> bool:
    """Waits until nobody works on a job any more, for so long at most."""
    deadline = time.monotonic() + seconds
    while run.holder() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _text(reader: Reader, hash: str) -> str:
    return reader.body(hash).decode("utf-8", "replace")
