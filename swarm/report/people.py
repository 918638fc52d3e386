"""What people said to a job and what they answered, as a report shows it.

Owns a small projection of the log: words with the windows that showed them, and questions with their answers. Its size
depends on what people did, not on the number of steps.
"""

from __future__ import annotations

from collections import Counter

from swarm import events as ev
from swarm.events import Event
from swarm.protocol import WORD
from swarm.report.shapes import WITHDRAWN, Question, Word
from swarm.report.texts import Texts, printable


class People:
    """Follows a log: call `follow` with each event."""

    def __init__(self) -> None:
        self._words: list[tuple[int, ev.PersonSaid]] = []
        """(number of the event, word) of each."""
        self._notes: dict[str, str] = {}
        """Note → the body of the word that it holds."""
        self._windows: Counter[str] = Counter()
        self._asked: dict[str, ev.ApprovalAsked] = {}
        self._answered: dict[str, ev.ApprovalAnswered] = {}

    def follow(self, event: Event) -> None:
        match event.body:
            case ev.PersonSaid() as said:
                self._words.append((event.seq, said))
            case ev.NotePosted(kind=kind, note=note, body=body) if kind == WORD:
                self._notes[note] = body
            case ev.CallStarted(manifest=manifest) if self._notes:
                self._windows.update(self._notes[row[2]] for row in manifest if row[2] in self._notes)
            case ev.ApprovalAsked() as asked:
                self._asked[asked.question] = asked
            case ev.ApprovalAnswered() as answered:
                self._answered[answered.question] = answered

    def words(self, texts: Texts) -> tuple[Word, ...]:
        """What people said, in the order in which it was heard."""
        return tuple(
            Word(text=printable(str(texts.content(said.body).get("text", WITHDRAWN))), by=printable(said.by), event=seq,
                 windows=self._windows[said.body])
            for seq, said in self._words
        )  # fmt: skip

    def questions(self, texts: Texts) -> tuple[Question, ...]:
        """What people were asked, in the order in which it was asked."""
        return tuple(self._question(asked, self._answered.get(id), texts) for id, asked in self._asked.items())

    def _question(self, asked: ev.ApprovalAsked, given: ev.ApprovalAnswered | None, texts: Texts) -> Question:
        why = texts.text(given.why) if given and given.why else ""
        text = texts.text(asked.text)
        return Question(
            number=asked.number, question=WITHDRAWN if text is None else text, options=asked.options,
            verdict=given.verdict if given else "", answer=given.answer if given else "",
            why=WITHDRAWN if why is None else why, by=printable(given.by) if given else "",
        )  # fmt: skip
