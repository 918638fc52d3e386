"""Text made up for benchmarks, and the job that reads it: passages of about 300 tokens, the same for the same seed."""

from __future__ import annotations

import random
from pathlib import Path

from swarm.spec import AnswerSpec, Column, InputSpec, JobSpec, ModelSpec, ProtocolSpec

WORDS = [
    "agent", "answer", "archive", "basin", "bridge", "canal", "capital", "census", "channel", "charter",
    "circuit", "climate", "coast", "column", "council", "crater", "current", "decade", "delta", "desert",
    "district", "engine", "estate", "export", "factory", "farmer", "festival", "field", "forest", "fortune",
    "garden", "glacier", "grain", "harbour", "harvest", "hill", "island", "journal", "kingdom", "lake",
    "language", "ledger", "library", "machine", "market", "measure", "mineral", "mountain", "museum", "nation",
    "notice", "ocean", "office", "orchard", "painter", "paper", "parish", "passage", "pattern", "plateau",
    "province", "quarry", "railway", "record", "region", "remedy", "reservoir", "river", "road", "sailor",
    "school", "season", "settlement", "signal", "station", "stone", "street", "summer", "surface", "survey",
    "temple", "theatre", "timber", "tower", "trade", "valley", "vessel", "village", "water", "weather",
    "window", "winter",
]  # fmt: skip
LINKS = [
    "and", "of", "the", "in", "with", "from", "near", "under", "after", "before", "along", "between",
]  # fmt: skip
PASSAGE_WORDS = 236
"""Words of one passage: near 300 tokens for SmolLM2's tokenizer."""
PASSAGES_A_FILE = 1000


def write_passages(folder: Path, passages: int, seed: int) -> None:
    """Writes text files that are cut into `passages` spans of at most 320 tokens, into more by a tokenizer that counts
    higher than SmolLM2's."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, passages, PASSAGES_A_FILE)):
        texts = [_passage(draw) for _ in range(min(PASSAGES_A_FILE, passages - first))]
        (folder / f"part-{number:04}.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")


def passages(count: int, seed: int) -> list[str]:
    """So many passages, as `write_passages` writes them."""
    draw = random.Random(seed)
    return [_passage(draw) for _ in range(count)]


def _passage(draw: random.Random) -> str:
    words = draw.choices(WORDS, k=PASSAGE_WORDS // 2)
    links = draw.choices(LINKS, k=PASSAGE_WORDS // 2)
    numbers = draw.choices(range(2, 90), k=PASSAGE_WORDS // 2)
    pairs = [f"{word} {link}" if n % 9 else f"{word} {n}," for word, link, n in zip(words, links, numbers, strict=True)]
    lines = [" ".join(pairs[at : at + 6]) for at in range(0, len(pairs), 6)]
    return "\n".join(lines) + "."


def passages_job(folder: Path, model: ModelSpec, seed: int = 0) -> JobSpec:
    """A `map_reduce` job over such a folder, without a verifier: one task, with one note, for each passage."""
    return JobSpec(
        name="bench",
        question="With which word does each passage begin?",
        inputs=(InputSpec(source=str(folder), origin="made up by swarm bench", licence="CC0-1.0"),),
        answer=AnswerSpec(columns=(Column(name="word", description="the first word of the passage"),), merge="set"),
        protocol=ProtocolSpec(options={"verify": False, "headlines": 0}),
        model=model,
        seed=seed,
    )
