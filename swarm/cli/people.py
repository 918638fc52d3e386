"""The verbs by which people take part: pause, cancel, tell, inbox, approve, reject.

Owns their options and how a question is put before people. What a job makes of what they say is its own affair.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.door import Json, RunId, Runs, duration, emit, err, out, people, runs_of, say_error, the_run, verb
from swarm.names import is_number

if TYPE_CHECKING:
    from swarm.runtime.people import Question
    from swarm.store.folder import RunFolder

Reason = Annotated[str, typer.Option("--reason", help="Why, for the log.")]
Asked = Annotated[str, typer.Argument(metavar="ID[:N]", help="The run, and the question's number if it asks several.")]
CANCEL_SECONDS = 60.0
"""How long `cancel` waits for a job to leave: it stops within seconds, and writes its report."""
PAUSE_SECONDS = 5.0


@verb
def pause(id: RunId, reason: Reason = "", runs: Runs = None) -> None:
    """Ask a running job to pause: what is under way is finished, within a minute; nothing new begins.

    One that has lost its driver is left paused, so that no supervisor starts it again.
    """
    from swarm.errors import StoreError
    from swarm.runtime import people
    from swarm.runtime.driver import is_starting
    from swarm.store.folder import read_status

    run = the_run(id, runs)
    if not people.pause(run, reason):
        if not people.rests(run, PAUSE_SECONDS):
            err().print(f"asked {run.id} to pause; it finishes the calls that are under way first", markup=False)
            return
        known = read_status(run)
        if known.ended:
            raise StoreError(f"came to its end first ({known.status})", run.id, "`swarm report` shows what it found")
        if known.status not in ("paused", "budget") or is_starting(run):  # whoever worked on it was gone before hearing of it
            people.pause_resting(run, reason, known.events)
    err().print(f"paused {run.id}; go on with: swarm resume {run.id}{run.option}", markup=False)


@verb
def cancel(id: RunId, reason: Reason = "", runs: Runs = None) -> None:
    """End a job, running or not. Calls that are under way are dropped; the report tells what was found until then."""
    from swarm.errors import StoreError
    from swarm.report import render
    from swarm.runtime import people
    from swarm.store.folder import read_status

    run = the_run(id, runs)
    people.cancel(run, reason, render)
    if not people.rests(run, CANCEL_SECONDS):
        cure = f"see `swarm status {run.id}{run.option}`"
        raise StoreError(f"was asked to end and is still held after {CANCEL_SECONDS:g} s", run.id, cure)
    if not read_status(run).ended:  # whoever worked on it was gone before hearing of it
        people.cancel(run, reason, render)
    status = read_status(run).status
    if status != "cancelled":
        raise StoreError(f"came to its own end first ({status})", run.id, "`swarm report` shows what it found")
    err().print(f"cancelled {run.id}; report: {run.report_html}", markup=False)


@verb
def tell(
    id: RunId, text: Annotated[str, typer.Argument(help="What the job should know.")], runs: Runs = None, as_json: Json = False
) -> None:
    """Leave a word for a job: it is kept in its log and its report, and shown to the agents whose role reads it."""
    from swarm.runtime import people

    run = the_run(id, runs)
    seq = people.tell(run, text)
    heard = f"heard, as event {seq}" if seq else "left; it is heard when somebody works on the job"
    heard += _over_budget(run)
    err().print(f"{run.id}: {heard}", markup=False)
    if as_json:
        emit({"id": run.id, "event": seq or None})


@verb
def inbox(
    id: Annotated[str, typer.Argument(metavar="[ID]", help="Only this run's questions.")] = "",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """List what jobs ask, and how to answer."""
    from dataclasses import asdict

    from swarm.errors import StoreError
    from swarm.runtime.people import questions
    from swarm.store.folder import read_status, sound

    place = runs_of(runs)
    found, harmed = [], False
    for known in [read_status(the_run(id, runs))] if id else place.list():
        run = place.run(known.id)
        try:
            sound(run, known)
            found += [(question, run.option) for question in questions(run)]
        except StoreError as error:
            if id:
                raise
            if run.exists():  # nobody has removed it since
                say_error(error)  # of one run; the others' questions wait too
                harmed = True
    for question, option in found:
        for line in lines_of(question, option):
            people(as_json).print(line, markup=False)
    if as_json:
        emit([asdict(question) for question, _ in found])
    elif not found:
        out().print("nothing is asked", markup=False)
    if harmed:
        raise typer.Exit(1)


@verb
def approve(
    id: Asked,
    answer: Annotated[str, typer.Option("--answer", metavar="OPTION", help="One of the question's options.")] = "",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Answer a job's question with yes, or with one of the options that it names."""
    _answer(id, "approved", answer, "", runs, as_json)


@verb
def reject(
    id: Asked,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; it stands in the log and the report.")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Answer a job's question with no."""
    from swarm.errors import SpecError

    if not why.strip():
        raise SpecError("says nothing", "--why", "write why the question is answered with no")
    _answer(id, "rejected", "", why.strip(), runs, as_json)


def _answer(id: str, verdict: str, chosen: str, why: str, runs: str | None, as_json: bool) -> None:
    from swarm.errors import SpecError
    from swarm.report import render
    from swarm.runtime.people import answer
    from swarm.store.folder import read_status

    name, mark, number = id.partition(":")
    if mark and not is_number(number):
        raise SpecError(f"{number!r} is no number of a question", "ID[:N]", "write the run's id, or ID:1")
    run = the_run(name, runs)
    question = answer(run, int(number) if mark else None, verdict, render, chosen, why)
    known = read_status(run)
    if known.ended:
        following = f"; ended ({known.status}); report: {run.report_html}"
    else:
        following = _over_budget(run) or ("" if known.holder else f"; go on with: swarm resume {run.id}{run.option}")
    err().print(f"{verdict} {question.name}{f' ({chosen})' if chosen else ''}{following}", markup=False)
    if as_json:
        emit({"id": run.id, "question": question.number, "verdict": verdict, "answer": chosen, "status": known.status})


def _over_budget(run: RunFolder) -> str:
    """That a job which rests over its budget acts on what it is told when it has more, and how to give it more."""
    from swarm.runtime.launch import over_budget
    from swarm.store.folder import read_status

    spent = over_budget(run) if read_status(run).status == "budget" else None
    return "" if spent is None else f"; it counts once the job has more budget; {spent.cure}"


def question_lines(run: RunFolder) -> list[str]:
    """The open questions of a job, and how to answer them."""
    from swarm.runtime.people import questions

    return [line for question in questions(run) for line in lines_of(question, run.option)]


def lines_of(question: Question, runs: str) -> list[str]:
    """A question as people read it. `runs` is what a command line needs to find its run; see `RunFolder.option`."""
    options = f" [--answer {'|'.join(question.options)}]" if question.options else ""
    lines = [
        f"question {question.number} of {question.run}: {question.text}",
        f"  yes: swarm approve {question.name}{options}{runs}",
        f"  no:  swarm reject {question.name} --why TEXT{runs}",
    ]
    default, left = question.default or "as proposed", (question.until or 0.0) - time.time()
    if question.until is not None and left > 0:
        lines.append(f"  in {duration(left)} without an answer: {default}")
    elif question.until is not None:
        going = f"a supervisor does, or: swarm resume {question.run}{runs}"
        lines.append(f"  its time is over: {default}, as soon as somebody works on the job ({going})")
    return lines
