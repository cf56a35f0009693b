"""
One request on its client's connection: uvicorn's cycle with a second, shorter way to answer.

ASGI's `send` takes a message for the head and one for each piece, and writes each by itself. The data
path calls `begin` and `piece` instead: no messages, head and first piece in one write, headers looked at
once as a block and not one by one, their case kept. What follows on the wire is the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from penstock.gateway.edge.head import Head

_LINE = b"%b: %b\r\n"
_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_first = itemgetter(0)
_BODILESS = frozenset({204, 304})
# Anything that would end a header line early, or is no text at all.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Connection:
    """
    A request's handle on its client's connection.

    Attributes:
        head: what the client said in front of the body; `headers`, `raw_headers` are taken from it.
        cycle: the request as the server sees it: the way to answer.
        disconnected: the client hung up before its answer was complete.
        body_complete: the request's last byte has come: reading its body waits for nothing.
    """

    __slots__ = (
        "_callbacks", "_transport", "body_complete", "cycle", "disconnected", "head", "headers",
        "raw_headers",
    )  # fmt: skip

    cycle: Cycle

    def __init__(self, transport: asyncio.Transport, head: Head) -> None:
        self._transport = transport
        self._callbacks: list[Callable[[], Any]] = []
        self.head = head
        self.headers = head.text
        self.raw_headers = head.raw
        self.disconnected = False
        self.body_complete = False

    def on_disconnect(self, callback: Callable[[], Any]) -> None:
        """Call *callback* in the event loop when the client hangs up; at once if it did already."""
        if self.disconnected:
            callback()
        else:
            self._callbacks.append(callback)

    def abort(self) -> None:
        """Drop the connection now; what is buffered is not sent, so that no end looks clean."""
        if not self._transport.is_closing():
            self._transport.abort()
            self.cycle.disconnected = (
                True  # else uvicorn calls the answer's lack of an end a defect
            )

    def write_buffer_size(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._transport.get_write_buffer_size()

    def done(self) -> None:
        """
        The answer is complete: what happens to the connection no longer concerns the request.

        The request's scope holds this handle, which holds the cycle, which holds the scope: without a cut
        all of a request would stay in memory until the collector comes.
        """
        self._callbacks.clear()
        self.cycle.scope["extensions"] = {}

    def lost(self) -> None:
        """The client hung up."""
        self.disconnected = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Cycle(RequestResponseCycle):
    """See the module. The two ways are not to be mixed within one answer."""

    held: bytes = b""
    """Head of an answer that waits for its first piece."""
    _is_chunked = False

    def take_body(self) -> bytes | None:
        """The whole body, if it is there and nothing has to be said first; None otherwise."""
        if self.more_body or self.waiting_for_100_continue or self.disconnected:
            return None
        body = bytes(self.body)
        self.body = bytearray()
        self.flow.resume_reading()
        self.message_event.clear()
        return body

    async def room(self) -> None:
        """Wait until the client's buffer has room again (backpressure)."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    def begin(self, status: int, headers: list[tuple[bytes, bytes]], *, hold: bool = False) -> None:
        """
        Send status and headers.

        Args:
            hold: a piece follows without anything to wait for: they go out together.
        """
        if self.disconnected:
            return
        if self.response_started:
            raise RuntimeError("the answer has begun already")
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status], *map(_LINE.__mod__, headers)]
        closes = False
        if not _FRAMING.isdisjoint(map(bytes.lower, map(_first, headers))):
            closes = self._read_framing(headers)
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
        if (
            self.chunked_encoding is None
            and status not in _BODILESS
            and self.scope["method"] != "HEAD"
        ):
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        # Each line has one end and nothing else that is not text, or somebody smuggles one in.
        if _FORBIDDEN.search(head.replace(b"\r\n", b"", len(lines))):
            raise RuntimeError("a header holds characters that none may hold")
        head += b"\r\n"
        self._is_chunked = bool(self.chunked_encoding) and self.scope["method"] != "HEAD"
        if hold:
            self.held = head
        else:
            self.transport.write(head)

    def _read_framing(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Note how the body will end. Returns whether the headers say that the connection closes."""
        closes = False
        for name, value in headers:
            low = name.lower()
            if low not in _FRAMING:
                continue
            if low == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif low == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif low == b"connection" and b"close" in [
                token.strip() for token in value.lower().split(b",")
            ]:
                self.keep_alive = False
                closes = True
        return closes

    def piece(self, data: bytes, *, more: bool) -> None:
        """Send a piece of the body; the last one completes the answer."""
        if self.disconnected:
            return
        if self._is_chunked and more and not self.held:  # what nearly all pieces are
            if data:
                self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        if not self.response_started or self.response_complete:
            raise RuntimeError("there is no answer that a piece could belong to")
        out = self._framed(data, more=more)
        if out:
            self.transport.write(out)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("the answer is shorter than its content-length")
        self.response_complete = True
        self._is_chunked = False
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _framed(self, data: bytes, *, more: bool) -> bytes:
        """What goes on the wire: the head that waits, and *data* as this body has it."""
        out, self.held = self.held, b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            if data:
                out = b"%b%x\r\n%b\r\n" % (out, len(data), data)
            if not more:
                out += b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(data)
            if self.expected_content_length < 0:
                raise RuntimeError("the answer is longer than its content-length")
            out += data
        return out
