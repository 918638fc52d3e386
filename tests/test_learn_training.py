"""The learner on a tiny random Llama: deterministic, resumable, and true to the general library."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.errors import WeightsError
from swarm.learn import Budget, Dataset, learn
from swarm.learn.data import storing
from swarm.learn.data.examples import Encoded, encode
from swarm.learn.data.records import TEMPLATES, record_group
from swarm.models.embedded import WeightsFolder, adapter_digest, merged
from swarm.window.tokens import FileTokenizer

torch = pytest.importorskip("torch")


def tiny_model(folder: Path) -> WeightsFolder:
    """A random Llama with a byte tokenizer, in the layout of a real one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(letters) + len(specials), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return WeightsFolder(folder, "tiny")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> WeightsFolder:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    random_ = random.Random(5)
    return storing.dataset_of("records", [record_group(TEMPLATES, random_, 3, 0.6) for _ in range(8)])


def budget(folder: Path, tokens: int, seed: int = 1, seconds: float = 0.0) -> Budget:
    return Budget(
        tokens, folder, seconds, seed, rank=2, first_layer=0, step_tokens=1500, checkpoint_steps=1, threads=1
    )


def test_the_same_budget_and_seed_give_the_same_bytes(
    base: WeightsFolder, dataset: Dataset, tmp_path: Path
) -> None:
    first = learn(base, dataset, budget(tmp_path / "a", 5000))
    second = learn(base, dataset, budget(tmp_path / "b", 5000))
    other = learn(base, dataset, budget(tmp_path / "c", 5000, seed=2))
    assert first.steps >= 2
    assert first.digest == second.digest == adapter_digest(first.adapter)
    assert first.losses == second.losses
    assert other.digest != first.digest
    assert (first.base, first.dataset, first.examples) == ("tiny", dataset.digest, second.examples)


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    base: WeightsFolder, dataset: Dataset, tmp_path: Path
) -> None:
    whole = learn(base, dataset, budget(tmp_path / "whole", 6000))
    stopped = learn(base, dataset, budget(tmp_path / "halves", 6000, seconds=1e-9))
    assert stopped.steps == 1 < whole.steps
    resumed = learn(base, dataset, budget(tmp_path / "halves", 6000))
    assert resumed.digest == whole.digest
    assert resumed.losses == whole.losses


def test_a_checkpoint_of_another_recipe_is_not_used(
    base: WeightsFolder, dataset: Dataset, tmp_path: Path
) -> None:
    learn(base, dataset, budget(tmp_path, 3000))
    fresh = learn(base, dataset, budget(tmp_path, 3000, seed=9))
    assert fresh.digest == learn(base, dataset, budget(tmp_path / "other", 3000, seed=9)).digest


def test_what_decides_whether_an_answer_is_empty_can_weigh_more(base: WeightsFolder, dataset: Dataset, tmp_path: Path) -> None:
    from swarm.learn.packed import batch_of

    short, long = Encoded((1,), (2,), (5, 6, 7)), Encoded((1,), (2,), tuple(range(20, 84)))
    plain, leaned = batch_of([[short, long]]).weights, batch_of([[short, long]], 0.5).weights
    assert float(plain[1] / plain[4]) == pytest.approx((64 / 3) ** 0.5)
    assert float(leaned[1] / leaned[4]) == pytest.approx(3**-0.5 / 0.5)
    assert float(leaned[1] / leaned[5]) == pytest.approx((64 / 3) ** 0.5)
    usual = learn(base, dataset, budget(tmp_path / "a", 3000))
    other = learn(base, dataset, replace(budget(tmp_path / "b", 3000), deciding=0.5))
    assert usual.digest != other.digest
    assert "deciding" not in usual.recipe and other.recipe["deciding"] == 0.5


def test_training_can_go_on_from_an_adapter(base: WeightsFolder, dataset: Dataset, tmp_path: Path) -> None:
    first = learn(base, dataset, budget(tmp_path / "first", 6000))
    second = learn(base, dataset, replace(budget(tmp_path / "second", 6000), start=first.adapter))
    assert second.losses[0] < first.losses[0]


def test_a_base_of_another_kind_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(WeightsError, match="mamba"):
        learn(WeightsFolder(tmp_path, "x"), dataset, budget(tmp_path / "run", 100))


def test_the_packed_pass_agrees_with_the_general_library(
    base: WeightsFolder, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups packed end to end with shared openings have the loss of each example on its own."""
    from transformers import AutoModelForCausalLM

    from swarm.learn.packed import PackedLlama, batch_of

    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    made = learn(base, dataset, budget(tmp_path / "run", 6000))
    whole = merged(base, made.adapter)
    assert whole == merged(base, made.adapter)
    tokenizer = FileTokenizer(whole.path)
    groups = [[encode(example, tokenizer) for example in group] for group in dataset.groups[:2]]
    packed = PackedLlama(whole.path)
    with torch.no_grad():
        loss = float(packed.loss(batch_of(groups)))
    general = AutoModelForCausalLM.from_pretrained(whole.path, dtype=torch.float32)
    total = weights = 0.0
    for one in (one for group in groups for one in group):
        ids = torch.tensor([[*one.shared, *one.own, *one.answer]])
        length = len(one.answer)
        with torch.no_grad():
            logits = general(ids).logits[0, -length - 1 : -1]
        each = torch.nn.functional.cross_entropy(logits, ids[0, -length:], reduction="none")
        total += float(each.sum()) * length**-0.5
        weights += length**0.5
    assert loss == pytest.approx(total / weights, rel=1e-4)


def test_the_adapter_is_in_the_layout_that_others_load(
    base: WeightsFolder, dataset: Dataset, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    made = learn(base, dataset, budget(tmp_path, 3000))
    assert json.loads((made.adapter / "adapter_config.json").read_text())["r"] == 2
    model = AutoModelForCausalLM.from_pretrained(base.path)
    loaded = PeftModel.from_pretrained(model, str(made.adapter))
    trained = {name: value for name, value in loaded.named_parameters() if "lora_B" in name}
    assert len(trained) == 2 * 7
    assert any(float(value.abs().max()) > 0 for value in trained.values())
