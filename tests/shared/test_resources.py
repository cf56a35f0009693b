"""Memory pressure, whose memory it is, and how many requests to begin with (contracts 10, behaviours G1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.pressure import Pressure
from penstock.resources import (
    MemoryLeft,
    descriptors_are_short,
    disk_is_short,
    most_connections,
    pressure_class,
    spare_bytes,
    speaks_for,
    start_concurrency,
)

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


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param((8, 20, 0), 7, id="a twentieth is kept for others"),
        pytest.param((1, 20, 0), 0, id="nothing is left"),
        pytest.param((0.5, 20, 0), 0, id="less than nothing is nothing"),
        pytest.param((0.5, 20, 6), 6, id="a GPU has room"),
    ],
)
def test_memory_to_spare(known: tuple[float, float, float], expected: int) -> None:
    """What servers may still take, in GiB."""
    available, total, gpu = (int(value * GIB) for value in known)
    found = spare_bytes(available_bytes=available, total_bytes=total, gpu_free_bytes=gpu)
    assert found == expected * GIB


def test_what_is_promised_is_not_promised_twice() -> None:
    """Requests between two looks at the machine share what was left at the first."""
    assert MemoryLeft(100).holds(100)
    assert not MemoryLeft(100).holds(101)
    assert not MemoryLeft(100, promised_bytes=60).holds(50)
    assert MemoryLeft(100, promised_bytes=60).holds(40)


@given(st.integers(1, 1_000_000))
def test_connections_leave_descriptors_for_upstreams(limit: int) -> None:
    """Each client may need a connection to its upstream; some descriptors are left for all else."""
    most = most_connections(limit)
    assert most >= 8
    assert limit < 80 or 2 * most + 64 <= limit


@pytest.mark.parametrize(
    ("in_use", "were_short", "expected"),
    [
        pytest.param(84, False, False, id="enough"),
        pytest.param(85, False, True, id="short"),
        pytest.param(75, True, True, id="still short"),
        pytest.param(69, True, False, id="enough again"),
    ],
)
def test_descriptors(in_use: int, were_short: bool, expected: bool) -> None:
    """Short from 0.85 of the limit on, and until less than 0.7 are in use."""
    assert descriptors_are_short(in_use, 100, were_short=were_short) is expected


@pytest.mark.parametrize(
    ("free_mib", "total_gib", "expected"),
    [
        pytest.param(63, 1, True, id="a small disk"),
        pytest.param(65, 1, False, id="a small disk with room"),
        pytest.param(900, 100, True, id="below a hundredth"),
        pytest.param(1025, 2000, False, id="a GiB is enough on any"),
    ],
)
def test_disks(free_mib: int, total_gib: int, expected: bool) -> None:
    """Nearly full is below 64 MiB, or below a hundredth as far as that is less than a GiB."""
    assert disk_is_short(free_mib * 1024**2, total_gib * GIB) is expected
