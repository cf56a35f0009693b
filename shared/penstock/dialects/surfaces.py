"""
What the gateway itself says in each client's dialect: heartbeats, errors, announcements.

A heartbeat is a no-op *event* of the dialect: clients' timers count parsed events only, and a comment
block behind an event with an id breaks the openai client (contracts 4, client facts). After an error the
stream ends without the dialect's closing event, so that nobody takes half an answer for a whole one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from penstock.dialects.ndjson import split_lines
from penstock.dialects.sse import parse_event, split_events
from penstock.errors import AnswerError, ErrorCode, UpstreamFault


class Facts(Protocol):
    """What an error tells about its request."""

    id: str
    upstream: str


def error_object(error: AnswerError, facts: Facts | None) -> dict[str, Any]:
    """The error as contracts 5 defines it; every dialect's shape is made from this."""
    value: dict[str, Any] = {
        "message": error.message,
        "type": error.row.type,
        "param": error.param,
        "code": error.code.value,
        # Who said it, not whose kind of fault it is: a length that we refuse was never seen by the upstream.
        "source": "upstream" if isinstance(error, UpstreamFault) else "penstock",
    }
    upstream = getattr(error, "upstream", None) or (facts.upstream if facts is not None else "")
    if upstream:
        value["upstream"] = upstream
    attempts = getattr(error, "attempts", None)
    if attempts is not None:
        value["attempts"] = attempts
    if error.hint:
        value["hint"] = error.hint
    if facts is not None:
        value["request_id"] = facts.id
    return value


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Anthropic's error types by status (docs.anthropic.com/en/api/errors); `api_error` for every other."""


@dataclass(frozen=True, slots=True)
class Surface:
    """
    One client dialect, as far as it is spoken outside of a translated stream: errors of all of them, and the streams
    that are relayed as they come. What a translated stream says is its `AnswerWriter`'s.

    Attributes:
        name: `openai`, `completions`, `responses`, `anthropic`, `ollama`, `llamacpp`.
        closing_marker: bytes that every closing event holds (others may hold them too); b"" where streams are
            always translated.
        is_ndjson: lines instead of server-sent events.
    """

    name: str
    closing_marker: bytes
    is_ndjson: bool = False

    @property
    def content_type_stream(self) -> bytes:
        """Of a stream."""
        return b"application/x-ndjson" if self.is_ndjson else b"text/event-stream; charset=utf-8"

    def split(self, batch: bytes) -> list[bytes]:
        """Complete events, verbatim."""
        return split_lines(batch) if self.is_ndjson else split_events(batch)

    def value_of(self, raw: bytes) -> Any:
        """The JSON value of one event; None where it has none."""
        data = raw.strip() if self.is_ndjson else parse_event(raw).data
        if not data or data == b"[DONE]":
            return None
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            return None

    def is_closing_event(self, raw: bytes) -> bool:
        """Whether this event ends a complete answer."""
        if self.closing_marker not in raw:
            return False
        if self.name in ("openai", "completions"):
            return parse_event(raw).data.strip() == b"[DONE]"
        value = self.value_of(raw)
        if not isinstance(value, Mapping):
            return False
        if self.name == "ollama":
            return value.get("done") is True
        return value.get("stop") is True

    def heartbeat(self, request_id: str, model: str) -> bytes:
        """A no-op event; b"" where the dialect has none at this moment."""
        if self.name == "openai":
            return _data(
                {
                    # That of our own answer, where we write it: clients keep the first one they see.
                    "id": f"chatcmpl-{request_id.removeprefix('req_')}",
                    "object": "chat.completion.chunk",
                    "created": 0,
                    "model": model,
                    "choices": [{"index": 0, "delta": {}, "finish_reason": None}],
                }
            )
        if self.name == "completions":
            return _data(
                {
                    "id": f"cmpl-{request_id.removeprefix('req_')}",
                    "object": "text_completion",
                    "created": 0,
                    "model": model,
                    "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}],
                }
            )
        if self.name == "ollama":
            return (
                orjson.dumps(
                    {
                        "model": model,
                        "created_at": "1970-01-01T00:00:00Z",
                        "message": {"role": "assistant", "content": ""},
                        "response": "",
                        "done": False,
                    }
                )
                + b"\n"
            )
        if self.name == "llamacpp":
            return _data({"index": 0, "content": "", "tokens": [], "stop": False})
        return b""

    def announcement(self, facts: bytes) -> bytes:
        """A comment line that stands directly before the `data:` line of the closing event."""
        return b"" if self.is_ndjson else b": penstock " + facts + b"\n"

    def error_body(self, error: AnswerError, facts: Facts | None) -> dict[str, Any]:
        """The body of an answer that is an error."""
        value = error_object(error, facts)
        if self.name == "anthropic":
            kind = ANTHROPIC_TYPES.get(error.status, "api_error")
            body: dict[str, Any] = {"type": "error", "error": {**value, "type": kind}}
            if facts is not None:
                body["request_id"] = facts.id
            return body
        if self.name == "ollama":
            rest = {k: v for k, v in value.items() if k not in ("message", "param", "type")}
            return {"error": error.message, **rest}
        return {"error": value}

    def status_of(self, error: AnswerError) -> int:
        """
        The HTTP status of an answer that is an error. A full queue is 503 on Responses: Codex tries again on
        5xx and gives up on 429.
        """
        if self.name == "responses" and error.code is ErrorCode.QUEUE_FULL:
            return 503
        return error.status

    def error_event(self, error: AnswerError, facts: Facts | None) -> bytes:
        """The error inside a stream that has begun; the stream ends after it."""
        body = self.error_body(error, facts)
        if self.name == "ollama":
            return orjson.dumps(body) + b"\n"
        body["error"]["status"] = error.status
        return _data(body)


def _data(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


OPENAI = Surface("openai", b"[DONE]")
COMPLETIONS = Surface("completions", b"[DONE]")
RESPONSES = Surface("responses", b"")
ANTHROPIC = Surface("anthropic", b"")
OLLAMA = Surface("ollama", b'"done"', is_ndjson=True)
LLAMACPP = Surface("llamacpp", b'"stop"')


def surface_of(dialect: str, operation: str) -> Surface:
    """
    The surface of a route.

    Args:
        dialect: `openai`, `anthropic`, `responses`, `ollama`, `llamacpp`.
        operation: of the route; `completions` has chunks of its own.
    """
    if dialect == "anthropic":
        return ANTHROPIC
    if dialect == "responses":
        return RESPONSES
    if dialect == "ollama":
        return OLLAMA
    if dialect == "llamacpp":
        return LLAMACPP
    return COMPLETIONS if operation == "completions" else OPENAI


__all__ = [
    "ANTHROPIC",
    "ANTHROPIC_TYPES",
    "COMPLETIONS",
    "LLAMACPP",
    "OLLAMA",
    "OPENAI",
    "RESPONSES",
    "Surface",
    "error_object",
    "surface_of",
]
