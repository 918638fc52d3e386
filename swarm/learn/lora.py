"""The LoRA learner: the training loop, its schedule, and checkpoints that a killed run goes on from.

Owns optimisation and what lies in the adapter folder. The model's arithmetic is `packed`'s, the data are the
caller's. The result depends on base, dataset and budget alone: a run that was interrupted ends with the same
bytes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from swarm.learn import Budget, Candidate, Dataset
from swarm.learn.data.examples import Encoded, encode
from swarm.learn.packed import PROJECTIONS, PackedLlama, batch_of
from swarm.models.embedded import WeightsFolder, adapter_digest
from swarm.window.tokens import FileTokenizer

WARM_UP = 20
"""Steps over which the learning rate rises."""
CLIP = 1.0
BETAS, EPSILON = (0.9, 0.98), 1e-8
USUAL_RATE = 450.0
"""Tokens a second on two cores with AVX512-BF16; only for the estimate that is printed first."""
STATE = "state.safetensors"


def train(base: WeightsFolder, dataset: Dataset, budget: Budget) -> Candidate:
    """See `swarm.learn.learn`."""
    if budget.threads:
        torch.set_num_threads(budget.threads)
    budget.folder.mkdir(parents=True, exist_ok=True)
    recipe = _recipe(base, dataset, budget)
    generator = torch.Generator().manual_seed(budget.seed)
    dtype = torch.bfloat16 if base_is_bf16(base.path) else torch.float32
    model = PackedLlama(base.path, budget.rank, 2.0 * budget.rank, generator, dtype, budget.first_layer)
    if budget.start is not None:
        for name, tensor in load_file(budget.start / "adapter_model.safetensors").items():
            model.lora[name].data.copy_(tensor.float())
    parameters = list(model.lora.values())
    moments = {
        f"{name}|{order}": torch.zeros_like(p)
        for name, p in model.lora.items()
        for order in ("first", "second")
    }
    progress = _resumed(budget.folder, recipe, model, moments)
    print(
        f"learn: {dataset.name}, {len(dataset.groups)} groups; up to {budget.tokens} tokens, about "
        f"{(budget.tokens - progress.tokens) / USUAL_RATE / 60:.0f} minutes; at step {progress.steps}",
        flush=True,
    )
    started, before = time.monotonic(), progress.seconds
    for groups in _steps(dataset, FileTokenizer(base.path), budget.step_tokens, progress.groups):
        if progress.tokens >= budget.tokens or (budget.seconds and progress.seconds >= budget.seconds):
            break
        batch = batch_of(groups, budget.deciding)
        loss = model.loss(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        rate = budget.rate * schedule(progress.steps, progress.tokens / budget.tokens, budget.decay)
        _adam(model.lora, moments, rate, progress.steps + 1)
        progress.add(len(groups), len(batch.ids), batch.examples, float(loss.detach()))
        progress.seconds = before + time.monotonic() - started
        if progress.steps % 10 == 0:
            recent = sum(progress.losses[-10:]) / len(progress.losses[-10:])
            speed = progress.tokens / progress.seconds
            print(
                f"step {progress.steps} loss {recent:.4f} norm {float(norm):.2f} rate {rate:.1e} "
                f"tokens {progress.tokens} "
                f"{speed:.0f}/s {progress.seconds / 60:.1f} min",
                flush=True,
            )
        if progress.steps % budget.checkpoint_steps == 0:
            _checkpoint(budget.folder, recipe, base, model, moments, progress)
    _checkpoint(budget.folder, recipe, base, model, moments, progress)
    adapter = budget.folder / "adapter"
    return Candidate(
        adapter, adapter_digest(adapter), base.digest, dataset.digest, recipe,
        progress.steps, progress.tokens, progress.examples, progress.seconds, tuple(progress.losses),
    )  # fmt: skip


def schedule(steps: int, done: float, decay: float) -> float:
    """The learning rate's share of its peak: a short rise, a plateau, a straight fall to a twentieth at the
    end.

    Without decay it does not depend on the budget, so a plateau can be ended anywhere and gone on from.
    """
    rise = min(1.0, (steps + 1) / WARM_UP)
    fall = 1.0 if done < 1 - decay else (1 - done) / decay
    return max(0.05, rise * fall)


def base_is_bf16(folder: Path) -> bool:
    return bool(json.loads((folder / "config.json").read_text()).get("dtype") == "bfloat16")


class _Progress:
    """What has been done so far; saved with each checkpoint."""

    def __init__(self) -> None:
        self.steps = self.groups = self.tokens = self.examples = 0
        self.seconds = 0.0
        self.losses: list[float] = []

    def add(self, groups: int, tokens: int, examples: int, loss: float) -> None:
        self.steps += 1
        self.groups += groups
        self.tokens += tokens
        self.examples += examples
        self.losses.append(loss)


def _recipe(base: WeightsFolder, dataset: Dataset, budget: Budget) -> dict[str, object]:
    """All that decides the result, for the manifest and for telling whose checkpoint this is."""
    return {
        "learner": "lora",
        "base": base.digest,
        "dataset": dataset.digest,
        "seed": budget.seed,
        "rank": budget.rank,
        "first_layer": budget.first_layer,
        "alpha": 2 * budget.rank,
        "rate": budget.rate,
        "tokens": budget.tokens,
        "step_tokens": budget.step_tokens,
        "warm_up": WARM_UP,
        "decay": budget.decay,
        "clip": CLIP,
        "start": adapter_digest(budget.start) if budget.start is not None else "",
        **({"deciding": budget.deciding} if budget.deciding else {}),
    }


def _steps(dataset: Dataset, tokenizer: FileTokenizer, size: int, skip: int) -> Iterator[list[list[Encoded]]]:
    """Groups, encoded, joined until a step has at least `size` tokens; the first `skip` are done already."""
    step: list[list[Encoded]] = []
    tokens = 0
    for group in dataset.groups[skip:]:
        encoded = [encode(example, tokenizer) for example in group]
        step.append(encoded)
        tokens += len(encoded[0].shared) + sum(len(one.own) + len(one.answer) for one in encoded)
        if tokens >= size:
            yield step
            step, tokens = [], 0
    if step:
        yield step


def _adam(lora: dict[str, Tensor], moments: dict[str, Tensor], rate: float, step: int) -> None:
    """One step of Adam without weight decay; gradients are cleared."""
    with torch.no_grad():
        names = list(lora)
        grads = [grad for name in names if (grad := lora[name].grad) is not None]
        first, second = ([moments[f"{name}|{order}"] for name in names] for order in ("first", "second"))
        torch._foreach_lerp_(first, grads, 1 - BETAS[0])
        torch._foreach_mul_(second, BETAS[1])
        torch._foreach_addcmul_(second, grads, grads, 1 - BETAS[1])
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, (1 - BETAS[1] ** step) ** 0.5)
        torch._foreach_add_(root, EPSILON)
        torch._foreach_addcdiv_([lora[name] for name in names], first, root, -rate / (1 - BETAS[0] ** step))
        for name in names:
            lora[name].grad = None


def _checkpoint(
    folder: Path,
    recipe: dict[str, object],
    base: WeightsFolder,
    model: PackedLlama,
    moments: dict[str, Tensor],
    progress: _Progress,
) -> None:
    """Writes the state and an adapter that can be served, each in one rename."""
    state = {**{name: p.detach() for name, p in model.lora.items()}, **moments}
    facts = {"recipe": recipe, "progress": vars(progress)}
    draft = folder / f"{STATE}.draft"
    save_file(state, draft, metadata={"facts": json.dumps(facts, sort_keys=True)})
    os.replace(draft, folder / STATE)
    adapter = folder / "adapter"
    adapter.mkdir(exist_ok=True)
    small = {name: p.detach().to(torch.bfloat16) for name, p in model.lora.items()}
    save_file(small, adapter / "adapter_model.safetensors.draft")
    os.replace(adapter / "adapter_model.safetensors.draft", adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": f"digest:{base.digest}",
        "r": recipe["rank"],
        "lora_alpha": recipe["alpha"],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(PROJECTIONS),
        "layers_to_transform": list(range(int(str(recipe["first_layer"])), model.layers)),
        "layers_pattern": "layers",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def _resumed(
    folder: Path, recipe: dict[str, object], model: PackedLlama, moments: dict[str, Tensor]
) -> _Progress:
    """The progress of an earlier run of the same recipe, its state loaded; else a fresh start."""
    from safetensors import safe_open

    progress = _Progress()
    file = folder / STATE
    if not file.is_file():
        return progress
    with safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()["facts"])
    if facts["recipe"] != recipe:
        print(f"learn: the checkpoint in {folder} is of another recipe and is not used", flush=True)
        return progress
    state = load_file(file)
    for name, parameter in model.lora.items():
        parameter.data.copy_(state[name])
    for name, moment in moments.items():
        moment.copy_(state[name])
    vars(progress).update(facts["progress"])
    return progress
