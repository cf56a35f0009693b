"""The demo, as somebody sees it who has just cloned the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real


def test_every_scene_is_better_through_the_gateway(tmp_path: Path) -> None:
    """Ten scenes on real llama.cpp servers, each measured both ways, none worse through the gateway."""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PENSTOCK_LOG__LEVEL": "info"}
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "demo", "--json"],
        capture_output=True, text=True, env=env, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    scenes = json.loads(done.stdout)["scenes"]
    assert len(scenes) == 10
    assert [scene["what"] for scene in scenes if not scene["better"]] == []
