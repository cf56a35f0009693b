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


@pytest.mark.parametrize(("fault", "moment", "times"), _items("heartbeat"))
def test_after_heartbeats(fault: Fault, moment: Moment, times: Times) -> None:
    """The status is out already: what is owed comes as an event."""
    assert play(fault, moment, times, "heartbeat") == []


@pytest.mark.parametrize(("fault", "moment", "times"), _items("queued"))
def test_with_another_in_the_queue(fault: Fault, moment: Moment, times: Times) -> None:
    """Whoever waits behind is neither lost nor made to pay for it."""
    assert play(fault, moment, times, "queued") == []


@pytest.mark.parametrize(("fault", "moment", "times"), _items("draining"))
def test_while_the_gateway_is_about_to_stop(fault: Fault, moment: Moment, times: Times) -> None:
    """The running request gets what it is owed; who comes late is refused and told when to come again."""
    assert play(fault, moment, times, "draining") == []


@pytest.mark.parametrize("scene", ["reload", "redeclared"])
@pytest.mark.parametrize(("fault", "moment", "times"), _items("reload"))
def test_while_settings_change(fault: Fault, moment: Moment, times: Times, scene: Scene) -> None:
    """New settings touch no request that runs; also where they make another upstream of the same name."""
    assert play(fault, moment, times, scene) == []
