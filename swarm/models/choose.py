"""From a job's `model` section to a model, a tokenizer and a chat template.

Owns the choice of the engine. Nothing is loaded here beyond a tokenizer; weights are loaded when the model is
started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from swarm.models.interface import Model
from swarm.models.template import folder_template
from swarm.models.weights import tokenizer_folder
from swarm.spec import ModelSpec
from swarm.window.pack import CHATML, ENDPOINT, ChatTemplate
from swarm.window.tokens import ApproximateTokenizer, FileTokenizer, Tokenizer


def create_model(spec: ModelSpec, channels: Mapping[str, str] | None = None) -> Model:
    """The model of a job, not started.

    Args:
        channels: the channels that the job's roles name, each with its source (`base`, `shipped:NAME`, an
            adapter's folder) or "" for the default; `spec.weights` goes before. Only these and the channel
            "", the base, can be called. None: those of `spec.weights`. Endpoints and scripts have no
            channels.

    Raises:
        WeightsError: the model, or an adapter, does not exist.
        ModelError: the engine's packages are missing, or a script or key is not there.
    """
    tokenizer, template = create_tokenizer(spec)
    if spec.engine == "scripted":
        from swarm.models.scripted import ScriptedModel

        return ScriptedModel(spec.name, tokenizer, template)
    if spec.engine == "openai":
        from swarm.models.openai import EndpointModel

        return EndpointModel(spec, tokenizer)
    from swarm.models.weights import sources

    adapters = sources(spec, channels or {})
    if spec.engine == "transformers":
        from swarm.models.hf import TransformersModel

        return TransformersModel(spec, adapters, tokenizer, template)
    from swarm.models.vllm import VllmModel

    return VllmModel(spec, adapters, tokenizer, template)


def create_tokenizer(spec: ModelSpec) -> tuple[Tokenizer, ChatTemplate]:
    """What packs windows for this model: exact for weights that are loaded here, an estimate where nothing is
    known.

    Raises:
        WeightsError: the model does not exist, or its chat template cannot be split into turns.
        WindowError: the tokenizer cannot be read.
    """
    if spec.engine in ("openai", "scripted"):
        tokenizer = FileTokenizer(_tokenizer_file(spec.tokenizer)) if spec.tokenizer else ApproximateTokenizer()
        return tokenizer, ENDPOINT if spec.engine == "openai" else CHATML
    folder = tokenizer_folder(spec.name)
    own = _tokenizer_file(spec.tokenizer) if spec.tokenizer else folder / "tokenizer.json"
    return FileTokenizer(own), CHATML if spec.name == "embedded" else folder_template(folder)


def _tokenizer_file(name: str) -> Path:
    file = Path(os.path.expanduser(name))
    return file if file.is_file() else tokenizer_folder(name, "model.tokenizer") / "tokenizer.json"
