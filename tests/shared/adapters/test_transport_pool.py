"""Which connection serves next, and for how long one may be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.transport.pool import UNANNOUNCED_IDLE_S, expired, idle_limit_s, take


@dataclass(eq=False)
class Fake:
    name: str
    usable_until_s: float = 100.0
    is_open: bool = True


@pytest.mark.parametrize(
    ("announced", "limit_s"),
    [
        pytest.param(None, UNANNOUNCED_IDLE_S, id="nothing announced"),
        pytest.param(b"timeout=5", 4.0, id="a second less"),
        pytest.param(b"timeout=5, max=100", 4.0, id="with other parameters"),
        pytest.param(b"max=100, timeout=5", 4.0, id="behind other parameters"),
        pytest.param(b"Timeout = 5", 4.0, id="spaces and case"),
        pytest.param(b'timeout="5"', 4.0, id="quoted"),
        pytest.param(b"timeout=60", 54.0, id="a tenth less where that is more"),
        pytest.param(b"timeout=1", 0.0, id="too short to be of use"),
        pytest.param(b"timeout=0", 0.0, id="zero"),
        pytest.param(b"timeout=soon", UNANNOUNCED_IDLE_S, id="not a number"),
        pytest.param(b"mytimeout=1", UNANNOUNCED_IDLE_S, id="another parameter"),
        pytest.param(b"max=100", UNANNOUNCED_IDLE_S, id="no time-out in it"),
        pytest.param(b"", UNANNOUNCED_IDLE_S, id="empty"),
    ],
)
def test_the_announced_idle_time_is_kept_with_a_margin(
    announced: bytes | None, limit_s: float
) -> None:
    """A connection is given up at least a second before the server's announced time."""
    assert idle_limit_s(announced) == pytest.approx(limit_s)


@given(st.integers(0, 10**9))
def test_the_margin_is_a_law(timeout_s: int) -> None:
    """Whatever is announced: never negative, and before the time by a second and by a tenth."""
    limit_s = idle_limit_s(b"timeout=%d" % timeout_s)
    assert 0 <= limit_s <= max(0, timeout_s - 1)
    assert limit_s <= timeout_s * 0.9


def test_the_last_used_is_the_first_taken() -> None:
    """Last in, first out: the crowd of older connections may grow old and go."""
    idle = [Fake("old"), Fake("new")]
    found, stale = take(idle, 0.0)
    assert (found and found.name, stale) == ("new", [])
    assert [c.name for c in idle] == ["old"]


def test_stale_ones_on_the_way_are_handed_out_for_closing() -> None:
    """Closed and expired connections are skipped, and do not stay in the pool."""
    idle = [Fake("good"), Fake("expired", usable_until_s=5.0), Fake("closed", is_open=False)]
    found, stale = take(idle, 5.0)
    assert (found and found.name, [c.name for c in stale]) == ("good", ["closed", "expired"])
    assert idle == []


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10))), st.floats(0, 10))
def test_nothing_is_lost_and_nothing_stale_is_used(
    states: list[tuple[bool, float]], now_s: float
) -> None:
    """Every connection is taken, closed or kept; what is taken or stays may be used."""
    idle = [Fake(str(i), until, is_open) for i, (is_open, until) in enumerate(states)]
    stay, gone = expired(list(idle), now_s)
    assert sorted(map(id, stay + gone)) == sorted(map(id, idle))
    assert all(c.is_open and now_s < c.usable_until_s for c in stay)
    rest = list(idle)
    found, stale = take(rest, now_s)
    assert (found is not None) == bool(stay)
    assert found is None or found is stay[-1]
    assert sorted(map(id, [*rest, *stale, *([found] if found else [])])) == sorted(map(id, idle))
