"""
The relay for clients that did not ask for a stream and speak their server's dialect: events are folded into one
body, nothing goes out before its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from penstock.dialects.sse import SseFramer, parse_event
from penstock.gateway.relays.loop_watch import ValueWatch
from penstock.gateway.relays.relay import Seen


class CollectingRelay:
    """
    The client wants one body: events are folded into it, nothing goes out before the end.

    Args:
        add: takes one event's data (JSON text), folds it in.
        body: makes the body when all is there.
        watch: ends an answer that repeats itself; None for answers that are not watched.
    """

    __slots__ = ("_add", "_body", "_framer", "_watch", "seen")

    def __init__(
        self,
        add: Callable[[Any], None],
        body: Callable[[], bytes],
        *,
        watch: ValueWatch | None = None,
    ) -> None:
        self._add = add
        self._body = body
        self._watch = watch
        self._framer = SseFramer()
        self.seen = Seen()

    def feed(self, data: bytes) -> bytes:
        """See `Relay`: nothing goes out."""
        for raw in self._framer.feed(data):
            self._take(raw)
        return b""

    def end(self) -> bytes:
        """The whole body."""
        if rest := self._framer.end():
            self._take(rest)
        return self._body() if self.seen.error is None else b""

    def broken(self) -> bytes:
        """See `Relay`: half a body is none."""
        return b""

    def cut(self) -> bool:
        """See `Relay`."""
        seen = self.seen
        if seen.closed or seen.finished or seen.ended_by_us or seen.error is not None:
            return False
        self._framer.end()
        return True

    def _take(self, raw: bytes) -> None:
        seen = self.seen
        data = parse_event(raw).data
        if not data or seen.error is not None or seen.ended_by_us:
            return
        if data == b"[DONE]":
            seen.closed = True
            return
        value = orjson.loads(data)
        seen.read_value(value)
        if seen.error is not None:
            return
        if isinstance(value, dict):
            if "prompt_progress" in value and seen.progress is not None and not _has_output(value):
                return
            seen.closed |= value.get("stop") is True
        seen.token = True
        seen.events += 1
        try:
            self._add(value)
        except (AttributeError, TypeError) as exc:
            raise ValueError("a chunk has another shape than OpenAI's chunks have") from exc
        if self._watch is not None and self._watch.add(value):
            seen.ended_by_us, seen.finish_reason = "loop", "length"
            seen.closed = True
            self._add(self._watch.ending)


def _has_output(value: Mapping[str, Any]) -> bool:
    """Whether a chunk with progress carries output as well."""
    for choice in value.get("choices") or ():
        delta = choice.get("delta") or {}
        if delta.get("content") or delta.get("tool_calls") or choice.get("finish_reason"):
            return True
    return bool(value.get("content"))
