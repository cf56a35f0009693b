"""Snapshots of states that take long to reach with real servers, as changes to a real snapshot."""

from __future__ import annotations

import copy
import math
from typing import Any

GIB = 2**30


def request(number: int, **more: Any) -> dict[str, Any]:
    """A request as the status shows it."""
    plain: dict[str, Any] = {
        "id": f"req_{number}", "arrived_at": 1_764_000_000 + number, "method": "POST", "path": "/v1/chat/completions",
        "operation": "chat", "dialect": "openai", "client": "laptop", "user_agent": "claude-cli/2.0", "model": "qwen3-coder:30b",
        "upstream": "box", "upstream_model": "qwen3-coder:30b", "locality": "local", "stream": True, "stage": "done",
        "status": 200, "error_code": None, "error_message": None, "conversation": None, "outcome": "success", "client_gone": False, "duration_s": 14.2, "waited_s": 2.1,
        "ttft_s": 3.4, "queue": None, "took_over": None, "heartbeats": 0, "body_bytes": 9000, "answer_bytes": 4000,
        "chunks": 410, "window": 32768, "fitted": None, "prompt_tokens_original": None, "prompt_tokens_planned": 21000,
        "prompt_tokens": 21000, "completion_tokens": 412, "cached_tokens": 18400, "prefill": None, "repaired": 0,
        "resumed": 0, "loop_ended": False, "attempts": [], "changes": [], "warnings": [],
    }  # fmt: skip
    return {**plain, **more}


def busy(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A queue that is full, one request in each stage, a GPU, and a breaker that is open."""
    made = copy.deepcopy(snapshot)
    box = made["upstreams"][0]
    box.update(
        name="box",
        url="http://127.0.0.1:11434",
        kind="ollama",
        state="ok",
        error=None,
        unloads=True,
    )
    box["concurrency"].update(limit=2, in_flight=2, queued=98, held=0, expected_wait_s=41.0)
    box["models"] = [{
        "id": "qwen3-coder:30b", "context_window": 32768, "window_source": "running", "slots": 2, "loaded": True,
        "context": {"prefix": {"breaks": 1, "last_break": None, "reused": 46, "missed": 3, "reuse_is_impossible": False}},
    }]  # fmt: skip
    box["health"] = {**(box["health"] or {}), "ttft_ms": 3400.0, "findings": []}
    attic = copy.deepcopy(box)
    attic.update(name="attic", url="http://192.168.1.20:8080", kind="llamacpp")
    attic["concurrency"].update(in_flight=0, queued=0, limit=1)
    attic["breaker"].update(
        state="open", why="5 of the last 8 requests failed: out of memory", retry_after_s=20.0
    )
    made["upstreams"] = [box, attic]
    made["overall"] = "degraded"
    gpu = {"name": "NVIDIA RTX 4090", "total_bytes": 24 * GIB, "free_bytes": 3 * GIB, "utilisation": 0.93}  # fmt: skip
    made["acts"] = [
        {"at": 1_764_000_010.0, "upstream": "attic", "act": "breaker_opened", "why": "5 of the last 8 requests failed: out of memory"},
        {"at": 1_764_000_020.0, "upstream": "box", "act": "limit_lowered", "why": "answers became slower"},
    ]  # fmt: skip
    made["memory"] = {
        "pressure": "pressure", "total_bytes": 64 * GIB, "available_bytes": 11 * GIB, "limit_bytes": None,
        "used_share": 0.83, "gpus": [gpu],
    }  # fmt: skip
    made["errors"] = [
        {
            "upstream": "box",
            "code": "queue_full",
            "count": 41,
            "meaning": "As many requests wait for this upstream as are allowed to.",
        },
        {
            "upstream": "attic",
            "code": "out_of_memory",
            "count": 5,
            "meaning": "The upstream ran out of memory.",
        },
        {
            "upstream": "none",
            "code": "model_not_found",
            "count": 2,
            "meaning": "No upstream has this model.",
        },
    ]
    stages = [
        request(1, stage="prefilling", prefill={"processed": 13200, "total": 21000}, age_s=4.2, answering_s=None),
        request(2, stage="streaming", age_s=11.0, answering_s=6.5, chunks=312, completion_tokens=None),
        request(3, stage="queued", queue={"position": 1, "expected_wait_s": 9.0}, age_s=3.0, answering_s=None),
        request(4, stage="loading", age_s=21.0, answering_s=None, upstream="attic"),
    ]  # fmt: skip
    made["requests"] = {"in_flight": stages, "recent": [fitted(10), request(11), request(12, status=429, error_code="queue_full", error_message="100 requests wait for box already, as many as queue.most_waiting allows.", outcome="ignored", ttft_s=None, completion_tokens=None)]}  # fmt: skip
    return made


def fitted(number: int) -> dict[str, Any]:
    """One that was too long, with all that was done about it."""
    changes = [
        ("route", "model", "rewritten", "claude-sonnet is an alias of qwen3-coder:30b"),
        ("sampling", "temperature", "set", "temperature is 0.3 (local optimised)"),
        ("sampling", "top_k", "set", "top_k is 40 (local optimised)"),
        ("output", "max_tokens", "reduced", "the window has room for 4,096"),
        ("fit", "messages", "reduced", "38 messages of 6 turns were left out to fit 26,214 tokens"),
        ("repair", "tool_calls[0].arguments", "rewritten", "recursive: the text true became a boolean, as the tool wants"),
    ]  # fmt: skip
    return request(
        number, model="claude-sonnet", fitted="window", prompt_tokens_original=52000, repaired=1,
        prompt_tokens_planned=11400, prompt_tokens=11460, cached_tokens=0,
        changes=[dict(zip(("step", "field", "action", "detail"), one, strict=True)) for one in changes],
        warnings=["The beginning of the conversation is no longer in the model's sight."],
    )  # fmt: skip


def history() -> dict[str, Any]:
    """Half an hour in which a queue grew, as `/penstock/history` tells it."""
    samples = []
    for i in range(360):
        wave = (1 + math.sin(i / 17)) / 2
        samples.append({
            "at": 1_764_000_000.0 + 5 * i, "pieces_per_s": round(34 + 22 * wave + 6 * math.sin(i / 3), 1), "failed": 3 if i in (120, 121, 300) else 0,
            "first_token_s": round(0.8 + 2.4 * wave + (i % 7) / 10, 2) if i % 3 else None, "memory_share": round(0.6 + 0.22 * i / 360, 3),
            "gpu_shares": [round(0.55 + 0.3 * min(1, i / 100), 3)],
            "upstreams": {"box": [1 + (i % 60 > 14), max(0, int((i - 180) * 0.55)) if i > 180 else 0, 2], "attic": [int(i % 90 > 70), 0, 1]},
        })  # fmt: skip
    return {"every_s": 5.0, "samples": samples}
