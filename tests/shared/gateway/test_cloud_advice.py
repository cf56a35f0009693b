"""Conversations that near a cloud model's window: said in log, metric and status, and nowhere else."""

from __future__ import annotations

import pytest

from penstock import limits
from penstock.gateway.steps.cloud_advice import advice

WINDOW = limits.cloud_window("gpt-4o")
assert WINDOW is not None


@pytest.mark.parametrize(
    ("share", "is_told"),
    [(0.2, False), (0.7, False), (1.0, True), (1.5, True)],
)
def test_advice_begins_near_the_window(share: float, is_told: bool) -> None:
    """By an estimate of prose, that is at about 0.9 of it."""
    words = "the turbine turns and the water flows through the gate into the river below " * 8
    each = 15 * 8
    body = {"messages": [{"role": "user", "content": words}] * int(share * WINDOW.tokens / each)}
    size = len(words) * len(body["messages"])
    told = advice("openai/gpt-4o", body, size)
    assert (told is not None) is is_told
    if told is not None:
        assert f"window of {WINDOW.tokens}" in told


def test_no_advice_on_what_is_not_known() -> None:
    """Neither on a model without a documented window, nor on bodies that are no conversation."""
    many = [{"role": "user", "content": "word " * 10_000}] * 100
    assert advice("somebody's model", {"messages": many}, 5_000_000) is None
    assert advice("gpt-4o", {"messages": "hello"}, 5_000_000) is None
    assert advice("gpt-4o", {"messages": [None, 3, *many]}, 5_000_000) is not None
