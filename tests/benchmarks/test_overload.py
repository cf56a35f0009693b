"""The benchmark of overload: its ideal is one, its server does what it says, and its figures are what was seen."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import overload
from measure import free_port
from open_loop import Asked, Saw, plan, send
from overload import Figures, capacity_per_s, figures, ideal, misses, running
from slotted_server import prefill_s, prompt_tokens, service_s

ROOT = Path(__file__).resolve().parents[2]


def asked(at_s: float, prompt: int = 400, answer: int = 30) -> Asked:
    return Asked(at_s, prompt, answer, b"")


def test_a_plan_is_the_same_each_time() -> None:
    """A seed makes one plan; its requests come as often as was asked for, and count as it says."""
    made = plan(50.0, 20.0, 3)
    assert made == plan(50.0, 20.0, 3)
    assert made != plan(50.0, 20.0, 4)
    assert len(made) == pytest.approx(1000, rel=0.1)
    for item in made[:20]:
        body = httpx.Response(200, content=item.body).json()
        assert prompt_tokens(body["messages"]) == item.prompt_tokens
        assert body["max_tokens"] == item.answer_tokens


arrivals = st.lists(
    st.builds(asked, st.floats(0, 20), st.integers(1, 2000), st.integers(1, 100)), max_size=80
).map(lambda items: sorted(items, key=lambda item: item.at_s))


@given(arrivals, st.integers(1, 4), st.integers(0, 10))
def test_the_ideal_queue_is_one(items: list[Asked], slots: int, queue: int) -> None:
    """Never more at work than slots, never more waiting than places, first come first served, no slot idle."""
    saws = ideal(items, slots=slots, queue=queue)
    runs = []
    for item, saw in zip(items, saws, strict=True):
        if saw.complete:
            assert saw.first_s is not None
            start_s = item.at_s + saw.first_s - prefill_s(item.prompt_tokens)
            runs.append(
                (item.at_s, start_s, start_s + service_s(item.prompt_tokens, item.answer_tokens))
            )
    assert all(one[1] <= other[1] + 1e-9 for one, other in itertools.pairwise(runs))
    for at_s, start_s, _ in runs:
        busy = sum(begin <= start_s + 1e-9 < end - 1e-9 for _, begin, end in runs)
        assert busy <= slots
        if start_s > at_s + 1e-9:
            before = start_s - 1e-6
            assert sum(begin <= before < end for _, begin, end in runs) >= slots
    for item, saw in zip(items, saws, strict=True):
        waiting = sum(at <= item.at_s < begin - 1e-9 for at, begin, _ in runs if at < item.at_s)
        assert waiting <= queue
        if not saw.complete:
            assert waiting >= queue - sum(other.at_s == item.at_s for other in items)


def test_figures_are_of_what_was_seen() -> None:
    """Warming up does not count; refusals, failures and answers are told apart."""
    items = [asked(at) for at in (1.0, 7.0, 8.0, 9.0, 9.5)]
    saws = [
        Saw(200, 0.5, 0.9, True),
        Saw(200, 0.2, 0.4, True),
        Saw(429, None, 0.003),
        Saw(200, 0.3, 0.5, False),
        Saw(0, None, 15.0),
    ]
    seen = figures(items, saws, 10.0, known=True)
    assert seen.goodput == pytest.approx(service_s(400, 30) / (overload.SLOTS * 4.0))
    assert (seen.refused, seen.refused_p50_ms, seen.failed) == (0.25, 3.0, 2)
    assert seen.first_p50_s == seen.first_p99_s == 0.2
    assert figures(items, saws, 10.0, known=False).goodput is None


def test_what_is_missed_is_told() -> None:
    """Each aim by itself, and nothing when all are reached."""
    best = Figures(1.0, 25.0, 3.0, 4.0, 0.75, 0.0, 0.0, 0)
    good = Figures(0.96, 25.0, 3.0, 4.7, 0.75, 1.0, 4.0, 0)
    bad = Figures(0.94, 25.0, 3.0, 4.9, 0.75, 1.0, 5.5, 2)
    assert misses({("Penstock", 4.0): good, ("an ideal queue", 4.0): best}) == []
    assert len(misses({("Penstock", 4.0): bad, ("an ideal queue", 4.0): best})) == 4
    assert misses({("direct", 4.0): bad, ("an ideal queue", 4.0): best}) == []


@pytest.mark.real
def test_the_server_has_its_slots_and_its_pace() -> None:
    """All that is asked is answered, none quicker than it says, and as many at a time as it has slots."""
    port = free_port()
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "slotted_server.py"),
        str(port),
        "2",
        "2048",
    ]
    with running(command, port, "0"):
        items = list(plan(40.0, 0.5, 1))
        saws = asyncio.run(send(port, items))
        assert all(saw.complete for saw in saws)
        for item, saw in zip(items, saws, strict=True):
            assert saw.end_s is not None
            assert saw.end_s >= service_s(item.prompt_tokens, item.answer_tokens) - 0.002
        costs = sum(service_s(item.prompt_tokens, item.answer_tokens) for item in items)
        last_s = max(item.at_s + (saw.end_s or 0.0) for item, saw in zip(items, saws, strict=True))
        assert last_s >= costs / 2 - 0.01


@pytest.mark.real
@pytest.mark.slow
def test_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times too much for three seconds: many are refused, none fails, and the server is kept busy."""
    monkeypatch.setattr(overload, "WARM_S", 1.5)
    monkeypatch.setattr(overload, "LOADS", (0.5, 1.0, 4.0))
    found = overload.simulated(True, 7.0)
    seen = found["Penstock", 4.0]
    assert seen.failed == 0
    assert seen.refused > 0.4
    assert seen.answers_s > 0.5 * capacity_per_s()
    assert "| 4 x | Penstock |" in overload.table(found)
