"""
The `response` object, and how an error is called so that clients do the right thing.

Codex (openai/codex, `codex-rs/codex-api/src/sse/responses.rs`) compacts on `context_length_exceeded`, ends
its turn on `invalid_prompt`, and repeats the request on every code that it does not know; on
`server_is_overloaded` and `slow_down` it gives up, so these are never sent: waiting is what helps here.
`server_error`, `rate_limit_exceeded` and `invalid_prompt` are also the official SDK's words
(`openai.types.responses.response_error`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from penstock.dialects.base import AnswerHead
from penstock.domain.chat import FinishReason, Usage
from penstock.errors import ErrorCode

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# Nothing changes by sending these again, although their status is in the 500s.
_PERMANENT = frozenset({ErrorCode.LOOP_DETECTED, ErrorCode.UPSTREAM_AUTH})


def incomplete_reason(reason: FinishReason | None) -> str | None:
    """What the dialect calls an answer's early end; None for an answer that is whole."""
    return None if reason is None else _INCOMPLETE.get(reason)


def usage_object(usage: Usage) -> dict[str, Any]:
    """The dialect's `usage`."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def own_fields(
    head: AnswerHead,
    status: str,
    *,
    output: list[dict[str, Any]],
    usage: Usage | None = None,
    incomplete: str | None = None,
    error: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The fields of the response object that do not repeat the request."""
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created_s,
        "status": status,
        "error": error,
        "incomplete_details": None if incomplete is None else {"reason": incomplete},
        "model": head.model,
        "output": output,
        "usage": None if usage is None else usage_object(usage),
    }


def joined(own: Mapping[str, Any], echoed: bytes) -> bytes:
    """The response object as JSON: *own* fields, then those that repeat the request."""
    return orjson.dumps(own)[:-1] + b"," + echoed[1:]


def error_value(error: Mapping[str, Any], status: int) -> dict[str, Any]:
    """`response.error`; ours whole in `penstock`."""
    return {
        "code": client_code(error.get("code"), status),
        "message": str(error.get("message") or ""),
        "param": error.get("param"),
        "type": error.get("type"),
        "penstock": {**error, "status": status},
    }


def client_code(code: Any, status: int) -> str:
    """The code by which clients choose between compacting, giving up and trying again."""
    if code == ErrorCode.CONTEXT_LENGTH_EXCEEDED:
        return "context_length_exceeded"
    if status == 429:
        return "rate_limit_exceeded"
    if (400 <= status < 500 and status != 408) or code in _PERMANENT:
        return "invalid_prompt"
    return "server_error"
