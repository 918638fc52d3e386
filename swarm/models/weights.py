"""Which weights answer a channel.

Owns the way from a name in a job (`embedded`, a folder, a hub name; `base`, `shipped:reader`, an adapter's
folder) to folders on this machine and the digest of what is in them. It loads no weights; the engines do.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import ModelError, WeightsError
from swarm.models import embedded
from swarm.models.embedded import WeightsFolder
from swarm.shipped import shipped
from swarm.spec import ModelSpec

BASE = "base"
SHIPPED = "shipped:"
ADAPTER_FILE = "adapter_config.json"
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt")
TEXT_FILES = ("*.json", "*.jinja", "tokenizer.model", "*.txt")


@dataclass(frozen=True, slots=True)
class Served:
    """What answers a channel. `digest` names base and adapter together; `adapter` is empty when the base
    answers alone, or when it has been merged into `folder`."""

    folder: Path
    digest: str
    adapter: Path | None = None


def sources(spec: ModelSpec, channels: Mapping[str, str]) -> dict[str, Path | None]:
    """The adapter folder of each channel, None for the base. `model.weights` goes before what `channels`
    says.

    A channel without a source gets the shipped adapter of its name if the model is the embedded one and there
    is such an adapter, else the base. The channel with the empty name, the base, is always there.

    Raises:
        WeightsError: a source that was named does not exist.
    """
    wanted = {"": BASE, **(channels or spec.weights)}
    return {channel: _adapter(spec, channel, spec.weights.get(channel, source)) for channel, source in wanted.items()}


def needed_first(served: Mapping[str, Served]) -> list[Path]:
    """The folders to load before the first call. The base waits for its first call if there are other
    channels, because often no role asks for it."""
    named = {channel: choice for channel, choice in served.items() if channel} or served
    return list(dict.fromkeys(choice.folder for choice in named.values()))


def _adapter(spec: ModelSpec, channel: str, source: str) -> Path | None:
    if source == BASE or not (source or channel):
        return None
    if not source:
        folder = shipped("roles") / "weights" / channel
        return folder if spec.name == "embedded" and (folder / ADAPTER_FILE).is_file() else None
    if source.startswith(SHIPPED):
        folder = shipped("roles") / "weights" / source.removeprefix(SHIPPED)
        cure = "run `make reader` to build it, or write `base`"
    else:
        folder = Path(os.path.expanduser(source))
        cure = "give the folder of a LoRA adapter, `shipped:reader`, or `base`"
    if not (folder / ADAPTER_FILE).is_file():
        raise WeightsError(f"there is no adapter in {folder}", f"model.weights.{channel}", cure)
    return folder


def merged_channels(base: WeightsFolder, adapters: Mapping[str, Path | None]) -> dict[str, Served]:
    """Each channel with its adapter merged into the base; equal adapters share a folder. Merging is done once
    and kept."""
    served = {}
    for channel, adapter in adapters.items():
        folder = base if adapter is None else embedded.merged(base, adapter)
        served[channel] = Served(folder.path, folder.digest)
    return served


def adapter_channels(base: WeightsFolder, adapters: Mapping[str, Path | None]) -> dict[str, Served]:
    """Each channel with its adapter beside the base, for an engine that applies adapters while it runs."""
    served = {}
    for channel, adapter in adapters.items():
        if adapter is None:
            served[channel] = Served(base.path, base.digest)
        else:
            both = f"{base.digest}+{embedded.adapter_digest(adapter)}+lora"
            served[channel] = Served(base.path, hashlib.blake2b(both.encode(), digest_size=16).hexdigest(), adapter)
    return served


def chosen(served: Mapping[str, Served], channel: str) -> Served:
    """What answers a channel.

    Raises:
        ModelError: the channel was not among those that the model was made for.
    """
    if channel in served:
        return served[channel]
    known = ", ".join(repr(name) for name in served) or "none, because the model is not started"
    raise ModelError(
        f"no weights were loaded for the channel {channel!r}",
        f"model.weights.{channel}",
        f"channels: {known}",
        kind="refused",
        retryable=False,
    )


def base_weights(spec: ModelSpec) -> WeightsFolder:
    """The model's own weights, on this machine. The embedded model is converted on its first use (half a
    minute), a hub model is downloaded on its first use, unless HF_HUB_OFFLINE says otherwise.

    Raises:
        WeightsError: there is no such model.
    """
    if spec.name == "embedded":
        return embedded.embedded_base()
    folder = Path(os.path.expanduser(spec.name))
    if not folder.is_dir():
        folder = _downloaded(spec.name, [*WEIGHT_FILES, *TEXT_FILES], "model.name")
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{folder} holds no config.json",
            "model.name",
            "give a model folder in the layout of Hugging Face",
        )
    return WeightsFolder(folder, folder_digest(folder))


def tokenizer_folder(name: str, field: str = "model.name") -> Path:
    """A folder with the model's tokenizer and chat template; of a hub model only these files are fetched. `field` is the setting
    that names it."""
    if name == "embedded":
        return embedded.embedded_base().path
    folder = Path(os.path.expanduser(name))
    if folder.is_file():
        folder = folder.parent
    return folder if folder.is_dir() else _downloaded(name, list(TEXT_FILES), field)


def folder_digest(folder: Path) -> str:
    """Digest of a folder's weights and configuration, over names and contents; the order of files on disk
    plays no part.

    Files in the hub's cache are links to files named by their SHA-256, which is taken as it stands; others
    are read.
    """
    hashed = hashlib.blake2b(digest_size=16)
    files = {
        file for pattern in (*WEIGHT_FILES, "config.json", "generation_config.json") for file in folder.glob(pattern)
    }
    if not any(file.match(pattern) for file in files for pattern in WEIGHT_FILES):
        raise WeightsError(
            f"{folder} holds no weights", "model.name", f"it needs files such as {', '.join(WEIGHT_FILES)}"
        )
    for file in sorted(files):
        hashed.update(f"{file.name}\0{_content(file)}\0".encode())
    return hashed.hexdigest()


def _content(file: Path) -> str:
    target = file.resolve()
    if target.parent.name == "blobs" and len(target.name) == 64:
        return target.name
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _downloaded(name: str, patterns: list[str], field: str) -> Path:
    if name.startswith(("/", "./", "../", "~")):
        raise WeightsError(f"there is no folder {name}", field, "check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as problem:
        raise WeightsError(
            f"there is no folder {name!r} here, and the hub gives no such model: {_first_line(problem)}",
            field,
            f"check the name and the network, or fetch it beforehand: hf download {name}",
        ) from problem


def _first_line(problem: BaseException) -> str:
    return next(iter(str(problem).splitlines()), type(problem).__name__)
