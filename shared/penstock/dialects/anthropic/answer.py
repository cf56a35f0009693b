"""
Neutral events as a Messages stream, or as one `message` body.

One content block is open at a time: what is of another kind closes it. Clients run a tool when its block
stops, so a block that an error cut off is never stopped.
Grammar: docs.anthropic.com/en/docs/build-with-claude/streaming; `anthropic/lib/streaming/_messages.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import orjson

from penstock.dialects.anthropic.outcome import (
    SIGNATURE,
    call_id_of,
    error_value,
    input_of,
    message_object,
    stop_reason,
    usage_object,
)
from penstock.dialects.base import AnswerHead
from penstock.domain.chat import (
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)

_PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_NO_CALL = -1
_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


class MessageWriter:
    """One answer; see `AnswerWriter`."""

    __slots__ = (
        "_before", "_call", "_call_ids", "_head", "_is_begun", "_kind", "_place", "_progress", "_reason",
        "_usage",
    )  # fmt: skip

    def __init__(self, head: AnswerHead) -> None:
        self._head = head
        self._is_begun = False
        self._progress = Usage(0, 0)
        self._kind = ""  # of the open block; "" for none
        self._place = -1  # of the last block
        self._call = _NO_CALL
        self._before = b""  # a delta of the open block up to its text
        self._call_ids: frozenset[str] = frozenset()
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None

    def write(self, event: Event) -> bytes:
        """See `AnswerWriter`."""
        kind = type(event)
        if kind is TextDelta:
            text: str = event.text  # type: ignore[union-attr]
            if not text:
                return b""
            if self._kind == "text":
                return self._before + orjson.dumps(text) + b"}}\n\n"
            return self._start({"type": "text", "text": ""}) + self._grow(text)
        if isinstance(event, ReasoningDelta):
            if not event.text:
                return b""
            if self._kind == "thinking":
                return self._grow(event.text)
            block = {"type": "thinking", "thinking": "", "signature": ""}
            return self._start(block) + self._grow(event.text)
        if isinstance(event, ToolCallDelta):
            begun = b""
            if self._kind != "tool_use" or self._call != event.call:
                call_id = call_id_of(event, self._head, self._call_ids)
                self._call_ids |= {call_id}
                begun = self._start(
                    {"type": "tool_use", "id": call_id, "name": event.name, "input": {}}
                )
                self._call = event.call
            return begun + self._grow(event.arguments)
        if isinstance(event, PrefillProgress):
            self._progress = Usage(event.total, 0, event.cached)
        elif isinstance(event, Finished):
            self._reason = event.reason
            return self._close()
        elif isinstance(event, UsageReported):
            self._usage = event.usage
        return b""

    def end(self, comment: bytes) -> bytes:
        """See `AnswerWriter`."""
        delta = {
            "type": "message_delta",
            "delta": {
                "stop_reason": stop_reason(self._reason, has_calls=bool(self._call_ids)),
                "stop_sequence": None,
            },
            "usage": usage_object(self._usage or self._progress),
        }
        return b'%b%b%bevent: message_stop\n%bdata: {"type":"message_stop"}\n\n' % (
            self._begin(),
            self._close(),
            _event(delta),
            comment,
        )

    def heartbeat(self) -> bytes:
        """A ping, which clients skip; it may come before everything else."""
        return _PING

    def failed(self, error: Mapping[str, Any], status: int) -> bytes:
        """See `AnswerWriter`."""
        return _event(error_value(error, status))

    def fork(self) -> Self:
        """See `AnswerWriter`."""
        other = type(self).__new__(type(self))
        for name in MessageWriter.__slots__:
            setattr(other, name, getattr(self, name))  # values only, nothing that changes in place
        return other

    def _begin(self) -> bytes:
        """The head of the stream, once."""
        if self._is_begun:
            return b""
        self._is_begun = True
        message = message_object(self._head, [], None, self._progress)
        return _event({"type": "message_start", "message": message})

    def _start(self, block: Mapping[str, Any]) -> bytes:
        before = self._begin() + self._close()
        self._place += 1
        self._kind = block["type"]
        delta, field = _DELTAS[self._kind]
        self._before = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b","%b":' % (self._place, delta.encode(), field.encode())
        )
        start = {"type": "content_block_start", "index": self._place, "content_block": block}
        return before + _event(start)

    def _grow(self, text: str) -> bytes:
        """More of the open block."""
        return self._before + orjson.dumps(text) + b"}}\n\n" if text else b""

    def _close(self) -> bytes:
        kind, self._kind = self._kind, ""
        if not kind:
            return b""
        signed = b""
        if kind == "thinking":
            delta = {"type": "signature_delta", "signature": SIGNATURE}
            signed = _event({"type": "content_block_delta", "index": self._place, "delta": delta})
        return signed + _event({"type": "content_block_stop", "index": self._place})


def _event(value: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), orjson.dumps(value))


def whole_answer(events: Sequence[Event], head: AnswerHead) -> dict[str, Any]:
    """The `message` body: blocks in the order in which they began."""
    blocks: list[tuple[dict[str, Any], int, list[str]]] = []
    taken: frozenset[str] = frozenset()
    reason: FinishReason | None = None
    usage = Usage(0, 0)
    is_final = False
    for event in events:
        if isinstance(event, TextDelta | ReasoningDelta):
            kind = "text" if isinstance(event, TextDelta) else "thinking"
            if not event.text:
                continue
            if not blocks or blocks[-1][0]["type"] != kind:
                blocks.append(({"type": kind}, _NO_CALL, []))
            blocks[-1][2].append(event.text)
        elif isinstance(event, ToolCallDelta):
            if not blocks or blocks[-1][1] != event.call:
                call_id = call_id_of(event, head, taken)
                taken |= {call_id}
                block = {"type": "tool_use", "id": call_id, "name": event.name}
                blocks.append((block, event.call, []))
            blocks[-1][2].append(event.arguments)
        elif isinstance(event, Finished):
            reason = event.reason
        elif isinstance(event, UsageReported):
            usage, is_final = event.usage, True
        elif isinstance(event, PrefillProgress) and not is_final:
            usage = Usage(event.total, 0, event.cached)
    content = [_filled(block, "".join(pieces)) for block, _, pieces in blocks]
    return message_object(head, content, stop_reason(reason, has_calls=bool(taken)), usage)


def _filled(block: dict[str, Any], text: str) -> dict[str, Any]:
    if block["type"] == "thinking":
        return {**block, "thinking": text, "signature": SIGNATURE}
    if block["type"] == "text":
        return {**block, "text": text}
    return {**block, "input": input_of(text)}
