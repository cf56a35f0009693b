"""`penstock doctor` of a running gateway: what is wrong, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.doctor_running import running_findings
from penstock.cli.findings import Finding

BUSY: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "status" / "busy.json").read_text()
)
NOW_S = 1_000_000.0


def examined(status: dict[str, Any]) -> list[Finding]:
    """What is found in a status."""
    return running_findings(status, "penstock", NOW_S)


def of_upstream(**fields: Any) -> list[Finding]:
    """What is found of one upstream."""
    return examined({"upstreams": [{"name": "box", "url": "http://h", **fields}]})


def requests(*codes: str | None) -> list[dict[str, Any]]:
    """Recent ones that ended so."""
    return [
        {
            "upstream": "box", "arrived_at": NOW_S - 5, "error_code": code,
            "outcome": "success" if code is None else "ignored" if code.startswith("queue") else "dropped",
        }
        for code in codes
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("upstream", "good", "says", "do"),
    [
        pytest.param({"breaker": {"state": "open", "why": "3 faults in a row", "retry_after_s": 12}}, False, "3 faults in a row", "own log", id="an open breaker"),
        pytest.param({"breaker": {"state": "open", "why": None}}, False, "its breaker is open: requests", "detect http://h", id="an open breaker without a reason"),
        pytest.param({"breaker": {"state": "half_open"}}, None, "half open", "", id="half open"),
        pytest.param({"paused": "hold", "concurrency": {"held": 3}}, False, "held; 3 wait", "penstock resume box", id="paused"),
        pytest.param({"drained": "refuse"}, False, "is drained: new requests are refused", "penstock resume box", id="drained"),
        pytest.param({"held_because": ["restarting"], "concurrency": {"held": 1}}, None, "restarting; 1 wait", "", id="restarting"),
        pytest.param({"bypass": True}, None, "bypassed", "penstock bypass off box", id="bypassed"),
        pytest.param({"supervised": {"state": "given_up", "restarts": 5, "why": "exit code 1"}}, False, "again and again and was given up (exit code 1)", "penstock logs --server box", id="given up"),
        pytest.param({"supervised": {"state": "running", "restarts": 2}}, None, "restarted 2 times", "penstock logs --server box", id="restarted"),
        pytest.param({"concurrency": {"limit": 2, "queued": 9}}, None, "9 requests wait", "", id="a long queue"),
        pytest.param({"concurrency": {"ghosts": 2}}, None, "2 requests whose clients are gone", "", id="ghosts"),
        pytest.param({"state": "loading"}, None, "is loading", "", id="loading"),
        pytest.param({"health": {"findings": [{"name": "slow", "detail": "a cheap question took 3.0 s"}]}}, None, "took 3.0 s", "fewer requests", id="health"),
        pytest.param({"health": {"findings": [{"name": "hung", "detail": "it answers nothing"}]}}, False, "it answers nothing", "start it again", id="a hung server"),
    ],
)  # fmt: skip
def test_an_upstream_in_trouble(
    upstream: dict[str, Any], good: bool | None, says: str, do: str
) -> None:
    """Each has its sentence, and a way out where there is one."""
    (found,) = of_upstream(**upstream)
    assert (found.what, found.good) == ("box", good)
    assert says in found.says
    assert do in (found.do or "")


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        pytest.param(["queue_full", "queue_deadline", None], "1 found the queue full and 1 waited too long", id="a full queue"),
        pytest.param(["queue_full", None], "1 found the queue full;", id="only full"),
        pytest.param(["first_token_timeout"] * 3 + ["out_of_memory", None], "4 of its last 5 requests ended without an answer, most by first_token_timeout", id="it thrashes"),
        pytest.param(["first_token_timeout"] * 2 + [None] * 3, "", id="it is slow at times"),
        pytest.param(["out_of_memory"] * 3, "", id="too few to tell"),
    ],
)  # fmt: skip
def test_what_requests_tell(codes: list[str | None], says: str) -> None:
    """A full queue and a server that thrashes are seen in what became of the requests of the last minutes."""
    status = {
        "upstreams": [{"name": "box", "concurrency": {"limit": 2}}],
        "requests": {"recent": requests(*codes)},
    }
    found = examined(status)
    assert [f.good for f in found] == ([False] if says else [])
    assert all(says in f.says and f.do for f in found)
    old = [{**r, "arrived_at": NOW_S - 3600} for r in requests(*codes)]
    assert examined({**status, "requests": {"recent": old}}) == []


def test_memory_notices_and_acts() -> None:
    """What holds for the whole gateway; what a person switched is no surprise to them."""
    found = examined(
        {
            "memory": {"pressure": "heavy", "used_share": 0.95},
            "notices": {"log": "the disk is full"},
            "acts": [
                {"at": NOW_S - 60, "upstream": "box", "act": "server_restarted", "why": "it ended"},
                {"at": NOW_S - 60, "upstream": "box", "act": "paused", "why": "asked"},
                {
                    "at": NOW_S - 6000,
                    "upstream": "box",
                    "act": "server_restarted",
                    "why": "it ended",
                },
            ],
        }
    )
    told = [(f.good, f.says) for f in found]
    assert told[0] == (False, "the disk is full")
    assert told[1][0] is False
    assert "95% is used" in told[1][1]
    assert told[2:] == [(None, "server restarted 1 m 00 s ago: it ended")]


@pytest.mark.parametrize("status", [{}, {"upstreams": [{}]}, {"upstreams": None, "acts": None}])
def test_what_is_not_told_is_no_finding(status: dict[str, Any]) -> None:
    """An older gateway, or one that goes away just now."""
    assert examined(status) == []


def test_a_recorded_status_is_understood() -> None:
    """Of a real gateway with something paused and bypassed."""
    says = [f.says for f in examined(BUSY)]
    assert any(told.startswith("is paused: new requests are held; 1 wait") for told in says)
    assert any(told.startswith("is bypassed") for told in says)
