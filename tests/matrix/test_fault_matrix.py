"""The fault matrix: every cell as owed. One item is one fault at one moment in one scene, in front of all dialects."""

from __future__ import annotations

from typing import Any

import pytest

from matrix.owed import Fault, Moment, Scene, Times
from matrix.play import play, runs


def _items(scene: Scene) -> list[Any]:
    return [
        pytest.param(fault, moment, times, id=f"{fault.id}-{moment}-{times}")
        for fault, moment, times in runs(scene)
    ]


@pytest.mark.parametrize(("fault", "moment", "times"), _items("alone"))
def test_alone(fault: Fault, moment: Moment, times: Times) -> None:
    """Each client gets what it is owed, and nothing is left behind."""
    assert play(fault, moment, times) == []
