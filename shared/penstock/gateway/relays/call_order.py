"""
One tool call after the other: what writers of other dialects rely on (`AnswerWriter`).

In OpenAI's chunks the pieces of several calls may stand in any order, and mending lets a call begin while the rest
of the one before is still held. A content block, an output item or a line of Ollama's holds one call: were it
closed early, the client would run it with half of its arguments. So while a call is not whole, what is not part of
it waits: until its arguments are, or until the answer ends.
"""

from __future__ import annotations

from collections import deque

import orjson

from penstock.domain.chat import (
    Event,
    Finished,
    PrefillProgress,
    StreamEnd,
    StreamError,
    ToolCallDelta,
    UsageReported,
)

_SAYS_NOTHING = (PrefillProgress, UsageReported)
_ENDS = (Finished, StreamEnd, StreamError)


class CallOrder:
    """Puts the events of one answer into order."""

    __slots__ = ("_call", "_held", "_is_open", "_left", "_pieces")

    def __init__(self) -> None:
        self._call: int | None = None  # the one that has begun
        self._pieces: list[str] = []
        self._is_open = False  # its last piece was looked at, and more is to come
        self._held: list[Event] = []
        self._left: set[int] = set()

    @property
    def is_idle(self) -> bool:
        """Whether only a call could make a difference now."""
        return self._call is None

    def take(self, events: list[Event]) -> list[Event]:
        """What goes on in the place of *events*."""
        if self._call is None and ToolCallDelta not in map(type, events):
            return events
        out: list[Event] = []
        for event in events:
            if isinstance(event, _SAYS_NOTHING):
                out.append(event)
            elif isinstance(event, _ENDS):
                out += self.rest()
                out.append(event)
            else:
                self._add(event, out)
        return out

    def rest(self) -> list[Event]:
        """What is held: there is nothing more to wait for."""
        self._leave()
        held, self._held = self._held, []
        groups: dict[int, list[Event]] = {}
        for place, event in enumerate(held):
            key = event.call if isinstance(event, ToolCallDelta) else -1 - place
            groups.setdefault(key, []).append(event)
        self._left.update(key for key in groups if key >= 0)
        return [event for group in groups.values() for event in group]

    def _add(self, event: Event, out: list[Event]) -> None:
        waiting = deque([event])
        while waiting:
            event = waiting.popleft()
            if isinstance(event, ToolCallDelta) and event.call == self._call:
                self._pieces.append(event.arguments)
                self._is_open = False
                out.append(event)
                if self._held and self._is_whole():
                    waiting.extendleft(reversed(self._held))
                    self._held = []
            elif self._call is not None and not self._is_whole():
                self._held.append(event)
            elif not isinstance(event, ToolCallDelta):
                self._leave()
                out.append(event)
            elif event.call not in self._left:
                self._leave()
                self._call, self._pieces, self._is_open = event.call, [event.arguments], False
                out.append(event)
            # Else the server goes on with a call whose arguments were whole: they stay what they were.

    def _leave(self) -> None:
        if self._call is not None:
            self._left.add(self._call)
        self._call, self._pieces = None, []

    def _is_whole(self) -> bool:
        """Whether the arguments are an object that has ended."""
        if self._is_open:
            return False
        text = "".join(self._pieces)
        self._pieces = [text]
        self._is_open = not text.rstrip().endswith("}")
        if not self._is_open:
            try:
                orjson.loads(text)
            except orjson.JSONDecodeError:
                self._is_open = True
        return not self._is_open
