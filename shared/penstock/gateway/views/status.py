"""
The status as a document: `schema: 1`, only ever grows (contracts 11). What tray, command line, operator
and dashboard show. No prompts, no secrets.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from penstock import __version__
from penstock.gateway.conversations.context import Contexts
from penstock.gateway.memory import Memory
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.upstreams.health import vitals_shown
from penstock.gateway.upstreams.proving import Proofs
from penstock.gateway.upstreams.unload import can_unload
from penstock.gateway.views.logs import SINK
from penstock.gateway.views.record import describe
from penstock.servers import spec
from penstock.switches import Switches, share

SCHEMA = 1
_MOST_RECENT = 20
_MOST_CLIENTS = 20


def snapshot(runtime: Runtime, now_s: float) -> dict[str, Any]:
    """
    Everything worth showing.

    Args:
        now_s: the event loop's time.
    """
    machine, board = runtime.memory.machine, runtime.board.switches
    names = runtime.fleet.declared()
    return {
        "schema": SCHEMA,
        "version": __version__,
        "pid": os.getpid(),
        "instance": runtime.instance,
        "started_by": runtime.started_by,
        "uptime_s": round(now_s - runtime.started_s, 1),
        "state": "draining" if runtime.draining else "ok",
        "overall": overall(
            "unreachable" if state.breaker.is_open(now_s) else _state(state)
            for state in runtime.fleet
        ),
        "switched": {
            "paused": share(board.pause, names),
            "drained": share(board.drain, names),
            "bypass": share(board.bypass, names),
        },
        "url": runtime.url,
        "settings_file": str(runtime.settings_path) if runtime.settings_path else None,
        "log_file": str(runtime.log_path) if runtime.log_path else None,
        "notices": {**runtime.notices, **_log_notice()},
        "memory": None
        if machine is None
        else {
            "pressure": runtime.memory.pressure.value,
            "total_bytes": machine.total_bytes,
            "available_bytes": machine.available_bytes,
            "limit_bytes": machine.limit_bytes,
            "used_share": round(machine.used_share, 4),
            "gpus": [
                {
                    "name": gpu.name,
                    "total_bytes": gpu.total_bytes,
                    "free_bytes": gpu.free_bytes,
                    "utilisation": gpu.utilisation,
                }
                for gpu in machine.gpus
            ],
        },
        "descriptors": None
        if (seen := runtime.housekeeping.descriptors) is None
        else {"in_use": seen.in_use, "limit": seen.limit},
        "upstreams": [
            _upstream(state, now_s, runtime.contexts, board, runtime.memory, runtime.proofs)
            for state in runtime.fleet
        ],
        "errors": runtime.recorder.metrics.errors(),
        "acts": [asdict(act) for act in runtime.recorder.acts],
        "requests": {
            "in_flight": [
                {
                    **describe(e),
                    "age_s": round(now_s - e.arrived_s, 2),
                    "answering_s": None
                    if e.first_token_s is None
                    else round(now_s - e.first_token_s, 2),
                }
                for e in list(runtime.in_flight.values())
            ],
            "recent": [describe(e) for e in runtime.recorder.recent()[:_MOST_RECENT]],
        },
    }


def _log_notice() -> dict[str, str]:
    """Whether the log file can be written."""
    problem = SINK.file.problem if SINK.file is not None else None
    return {"log": problem} if problem is not None else {}


def _upstream(
    state: UpstreamState,
    now_s: float,
    contexts: Contexts,
    board: Switches,
    memory: Memory,
    proofs: Proofs | None,
) -> dict[str, Any]:
    kind = state.kind
    return {
        "name": state.name,
        "member_of": state.upstream.member_of,
        "url": state.upstream.url,
        "found_by": state.upstream.found_by,
        "verdict": state.verdict.locality.value,
        "confidence": state.verdict.confidence,
        "evidence": [e.detail for e in state.verdict.evidence],
        "suggestion": state.verdict.suggestion,
        "kind": kind.value if kind is not None else None,
        "knowledge": spec(kind).knowledge if kind is not None else None,
        "server_version": state.version,
        "state": _state(state),
        "error": state.error,
        "looked_s_ago": None if state.looked_at is None else round(now_s - state.looked_at, 1),
        "concurrency": {
            "limit": state.limiter.limit,
            "in_flight": state.limiter.running,
            "queued": state.limiter.waiting,
            "ghosts": state.ghosts,
            "held": state.holding.waiting,
            **_queue(state),
            "waiting_for_memory": memory.waiting.get(state.name, 0),
            **_limit(state, now_s),
        },
        "breaker": {
            "state": state.breaker.state.value,
            "why": state.breaker.why or None,
            "since_s": None
            if state.breaker.since_s is None
            else round(now_s - state.breaker.since_s, 1),
            "retry_after_s": round(state.breaker.retry_after_s(now_s), 1)
            if state.breaker.is_open(now_s)
            else None,
            "error_share": round(state.breaker.error_share(now_s), 3),
        },
        "held_because": list(state.holding.reasons),
        "supervised": state.supervised.shown(now_s) if state.supervised is not None else None,
        "health": vitals_shown(state, now_s) if state.is_local else None,
        "paused": board.pause.at(state.declared) or None,
        "drained": board.drain.at(state.declared) or None,
        "bypass": state.gate.bypassed,
        "unloads": can_unload(state),
        "models": [
            {
                "id": profile.model,
                "context_window": profile.window.tokens,
                "window_source": profile.window.source.value,
                "window_detail": profile.window.detail,
                "trained_window": profile.reading.trained_window,
                "slots": profile.reading.slots,
                "host_memory_bytes": profile.reading.memory_bytes,
                "loaded": profile.reading.loaded,
                "remote": profile.is_remote,
                "continues": None if proofs is None else proofs.shown(state, profile),
                "context": contexts.status_of(state.name, profile.model),
            }
            for profile in state.profiles.values()
        ]
        or [{"id": model} for model in state.upstream.models],
    }


def _queue(state: UpstreamState) -> dict[str, Any]:
    """Who waits, for how long somebody who came now would, and what requests share there."""
    clients = sorted(state.limiter.queued_by_client().items(), key=itemgetter(1), reverse=True)
    return {
        "queued_by_client": dict(clients[:_MOST_CLIENTS]),
        "expected_wait_s": round(state.limiter.expected_wait_s, 1),
        "shared_kv_tokens": state.limiter.shared_tokens,
        "models_at_once": state.room.models_at_once or None,
    }


def overall(states: Iterable[str]) -> str:
    """
    One word for an icon (contracts 14): `ok`, `starting` (nothing answered yet, or all load), `degraded` (not
    every upstream can be reached), `error` (none can).

    Args:
        states: of the upstreams.
    """
    words = set(states)
    if not words:
        return "error"
    if words <= {"unknown", "loading"}:
        return "starting"
    if "unreachable" not in words:
        return "ok"
    return "error" if words == {"unreachable"} else "degraded"


def _limit(state: UpstreamState, now_s: float) -> dict[str, Any]:
    """What the limit is based on, and why it moved last."""
    limit = state.limit
    moved = None
    if limit.moved_s is not None:
        moved = {"why": limit.why, "s_ago": round(now_s - limit.moved_s, 1)}
    return {"source": limit.source, "ceiling": limit.ceiling, "moved": moved}


def _state(state: UpstreamState) -> str:
    if not state.is_local:
        return "cloud"
    if "restarting" in state.holding.reasons or "no_address" in state.holding.reasons:
        return "loading"
    if state.reachable is None:
        return "unknown"
    if not state.reachable:
        return "unreachable"
    return "ok" if state.ready else "loading"
