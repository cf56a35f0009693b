"""
Neutral events as a Responses stream, or as one `response` body.

One item is open at a time: what is of another kind closes it. The closing event holds the whole response,
so it is written in `end`, when the usage is known. The body for a client that asked for no stream is what
the closing event would have held.
Grammar: platform.openai.com/docs/api-reference/responses-streaming; the official client raises on an event
before `response.created` and on two calls with one id (`openai/lib/streaming/responses/_responses.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import orjson

from penstock.dialects.base import AnswerHead, Asked
from penstock.dialects.responses.outcome import (
    error_value,
    incomplete_reason,
    joined,
    own_fields,
)
from penstock.dialects.responses.pieces import OpenItem, Told
from penstock.dialects.responses.tools import ToolName
from penstock.domain.chat import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)

_PREFIXES = {"message": "msg", "thought": "rs", "summary": "rs", "function": "fc", "custom": "ctc"}


class ResponsesWriter:
    """One answer; see `AnswerWriter`."""

    __slots__ = (
        "_call_ids", "_echoed", "_head", "_is_begun", "_is_created", "_item", "_names", "_output",
        "_reason", "_thinking", "_tick", "_usage",
    )  # fmt: skip

    def __init__(self, head: AnswerHead, asked: Asked) -> None:
        self._head = head
        self._echoed: bytes = asked.echo["json"]
        self._names: Mapping[str, ToolName] = asked.echo["names"]
        self._thinking = "summary" if asked.echo["summary"] else "thought"
        self._tick = 0  # the next event's sequence_number
        self._is_created = False
        self._is_begun = False
        self._item: OpenItem | None = None
        self._output: list[dict[str, Any]] = []
        self._call_ids: frozenset[str] = frozenset()
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None

    def write(self, event: Event) -> bytes:
        """See `AnswerWriter`."""
        kind = type(event)
        if kind is TextDelta:
            item = self._item
            text: str = event.text  # type: ignore[union-attr]
            if not text:
                return b""
            if item is None or item.kind != "message":
                return self._start("message") + self._grow(text)
            item.pieces.append(text)
            tick = self._tick
            self._tick = tick + 1
            return b'%b%b,"logprobs":[],"sequence_number":%d}\n\n' % (
                item.head,
                orjson.dumps(text),
                tick,
            )
        if isinstance(event, ReasoningDelta):
            if not event.text:
                return b""
            if self._item is None or self._item.kind != self._thinking:
                return self._start(self._thinking) + self._grow(event.text)
            return self._grow(event.text)
        if isinstance(event, ToolCallDelta):
            begun = b""
            if self._item is None or self._item.call != event.call:
                begun = self._start_call(event)
            return begun + self._grow(event.arguments)
        if isinstance(event, Finished):
            self._reason = event.reason
            return self._close()
        if isinstance(event, UsageReported):
            self._usage = event.usage
        return b""

    def end(self, comment: bytes) -> bytes:
        """See `AnswerWriter`."""
        before = self._open() + self._close()
        name = "completed" if incomplete_reason(self._reason) is None else "incomplete"
        return before + self._whole_response(f"response.{name}", self._closing(), comment)

    def heartbeat(self) -> bytes:
        """Our own `response.created` once, then `response.in_progress`."""
        if not self._is_created:
            return self._create()
        self._is_begun = True
        return self._whole_response("response.in_progress", self._so_far("in_progress"))

    def failed(self, error: Mapping[str, Any], status: int) -> bytes:
        """
        See `AnswerWriter`.

        An item that is open stays open: clients run a tool when its item is done.
        """
        before = b"" if self._is_created else self._create()
        own = self._so_far("failed", error=error_value(error, status))
        return before + self._whole_response("response.failed", own)

    def fork(self) -> Self:
        """See `AnswerWriter`."""
        other = type(self).__new__(type(self))
        for name in ResponsesWriter.__slots__:
            setattr(other, name, getattr(self, name))
        other._output = list(self._output)  # items that are done never change
        other._item = None if self._item is None else self._item.fork()
        return other

    def body(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer; *fields* are those that repeat the request."""
        self._close()
        return {**self._closing(), **fields}

    def _open(self) -> bytes:
        """The head of the stream, as far as heartbeats have not sent it."""
        if self._is_begun:
            return b""
        before = b"" if self._is_created else self._create()
        return before + self.heartbeat()

    def _create(self) -> bytes:
        self._is_created = True
        return self._whole_response("response.created", self._so_far("in_progress"))

    def _start(self, kind: str, **more: Any) -> bytes:
        before = self._open() + self._close()
        place = len(self._output)
        item = OpenItem(kind, f"{_PREFIXES[kind]}_{self._head.id}{place}", place, **more)
        self._item = item
        return before + self._say(item.began())

    def _start_call(self, event: ToolCallDelta) -> bytes:
        tool = self._names.get(event.name) or ToolName(event.name)
        call_id = event.id
        if not call_id or call_id in self._call_ids:
            call_id = f"call_{self._head.id}{len(self._output) + (self._item is not None)}"
        self._call_ids |= {call_id}
        kind = "custom" if tool.is_custom else "function"
        return self._start(kind, call=event.call, call_id=call_id, tool=tool)

    def _grow(self, text: str) -> bytes:
        """More of the open item."""
        item = self._item
        if item is None or not text:
            return b""
        item.pieces.append(text)
        if not item.head:
            return b""
        tick = self._tick
        self._tick = tick + 1
        more = b',"logprobs":[]' if item.kind == "message" else b""
        return b'%b%b%b,"sequence_number":%d}\n\n' % (item.head, orjson.dumps(text), more, tick)

    def _close(self) -> bytes:
        item, self._item = self._item, None
        if item is None:
            return b""
        is_cut = incomplete_reason(self._reason) is not None
        told, done = item.ended("incomplete" if is_cut else "completed")
        self._output.append(done)
        return self._say(told)

    def _say(self, told: Sequence[Told]) -> bytes:
        """Events, numbered and framed."""
        said = []
        for name, data in told:
            value = {"type": name, **data, "sequence_number": self._tick}
            self._tick += 1
            said.append(b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value)))
        return b"".join(said)

    def _whole_response(self, name: str, own: Mapping[str, Any], comment: bytes = b"") -> bytes:
        """An event that holds the response object."""
        tick = self._tick
        self._tick = tick + 1
        said = name.encode()
        return b'event: %b\n%bdata: {"type":"%b","response":%b,"sequence_number":%d}\n\n' % (
            said,
            comment,
            said,
            joined(own, self._echoed),
            tick,
        )

    def _so_far(self, status: str, error: Mapping[str, Any] | None = None) -> dict[str, Any]:
        output = self._output if error is not None else []
        usage = self._usage if error is not None else None
        return own_fields(self._head, status, output=output, usage=usage, error=error)

    def _closing(self) -> dict[str, Any]:
        incomplete = incomplete_reason(self._reason)
        status = "completed" if incomplete is None else "incomplete"
        return own_fields(
            self._head, status, output=self._output, usage=self._usage, incomplete=incomplete
        )


def whole_answer(events: Sequence[Event], head: AnswerHead, asked: Asked) -> dict[str, Any]:
    """The `response` body."""
    writer = ResponsesWriter(head, asked)
    for event in events:
        writer.write(event)
    fields: Mapping[str, Any] = asked.echo["fields"]
    return writer.body(fields)
