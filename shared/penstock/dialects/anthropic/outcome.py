"""
The `message` object, its parts, and errors: what a stream and a whole body have in common.

Shapes: `anthropic.types.message`, `stop_reason`, `usage`; docs.anthropic.com/en/api/errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.dialects.base import AnswerHead
from penstock.dialects.shapes import object_of
from penstock.dialects.surfaces import ANTHROPIC_TYPES
from penstock.domain.chat import FinishReason, ToolCallDelta, Usage

SIGNATURE = "penstock"
"""A local model signs no thinking; clients send it back only with a signature, so it gets this one."""


def call_id_of(event: ToolCallDelta, head: AnswerHead, taken: frozenset[str]) -> str:
    """The server's id of a call, or one of ours where it gave none or one twice."""
    if event.id and event.id not in taken:
        return event.id
    return f"toolu_{head.id}_{event.call}"


def stop_reason(reason: FinishReason | None, *, has_calls: bool) -> str:
    """
    Why the answer ended.

    Clients run tools by `tool_use`, so it is said exactly where there are calls; some servers say `stop`.
    """
    if reason == "length":
        return "max_tokens"
    if reason == "content_filter":
        return "refusal"
    return "tool_use" if has_calls else "end_turn"


def usage_object(usage: Usage) -> dict[str, int]:
    """The dialect's `usage`, in which what came from the cache is no part of `input_tokens`."""
    cached = usage.cached_tokens or 0
    return {
        "input_tokens": max(0, usage.prompt_tokens - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    }


def message_object(
    head: AnswerHead, content: list[dict[str, Any]], stop: str | None, usage: Usage
) -> dict[str, Any]:
    """The `message`."""
    return {
        "id": f"msg_{head.id}",
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage_object(usage),
    }


def error_value(error: Mapping[str, Any], status: int) -> dict[str, Any]:
    """The dialect's error, with our own fields beside its two."""
    kind = ANTHROPIC_TYPES.get(status, "api_error")
    message = str(error.get("message") or "The answer broke off.")
    value = {
        "type": "error",
        "error": {**error, "type": kind, "message": message, "status": status},
    }
    if error.get("request_id"):
        value["request_id"] = error["request_id"]
    return value


def input_of(arguments: str) -> dict[str, Any]:
    """
    A call's arguments as the object that the dialect has there.

    What is no object (cut off by the output limit, or never JSON) stays readable and is never completed: it
    stands in `INVALID_JSON`, the word of Anthropic's documentation for it
    (docs.anthropic.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming).
    """
    value = object_of(arguments)
    return {"INVALID_JSON": arguments} if value is None else value
