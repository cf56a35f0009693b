"""
What a client of OpenAI's chat completions gets where its server speaks another dialect: neutral events as
chunks, or as one completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import orjson

from penstock.dialects.base import AnswerHead, Asked
from penstock.dialects.openai.request import parse_request
from penstock.domain.chat import (
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)


class ChunkWriter:
    """
    Neutral events as `chat.completion.chunk` server-sent events.

    The first chunk of a choice carries the role. Usage goes out only when the client asked for it.
    """

    __slots__ = ("_begun", "_created_s", "_head", "_id", "_include_usage", "_model", "_usage")

    def __init__(self, head: AnswerHead, *, include_usage: bool) -> None:
        self._id = f"chatcmpl-{head.id}"
        self._model = head.model
        self._created_s = head.created_s
        self._head = _opening(self._id, head.model, head.created_s)
        self._include_usage = include_usage
        self._begun: frozenset[int] = frozenset()
        self._usage: UsageReported | None = None

    def write(self, event: Event) -> bytes:
        """See `AnswerWriter`."""
        if isinstance(event, TextDelta):
            return self._delta(event.index, {"content": event.text})
        if isinstance(event, ReasoningDelta):
            return self._delta(event.index, {"reasoning_content": event.text})
        if isinstance(event, ToolCallDelta):
            function: dict[str, Any] = {"arguments": event.arguments}
            call: dict[str, Any] = {"index": event.call}
            if event.name:
                function = {"name": event.name, "arguments": event.arguments}
                call.update(id=event.id, type="function")
            call["function"] = function
            return self._delta(event.index, {"tool_calls": [call]})
        if isinstance(event, Finished):
            delta: dict[str, Any] = {}
            if event.index not in self._begun:  # an answer without a word still has a role
                self._begun |= {event.index}
                delta = {"role": "assistant", "content": ""}
            return self._chunk(event.index, delta, event.reason)
        if isinstance(event, UsageReported):
            self._usage = event
        return b""

    def end(self, comment: bytes) -> bytes:
        """See `AnswerWriter`."""
        return self._usage_chunk() + comment + b"data: [DONE]\n\n"

    def heartbeat(self) -> bytes:
        """See `AnswerWriter`: without a role, clients add roles up."""
        # Not of the time of the answer: what came before it must not look like its beginning.
        return (
            _opening(self._id, self._model, 0)
            + b'[{"index":0,"delta":{},"finish_reason":null}]}\n\n'
        )

    def failed(self, error: Mapping[str, Any], status: int) -> bytes:
        """See `AnswerWriter`."""
        return b"data: " + orjson.dumps({"error": {**error, "status": status}}) + b"\n\n"

    def fork(self) -> Self:
        """See `AnswerWriter`."""
        twin = type(self)(
            AnswerHead(self._id.removeprefix("chatcmpl-"), self._model, self._created_s),
            include_usage=self._include_usage,
        )
        twin._begun, twin._usage = self._begun, self._usage
        return twin

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        if index not in self._begun:
            self._begun |= {index}
            delta = {"role": "assistant", **delta}
            if "content" not in delta:
                delta = {"role": "assistant", "content": None, **delta}
        return self._chunk(index, delta, None)

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        return self._head + orjson.dumps([choice]) + b"}\n\n"

    def _usage_chunk(self) -> bytes:
        if not self._include_usage or self._usage is None:
            return b""
        usage = orjson.dumps(usage_object(self._usage.usage))
        return self._head + b'[],"usage":' + usage + b"}\n\n"


def _opening(id: str, model: str, created_s: int) -> bytes:
    head = {"id": id, "object": "chat.completion.chunk", "created": created_s, "model": model}
    return b"data: " + orjson.dumps(head)[:-1] + b',"choices":'


class ChatDialect:
    """OpenAI's chat completions as a `ClientDialect`, for servers that speak another one."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        """See `ClientDialect`."""
        return Asked(parse_request(body))

    def writer(self, head: AnswerHead, asked: Asked) -> ChunkWriter:
        """See `ClientDialect`."""
        return ChunkWriter(head, include_usage=asked.chat.include_usage)

    def whole(self, events: Sequence[Event], head: AnswerHead, asked: Asked) -> dict[str, Any]:
        """See `ClientDialect`."""
        return render_completion(events, head)


CHAT = ChatDialect()


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`."""
    value: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if usage.cached_tokens is not None:
        value["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return value


def render_completion(events: Iterable[Event], head: AnswerHead) -> dict[str, Any]:
    """One `chat.completion` body from neutral events."""
    texts: list[str] = []
    thinking: list[str] = []
    calls: dict[int, dict[str, str]] = {}
    reason = "stop"
    usage: Usage | None = None
    for event in events:
        if isinstance(event, TextDelta):
            texts.append(event.text)
        elif isinstance(event, ReasoningDelta):
            thinking.append(event.text)
        elif isinstance(event, ToolCallDelta):
            call = calls.setdefault(event.call, {"id": "", "name": "", "arguments": ""})
            call["id"] = call["id"] or event.id
            call["name"] = call["name"] or event.name
            call["arguments"] += event.arguments
        elif isinstance(event, Finished):
            reason = event.reason
        elif isinstance(event, UsageReported):
            usage = event.usage
    text = "".join(texts)
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if thinking:
        message["reasoning_content"] = "".join(thinking)
    if calls:
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for _, call in sorted(calls.items())
        ]
    body: dict[str, Any] = {
        "id": f"chatcmpl-{head.id}",
        "object": "chat.completion",
        "created": head.created_s,
        "model": head.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
    }
    if usage is not None:
        body["usage"] = usage_object(usage)
    return body
