"""
Neutral events -> the lines of `/api/chat` and `/api/generate`, or the one body for `stream: false`.

Both differ in one field only: `message` here, `response` and `thinking` there. A tool call is one line with
its arguments as an object, so the pieces of a call are held until it is complete. Where the arguments are
no object (the output limit cut them), they are said as they are, in `{"arguments": text}`: completing them
would make half a file a whole one.

Sources: `api/types.go` (ChatResponse, GenerateResponse, Metrics), `server/routes.go`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self

import orjson

from penstock.dialects.base import AnswerHead
from penstock.dialects.shapes import object_of
from penstock.domain.chat import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)

Shape = Literal["message", "response"]
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
# llama.cpp's names (milliseconds) for what Ollama calls otherwise (`tools/server/server-task.cpp`).
_LLAMACPP_MS = {"prompt_eval_duration": "prompt_ms", "eval_duration": "predicted_ms"}
_LONGEST_NS = 2**62
# Of the contract's error fields: the message stands in `error`, param and type are OpenAI's idea.
_NOT_SAID = frozenset({"message", "param", "type", "error"})


def created_at(head: AnswerHead) -> str:
    """When the answer began, as Ollama writes times."""
    return datetime.fromtimestamp(head.created_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def load_answer(head: AnswerHead, load: str, shape: Shape) -> dict[str, Any]:
    """
    The answer to a request that only loads or unloads a model.

    Args:
        load: `load` or `unload`.
    """
    return {
        "model": head.model,
        "created_at": created_at(head),
        **_said(shape, "", "", []),
        "done": True,
        "done_reason": load,
    }


def arguments_of(text: str) -> dict[str, Any]:
    """A call's arguments as the object that Ollama has there; other text stays readable."""
    value = object_of(text)
    return {"arguments": text} if value is None else value


def _said(shape: Shape, text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"content": text} if shape == "message" else {"response": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": {"role": "assistant", **message}} if shape == "message" else message


class _Call:
    """A tool call whose pieces are still coming."""

    __slots__ = ("id", "name", "number", "pieces")

    def __init__(self, number: int) -> None:
        self.number = number
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []

    def add(self, event: ToolCallDelta) -> None:
        self.id = self.id or event.id
        self.name = self.name or event.name
        self.pieces.append(event.arguments)

    def value(self) -> dict[str, Any]:
        function = {
            "index": self.number,
            "name": self.name,
            "arguments": arguments_of("".join(self.pieces)),
        }
        return {"id": self.id, "function": function} if self.id else {"function": function}

    def copy(self) -> _Call:
        twin = _Call(self.number)
        twin.id, twin.name, twin.pieces = self.id, self.name, [*self.pieces]
        return twin


def _nanoseconds(timings: Mapping[str, float]) -> dict[str, int]:
    found = dict.fromkeys(_DURATIONS, 0)
    for name in _DURATIONS:
        if name in timings:
            found[name] = _whole(timings[name] * 1e9)
        elif name in _LLAMACPP_MS and _LLAMACPP_MS[name] in timings:
            found[name] = _whole(timings[_LLAMACPP_MS[name]] * 1e6)
    if not found["total_duration"]:
        found["total_duration"] = sum(found.values())
    return found


def _whole(value: float) -> int:
    return min(round(value), _LONGEST_NS) if math.isfinite(value) and value > 0 else 0


def _closing(reason: FinishReason, usage: UsageReported | None) -> dict[str, Any]:
    """The fields that only the last line has."""
    durations = _nanoseconds(usage.timings if usage is not None else {})
    return {
        "done": True,
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": durations["total_duration"],
        "load_duration": durations["load_duration"],
        "prompt_eval_count": usage.usage.prompt_tokens if usage is not None else 0,
        "prompt_eval_duration": durations["prompt_eval_duration"],
        "eval_count": usage.usage.completion_tokens if usage is not None else 0,
        "eval_duration": durations["eval_duration"],
    }


class LineWriter:
    """An answer as lines; see `penstock.dialects.base.AnswerWriter`."""

    __slots__ = (
        "_after_text", "_after_thinking", "_before_text", "_before_thinking", "_call", "_head", "_reason",
        "_shape", "_usage",
    )  # fmt: skip

    def __init__(self, head: AnswerHead, shape: Shape) -> None:
        self._shape: Shape = shape
        self._head = {"model": head.model, "created_at": created_at(head)}
        self._call: _Call | None = None
        self._reason: FinishReason = "stop"
        self._usage: UsageReported | None = None
        # All that does not change from one piece of text to the next.
        start = orjson.dumps(self._head)[:-1] + b","
        end = b',"done":false}\n'
        if shape == "message":
            start += b'"message":{"role":"assistant","content":'
            end = b"}" + end
        else:
            start += b'"response":'
        self._before_text, self._after_text = start, end
        self._before_thinking, self._after_thinking = start + b'"","thinking":', end

    def write(self, event: Event) -> bytes:
        """The bytes of one event."""
        kind = type(event)
        if kind is TextDelta:
            line = self._before_text + orjson.dumps(event.text) + self._after_text  # type: ignore[union-attr]
            return line if self._call is None else self._complete_call() + line
        if kind is ReasoningDelta:
            line = self._before_thinking + orjson.dumps(event.text) + self._after_thinking  # type: ignore[union-attr]
            return line if self._call is None else self._complete_call() + line
        if isinstance(event, ToolCallDelta):
            done = b""
            if self._call is not None and self._call.number != event.call:
                done = self._complete_call()
            if self._call is None:
                self._call = _Call(event.call)
            self._call.add(event)
            return done
        if isinstance(event, Finished):
            self._reason = event.reason
            return self._complete_call()
        if isinstance(event, UsageReported):
            self._usage = event
        return b""

    def _complete_call(self) -> bytes:
        if self._call is None:
            return b""
        call, self._call = self._call, None
        return self._line(_said(self._shape, "", "", [call.value()]), {"done": False})

    def _line(self, said: Mapping[str, Any], rest: Mapping[str, Any]) -> bytes:
        return orjson.dumps({**self._head, **said, **rest}) + b"\n"

    def end(self, comment: bytes) -> bytes:
        """The last line; lines have no comments."""
        last = self._line(_said(self._shape, "", "", []), _closing(self._reason, self._usage))
        return self._complete_call() + last

    def heartbeat(self) -> bytes:
        """An empty message."""
        return self._before_text + b'""' + self._after_text

    def failed(self, error: Mapping[str, Any], status: int) -> bytes:
        """The line that ends a broken answer; a call whose end never came is no call and stays unsaid."""
        self._call = None
        return orjson.dumps(error_line(error, status)) + b"\n"

    def fork(self) -> Self:
        """A writer in the same state."""
        twin = object.__new__(type(self))
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._call = None if self._call is None else self._call.copy()
        return twin


def error_line(error: Mapping[str, Any], status: int) -> dict[str, Any]:
    """Ollama's error: a text under `error`, which clients raise as it is; our own fields beside it."""
    rest = {name: value for name, value in error.items() if name not in _NOT_SAID}
    return {"error": str(error.get("message") or "The answer broke off."), **rest, "status": status}


def whole_answer(events: Sequence[Event], head: AnswerHead, shape: Shape) -> dict[str, Any]:
    """The one body of a complete answer."""
    texts: list[str] = []
    thinking: list[str] = []
    calls: list[_Call] = []
    reason: FinishReason = "stop"
    usage: UsageReported | None = None
    for event in events:
        if isinstance(event, TextDelta):
            texts.append(event.text)
        elif isinstance(event, ReasoningDelta):
            thinking.append(event.text)
        elif isinstance(event, ToolCallDelta):
            if not calls or calls[-1].number != event.call:
                calls.append(_Call(event.call))
            calls[-1].add(event)
        elif isinstance(event, Finished):
            reason = event.reason
        elif isinstance(event, UsageReported):
            usage = event
    said = _said(shape, "".join(texts), "".join(thinking), [call.value() for call in calls])
    return {
        "model": head.model,
        "created_at": created_at(head),
        **said,
        **_closing(reason, usage),
    }
