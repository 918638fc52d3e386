"""`python -m swarm.learn.reader`: rebuilds the embedded reader's adapter from nothing, and judges it.

Owns the recipe and the manifest that stands beside the adapter. Each stage leaves a file in the work folder,
so that a run that was stopped goes on where it was: data, checkpoints of each training stage, scores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.learn import Budget, Candidate, Dataset, learn
from swarm.learn.data import judging, mixture, pairs, storing
from swarm.learn.data.examples import Example
from swarm.models.embedded import (
    MODEL_NAME,
    WeightsFolder,
    adapter_digest,
    cache_folder,
    embedded_base,
    merged,
)
from swarm.shipped import shipped
from swarm.window.tokens import FileTokenizer


@dataclass(frozen=True)
class Stage:
    """One stretch of training; `shares` are those of the mixture, the usual ones when empty."""

    name: str
    tokens: int
    rate: float
    seed: int
    shares: tuple[tuple[str, float], ...] = ()


USUAL_RATE = 450.0
"""Tokens a second on two cores with AVX512-BF16 and nothing else to do."""
STAGES: tuple[Stage, ...] = (Stage("reader", 1_300_000, 1e-3, 1),)
SPARE = 1.02
"""Data are made for a little more than a stage needs, because steps end on whole groups."""


def build(stage: Stage, base: WeightsFolder, folder: Path) -> Dataset:
    """The stage's dataset, from its file or made now (about three minutes)."""
    file = folder / f"{stage.name}.jsonl"
    if not file.is_file():
        print(f"data of stage {stage.name}: about 3 minutes", flush=True)
        tokenizer = FileTokenizer(base.path)
        groups = mixture.stream(
            mixture.training_material(tokenizer), tokenizer, stage.seed, dict(stage.shares) or None
        )
        storing.write(storing.take(stage.name, groups, tokenizer, int(stage.tokens * SPARE)), file)
    return storing.read(stage.name, file)


def train(base: WeightsFolder, folder: Path, threads: int) -> list[tuple[Stage, Dataset, Candidate]]:
    """All stages in turn, each from the adapter of the one before."""
    done: list[tuple[Stage, Dataset, Candidate]] = []
    for stage in STAGES:
        dataset = build(stage, base, folder)
        start = done[-1][2].adapter if done else None
        budget = Budget(
            stage.tokens, folder / stage.name, seed=stage.seed, rate=stage.rate, threads=threads, start=start
        )
        done.append((stage, dataset, learn(base, dataset, budget)))
    return done


def evaluate(base: WeightsFolder, adapter: Path, pair_file: Path, sizes: float = 1.0) -> dict[str, Any]:
    """Scores on everything held out; `sizes` scales the samples (the demo's package is always read whole)."""
    from swarm.learn.evaluating import Judge, raise_checked, score

    judge = Judge(merged(base, adapter))
    material = mixture.held_out_material(FileTokenizer(base.path))
    scores: dict[str, Any] = {}

    def read(name: str, examples: list[Example], raising: bool = False) -> None:
        readings = judge.readings(examples)
        scores[name] = score(readings).facts()
        if raising:
            checked = [raise_checked(reading) for reading in readings]
            scores[f"{name}, quote must be a raise"] = score(checked).facts()
            scores[f"{name}, and verified"] = score(judge.verified(checked)).facts()
        print(name, json.dumps(scores[name]), flush=True)

    known = pairs.read_pairs(pair_file)
    said = judge.verdicts([pairs.pair_example(pair) for pair in known])
    scores["verifier"] = verdict_facts([pair["supported"] for pair in known], said)
    print("verifier", json.dumps(scores["verifier"]), flush=True)
    read(f"trained schema, {judging.DEMO_PACKAGE}", judging.demo(material), raising=True)
    read(
        "trained schema, other held-out packages",
        judging.other_packages(material, int(500 * sizes)),
        raising=True,
    )
    read("held-out wording", judging.held_out_wordings(material, int(300 * sizes)))
    read("held-out schema", judging.held_out_schemas(material, int(300 * sizes)))
    read("generated records, held-out templates", judging.held_out_records(int(180 * sizes)))
    read("prose, language documentation", judging.held_out_prose(material, int(240 * sizes)))
    for name, examples in (
        ("planner", judging.plans(int(60 * sizes))),
        ("writer", judging.writings(material, int(24 * sizes))),
    ):
        right = sum(judge.exact(examples))
        scores[name] = {"samples": len(examples), "exact": right, "share": round(right / len(examples), 3)}
        print(name, json.dumps(scores[name]), flush=True)
    return scores


def verdict_facts(supported: list[bool], said: list[bool]) -> dict[str, Any]:
    accepted = sum(1 for truth, answer in zip(supported, said, strict=True) if truth and answer)
    rejected = sum(1 for truth, answer in zip(supported, said, strict=True) if not truth and not answer)
    yes = sum(supported)
    return {
        "supported": yes,
        "accepted": accepted,
        "unsupported": len(supported) - yes,
        "rejected": rejected,
        "accept_rate": round(accepted / yes, 3),
        "reject_rate": round(rejected / (len(supported) - yes), 3),
    }


def manifest(
    base: WeightsFolder, adapter: Path, done: list[tuple[Stage, Dataset, Candidate]], scores: dict[str, Any]
) -> dict[str, Any]:
    """What the adapter is, what it was made from and cost, and how it was judged."""
    return {
        "model": MODEL_NAME,
        "adapter": adapter_digest(adapter),
        "base": base.digest,
        "licence": "Apache-2.0",
        "command": "make reader",
        "stages": [
            {
                "name": stage.name,
                "dataset": dataset.digest,
                "recipe": candidate.recipe,
                "shares": dict(stage.shares) or mixture.SHARES,
                "steps": candidate.steps,
                "tokens": candidate.tokens,
                "examples": candidate.examples,
                "seconds": round(candidate.seconds),
                "final_loss": round(sum(candidate.losses[-20:]) / max(1, len(candidate.losses[-20:])), 4),
            }
            for stage, dataset, candidate in done
        ],
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}",
        "scores": scores,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m swarm.learn.reader", description=__doc__)
    parser.add_argument("--work", type=Path, default=None, help="folder of data and checkpoints")
    parser.add_argument(
        "--out", type=Path, default=shipped("roles") / "weights" / "reader", help="where the adapter goes"
    )
    parser.add_argument("--pairs", type=Path, default=Path("tests/data/verifier_pairs.jsonl"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--evaluate", type=Path, default=None, metavar="ADAPTER", help="only judge this adapter folder"
    )
    parser.add_argument("--sizes", type=float, default=1.0, help="scale of the judged samples")
    given = parser.parse_args()
    base = embedded_base()
    if given.evaluate is not None:
        print(json.dumps(evaluate(base, given.evaluate, given.pairs, given.sizes), indent=1))
        return
    work = given.work or cache_folder() / "reader"
    work.mkdir(parents=True, exist_ok=True)
    tokens = sum(stage.tokens for stage in STAGES)
    print(
        f"reader: {len(STAGES)} stages, {tokens} tokens, {tokens / USUAL_RATE / 60:.0f} minutes + judging",
        flush=True,
    )
    started = time.monotonic()
    done = train(base, work, given.threads)
    adapter = done[-1][2].adapter
    scores = evaluate(base, adapter, given.pairs, given.sizes)
    publish(base, adapter, done, scores, given.out)
    print(f"reader: {given.out}, {(time.monotonic() - started) / 60:.0f} minutes", flush=True)


def publish(
    base: WeightsFolder,
    adapter: Path,
    done: list[tuple[Stage, Dataset, Candidate]],
    scores: dict[str, Any],
    out: Path,
) -> None:
    """Copies the adapter and writes its manifest."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(adapter / name, out / name)
    text = json.dumps(manifest(base, adapter, done, scores), indent=1, sort_keys=True) + "\n"
    (out / "manifest.json").write_text(text)


if __name__ == "__main__":
    main()
