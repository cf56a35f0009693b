"""The soak with faults, in short."""

from __future__ import annotations

import pytest

from soak import drawing, run


@pytest.mark.slow
def test_five_thousand_requests_leave_nothing_behind() -> None:
    """Faults, hang-ups and restarts among them: memory and descriptors stay flat, gauges end at zero, each is told."""
    seen = run(5000)
    assert seen.problems() == []
    assert seen.ends[200] > 3000
    assert seen.ends[0] > 100
    assert sum(seen.ends.values()) == 5000
    assert drawing(seen).startswith("<svg")
