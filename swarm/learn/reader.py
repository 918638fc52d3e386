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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from swarm.learn import Budget, Candidate, Dataset, learn
from swarm.learn.data import judging, mixture, pairs, storing
from swarm.learn.data.examples import Example
from swarm.learn.evaluating import Judge, raise_checked, score
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

Part = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One stretch of training, from the adapter of the one before.

    `tokens` are trained on, out of `made` tokens of data with these `shares` of the mixture.
    """

    name: str
    tokens: int
    made: int
    decay: float
    seed: int
    shares: tuple[tuple[str, float], ...]
    deciding: float = 0.0


def shares(
    main: float,
    code: float,
    records: float,
    prose: float,
    claims: float,
    others: float,
    asked: float = 0.0,
    invented: float = 0.0,
) -> tuple[tuple[str, float], ...]:
    """Shares of the tokens: main question, other code, records, prose, claims on the main one and others; questions put
    together anew for each group, about code and about invented things."""
    return (
        ("main", main),
        ("code", code),
        ("records", records),
        ("prose", prose),
        ("verify:main", claims),
        ("verify:other", others),
        ("plan", 0.015),
        ("write", 0.025),
        *((("asked", asked), ("invented", invented)) if asked or invented else ()),
    )


STAGES: tuple[Stage, ...] = (
    Stage("reader", 404_400, 1_500_000, 0.0, 1, shares(0.42, 0.12, 0.06, 0.05, 0.21, 0.10)),
    Stage("settle", 215_000, 400_000, 1.0, 2, shares(0.37, 0.10, 0.04, 0.05, 0.27, 0.13)),
    Stage("polish", 235_000, 400_000, 1.0, 3, shares(0.20, 0.04, 0.03, 0.03, 0.50, 0.16)),
    Stage("firm", 1_200_000, 1_210_000, 1.0, 5, shares(0.29, 0.06, 0.04, 0.11, 0.17, 0.29)),
    Stage("widen", 446_987, 1_000_000, 0.0, 6, shares(0.07, 0.08, 0.05, 0.04, 0.04, 0.07, 0.35, 0.26)),
    Stage("follow", 290_000, 340_000, 1.0, 7, shares(0.17, 0.05, 0.04, 0.05, 0.11, 0.15, 0.23, 0.16), 0.4),
    Stage("steady", 240_000, 280_000, 1.0, 8, shares(0.42, 0.06, 0.04, 0.05, 0.12, 0.10, 0.10, 0.07), 0.4),
)
"""Reading is learnt sooner than judging: the first stages see more and more claims. The fifth and the sixth are about
following the question: most of what they ask is asked once. The last gives the demo's question back what that cost it."""
RATE = 1e-3
USUAL_RATE = 450.0
"""Tokens a second on two cores with AVX512-BF16 and nothing else to do."""


def build(stage: Stage, base: WeightsFolder, folder: Path) -> Dataset:
    """The stage's dataset, from its file or made now."""
    file = folder / f"{stage.name}.jsonl"
    if not file.is_file():
        print(f"data of stage {stage.name}: up to 3 minutes", flush=True)
        groups = mixture.stream(_material(base), FileTokenizer(base.path), stage.seed, dict(stage.shares))
        storing.write(storing.take(stage.name, groups, FileTokenizer(base.path), stage.made), file)
    return storing.read(stage.name, file)


@cache
def _material(base: WeightsFolder) -> mixture.Material:
    return mixture.training_material(FileTokenizer(base.path))


def train(base: WeightsFolder, folder: Path, threads: int) -> list[tuple[Stage, Dataset, Candidate]]:
    """All stages in turn, each from the adapter of the one before."""
    done: list[tuple[Stage, Dataset, Candidate]] = []
    for stage in STAGES:
        dataset = build(stage, base, folder)
        budget = Budget(
            stage.tokens,
            folder / stage.name,
            seed=stage.seed,
            rate=RATE,
            decay=stage.decay,
            deciding=stage.deciding,
            threads=threads,
            start=done[-1][2].adapter if done else None,
        )
        done.append((stage, dataset, learn(base, dataset, budget)))
    return done


def evaluate(
    base: WeightsFolder, adapter: Path, pair_file: Path, folder: Path, size: float = 1.0, only: str = ""
) -> dict[str, Any]:
    """Scores on everything held out, each kept in a file of `folder` so that a stopped run goes on.

    `size` scales the samples (pairs and the demo's package are always read whole); `only` names one part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judge = Judge(merged(base, adapter))
    material = mixture.held_out_material(FileTokenizer(base.path))
    scores: dict[str, Any] = {}
    for name, part in parts(judge, material, pair_file, size).items():
        file = folder / f"{name}.json"
        if not file.is_file() and only in ("", name):
            started = time.monotonic()
            facts = part() | {"seconds": round(time.monotonic() - started)}
            file.write_text(json.dumps(facts, indent=1) + "\n")
        if file.is_file():
            scores[name] = json.loads(file.read_text())
            print(name, json.dumps(scores[name]), flush=True)
    return scores


def parts(judge: Judge, material: mixture.Material, pair_file: Path, size: float) -> dict[str, Part]:
    """What is judged, by name."""

    def claims() -> dict[str, Any]:
        known = pairs.read_pairs(pair_file)
        said = judge.verdicts([pairs.pair_example(pair) for pair in known])
        main = [at for at, pair in enumerate(known) if pair["family"] == "verify:raises"]
        truth = [bool(pair["supported"]) for pair in known]
        of_main = verdict_facts([truth[at] for at in main], [said[at] for at in main])
        return verdict_facts(truth, said) | {"main question": of_main}

    def raising(draw: Callable[[], list[Example]]) -> Part:
        def run() -> dict[str, Any]:
            readings = judge.readings(draw())
            checked = [raise_checked(reading) for reading in readings]
            return {
                "values stand in the passage": score(readings).facts(),
                "quote is a raise": score(checked).facts(),
                "and verified": score(judge.verified(checked)).facts(),
            }

        return run

    def reading(draw: Callable[[], list[Example]]) -> Part:
        return lambda: score(judge.readings(draw())).facts()

    def exact(draw: Callable[[], list[Example]]) -> Part:
        def run() -> dict[str, Any]:
            right = judge.exact(draw())
            return {"samples": len(right), "exact": sum(right), "share": round(sum(right) / len(right), 3)}

        return run

    return {
        "verifier": claims,
        "trained schema, demo package": raising(lambda: judging.demo(material)),
        "trained schema, other packages": raising(lambda: judging.other_packages(material, int(400 * size))),
        "held-out wording": reading(lambda: judging.held_out_wordings(material, int(240 * size))),
        "held-out schema": reading(lambda: judging.held_out_schemas(material, int(240 * size))),
        "generated records": reading(lambda: judging.held_out_records(int(120 * size))),
        "prose": reading(lambda: judging.held_out_prose(material, int(180 * size))),
        "planner": exact(lambda: judging.plans(int(40 * size))),
        "writer": exact(lambda: judging.writings(material, int(16 * size))),
    }


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
    base: WeightsFolder, adapter: Path, done: list[tuple[Stage, Dataset, Candidate]], scores: dict[str, Any], size: float
) -> dict[str, Any]:
    """What the adapter is, what it was made from and cost, and how it was judged: `size` is the scale of the samples."""
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
                "shares": dict(stage.shares),
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
        "size": size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m swarm.learn.reader", description=__doc__)
    parser.add_argument("--work", type=Path, default=None, help="folder of data, checkpoints and scores")
    parser.add_argument(
        "--out", type=Path, default=shipped("roles") / "weights" / "reader", help="where the adapter goes"
    )
    parser.add_argument("--pairs", type=Path, default=Path("tests/data/verifier_pairs.jsonl"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--size", type=float, default=1.0, help="scale of the judged samples")
    parser.add_argument("--judge", type=Path, default=None, metavar="ADAPTER", help="only judge this adapter")
    parser.add_argument("--only", default="", metavar="PART", help="judge only this part, e.g. `verifier`")
    given = parser.parse_args()
    base = embedded_base()
    work = given.work or cache_folder() / "reader"
    work.mkdir(parents=True, exist_ok=True)
    if given.judge is not None:
        evaluate(
            base,
            given.judge,
            given.pairs,
            work / "scores" / adapter_digest(given.judge),
            given.size,
            given.only,
        )
        return
    tokens = sum(stage.tokens for stage in STAGES)
    minutes = tokens / USUAL_RATE / 60
    print(
        f"reader: {len(STAGES)} stages, {tokens} tokens, {minutes:.0f} minutes and as long for the rest",
        flush=True,
    )
    done = train(base, work, given.threads)
    adapter = done[-1][2].adapter
    scores = evaluate(base, adapter, given.pairs, work / "scores" / adapter_digest(adapter), given.size)
    publish(base, adapter, done, scores, given.size, given.out)
    print(f"reader: {given.out}", flush=True)


def publish(
    base: WeightsFolder,
    adapter: Path,
    done: list[tuple[Stage, Dataset, Candidate]],
    scores: dict[str, Any],
    size: float,
    out: Path,
) -> None:
    """Copies the adapter and writes its manifest."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(adapter / name, out / name)
    text = json.dumps(manifest(base, adapter, done, scores, size), indent=1, sort_keys=True) + "\n"
    (out / "manifest.json").write_text(text)


if __name__ == "__main__":
    main()
