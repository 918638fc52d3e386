"""Adapters behind vLLM: none is ever loaded in the place of another, which requests in flight may still use."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.models.vllm import _lora
from swarm.models.weights import Served

pytest.importorskip("vllm")
pytestmark = pytest.mark.model


def number(name: str) -> int:
    served = Served(Path("base"), hashlib.blake2b(name.encode(), digest_size=16).hexdigest(), Path(name))
    request = _lora(served)
    assert request is not None and request.lora_name == served.digest and request.lora_path == name
    return int(request.lora_int_id)


def test_each_adapter_has_a_number_of_its_own_that_depends_on_its_digest_alone() -> None:
    numbers = [number(name) for name in "abcdefgh"]
    assert len(set(numbers)) == 8 and min(numbers) > 0
    code = "from tests.test_adapters import number; print([number(name) for name in 'abcdefgh'])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300).stdout
    assert said.split("\n")[-2] == str(numbers), "in another process as well"


def test_weights_without_an_adapter_need_no_number() -> None:
    assert _lora(Served(Path("base"), "0" * 32)) is None
