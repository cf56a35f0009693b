"""
Relays: how the bytes of a local upstream's stream become the bytes that the client gets.

A relay is fed what the socket had and returns what may go on now. Events pass verbatim or are left out
whole; what the gateway inserts stands between events only. Nothing is parsed that no feature needs: one
scan for a handful of markers decides whether a batch of events is looked at one by one.

`VerbatimRelay` here is for clients and servers that speak the same dialect. The one that mends tool calls on the
way stands in `mending_relay`, those for other dialects in `translating`, the one for clients that did not ask for
a stream in `collecting`. Cloud streams pass through none of them, see `cloud`.

An answer that repeats itself without end is ended here: by a chunk that says so and, this once, by a closing
event that is ours. The gateway never invents one for an answer that the server broke off (contracts 4); here
the answer ends properly, and it was the gateway that ended it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from penstock.dialects.sse import last_boundary
from penstock.dialects.surfaces import Surface
from penstock.domain.chat import PrefillProgress
from penstock.gateway.relays.loop_watch import LoopWatch, closing_chunk
from penstock.toolcalls.stream import Mended

_LARGEST_EVENT_BYTES = 8 * 1024 * 1024
KEEPALIVE = re.compile(rb":\s*keepalive (\d{1,9})/(\d{1,9})")
"""mlx-lm's comment during prefill: tokens processed and in total."""
_DATA_LINE = re.compile(rb"(?:^|[\r\n])(?:\xef\xbb\xbf)?data:")
_MARKER = re.compile(rb'"(?:usage|prompt_progress|error|timings|prompt_eval_count)"')


Late = Callable[[], dict[str, Any] | None]
"""What is to be announced before the closing event; None for nothing."""


class OversizedEvent(ValueError):
    """The upstream sent an event without end."""


class Seen:
    """
    What a relay noticed on the way; read by the pipeline after each `feed`.

    Attributes:
        token: the first event that carries output was seen.
        error: raw JSON of an error that the upstream reported inside its stream.
        closed: the closing event of the dialect was seen.
        finished: a finish reason was seen.
        progress: prefill progress since the last look, None when there was none.
        prompt_tokens, completion_tokens, cached_tokens: the server's own counts.
        prefill_tokens_per_s: how quickly it processed the uncached prompt, by its own timings.
        prefill_is_bound: it was that quick at most.
        ended_by_us: why the gateway ended the answer (`loop`), "" when it did not: then the upstream's
            connection is to be closed, and nothing more is to be fed.
        mended: what was done with the answer's tool calls and is not announced yet.
    """

    __slots__ = (
        "cached_tokens",
        "closed",
        "completion_tokens",
        "ended_by_us",
        "error",
        "events",
        "finish_reason",
        "finished",
        "mended",
        "prefill_is_bound",
        "prefill_tokens_per_s",
        "progress",
        "prompt_tokens",
        "token",
    )

    def __init__(self) -> None:
        self.token = False
        self.error: Any = None
        self.closed = False
        self.finished = False
        self.finish_reason = ""
        self.progress: PrefillProgress | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.prefill_tokens_per_s: float | None = None
        self.prefill_is_bound = False
        self.events = 0
        self.ended_by_us = ""
        self.mended: list[Mended] = []

    def usage(self, usage: Mapping[str, Any]) -> None:
        """Take in an OpenAI-shaped usage object."""
        prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
        completion = usage.get("completion_tokens", usage.get("output_tokens"))
        if isinstance(prompt, int):
            self.prompt_tokens = prompt
        if isinstance(completion, int):
            self.completion_tokens = completion
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            self.cached_tokens = details["cached_tokens"]

    def timings(self, timings: Mapping[str, Any]) -> None:
        """Take in llama.cpp's timings (`tools/server/server-task.h`, result_timings), or Ollama's, in seconds."""
        new, cached = timings.get("prompt_n"), timings.get("cache_n")
        if isinstance(new, int):
            self.cached_tokens = cached if isinstance(cached, int) else self.cached_tokens
            if self.prompt_tokens is None:
                self.prompt_tokens = new + (self.cached_tokens or 0)
            spent_ms = timings.get("prompt_ms")
            if isinstance(spent_ms, int | float) and spent_ms > 0 and new > 32:
                self.prefill_tokens_per_s = new * 1000.0 / spent_ms
        spent_s = timings.get("prompt_eval_duration")
        if isinstance(spent_s, int | float) and spent_s > 0 and self.prompt_tokens:
            # Ollama tells the time of what was new and the count of all: it was this quick or slower.
            self.prefill_tokens_per_s = self.prompt_tokens / spent_s
            self.prefill_is_bound = True
        if self.completion_tokens is None and isinstance(timings.get("predicted_n"), int):
            self.completion_tokens = timings["predicted_n"]

    def read_value(self, value: Any) -> None:
        """Look at one event's JSON value, whatever the dialect."""
        if not isinstance(value, dict):
            return
        if isinstance(value.get("usage"), dict):
            self.usage(value["usage"])
        if isinstance(value.get("timings"), dict):
            self.timings(value["timings"])
        response = value.get("response")
        if isinstance(response, dict) and isinstance(response.get("usage"), dict):
            self.usage(response["usage"])
        message = value.get("message")
        if isinstance(message, dict) and isinstance(message.get("usage"), dict):
            self.usage(message["usage"])
        if isinstance(value.get("prompt_eval_count"), int):
            self.prompt_tokens = value["prompt_eval_count"]
        if isinstance(value.get("eval_count"), int):
            self.completion_tokens = value["eval_count"]
        progress = value.get("prompt_progress")
        if isinstance(progress, dict):
            self.progress = PrefillProgress(
                processed=int(progress.get("processed") or 0),
                total=int(progress.get("total") or 0),
                cached=int(progress.get("cache") or 0),
            )
        if value.get("error"):
            self.error = value["error"]


class Relay(Protocol):
    """Feeds in, bytes out."""

    seen: Seen

    def feed(self, data: bytes) -> bytes:
        """Take what the socket had, return what may go to the client now."""

    def end(self) -> bytes:
        """The upstream's body ended properly: return what is left to send."""

    def broken(self) -> bytes:
        """It broke off: return what was held, as it came."""

    def cut(self) -> bool:
        """
        It broke off, and another stream may go on where its last whole event ended. Returns whether it may; then
        what was half of an event is forgotten.
        """


class VerbatimRelay:
    """
    Client and server speak the same dialect: events go on as they came.

    Args:
        surface: the dialect.
        drop_progress: leave out prefill progress, because it was us who asked for it.
        drop_usage: leave out the usage-only chunk, because it was us who asked for it.
        late: called at the closing event; returns what is to be announced before it, None for nothing.
        watch: ends an answer that repeats itself; None for answers that are not watched.
    """

    __slots__ = (
        "_buffer",
        "_closing",
        "_drop_progress",
        "_drop_usage",
        "_late",
        "_surface",
        "_tail",
        "_watch",
        "seen",
    )

    def __init__(
        self,
        surface: Surface,
        *,
        drop_progress: bool = False,
        drop_usage: bool = False,
        late: Late | None = None,
        watch: LoopWatch | None = None,
    ) -> None:
        self._surface = surface
        self._closing = surface.closing_marker
        self._drop_progress = drop_progress
        self._drop_usage = drop_usage
        self._late = late
        self._watch = watch
        self._buffer = b""
        self._tail = b""
        self.seen = Seen()

    def feed(self, data: bytes) -> bytes:
        """See `Relay`."""
        if self._buffer:
            data = self._buffer + data
        end = self._boundary(data)
        if end < len(data):
            if len(data) - max(end, 0) > _LARGEST_EVENT_BYTES:
                raise OversizedEvent(f"an event of more than {_LARGEST_EVENT_BYTES} bytes")
            if end <= 0:
                self._buffer = data
                return b""
            self._buffer = data[end:]
            data = data[:end]
        else:
            self._buffer = b""
        out = self._pass(data)
        watch = self._watch
        if watch is not None and watch.add(data):
            return out + self._end_here(data)
        return out

    def end(self) -> bytes:
        """See `Relay`."""
        rest, self._buffer = self._buffer, b""
        if not rest.strip():
            self._judge_tail()
            return rest
        if self._surface.value_of(rest) is None and not self._surface.is_closing_event(rest):
            self._judge_tail()
            return b""  # half an event: what follows, an error perhaps, must not run into it
        # The last event may lack its blank line: it goes on verbatim, closed for those who need it.
        out = self._look(rest)
        self._judge_tail()
        return out

    def broken(self) -> bytes:
        """See `Relay`."""
        self._buffer = b""
        return self._before_end(broken=True)

    def cut(self) -> bool:
        """See `Relay`."""
        seen = self.seen
        self._judge_tail()
        if seen.closed or seen.finished or seen.ended_by_us or seen.error is not None:
            return False
        self._buffer = b""
        return True

    def _boundary(self, data: bytes) -> int:
        if self._surface.is_ndjson:
            return data.rfind(b"\n") + 1
        if data.endswith(b"\n\n"):
            return len(data)
        return last_boundary(data)

    def _pass(self, batch: bytes) -> bytes:
        """
        Let a batch of whole events go on. Only one that holds a marker is looked at event by event; a
        model that speaks such a word costs a look, nothing else.
        """
        seen = self.seen
        # Written out: a loop over the markers costs more than the searches themselves.
        if (
            self._closing in batch
            or b'"usage"' in batch
            or b'"prompt_progress"' in batch
            or b'"error"' in batch
            or b'"timings"' in batch
            or b'"prompt_eval_count"' in batch
        ):
            # What stands before the event that holds the first marker goes on unseen.
            found = _MARKER.search(batch)
            first = len(batch) if found is None else found.start()
            closing = batch.find(self._closing, 0, first)
            first = closing if closing >= 0 else first
            end_of_event = b"\n" if self._surface.is_ndjson else b"\n\n"
            before = batch.rfind(end_of_event, 0, first)
            start = before + len(end_of_event) if before >= 0 else 0
            out = batch[:start] if seen.token else self._begin(batch[:start])
            out += self._look(batch[start:])
        else:
            out = batch if seen.token else self._begin(batch)
            seen.events += 1
        if out:
            self._tail = out if len(out) > 600 else (self._tail + out)[-1200:]
        return out

    def _begin(self, batch: bytes) -> bytes:
        """
        Whole events that hold no marker, while none with data has come.

        Comments, by which a server keeps a connection alive in prefill, are no output. They stay here, so
        that an error that follows has a status of its own; heartbeats are ours.
        """
        seen = self.seen
        if self._surface.is_ndjson or _DATA_LINE.search(batch):
            seen.token = bool(batch)
            return batch
        for done, total in KEEPALIVE.findall(batch):
            seen.progress = PrefillProgress(processed=int(done), total=int(total), cached=0)
        return b""

    def _look(self, batch: bytes) -> bytes:
        """Go through the events one by one."""
        out: list[bytes] = []
        surface, seen = self._surface, self.seen
        for raw in surface.split(batch):
            if surface.is_closing_event(raw):
                out.append(self._before_end())
                seen.closed = True
                seen.read_value(surface.value_of(raw))
                late = self._late() if self._late is not None else None
                if late and not surface.is_ndjson:
                    # Directly before the data line, which an event line may precede (contracts 4).
                    at = 0 if raw.startswith(b"data:") else raw.find(b"\ndata:") + 1
                    raw = raw[:at] + surface.announcement(orjson.dumps(late)) + raw[at:]
                out.append(raw)
                continue
            value = surface.value_of(raw)
            seen.read_value(value)
            if seen.error is not None:
                out.append(self._before_end(broken=True))
                break
            if isinstance(value, dict):
                if self._drop_progress and "prompt_progress" in value:
                    continue
                if (
                    self._drop_usage
                    and value.get("choices") == []
                    and isinstance(value.get("usage"), dict)
                ):
                    continue
                seen.token = True
            elif not seen.token:
                continue  # a comment, see `_begin`
            seen.events += 1
            out.append(self._mend(raw, value))
        return b"".join(out)

    def _mend(self, raw: bytes, value: Any) -> bytes:
        """What goes on in the place of one event."""
        return raw

    def _before_end(self, *, broken: bool = False) -> bytes:
        """What is still to go out before the closing event, or before a stream's end without one."""
        return b""

    def _end_here(self, batch: bytes) -> bytes:
        """End an answer that repeats itself, unless it has just ended by itself."""
        seen = self.seen
        if (
            seen.closed
            or seen.error is not None
            or b'"finish_reason":"' in self._tail.replace(b" ", b"")
        ):
            return b""
        held, self._buffer = self._before_end(broken=True), b""
        seen.ended_by_us, seen.finish_reason = "loop", "length"
        seen.closed = seen.finished = True
        late = self._late() if self._late is not None else None
        told = self._surface.announcement(orjson.dumps(late)) if late else b""
        return held + closing_chunk(batch) + told + b"data: [DONE]\n\n"

    def _judge_tail(self) -> None:
        """Whether the answer was complete although no closing event came: a finish reason stands in it."""
        tail = self._tail.replace(b" ", b"")
        if b'"finish_reason":"' in tail or b'"done":true' in tail or b'"stop":true' in tail:
            self.seen.finished = True
