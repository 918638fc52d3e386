"""That nobody is told what runs here: the libraries themselves say that their reports are off."""

from __future__ import annotations

import os
import subprocess
import sys

from swarm.runtime.environment import SETTINGS

ASK = """
from swarm.runtime.environment import settle
settle()
from ray._common.usage.usage_lib import usage_stats_enabled
from vllm.usage.usage_lib import is_usage_stats_enabled
print(usage_stats_enabled(), is_usage_stats_enabled())
"""


def test_rays_and_vllms_usage_reports_are_off() -> None:
    unset = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    said = subprocess.run([sys.executable, "-c", ASK], env=unset, capture_output=True, text=True, timeout=300, check=True)
    assert said.stdout.split()[-2:] == ["False", "False"]
