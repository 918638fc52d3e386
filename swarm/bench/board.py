"""How large a blackboard one master can hold, and what its queries cost then.

Owns making up notes and links and asking the board for them. It uses the board as the coordinator does: by folding
NotePosted and NoteJudged, and through its public queries.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from swarm.bench.outcome import Floor, Outcome, percentile, resident
from swarm.board import Board
from swarm.errors import SpecError
from swarm.events import NoteJudged, NotePosted, identity
from swarm.runtime.collector import calm_collector

ABOUT = (
    "Each note cites one passage. Statements rest on rows and findings on statements, five each, which makes "
    "two links a note; nine in ten are judged. Notes come near to the order of the text, as from many agents "
    "at once. Times are those of one query in the process that holds the board; load is the folding of "
    "NotePosted and NoteJudged.",
)
GOAL_MS = 5.0
UNJUDGED = 10
"""One note in so many is left without a verdict."""
KINDS = (("row", "", 0.6), ("statement", "row", 0.32), ("finding", "statement", 0.08))
"""(kind, kind that it links to, share of all notes)."""
SHARES = [share for _, _, share in KINDS]
LINKS = 5
"""Links of a note that has any: two a note over all."""


def run_board(notes: int = 1_000_000, queries: int = 2_000, seed: int = 0) -> Outcome:
    """Folds `notes` notes with twice as many links into a board and times its queries.

    Raises:
        SpecError: there would be nothing to ask for.
    """
    if notes < 10:
        raise SpecError(f"{notes} notes are no board", "--notes", "give at least 10; 1000000 takes about a minute")
    gc.collect()
    before, load = resident(), 0.0
    board = Board()
    with calm_collector():
        for seq, (note, verdict) in enumerate(_notes(notes, random.Random(seed)), 1):
            began = time.perf_counter()
            board.post(note, seq)
            if verdict:
                board.judge(NoteJudged(note=note.note, verdict=verdict, task=note.task))
            load += time.perf_counter() - began
        size = (resident() - before) / notes
        return _outcome(board, notes, queries, seed, load, size)


def _outcome(board: Board, notes: int, queries: int, seed: int, load: float, size: float) -> Outcome:
    links = sum(len(view.links) for kind, _, _ in KINDS for view in board.notes(kind))
    each = round(load / notes * 1e6, 2)
    rows: list[Mapping[str, Any]] = [
        {"what": "load", "notes": notes, "links": links, "seconds": round(load, 2), "us_per_note": each,
         "bytes_per_note": round(size)}
    ]  # fmt: skip
    floors = []
    for name, ask in _questions(board, notes, random.Random(seed + 1)).items():
        times = sorted(_timed(ask) for _ in range(queries))
        worst = percentile(times, 0.99)
        rows.append({"what": name, "p50_ms": round(percentile(times, 0.5), 4), "p99_ms": round(worst, 4)})
        floors.append(Floor.at_most(f"query p99, {name}", GOAL_MS, round(worst, 4), " ms"))
    return Outcome("board", ABOUT, tuple(rows), tuple(floors))


def _questions(board: Board, notes: int, draw: random.Random) -> dict[str, Callable[[], Any]]:
    def one() -> int:
        return draw.randrange(notes)

    return {
        "note": lambda: board.note(_id(one())),
        "by_task": lambda: board.by_task(_task(one())),
        "provenance": lambda: board.provenance(_id(one())),
        "spans": lambda: board.spans(_id(one())),
        "citing": lambda: board.citing(one()),
        "count": lambda: board.count("row", "supported"),
        "notes, first 100": lambda: list(islice(board.notes("row"), 100)),
        "notes, first 100 supported": lambda: list(islice(board.notes("row", "supported", ""), 100)),
        "notes, first 100 not judged": lambda: list(islice(board.notes("row", ""), 100)),
    }


def _timed(ask: Callable[[], Any]) -> float:
    began = time.perf_counter()
    ask()
    return (time.perf_counter() - began) * 1e3


def _notes(notes: int, draw: random.Random) -> Iterator[tuple[NotePosted, str]]:
    """Notes with the verdict that follows each, in the order of completion: near that of the text, but not in it."""
    made: dict[str, list[str]] = {kind: [] for kind, _, _ in KINDS}
    for at, number in enumerate(_shuffled(notes, draw)):
        kind, below, _ = draw.choices(KINDS, SHARES)[0]
        known = made.get(below, [])
        links = {draw.choice(known) for _ in range(LINKS)} if known else set()
        note = NotePosted(
            note=_id(at), kind=kind, task=_task(at), body=identity(at, "body") * 2, cites=((number, 40, 97),),
            links=tuple(("derives-from", other) for other in sorted(links)),
        )  # fmt: skip
        made[kind].append(note.note)
        yield note, "" if at % UNJUDGED == 0 else "supported" if at % 3 else "unsupported"


def _shuffled(count: int, draw: random.Random) -> Iterator[int]:
    """0 to count - 1, shuffled within blocks of 256, and every hundredth block out of turn."""
    blocks = [list(range(first, min(first + 256, count))) for first in range(0, count, 256)]
    late = [block for at, block in enumerate(blocks) if at % 100 == 99]
    for block in [block for at, block in enumerate(blocks) if at % 100 != 99] + late:
        draw.shuffle(block)
        yield from block


def _id(number: int) -> str:
    return identity("note", number)


def _task(number: int) -> str:
    return identity("task", number // 2)
