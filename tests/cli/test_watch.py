"""`penstock status --watch`: what a snapshot looks like, in terminals of every width."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from penstock.cli.watch import progress, screen, upstream_state
from penstock.cli.wording import duration, short

BUSY: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "status" / "busy.json").read_text()
)


def drawn(status: Any, width: int = 80, **more: Any) -> str:
    """As text, as wide as a terminal."""
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(screen(status, **more))
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_it_fits_the_terminal_and_tells_what_matters(width: int) -> None:
    """Recorded from a real gateway with two real servers: every stage, what is switched, what failed."""
    text = drawn(BUSY, width)
    assert all(len(line) <= width for line in text.splitlines())
    for word in (
        "degraded",
        "paused",
        "bypass",
        "streaming",
        "prefilling",
        "queued",
        "held",
        "2048",
    ):
        assert word in text
    assert "model_not_found" in text
    assert "127.0.0.1:9" in text
    assert "requests pass through" in text


def test_numbers_stand_under_their_columns() -> None:
    """At 80 columns each upstream is one line."""
    lines = drawn(BUSY).splitlines()
    head = next(line for line in lines if line.startswith("upstream"))
    slow = next(line for line in lines if line.startswith("slow"))
    values = {
        name: slow[: head.index(name) + len(name)].split()[-1]
        for name in ("run", "limit", "queue", "held")
    }
    load = BUSY["upstreams"][0]["concurrency"]
    assert values == {
        "run": str(load["in_flight"]), "limit": str(load["limit"]),
        "queue": str(load["queued"]), "held": str(load["held"]),
    }  # fmt: skip


def test_many_requests_are_counted_rather_than_shown() -> None:
    """The terminal has an end."""
    assert "and 3 more" in drawn(BUSY, rows=2)


def test_a_gateway_that_is_gone_is_told() -> None:
    """In place of its state."""
    text = drawn(BUSY, gone="is gone; waiting for it ...")
    assert "is gone" in text
    assert "degraded" not in text


def test_the_barest_status_is_shown() -> None:
    """An older gateway tells less; an idle one has nothing."""
    assert "no request is running" in drawn({})
    assert "no request is running" in drawn({"upstreams": [{"name": "box"}], "requests": {}})


def test_names_are_shown_as_they_are() -> None:
    """What clients send is no markup and controls no terminal."""
    request = {"client": "[red]x[/red]", "model": "[bold]m\x1b[2J", "stage": "queued"}
    text = drawn({"requests": {"in_flight": [request]}})
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("upstream", "told"),
    [
        pytest.param({"state": "ok"}, "ok", id="well"),
        pytest.param({"state": "ok", "breaker": "closed"}, "ok", id="closed"),
        pytest.param({"state": "ok", "breaker": "open"}, "ok breaker open", id="a word"),
        pytest.param({"state": "ok", "breaker": {"state": "half_open"}}, "ok breaker half-open", id="an object"),
        pytest.param({"state": "unreachable", "supervised": {"state": "given_up"}}, "unreachable given up", id="given up"),
        pytest.param({"state": "ok", "paused": "hold", "drained": "refuse", "bypass": True}, "ok paused drained bypass", id="switched"),
    ],
)  # fmt: skip
def test_an_upstreams_state(upstream: dict[str, Any], told: str) -> None:
    """With the breaker, the supervision and the switches, whichever there are."""
    assert upstream_state(upstream).plain == told


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        pytest.param({"stage": "prefilling", "prefill": {"processed": 500, "total": 2000}}, "25% of 2000", id="prefill"),
        pytest.param({"stage": "streaming", "chunks": 50, "answering_s": 2.0}, "50 at 25.0/s", id="an answer"),
        pytest.param({"stage": "streaming", "chunks": 3, "answering_s": 0.0}, "3", id="its first moment"),
        pytest.param({"stage": "forwarding", "attempts": [{}, {}]}, "attempt 2", id="again"),
        pytest.param({"stage": "queued"}, "", id="waiting"),
    ],
)  # fmt: skip
def test_progress(request_: dict[str, Any], told: str) -> None:
    """The share of the prompt, or the speed of the answer."""
    assert progress(request_) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.44, "0.4 s"), (12, "12 s"), (185, "3 m 05 s"), (7620, "2 h 07 m"), (273_600, "3 d 4 h"), (None, "")],
)  # fmt: skip
def test_durations(seconds: float | None, told: str) -> None:
    """Two units at most."""
    assert duration(seconds) == told


def test_names_of_models() -> None:
    """A file's name without its folders, and never longer than its column."""
    assert short("/models/qwen.gguf") == "qwen.gguf"
    assert short("hf.co/some/model") == "hf.co/some/model"
    assert short("x" * 40) == "x" * 27 + "…"
