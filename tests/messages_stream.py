"""
Reads a Messages stream as a strict client would, and knows nothing of the code that wrote it.

The order of events, indices and kinds is checked by a state machine of its own, each event by the official
SDK's types; `accumulated` is what the official SDK makes of the stream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anthropic import types
from anthropic.lib.streaming._messages import accumulate_event
from pydantic import BaseModel, TypeAdapter

_EVENTS: TypeAdapter[Any] = TypeAdapter(types.RawMessageStreamEvent)
_DELTAS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
    "input_json_delta": "tool_use",
}
_EMPTY: Mapping[str, Mapping[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


def events_of(stream: bytes) -> list[tuple[dict[str, Any], list[str]]]:
    """The values of all events, and the comment lines within each."""
    found = []
    assert stream.endswith(b"\n\n") or not stream
    for block in stream.decode().split("\n\n")[:-1]:
        lines = block.split("\n")
        assert lines[0].startswith("event: "), lines[0]
        assert lines[-1].startswith("data: "), lines[-1]
        assert all(line.startswith(":") for line in lines[1:-1]), lines
        value = json.loads(lines[-1].removeprefix("data: "))
        assert value["type"] == lines[0].removeprefix("event: ")
        found.append((value, lines[1:-1]))
    return found


@dataclass
class StrictReader:
    """
    Takes events in order, fails on any that may not come there.

    Attributes:
        message: of the `message_start`.
        blocks: those that stopped, with what their deltas say (`json`: the arguments of a call as text).
        closing: the `message_delta`.
        error: the `error` that ended the stream.
    """

    message: dict[str, Any] | None = None
    blocks: list[dict[str, Any]] = field(default_factory=list)
    block: dict[str, Any] | None = None
    closing: dict[str, Any] | None = None
    is_stopped: bool = False
    error: dict[str, Any] | None = None
    pings: int = 0
    comments: list[str] = field(default_factory=list)

    def feed(self, stream: bytes) -> None:
        """More of it, whole events."""
        for value, comments in events_of(stream):
            assert not self.is_stopped, "an event after message_stop"
            assert self.error is None, "an event after the error"
            assert not comments or value["type"] in ("message_stop", "ping")
            self.comments += comments
            if value["type"] == "ping":
                assert value == {"type": "ping"}
                self.pings += 1
            elif value["type"] == "error":
                assert isinstance(value["error"]["type"], str)
                assert isinstance(value["error"]["message"], str)
                self.error = value
            else:
                _EVENTS.validate_json(json.dumps(value), strict=True)
                self._take(value)

    def _take(self, value: dict[str, Any]) -> None:
        kind = value["type"]
        if kind == "message_start":
            assert self.message is None
            self.message = value["message"]
            assert value["message"]["content"] == []
            assert value["message"]["stop_reason"] is None
            return
        assert self.message is not None, "the official client raises before message_start"
        if kind == "message_stop":
            assert self.closing is not None
            self.is_stopped = True
            return
        assert self.closing is None, f"{kind} after message_delta"
        if kind == "message_delta":
            assert self.block is None, "a block was begun and never stopped"
            assert value["delta"]["stop_reason"] is not None
            self.closing = value
            return
        assert value["index"] == len(self.blocks)
        if kind == "content_block_start":
            assert self.block is None, "two blocks at once"
            begun = value["content_block"]
            named = ("id", "name") if begun["type"] == "tool_use" else ()
            fields = {name: begun[name] for name in named}
            assert begun == {"type": begun["type"], **fields, **_EMPTY[begun["type"]]}
            self.block = {**begun, "json": ""}
            return
        assert self.block is not None, f"{kind} without a block"
        if kind == "content_block_stop":
            assert self.block["type"] != "thinking" or self.block["signature"], "never signed"
            self.blocks.append(self.block)
            self.block = None
        else:
            assert kind == "content_block_delta"
            self._grow(self.block, value["delta"])

    def _grow(self, block: dict[str, Any], delta: dict[str, Any]) -> None:
        assert _DELTAS[delta["type"]] == block["type"]
        if delta["type"] == "input_json_delta":
            block["json"] += delta["partial_json"]
        elif delta["type"] == "signature_delta":
            assert not block["signature"], "signed twice"
            block["signature"] = delta["signature"]
        else:
            assert not block.get("signature"), "more thinking after the signature"
            block[block["type"]] += delta[block["type"]]


def read_strictly(stream: bytes) -> StrictReader:
    """A whole stream."""
    reader = StrictReader()
    reader.feed(stream)
    return reader


def accumulated(stream: bytes) -> dict[str, Any]:
    """The message that the official SDK makes of a complete stream."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for value, _comments in events_of(stream):
        if value["type"] in ("ping", "message_stop"):
            continue  # the first is filtered before, nothing is added by the second
        snapshot = accumulate_event(
            event=_EVENTS.validate_python(value), current_snapshot=snapshot, json_bufs=buffers
        )
    assert isinstance(snapshot, BaseModel)
    message = snapshot.model_dump(exclude_unset=True)
    assert message.pop("stop_details", None) is None  # the SDK sets it, whether sent or not
    return message
