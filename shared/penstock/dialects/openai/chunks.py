"""
What a server answers in OpenAI's chat completions: its chunks, or its one body, as neutral events.

Calls are counted by us: some servers give every call of an answer the index 0 (client facts), so an id that
differs begins another call. Reasoning goes by three names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from penstock.domain.chat import (
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    ReasoningDelta,
    StreamEnd,
    StreamError,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)

_REASONING = ("reasoning_content", "reasoning", "thinking")
_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class ChunkReader:
    """
    `chat.completion.chunk` values -> neutral events.

    Args:
        seed: makes the ids of tool calls that come without one, the same on every try.
    """

    __slots__ = ("_calls", "_seed", "_slots")

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._calls = 0
        self._slots: dict[tuple[int, int], tuple[int, str]] = {}

    def read(self, value: Any) -> list[Event]:
        """The events of one chunk."""
        if not isinstance(value, Mapping):
            return [StreamError("a chunk that is no object")]
        if value.get("error"):
            return [StreamError(value["error"])]
        events: list[Event] = []
        if "prompt_progress" in value:
            _progress(value["prompt_progress"], events)
        choices = value.get("choices")
        if isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict):
                    self._choice(choice, choice.get("delta"), events)
        if value.get("usage") or value.get("timings"):
            reported = read_usage(value)
            if reported is not None:
                events.append(reported)
        return events

    def whole(self, value: Any) -> list[Event]:
        """The events that a whole `chat.completion` stands for, its end included."""
        if not isinstance(value, Mapping):
            return [StreamError("an answer that is no object")]
        if value.get("error"):
            return [StreamError(value["error"])]
        choices = value.get("choices")
        if not isinstance(choices, list):
            return [StreamError("an answer without choices")]
        events: list[Event] = []
        for choice in choices:
            if isinstance(choice, dict):
                self._choice(choice, choice.get("message"), events)
        reported = read_usage(value)
        return [*events, *([reported] if reported is not None else []), StreamEnd()]

    def _choice(self, choice: Mapping[str, Any], delta: Any, events: list[Event]) -> None:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        if isinstance(delta, dict):
            for name in _REASONING:
                thought = delta.get(name)
                if thought and isinstance(thought, str):
                    events.append(ReasoningDelta(thought, index))
                    break
            for name in ("content", "refusal"):
                text = delta.get(name)
                if text and isinstance(text, str):
                    events.append(TextDelta(text, index))
            calls = delta.get("tool_calls")
            if isinstance(calls, list):
                for place, call in enumerate(calls):
                    self._call(call, place, index, events)
            elif isinstance(delta.get("function_call"), dict):  # before tools there were functions
                self._call({"index": 0, "function": delta["function_call"]}, 0, index, events)
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            events.append(Finished(_REASONS.get(reason, "stop"), index))

    def _call(self, call: Any, place: int, index: int, events: list[Event]) -> None:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return
        at = call.get("index")
        slot = (index, at if isinstance(at, int) else place)
        given = call.get("id")
        identifier = given if isinstance(given, str) else ""
        name = function.get("name")
        name = name if isinstance(name, str) else ""
        known = self._slots.get(slot)
        is_new = known is None or (identifier and identifier != known[1])
        if is_new:
            known = (self._calls, identifier or f"call_{self._seed[-16:]}_{self._calls}")
            self._calls += 1
            self._slots[slot] = known
        assert known is not None
        arguments = function.get("arguments")
        if not isinstance(arguments, str):  # some servers send the object itself
            try:
                arguments = "" if arguments is None else orjson.dumps(arguments).decode()
            except orjson.JSONEncodeError:
                events.append(StreamError("a tool call's arguments are nested too deeply"))
                return
        events.append(ToolCallDelta(known[0], known[1] if is_new else "", name, arguments, index))


def _progress(value: Any, events: list[Event]) -> None:
    if isinstance(value, dict):
        done, total, cached = (value.get(name) for name in ("processed", "total", "cache"))
        events.append(
            PrefillProgress(
                processed=done if isinstance(done, int) else 0,
                total=total if isinstance(total, int) else 0,
                cached=cached if isinstance(cached, int) else 0,
            )
        )


def read_usage(value: Mapping[str, Any]) -> UsageReported | None:
    """
    Token counts of a chunk or a body: `usage`, else llama.cpp's `timings` (`tools/server/server-task.h`,
    result_timings), which stand in the last chunk of each of its streams. None where there are none.
    """
    usage, timings = value.get("usage"), value.get("timings")
    times = (
        {n: t for n, t in timings.items() if type(t) in (int, float)}
        if isinstance(timings, dict)
        else {}
    )
    cached = _count(times.get("cache_n"))
    if isinstance(usage, dict):
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and _count(details.get("cached_tokens")) is not None:
            cached = details["cached_tokens"]
        prompt, output = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        if prompt is not None:
            return UsageReported(Usage(prompt, output or 0, cached), times)
    prompt, output = _count(times.get("prompt_n")), _count(times.get("predicted_n"))
    if prompt is None:
        return None
    return UsageReported(Usage(prompt + (cached or 0), output or 0, cached), times)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
