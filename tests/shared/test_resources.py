"""Memory pressure, whose memory it is, and how many requests to begin with (contracts 10, behaviours G1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.pressure import Pressure
from penstock.resources import pressure_class, speaks_for, start_concurrency

GIB = 1024**3


def played(*steps: tuple[float, float], oom_s: float | None = None) -> list[str]:
    """The classes after each (seconds, used share)."""
    state, since, out = Pressure.CALM, 0.0, []
    for now, share in steps:
        state, since = pressure_class(
            share, previous=state, since_s=since, now_s=now, last_out_of_memory_s=oom_s
        )
        out.append(state.value)
    return out


@pytest.mark.parametrize(
    ("steps", "classes"),
    [
        pytest.param([(0, 0.5)], ["calm"], id="calm"),
        pytest.param([(0, 0.8)], ["pressure"], id="entered at once"),
        pytest.param([(0, 0.9)], ["heavy"], id="heavy at once"),
        pytest.param(
            [(0, 0.8), (30, 0.78), (200, 0.78)], ["pressure"] * 3, id="inside the band it stays"
        ),
        pytest.param(
            [(0, 0.8), (1, 0.7), (59, 0.7)], ["pressure"] * 3, id="below it stays for a minute"
        ),
        pytest.param(
            [(0, 0.8), (1, 0.7), (61, 0.7)], ["pressure", "pressure", "calm"], id="then it goes"
        ),
        pytest.param([(0, 0.95), (61, 0.82)], ["heavy", "pressure"], id="heavy to pressure"),
        pytest.param(
            [(0, 0.95), (61, 0.78)],
            ["heavy", "pressure"],
            id="not past the band of the class below",
        ),
        pytest.param(
            [(0, 0.8), (50, 0.81), (100, 0.7)],
            ["pressure"] * 3,
            id="a peak starts the minute again",
        ),
    ],
)
def test_classes_with_hysteresis(steps: list[tuple[float, float]], classes: list[str]) -> None:
    """From 0.8, from 0.9, left 0.05 lower and after 60 s."""
    assert played(*steps) == classes


def test_a_recent_out_of_memory_is_heavy() -> None:
    """For ten minutes."""
    assert played((100, 0.1), (590, 0.1), (700, 0.1), (800, 0.1), oom_s=0)[:2] == ["heavy", "heavy"]
    assert played((601, 0.1), oom_s=0) == ["calm"]


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1)), max_size=60))
def test_it_does_not_flap(steps: list[tuple[float, float]]) -> None:
    """A class is never left within a minute of the last reading that held it."""
    state, since, now = Pressure.CALM, 0.0, 0.0
    order = list(Pressure)
    held_at = 0.0
    for pause, share in steps:
        now += pause
        before = state
        state, since = pressure_class(share, previous=state, since_s=since, now_s=now)
        if order.index(state) < order.index(before):
            assert now - held_at >= 60
        threshold = 0.85 if state is Pressure.HEAVY else 0.75
        if state is not Pressure.CALM and share > threshold:
            held_at = now
        if state is not before:
            held_at = now


@pytest.mark.parametrize(
    ("available", "slots", "setting", "expected"),
    [
        (16 * GIB, None, None, 4), (7 * GIB, None, None, 2), (3 * GIB, None, None, 1), (None, None, None, 1),
        (3 * GIB, 8, None, 8), (16 * GIB, 1, None, 1), (16 * GIB, 8, 3, 3), (None, None, 5, 5), (8 * GIB, None, None, 4),
    ],
)  # fmt: skip
def test_how_many_to_begin_with(
    available: int | None, slots: int | None, setting: int | None, expected: int
) -> None:
    """The setting, else the slots, else memory, else one."""
    assert start_concurrency(available_bytes=available, slots=slots, setting=setting) == expected


@pytest.mark.parametrize(
    ("url", "in_container", "is_child", "expected"),
    [
        ("http://127.0.0.1:1", False, False, True), ("http://localhost:1", False, False, True),
        ("http://[::1]:1", False, False, True), ("unix:///x", False, False, True),
        ("http://127.0.0.1:1", True, False, False), ("http://127.0.0.1:1", True, True, True),
        ("http://192.168.1.2:1", False, False, False), ("http://127.evil.example", False, False, False), ("http://host.docker.internal:1", False, False, False),
    ],
)  # fmt: skip
def test_whose_memory_it_is(url: str, in_container: bool, is_child: bool, expected: bool) -> None:
    """Readings speak for this machine's servers only, and not from inside a container."""
    assert speaks_for(url, in_container=in_container, is_child=is_child) is expected
