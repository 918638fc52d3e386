"""The product's own road with its own model: the shipped reader on vLLM, on Ray, and behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swarm.models import embedded
from swarm.shipped import shipped
from swarm.testing.vllm_server import VllmServer
from tests.commands import ROOT, swarm

pytestmark = pytest.mark.model

SMALL = "inputs=['python:queue']"
"""A module that the reader was not trained on, of a few windows."""


def answer(said_to: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((said_to / "latest" / "answer.json").read_text(encoding="utf-8"))
    return document


def check_evidence(document: dict[str, Any]) -> None:
    """Every row's quote stands in the source, at the place that is cited."""
    import queue

    lines = Path(queue.__file__).read_text(encoding="utf-8").splitlines()
    assert document["rows"]
    for row in document["rows"]:
        assert row["verdict"] == "supported" and row["cites"]
        for cite in row["cites"]:
            assert cite["quote"].split("\n")[0] in lines[cite["line"] - 1]


@pytest.mark.ray
def test_the_demos_question_on_a_small_module(tmp_path: Path) -> None:
    said = swarm("run", ROOT / "examples" / "raises.yaml", "--runs", tmp_path, "--set", SMALL)
    assert said.code == 0, said.err
    document = answer(tmp_path)
    check_evidence(document)
    assert document["coverage"]["spans_read"] == document["coverage"]["spans"]
    assert document["score"]["precision"] >= 0.6 and document["score"]["recall"] >= 0.5, document["score"]
    roles = {spent["role"] for spent in document["spent"]}
    assert {"planner", "reader", "verifier", "writer"} <= roles
    weights = embedded.merged(embedded.embedded_base(), shipped("roles") / "weights" / "reader").digest
    assert {spent["weights"] for spent in document["spent"]} == {weights}, "what answered is the shipped reader, by digest"


def test_the_endpoint_example_against_vllms_own_server(tmp_path: Path) -> None:
    weights = embedded.merged(embedded.embedded_base(), shipped("roles") / "weights" / "reader")
    with VllmServer(weights.path) as server:
        said = swarm(
            "run", ROOT / "examples" / "endpoint.yaml", "--runs", tmp_path, "--local", "--set", SMALL,
            "--set", f"model.url={server.url}",
        )  # fmt: skip
    assert said.code == 0, said.err
    document = answer(tmp_path)
    check_evidence(document)
    assert {spent["weights"] for spent in document["spent"]} == {"declared:embedded"}
