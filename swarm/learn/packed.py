"""A Llama forward pass for training adapters on a CPU: no padding, shared openings computed once, frozen
weights.

Owns the arithmetic of the model with LoRA on its seven projections. It does not tokenise, optimise or save.
On two cores it trains twice as many tokens a second as the general library, because attention runs over each
example's own length, logits are computed only where an answer is predicted, and examples of a group share the
opening of their prompts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from swarm.errors import WeightsError
from swarm.learn.data.examples import Encoded

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Batch:
    """Several groups end to end. `blocks` are (first, after, opening's first, opening's after) positions."""

    ids: Tensor
    positions: Tensor
    blocks: tuple[tuple[int, int, int, int], ...]
    predict: Tensor
    """Indexes of the positions whose next token is part of an answer."""
    targets: Tensor
    weights: Tensor
    """One for each target; they sum to 1. A long answer counts with the root of its length, but for the tokens that decide
    whether it is empty (see `Budget.deciding`)."""
    leads: tuple[bool, ...]
    """For each target, whether it is the first of its answer."""
    examples: int


DECIDING = 2
"""So many tokens of an answer decide whether it is empty: `[]` and `[["` begin alike."""


def batch_of(groups: Sequence[Sequence[Encoded]], deciding: float = 0.0) -> Batch:
    """Lays groups of encoded examples end to end; `deciding` is the least weight of an answer's first tokens."""
    ids: list[int] = []
    positions: list[int] = []
    blocks: list[tuple[int, int, int, int]] = []
    predict: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    leads: list[bool] = []
    for group in groups:
        opening, opens = group[0].shared, len(ids)
        ids += opening
        positions += range(len(opening))
        if opening:
            blocks.append((opens, len(ids), opens, opens))
        for example in group:
            first = len(ids)
            ids += (*example.own, *example.answer[:-1])
            positions += range(len(opening), len(opening) + len(ids) - first)
            blocks.append((first, len(ids), opens, opens + len(opening)))
            predict += range(len(ids) - len(example.answer), len(ids))
            targets += example.answer
            leads += [number == 0 for number in range(len(example.answer))]
            weight = len(example.answer) ** -0.5
            weights += [max(weight, deciding if number < DECIDING else 0.0) for number in range(len(example.answer))]
    spread = torch.tensor(weights)
    return Batch(
        torch.tensor(ids),
        torch.tensor(positions),
        tuple(blocks),
        torch.tensor(predict),
        torch.tensor(targets),
        spread / spread.sum(),
        tuple(leads),
        sum(len(group) for group in groups),
    )


class _Attention(torch.autograd.Function):
    """Causal attention of each block to its opening and itself; query heads of a key head go together."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: tuple[tuple[int, int, int, int], ...]
    ) -> Tensor:
        out = torch.empty_like(q)
        kept: list[Tensor] = []
        for block in blocks:
            queries, keys, values = _of_block(q, k, v, block)
            first, after, opens, closes = block
            length, width = after - first, closes - opens + after - first
            scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(q.shape[-1] ** -0.5)
            future = torch.ones(length, width, dtype=torch.bool).triu(width - length + 1)
            shares = (
                scores.view(k.shape[1], -1, length, width).masked_fill_(future, float("-inf")).softmax(-1)
            )
            shares = shares.view_as(scores)
            out[first:after] = _to_rows(torch.bmm(shares, values), q.shape[1], length)
            kept.append(shares)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.blocks = blocks
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block, shares in zip(ctx.blocks, kept, strict=True):
            first, after, opens, closes = block
            queries, keys, values = _of_block(q, k, v, block)
            incoming, _, _ = _of_block(grad.contiguous(), k, v, block)
            of_values = torch.bmm(shares.transpose(1, 2), incoming).transpose(0, 1)
            of_shares = torch.bmm(incoming, values.transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype).mul_(
                q.shape[-1] ** -0.5
            )
            grad_q[first:after] = _to_rows(torch.bmm(of_scores, keys), q.shape[1], after - first)
            of_keys = torch.bmm(of_scores.transpose(1, 2), queries).transpose(0, 1)
            for whole, part in ((grad_k, of_keys), (grad_v, of_values)):
                whole[opens:closes] += part[: closes - opens]
                whole[first:after] += part[closes - opens :]
        return grad_q, grad_k, grad_v, None


def _of_block(
    q: Tensor, k: Tensor, v: Tensor, block: tuple[int, int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (key heads, heads each x length, width) of a block, and the keys and values it may see."""
    first, after, opens, closes = block
    heads = k.shape[1]
    queries = q[first:after].view(after - first, heads, -1, q.shape[-1]).permute(1, 2, 0, 3)
    queries = queries.reshape(heads, -1, q.shape[-1])
    keys, values = (torch.cat((x[opens:closes], x[first:after])).transpose(0, 1) for x in (k, v))
    return queries, keys, values


def _to_rows(heads_first: Tensor, heads: int, length: int) -> Tensor:
    """The inverse of the queries' layout: (length, query heads, width)."""
    return heads_first.view(heads, length, -1).transpose(0, 1)


class PackedLlama:
    """Frozen weights in bf16, and trainable LoRA pairs in float32 (`lora`, by their names in the adapter)."""

    def __init__(
        self,
        folder: Path,
        rank: int = 0,
        alpha: float = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        first_layer: int = 0,
    ) -> None:
        """Reads a folder of weights. Layers before `first_layer`, and all with `rank` 0, have no LoRA."""
        config = json.loads((folder / "config.json").read_text())
        if config.get("model_type") != "llama":
            raise WeightsError(
                f"cannot train a {config.get('model_type')}", str(folder), "Use a Llama model as base."
            )
        self.width, self.layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        self.heads, self.key_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
        self.head = int(config.get("head_dim") or self.width // self.heads)
        self.epsilon = float(config["rms_norm_eps"])
        self.theta = float((config.get("rope_parameters") or config).get("rope_theta", 10_000.0))
        self.scale = alpha / max(1, rank)
        tensors = {
            name: tensor.to(dtype or tensor.dtype)
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        self.embedding = tensors["model.embed_tokens.weight"]
        self.out = tensors.get("lm_head.weight", self.embedding)
        self.final = tensors["model.norm.weight"]
        self.frozen: list[dict[str, Tensor]] = []
        self.lora: dict[str, Tensor] = {}
        for number in range(self.layers):
            stem = f"model.layers.{number}."
            part = {
                name.removeprefix(stem).removesuffix(".weight"): t
                for name, t in tensors.items()
                if name.startswith(stem)
            }
            self.frozen.append(_fused(part))
            for name in PROJECTIONS if rank and number >= first_layer else ():
                owner = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
                outputs, inputs = part[f"{owner}.{name}"].shape
                key = f"base_model.model.{stem}{owner}.{name}"
                first = torch.empty(rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
                self.lora[f"{key}.lora_A.weight"] = first.requires_grad_()
                self.lora[f"{key}.lora_B.weight"] = torch.zeros(outputs, rank).requires_grad_()

    def loss(self, batch: Batch) -> Tensor:
        """Weighted mean of the cross-entropy of the answers' tokens."""
        hidden = self.hidden(batch)[batch.predict]
        logits = functional.linear(hidden, self.out).float()
        return (functional.cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum()

    def first_tokens(self, batch: Batch) -> list[int]:
        """The most likely first token of each example's answer, in order."""
        firsts = [at for number, at in enumerate(batch.predict.tolist()) if batch.leads[number]]
        with torch.no_grad():
            return functional.linear(self.hidden(batch)[firsts], self.out).argmax(-1).tolist()

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states (positions, width)."""
        h = self.embedding[batch.ids]
        turns = batch.positions[:, None] * self.theta ** (-torch.arange(0, self.head, 2) / self.head)
        cos, sin = (angle.to(h.dtype)[:, None] for angle in (turns.cos(), turns.sin()))
        queries, keys = self.heads * self.head, self.key_heads * self.head
        for number, frozen in enumerate(self.frozen):
            x = self._normed(h, frozen["input_layernorm"])
            qkv = self._linear(x, frozen["qkv"], number, "self_attn", ("q_proj", "k_proj", "v_proj"))
            turned = _turned(qkv[:, : queries + keys].view(len(h), -1, self.head), cos, sin)
            q, k = turned[:, : self.heads], turned[:, self.heads :]
            v = qkv[:, queries + keys :].view(len(h), -1, self.head)
            seen: Tensor = _Attention.apply(q.contiguous(), k, v, batch.blocks)  # type: ignore[no-untyped-call]
            h = h + self._linear(seen.reshape(len(h), queries), frozen["o"], number, "self_attn", ("o_proj",))
            x = self._normed(h, frozen["post_attention_layernorm"])
            gate, up = self._linear(x, frozen["gate_up"], number, "mlp", ("gate_proj", "up_proj")).chunk(
                2, -1
            )
            h = h + self._linear(functional.silu(gate) * up, frozen["down"], number, "mlp", ("down_proj",))
        return self._normed(h, self.final)

    def _normed(self, h: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(h, (self.width,), weight, self.epsilon)

    def _linear(self, x: Tensor, weight: Tensor, number: int, owner: str, names: tuple[str, ...]) -> Tensor:
        """Fused projections: one product with the frozen weight, two thin ones with the LoRA pairs."""
        keys = [f"base_model.model.model.layers.{number}.{owner}.{name}" for name in names]
        if f"{keys[0]}.lora_A.weight" not in self.lora:
            return functional.linear(x, weight)
        first = torch.cat([self.lora[f"{key}.lora_A.weight"] for key in keys]).to(x.dtype)
        second = (
            torch.block_diag(*(self.lora[f"{key}.lora_B.weight"] for key in keys)).mul(self.scale).to(x.dtype)
        )
        return torch.addmm(functional.linear(x, weight), functional.linear(x, first), second.t())


def _fused(part: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "qkv": torch.cat([part[f"self_attn.{name}_proj"] for name in "qkv"]),
        "o": part["self_attn.o_proj"],
        "gate_up": torch.cat([part["mlp.gate_proj"], part["mlp.up_proj"]]),
        "down": part["mlp.down_proj"],
        "input_layernorm": part["input_layernorm"],
        "post_attention_layernorm": part["post_attention_layernorm"],
    }


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves as in Hugging Face's Llama."""
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)
