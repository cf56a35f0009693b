"""
Relays for answers in another dialect than the client's: a server's events become neutral ones, these what the
client reads. One streams, one folds all of it into a body for a client that asked for none.

The writer of a stream is made when its first bytes are to go out, so that it knows what heartbeats said before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import orjson

from penstock.dialects.base import AnswerWriter
from penstock.dialects.ndjson import NdjsonFramer
from penstock.dialects.sse import SseFramer, parse_event
from penstock.domain.chat import (
    Event,
    Finished,
    PrefillProgress,
    StreamEnd,
    StreamError,
    TextDelta,
    UsageReported,
)
from penstock.gateway.relays.call_order import CallOrder
from penstock.gateway.relays.loop_watch import EventWatch
from penstock.gateway.relays.mending import EventMender
from penstock.gateway.relays.relay import KEEPALIVE, Late, Seen

_SAY_NOTHING = frozenset({PrefillProgress, UsageReported})


class Reader(Protocol):
    """One event's JSON value -> neutral events."""

    def read(self, value: Any) -> list[Event]:
        """The events; in order, none left out."""

    def whole(self, value: Any) -> list[Event]:
        """The same for an answer that came as one body, its end included."""


class Source:
    """
    What a server says, as neutral events: cut out of its bytes, watched for repetition, its calls mended and one
    after the other.

    Args:
        reader: of the server's dialect.
        ndjson: lines instead of server-sent events.
        watch: ends an answer that repeats itself; None for answers that are not watched.
        mender: makes tool calls right; None for requests without tools.
    """

    __slots__ = ("_framer", "_mender", "_ndjson", "_order", "_reader", "_watch", "seen")

    def __init__(
        self,
        reader: Reader,
        seen: Seen,
        *,
        ndjson: bool,
        watch: EventWatch | None = None,
        mender: EventMender | None = None,
    ) -> None:
        self._reader = reader
        self._ndjson = ndjson
        self._watch = watch
        self._mender = mender
        self._order = CallOrder()
        self._framer: SseFramer | NdjsonFramer = NdjsonFramer() if ndjson else SseFramer()
        self.seen = seen

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now."""
        out: list[Event] = []
        for raw in self._framer.feed(data):
            self._take(raw, out)
        return out

    def end(self) -> list[Event]:
        """
        The events of what came after the last complete one, and what was held. An answer that said why it ends
        is complete, also without its dialect's closing event.
        """
        out: list[Event] = []
        seen = self.seen
        if rest := self._framer.end():
            try:
                self._take(rest, out)
            except orjson.JSONDecodeError:
                if not seen.finished:  # half an event; what matters was said before it
                    raise
        if seen.closed or seen.error is not None:
            return out
        if seen.finished:
            seen.closed = True
            self._go_on([StreamEnd()], out)
            return out
        return out + self.broken()

    def broken(self) -> list[Event]:
        """What was held of an answer that broke off: it goes on as it came."""
        out = self._order.take(self._mender.broken()) if self._mender is not None else []
        return out + self._order.rest()

    def cut(self) -> bool:
        """See `Relay`: not in a call, nor where text may become one."""
        seen = self.seen
        if seen.closed or seen.finished or seen.ended_by_us or seen.error is not None:
            return False
        if not self._order.is_idle or (self._mender is not None and self._mender.has_call):
            return False
        self._framer.end()
        return True

    def whole(self, value: Any) -> list[Event]:
        """The events of an answer that came as one body."""
        out: list[Event] = []
        self._go_on(self._reader.whole(value), out)
        return out

    def _take(self, raw: bytes, out: list[Event]) -> None:
        seen = self.seen
        if seen.error is not None or seen.ended_by_us or seen.closed:
            return
        data = raw.strip() if self._ndjson else parse_event(raw).data
        if not data:
            if found := KEEPALIVE.match(raw):
                seen.progress = PrefillProgress(int(found[1]), int(found[2]))
            return
        if data == b"[DONE]":
            self._go_on([StreamEnd()], out)
            return
        self._go_on(self._reader.read(orjson.loads(data)), out)

    def _go_on(self, events: list[Event], out: list[Event]) -> None:
        seen, watch, mender, order = self.seen, self._watch, self._mender, self._order
        if (
            len(events) == 1
            and watch is None
            and mender is None
            and order.is_idle
            and type(events[0]) is TextDelta
        ):
            seen.token = True  # nearly all of them
            out.append(events[0])
            return
        for event in events:
            note(seen, event)
        if seen.error is not None:
            return
        if watch is not None:
            events = watch.cut(events)
            if watch.looped:
                seen.ended_by_us, seen.finish_reason = "loop", "length"
                seen.closed = seen.finished = True
        if mender is not None:
            events = mender.mend(events)
            for event in events:
                if isinstance(event, Finished):
                    seen.finish_reason = event.reason
        out += order.take(events)


class TranslatingRelay:
    """
    For a client that asked for a stream.

    Args:
        source: the server's events.
        writer: asked once, when the first bytes are to go out.
        late: called at the end; returns what is to be announced there, None for nothing.
    """

    __slots__ = ("_begin", "_early", "_late", "_source", "_writer", "seen")

    def __init__(self, source: Source, writer: Callable[[], AnswerWriter], late: Late) -> None:
        self._source = source
        self._begin = writer
        self._writer: AnswerWriter | None = None
        self._early: dict[type[Event], Event] = {}
        self._late = late
        self.seen = source.seen

    def feed(self, data: bytes) -> bytes:
        """See `Relay`."""
        return self._say(self._source.feed(data))

    def end(self) -> bytes:
        """See `Relay`."""
        return self._say(self._source.end())

    def broken(self) -> bytes:
        """See `Relay`."""
        return self._say(self._source.broken()) if self._writer is not None else b""

    def cut(self) -> bool:
        """See `Relay`."""
        return self._source.cut()

    def whole(self, value: Any) -> bytes:
        """The stream that one body stands for, which the server gave although a stream was asked for."""
        return self._say(self._source.whole(value))

    def _say(self, events: list[Event]) -> bytes:
        if not events:
            return b""
        writer = self._writer
        if writer is None:
            # Until there is something to say this attempt may fail, and heartbeats go on for the next one.
            if _SAY_NOTHING.issuperset(map(type, events)):
                self._early.update((type(event), event) for event in events)
                return b""
            events = [*self._early.values(), *events]
            self._early.clear()
            writer = self._writer = self._begin()
        out: list[bytes] = []
        for event in events:
            if isinstance(event, StreamEnd):
                late = self._late()
                comment = b": penstock " + orjson.dumps(late) + b"\n" if late else b""
                out.append(writer.end(comment))
            else:
                out.append(writer.write(event))
        self.seen.events += len(events)
        return b"".join(out)


class CollectingTranslator:
    """
    For a client that did not: nothing goes out before the end.

    Args:
        source: the server's events.
        body: makes the body of all of them.
    """

    __slots__ = ("_body", "_events", "_source", "seen")

    def __init__(self, source: Source, body: Callable[[list[Event]], bytes]) -> None:
        self._source = source
        self._body = body
        self._events: list[Event] = []
        self.seen = source.seen

    def feed(self, data: bytes) -> bytes:
        """See `Relay`: nothing goes out."""
        events = self._source.feed(data)
        self.seen.events += len(events)
        self._events += events
        return b""

    def end(self) -> bytes:
        """The whole body."""
        self._events += self._source.end()
        return self._body(self._events) if self.seen.error is None else b""

    def broken(self) -> bytes:
        """See `Relay`: half a body is none."""
        return b""

    def cut(self) -> bool:
        """See `Relay`."""
        return self._source.cut()

    def whole(self, value: Any) -> bytes:
        """The body that another body stands for."""
        events = self._source.whole(value)
        return self._body(events) if self.seen.error is None else b""


def note(seen: Seen, event: Event) -> None:
    """Take an event's facts into *seen*. After an error nothing counts."""
    if seen.error is not None:
        return
    if isinstance(event, StreamError):
        seen.error = event.raw
    elif isinstance(event, PrefillProgress):
        seen.progress = event
    elif isinstance(event, UsageReported):
        seen.prompt_tokens = event.usage.prompt_tokens
        seen.completion_tokens = event.usage.completion_tokens
        if event.timings:
            seen.timings(event.timings)
        seen.cached_tokens = event.usage.cached_tokens
    elif isinstance(event, Finished):
        seen.finished = True
        seen.finish_reason = event.reason
    elif isinstance(event, StreamEnd):
        seen.closed = True
    else:
        seen.token = True
