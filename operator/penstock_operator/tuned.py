"""
What server and gateway really got, read back from the gateways' own status. Pure.

Several gateways see the same servers; the smallest window and the fewest slots that any of them sees are told,
since those are what a client may rely on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock_operator.seen import Seen

_SOURCES = {"running": "Engine", "explicit": "Spec", "env": "Spec"}


def tuning(seen: Seen) -> dict[str, Any]:
    """`status.tuning`: empty while no gateway knows anything."""
    value: dict[str, Any] = {}
    windows = [
        (int(model["context_window"]), str(model.get("window_source", "")))
        for upstream in _upstreams(seen)
        for model in upstream.get("models") or ()
        if model.get("context_window")
    ]
    if windows:
        window, source = min(windows)
        value["contextLength"] = window
        value["source"] = _SOURCES.get(source, "Estimated")
    slots = [
        int(model["slots"])
        for upstream in _upstreams(seen)
        for model in upstream.get("models") or ()
        if model.get("slots")
    ]
    if slots:
        value["parallelRequests"] = min(slots)
    limits = [one["concurrency"] for one in _upstreams(seen) if one.get("concurrency")]
    if limits:
        least = min(limits, key=lambda one: int(one.get("limit", 0)))
        value["concurrency"] = int(least.get("limit", 0))
        value["limitedBy"] = str(least.get("source", "")).capitalize() or "Adapted"
    return value


def performance(seen: Seen) -> dict[str, Any]:
    """`status.performance`: the slowest first token that a gateway measured last."""
    first = [
        float(health["ttft_ms"])
        for upstream in _upstreams(seen)
        if (health := upstream.get("health")) and health.get("ttft_ms") is not None
    ]
    if not first:
        return {}
    return {"timeToFirstTokenMs": round(max(first)), "measuredAt": seen.now}


def _upstreams(seen: Seen) -> Iterator[Mapping[str, Any]]:
    for gateway in seen.gateways.values():
        if gateway.status is not None:
            yield from gateway.status.get("upstreams") or ()
