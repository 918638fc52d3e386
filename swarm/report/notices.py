"""What a reader must know before believing an answer, in sentences.

Owns the wording of these warnings, for every form of the report. It decides nothing: each one follows from a field of
the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from swarm.coordinator.budget import AGENT
from swarm.names import counted
from swarm.report.shapes import Answer, CutOff, PerhapsPaid
from swarm.runtime.outbox import untold_words

NAMED = 3
"""Passages that a sentence names; the others it counts."""


@dataclass(frozen=True, slots=True)
class Notice:
    """`tone` is `bad`, `unsure` or `plain`."""

    tone: str
    title: str
    text: str


def notices(answer: Answer) -> list[Notice]:
    """The warnings of an answer, the gravest first."""
    about = (_about_models, _about_status, _about_outputs, _about_payment, _about_evidence, _about_people)
    return [notice for one in about for notice in one(answer)]


def _about_models(answer: Answer) -> Iterator[Notice]:
    scripted = [one.name for one in answer.weights if one.kind == "scripted"]
    declared = [one.name.partition(":")[2] for one in answer.weights if one.kind == "declared"]
    if scripted or answer.provenance.engine == "scripted":
        yield Notice(
            "bad", "Scripted test run", "No model answered: a script for tests did. Nothing here is a finding."
        )
    if declared:
        text = f"{', '.join(declared)}: so the endpoint says of itself. Nobody has verified which weights answered."
        yield Notice("unsure", "Declared model", text)


def _about_status(answer: Answer) -> Iterator[Notice]:
    left = answer.coverage.spans - answer.coverage.spans_read
    unread = f"{left:,} of {answer.coverage.spans:,} passages {'was' if left == 1 else 'were'} not read."
    ending = "" if answer.reason.endswith((".", "!", "?")) else "."
    reason = f" {answer.reason}{ending}" if answer.reason else ""
    if answer.draft:
        stop = "" if answer.status == "waiting" and reason else "."  # it waits for something
        stands = f"The job is {answer.status}{stop}" if answer.status in ("running", "interrupted", "paused", "waiting") else ""
        yield Notice("unsure", "Draft", f"{stands}{reason} {unread} What stands here may still change.".strip())
    for limit in answer.limits:
        covers = " The answer covers the rest only." if left else ""
        whose = "of one agent " if limit.role == AGENT else f"of role {limit.role} " if limit.role else ""
        text = f"The budget {whose}of {limit.allowed:,.10g} {limit.limit} was reached. {unread}{covers}"
        yield Notice("bad", "Stopped by its budget", text)
    if answer.status == "failed":
        yield Notice("bad", "Failed", f"The job failed.{reason} {unread}")
    elif answer.status == "cancelled":
        yield Notice("bad", "Cancelled", f"The job was cancelled.{reason} {unread}")
    elif answer.status == "done" and left:
        yield Notice("unsure", "Not everything was read", f"{unread} The reasons are listed below.")


def _about_outputs(answer: Answer) -> Iterator[Notice]:
    for one in answer.cut_off:
        cure = (
            "Give the role more max_tokens, in a file of your own under roles, or make passages smaller with span_tokens under "
            "protocol.options."
        )
        yield Notice("unsure", "Outputs cut off", f"{cut_off_words(one)}. {cure}")


def cut_off_words(one: CutOff) -> str:
    """How many outputs of a role were cut off, on which passages, and what that means."""
    named = ", ".join(place.document + ("" if place.line is None else f":{place.line}") for place in one.first[:NAMED])
    more = f" and {one.passages - NAMED:,} more" if one.passages > NAMED else ""
    about = f", on the {'passage' if one.passages == 1 else 'passages'} at {named}{more}" if one.passages else ""
    were = "was" if one.outputs == 1 else "were"
    what = f"{counted(one.outputs, 'output')} of role {one.role} {were} cut off at the most tokens that it may write"
    return f"{what}{about}: rows that stand there may be missing"


def _about_payment(answer: Answer) -> Iterator[Notice]:
    if answer.in_doubt.calls:
        text = (
            f"{calls_of(answer.in_doubt)} went out and left no answer on record, because something broke in between. They "
            "may have been charged; where they were made again, they may have been paid twice."
        )
        yield Notice("unsure", "Calls in doubt", text)
    if answer.too_late.calls:
        late, twice = answer.too_late.calls, answer.paid_twice.calls
        text = (
            f"{calls_of(answer.too_late)} {'was' if late == 1 else 'were'} answered too late to count: the job had ended, or had "
            "taken the task from its host. "
        )
        if twice:
            text += f"{twice:,} of them {'was' if twice == 1 else 'were'} answered a second time: paid for twice."
        else:
            text += f"{'It was' if late == 1 else 'They were'} paid for, once."
        yield Notice("unsure", "Answers too late", text)


def calls_of(paid: PerhapsPaid) -> str:
    """How many calls, and what they took at most."""
    return f"{counted(paid.calls, 'call')} of at most {counted(paid.tokens, 'token')}"


def _about_evidence(answer: Answer) -> Iterator[Notice]:
    claims = [one.verdict for one in (answer.rows or answer.statements or ())]
    unchecked = sum(verdict == "unchecked" for verdict in claims)
    reworded = sum(verdict == "reworded" for verdict in claims)
    if answer.unjudged is not None:
        one = answer.unjudged
        were = "was" if one.rows == 1 else "were"
        text = f"{one.rows:,} of {counted(one.of, 'row')} {were} not verified, and {were} left out of the answer: {one.reason}"
        yield Notice("unsure", "Not everything was verified", text)
    if unchecked:
        text = f"Code found the quotes of {unchecked:,} of {len(claims):,} claims in the text; no verifier judged them."
        yield Notice("unsure", "Not judged", text)
    if reworded:
        text = f"A model worded {reworded:,} of {len(claims):,} statements from verified passages; check the wording."
        yield Notice("unsure", "Reworded", text)
    if answer.withdrawn:
        yield Notice(
            "unsure", "Text withdrawn", f"{answer.withdrawn:,} texts that this rests on are no longer in the store."
        )


def _about_people(answer: Answer) -> Iterator[Notice]:
    if answer.untold:
        yield Notice("unsure", "Not told", f"This did not get through: {'. '.join(untold_words(answer.untold))}.")
