"""
The loop guard on a stream of bytes: it looks at what was relayed every few kilobytes, not at each event.

The text is cut out of the raw events by a pattern, joined, and read as one JSON string: about a microsecond an
event. Only texts of the answer and of its reasoning are looked at, never tool arguments.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from penstock.dialects.sse import parse_event, split_events
from penstock.domain.chat import Event, Finished, ReasoningDelta, StreamEnd, TextDelta
from penstock.loop_guard import LoopGuard

_LOOK_EACH_BYTES = 8192
_FIELDS = ("content", "reasoning_content", "reasoning", "thinking")
_TEXT = re.compile(
    rb'"(?:content|reasoning_content|reasoning|thinking|text)" ?: ?"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
)


class LoopWatch:
    """Watches one answer of one choice, as server-sent events of OpenAI's chat or completions."""

    __slots__ = ("_batches", "_guard", "_size")

    def __init__(self) -> None:
        self._guard = LoopGuard()
        self._batches: list[bytes] = []
        self._size = 0

    def add(self, batch: bytes) -> bool:
        """Take in whole events. True: the answer repeats itself, see `ending`."""
        self._batches.append(batch)
        self._size += len(batch)
        return self._size >= _LOOK_EACH_BYTES and self._look()

    def _look(self) -> bool:
        texts = _TEXT.findall(b"".join(self._batches))
        del self._batches[:]
        self._size = 0
        if not texts:
            return False
        try:
            text = orjson.loads(b'"' + b"".join(texts) + b'"')
        except orjson.JSONDecodeError:
            return False
        return self._guard.feed(text)


class ValueWatch:
    """The same for chunks that are read anyway, because they are folded into one body."""

    __slots__ = ("_guard", "ending")

    def __init__(self, *, chat: bool) -> None:
        self._guard = LoopGuard()
        end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        self.ending = {"choices": [{"index": 0, **end, "finish_reason": "length"}]}

    def add(self, value: Any) -> bool:
        """Take in a chunk. True: the answer repeats itself; `ending` is the chunk that ends it."""
        choices = value.get("choices") if isinstance(value, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return False
        choice = choices[0]
        delta = choice.get("delta")
        said = [choice.get("text")]
        if isinstance(delta, dict):
            said += [delta.get(name) for name in _FIELDS]
        text = "".join(one for one in said if isinstance(one, str))
        return bool(text) and choice.get("finish_reason") is None and self._guard.feed(text)


class EventWatch:
    """The same for neutral events, as translation from another dialect makes them."""

    __slots__ = ("_guard", "looped")

    def __init__(self) -> None:
        self._guard = LoopGuard()
        self.looped = False

    def cut(self, events: list[Event]) -> list[Event]:
        """*events*, ended behind the one with which the answer has repeated itself for too long."""
        for place, event in enumerate(events):
            if isinstance(event, TextDelta | ReasoningDelta) and self._guard.feed(event.text):
                self.looped = True
                return [*events[: place + 1], Finished("length"), StreamEnd()]
        return events


def closing_chunk(batch: bytes) -> bytes:
    """A chunk that ends the answer for its length, like the chunks in *batch*."""
    value: Any = None
    for raw in reversed(split_events(batch)):
        try:
            value = orjson.loads(parse_event(raw).data)
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict) and value.get("choices"):
            break
    top = value if isinstance(value, dict) else {}
    top = {name: field for name, field in top.items() if name not in ("usage", "timings")}
    choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "length"}
    if top.get("object") == "text_completion":
        choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
    return b"data: " + orjson.dumps({**top, "choices": [choice]}) + b"\n\n"
