"""
What server and gateway really got, read back from the gateways' own status. Pure.

Several gateways see the same servers; the smallest window and the fewest slots that any of them sees are told,
since those are what a client may rely on. Each number has a source, and what it was limited by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from penstock_operator.seen import Seen
from penstock_operator.sizing.size import Sizing, mebibytes

_SOURCES = {"running": "Engine", "explicit": "Spec", "env": "Spec"}
_LEAST_TOKENS = 8
"""A shorter answer tells nothing about speed."""
_SPILLED_BYTES = 512 * 2**20
"""More than the buffers that an engine keeps beside the GPU anyway."""


def tuning(seen: Seen, size: Sizing | None = None) -> dict[str, Any]:
    """`status.tuning`: empty while nothing is known."""
    value: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    windows = [
        (int(model["context_window"]), str(model.get("window_source", "")))
        for model in _models(seen)
        if model.get("context_window")
    ]
    if windows:
        window, source = min(windows)
        value["contextLength"] = window
        sources["contextLength"] = {
            "source": _SOURCES.get(source, "Estimated"),
            "limitedBy": size.chosen.limited_by
            if size is not None and size.chosen.context_length == window
            else "Engine",
        }
    slots = [int(model["slots"]) for model in _models(seen) if model.get("slots")]
    if slots:
        value["parallelRequests"] = min(slots)
        fewer = size is not None and size.chosen.parallel < size.wanted.parallel
        sources["parallelRequests"] = {
            "source": "Engine",
            "limitedBy": "Killed" if fewer else "Asked",
        }
    limits = [one["concurrency"] for one in _upstreams(seen) if one.get("concurrency")]
    if limits:
        least = min(limits, key=lambda one: int(one.get("limit", 0)))
        value["concurrency"] = int(least.get("limit", 0))
        why = str(least.get("source", "")).capitalize() or "Adapted"
        sources["concurrency"] = {"source": "Gateway", "limitedBy": why}
    if size is not None and size.chosen_bytes is not None:
        value["memory"] = mebibytes(size.chosen_bytes)
        sources["memory"] = {"source": "Header", "limitedBy": size.chosen.limited_by}
    if sources:
        value["sources"] = sources
    if size is not None and (size.step.steps or size.step.killed_at):
        value["stepDown"] = size.step.to_dict()
    return value


def performance(seen: Seen) -> dict[str, Any]:
    """`status.performance`: the slowest first token that a gateway measured last, and how fast answers came."""
    first = [
        float(health["ttft_ms"])
        for upstream in _upstreams(seen)
        if (health := upstream.get("health")) and health.get("ttft_ms") is not None
    ]
    value: dict[str, Any] = {}
    if first:
        value["timeToFirstTokenMs"] = round(max(first))
    speeds = list(_speeds(seen))
    if speeds:
        value["tokensPerSecond"] = round(median(speeds), 1)
    return {**value, "measuredAt": seen.now} if value else {}


def beside_the_gpu(seen: Seen) -> int | None:
    """Bytes that a loaded model holds in the machine's own memory, when that is more than buffers; else None."""
    held = [int(model.get("host_memory_bytes") or 0) for model in _models(seen)]
    most = max(held, default=0)
    return most if most > _SPILLED_BYTES else None


def _speeds(seen: Seen) -> Iterator[float]:
    """Tokens a second of answers that went well and were long enough, after their first token."""
    for gateway in seen.gateways.values():
        requests = (gateway.status or {}).get("requests") or {}
        for one in requests.get("recent") or ():
            tokens, first = one.get("completion_tokens") or 0, one.get("ttft_s")
            whole = one.get("duration_s")
            if one.get("outcome") != "ok" or tokens < _LEAST_TOKENS or not first or not whole:
                continue
            if one.get("stream") and whole > first:
                yield (tokens - 1) / (whole - first)


def _models(seen: Seen) -> Iterator[Mapping[str, Any]]:
    for upstream in _upstreams(seen):
        yield from upstream.get("models") or ()


def _upstreams(seen: Seen) -> Iterator[Mapping[str, Any]]:
    for gateway in seen.gateways.values():
        if gateway.status is not None:
            yield from gateway.status.get("upstreams") or ()
