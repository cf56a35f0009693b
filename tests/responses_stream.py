"""
Reads a Responses stream as a strict client would, and knows nothing of the code that wrote it.

Each event is validated by the official SDK's types; the order of events, indices, ids and numbers by a state
machine of its own; what the deltas add up to is compared with what the `done` events and the closing response
say.
"""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass, field
from typing import Any

from openai.types import responses as types
from pydantic import BaseModel

CLOSING = ("response.completed", "response.incomplete", "response.failed")
_UNION = typing.get_args(types.ResponseStreamEvent)[0]
_BY_TYPE: dict[str, type[BaseModel]] = {
    typing.get_args(one.model_fields["type"].annotation)[0]: one for one in typing.get_args(_UNION)
}
_DELTAS = {
    "response.output_text": ("message", "output_text"),
    "response.reasoning_text": ("reasoning", "reasoning_text"),
    "response.reasoning_summary_text": ("reasoning", "summary_text"),
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input"),
}
_PARTS = ("response.content_part", "response.reasoning_summary_part")


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


def validate(value: dict[str, Any]) -> None:
    """By the official SDK's type of this event, nothing converted."""
    if value["type"] == "response.failed":
        code = value["response"]["error"]["code"]
        if code == "context_length_exceeded":  # Codex knows it, the SDK's type does not list it
            response = {**value["response"], "error": {"code": "server_error", "message": "x"}}
            value = {**value, "response": response}
    _BY_TYPE[value["type"]].model_validate_json(json.dumps(value), strict=True)


@dataclass
class StrictReader:
    """Takes events in order, fails on any that may not come there."""

    tick: int = 0
    is_created: bool = False
    closing: dict[str, Any] | None = None
    item: dict[str, Any] | None = None
    place: int = -1
    part: str | None = None
    text: str = ""
    is_text_done: bool = False
    done: list[dict[str, Any]] = field(default_factory=list)
    identity: str = ""

    def feed(self, stream: bytes) -> None:
        """More of it, whole events."""
        for value, _comments in events_of(stream):
            validate(value)
            assert value["sequence_number"] == self.tick
            self.tick += 1
            assert self.closing is None, "an event after the closing one"
            self._take(value["type"], value)

    def _take(self, kind: str, value: dict[str, Any]) -> None:
        if kind == "response.created":
            assert not self.is_created
            assert value["response"]["status"] == "in_progress"
            self.is_created = True
            self.identity = value["response"]["id"]
            return
        assert self.is_created, "the official client raises before response.created"
        if kind == "response.in_progress":
            assert value["response"]["id"] == self.identity
            return
        if kind in CLOSING:
            self._close(kind, value["response"])
            return
        stem, _, last = kind.rpartition(".")
        if kind == "response.output_item.added":
            assert self.item is None
            self.item = value["item"]
            self.place += 1
            assert value["output_index"] == self.place == len(self.done)
            self.part, self.text, self.is_text_done = None, "", False
            return
        assert self.item is not None
        assert value["output_index"] == self.place
        if kind == "response.output_item.done":
            self._item_done(value["item"])
            return
        assert value["item_id"] == self.item["id"]
        assert value.get("content_index", value.get("summary_index", 0)) == 0
        if stem in _PARTS:
            self._take_part(last, value["part"])
            return
        item_kind, word = _DELTAS[stem]
        assert self.item["type"] == item_kind
        if self.part is not None:
            assert self.part == word
        assert not self.is_text_done
        if last == "delta":
            self.text += value["delta"]
            return
        said = next(value[name] for name in ("text", "arguments", "input") if name in value)
        assert said == self.text
        self.is_text_done = True

    def _take_part(self, last: str, part: dict[str, Any]) -> None:
        if last == "added":
            assert self.part is None
            assert part["text"] == ""
            self.part = part["type"]
        else:
            assert self.is_text_done
            assert part["type"] == self.part
            assert part["text"] == self.text

    def _item_done(self, item: dict[str, Any]) -> None:
        assert self.item is not None
        assert self.is_text_done
        assert text_of(item) == self.text
        for name in ("id", "type", "call_id", "name", "namespace"):
            assert item.get(name) == self.item.get(name)
        assert item["status"] in ("completed", "incomplete")
        self.done.append(item)
        self.item = None

    def _close(self, kind: str, response: dict[str, Any]) -> None:
        assert response["id"] == self.identity
        assert response["output"] == self.done
        assert response["status"] == kind.removeprefix("response.")
        assert (response["error"] is not None) == (kind == "response.failed")
        assert (response["incomplete_details"] is not None) == (kind == "response.incomplete")
        if kind != "response.failed":
            assert self.item is None, "an item was added and never done"
        self.closing = response


def text_of(item: dict[str, Any]) -> str:
    """What an output item says."""
    if item["type"] == "function_call":
        return str(item["arguments"])
    if item["type"] == "custom_tool_call":
        return str(item["input"])
    parts = item.get("content") or item.get("summary") or []
    return "".join(part["text"] for part in parts)


def read_strictly(stream: bytes) -> StrictReader:
    """A whole stream."""
    reader = StrictReader()
    reader.feed(stream)
    return reader
