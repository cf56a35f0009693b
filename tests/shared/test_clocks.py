"""Sleeps, standstills and changed clocks are told apart from slowness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clocks import Clocks, jump, stood_still


@pytest.mark.parametrize(
    ("monotonic_s", "wall_s", "boot_s", "expected"),
    [
        pytest.param(5, 5, 5, None, id="nothing happened"),
        pytest.param(9, 9, 9, None, id="a slow machine"),
        pytest.param(5, 3605, 3605, ("slept", "the machine slept for 60 min"), id="Linux slept"),
        pytest.param(5, 3605, None, ("slept", "the machine slept for 60 min"), id="macOS slept"),
        pytest.param(35, 35, 35, ("stopped", "the gateway stood still for 30 s"), id="stopped and continued"),
        pytest.param(7205, 7205, None, ("stopped", "the gateway stood still for 2.0 h"), id="Windows slept"),
        pytest.param(5, 65, 5, ("clock_set", "the clock was set forward by 60 s"), id="set forward"),
        pytest.param(5, -3595, 5, ("clock_set", "the clock was set back by 60 min"), id="set back"),
        pytest.param(5, -3595, None, ("clock_set", "the clock was set back by 60 min"), id="set back, one clock fewer"),
        pytest.param(5, 5.5, 5, None, id="NTP corrects a little"),
    ],
)  # fmt: skip
def test_jumps(
    monotonic_s: float, wall_s: float, boot_s: float | None, expected: tuple[str, str] | None
) -> None:
    """What the clocks say five seconds later tells what happened."""
    before = Clocks(100.0, 1.7e9, None if boot_s is None else 500.0)
    now = Clocks(100.0 + monotonic_s, 1.7e9 + wall_s, None if boot_s is None else 500.0 + boot_s)
    found = jump(before, now, 5.0)
    assert (None if found is None else (found.kind, found.why)) == expected


@given(
    st.floats(0, 1e6),
    st.floats(-9.9, 9.9, allow_nan=False),
    st.floats(0, 9.9),
)
def test_small_differences_are_no_jump(at_s: float, drift_s: float, late_s: float) -> None:
    """Below ten seconds nothing is a jump, whatever the clocks stand at."""
    before = Clocks(at_s, 1.7e9, at_s)
    now = Clocks(at_s + 5 + late_s, 1.7e9 + 5 + late_s + drift_s, at_s + 5 + late_s)
    assert jump(before, now, 5.0) is None


def test_late_timers() -> None:
    """A timer that is a second late was late; one that is ten seconds late did not run."""
    assert not stood_still(1.0)
    assert stood_still(10.0)
