"""
Folds a stream into the one body that the server itself would have answered plain.

Towards local servers the gateway streams even for clients that did not ask (a hang-up is noticed only
then); these clients must not see a difference. Held against a real llama.cpp in the tests: equal after
masking id, created and timings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Collector(Protocol):
    """Takes events, makes a body."""

    def add(self, value: Any) -> None:
        """Fold in one event's JSON value."""

    def body(self) -> dict[str, Any]:
        """The body, once all events are in."""


class ChatCollector:
    """`chat.completion.chunk` values -> a `chat.completion`."""

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._places: dict[tuple[int, int], int] = {}

    def add(self, value: Any) -> None:
        """See `Collector`."""
        if not isinstance(value, dict):
            return
        for name, field in value.items():
            if name not in ("choices", "object", "prompt_progress") and field is not None:
                self._top[name] = field
        for choice in value.get("choices") or ():
            if isinstance(choice, dict):
                self._add_choice(choice)

    def _add_choice(self, chunk: Mapping[str, Any]) -> None:
        index = chunk.get("index") or 0
        choice = self._choices.setdefault(
            index,
            {
                "finish_reason": None,
                "index": index,
                "message": {"role": "assistant", "content": None},
            },
        )
        message = choice["message"]
        delta = chunk.get("delta")
        for name, field in delta.items() if isinstance(delta, dict) else ():
            if name == "tool_calls":
                self._add_calls(index, message, field or ())
            elif name == "role":
                message["role"] = field or message["role"]
            elif isinstance(field, str):
                message[name] = (message.get(name) or "") + field
            elif field is not None:
                message[name] = field
        if chunk.get("finish_reason") is not None:
            choice["finish_reason"] = chunk["finish_reason"]
        logprobs = chunk.get("logprobs")
        if isinstance(logprobs, dict):
            joined = choice.setdefault("logprobs", {})
            for name, field in logprobs.items():
                if isinstance(field, list):
                    joined.setdefault(name, []).extend(field)
                elif field is not None:
                    joined[name] = field
        for name, field in chunk.items():
            if name not in ("index", "delta", "finish_reason", "logprobs"):
                choice[name] = field

    def _add_calls(self, choice: int, message: dict[str, Any], deltas: Any) -> None:
        calls = message.setdefault("tool_calls", [])
        for delta in deltas:
            if not isinstance(delta, dict):
                continue
            identifier = delta.get("id")
            at = delta.get("index")
            slot = (choice, at if isinstance(at, int) else len(calls))
            place = self._places.get(slot)
            known = None if place is None else calls[place]
            # Some servers reuse index 0 for every call; some count from elsewhere.
            if known is None or (identifier and known["id"] and known["id"] != identifier):
                known = {"type": "function", "function": {"name": "", "arguments": ""}, "id": ""}
                self._places[slot] = len(calls)
                calls.append(known)
            call = known
            if identifier:
                call["id"] = identifier
            function = delta.get("function")
            if isinstance(function, dict):
                if function.get("name"):
                    call["function"]["name"] += function["name"]
                if isinstance(function.get("arguments"), str):
                    call["function"]["arguments"] += function["arguments"]

    def body(self) -> dict[str, Any]:
        """See `Collector`."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices:
            message = choice["message"]
            # A plain answer has text, or calls (then null), or nothing at all (then an empty text).
            if message.get("content") is None and not message.get("tool_calls"):
                message["content"] = ""
        top = dict(self._top)
        usage = top.pop("usage", None)
        body: dict[str, Any] = {"choices": choices}
        for name in ("created", "model", "system_fingerprint"):
            if name in top:
                body[name] = top.pop(name)
        body["object"] = "chat.completion"
        if usage is not None:
            body["usage"] = usage
        body.update(top)
        return body


class CompletionCollector:
    """`text_completion` chunks -> one `text_completion`."""

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, value: Any) -> None:
        """See `Collector`."""
        if not isinstance(value, dict):
            return
        for name, field in value.items():
            if name not in ("choices", "prompt_progress") and field is not None:
                self._top[name] = field
        for chunk in value.get("choices") or ():
            if not isinstance(chunk, dict):
                continue
            index = chunk.get("index") or 0
            choice = self._choices.setdefault(index, {"text": "", "index": index})
            if isinstance(chunk.get("text"), str):
                choice["text"] += chunk["text"]
            logprobs = chunk.get("logprobs")
            if isinstance(logprobs, dict):
                joined = choice.setdefault("logprobs", {})
                for name, field in logprobs.items():
                    if isinstance(field, list):
                        joined.setdefault(name, []).extend(field)
            elif "logprobs" not in choice:
                choice["logprobs"] = None
            if chunk.get("finish_reason") is not None or "finish_reason" not in choice:
                choice["finish_reason"] = chunk.get("finish_reason")

    def body(self) -> dict[str, Any]:
        """See `Collector`."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        top = dict(self._top)
        body: dict[str, Any] = {"choices": choices}
        for name in ("created", "model", "system_fingerprint", "object", "usage"):
            if name in top:
                body[name] = top.pop(name)
        body.update(top)
        return body


class LlamaCollector:
    """Events of llama.cpp's `/completion` -> its plain body: the last event with all of the text."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._last: dict[str, Any] = {}

    def add(self, value: Any) -> None:
        """See `Collector`."""
        if not isinstance(value, dict):
            return
        if isinstance(value.get("content"), str):
            self._texts.append(value["content"])
        self._last = value

    def body(self) -> dict[str, Any]:
        """See `Collector`."""
        body = {**self._last, "content": "".join(self._texts)}
        settings = body.get("generation_settings")
        if isinstance(settings, dict) and settings.get("stream") is True:
            body["generation_settings"] = {**settings, "stream": False}
        return body


def collector_for(operation: str, dialect: str) -> Collector:
    """The collector of OpenAI's `chat` or `completions`, or of llama.cpp's own completion."""
    if dialect == "llamacpp":
        return LlamaCollector()
    return ChatCollector() if operation == "chat" else CompletionCollector()
