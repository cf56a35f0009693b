"""
One answer of an upstream: what httptools finds in the bytes, until its reader has taken them.

An answer is an object of its own, not a state of the connection: its reader may look at it, or close it,
when the connection already serves somebody else.
"""

from __future__ import annotations

import asyncio
from operator import itemgetter
from typing import TYPE_CHECKING

import httptools

from penstock.adapters.transport.errors import Kind, TransportError
from penstock.adapters.transport.interface import Headers
from penstock.adapters.transport.pool import idle_limit_s

if TYPE_CHECKING:
    from penstock.adapters.transport.connection import Connection

_first = itemgetter(0)
_LARGEST_HEAD_BYTES = 64 * 1024


class Answer:
    """
    See `UpstreamResponse`.

    Attributes:
        head_done: status and headers are there.
        complete: the last byte has come (it may still be buffered).
        error: why it will never be complete.
    """

    __slots__ = (
        "_bodiless",
        "_buffer",
        "_buffered",
        "_connection",
        "_interim",
        "_keep_alive",
        "_overhead",
        "_parser",
        "_paused",
        "_received",
        "_until_eof",
        "_waiter",
        "complete",
        "error",
        "head_done",
        "headers",
        "reused",
        "status",
    )

    def __init__(self, connection: Connection, reused: bool, bodiless: bool) -> None:
        self._connection: Connection | None = connection
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._bodiless = bodiless
        self._interim = False
        self._keep_alive = False
        self._overhead = 0
        self._paused = False
        self._received = 0
        self._until_eof = False
        self.complete = False
        self.error: TransportError | None = None
        self.head_done = False
        self.headers: Headers = []
        self.reused = reused
        self.status = 0

    # What the connection calls.

    def feed(self, data: bytes) -> None:
        """Bytes have come."""
        parser = self._parser
        if parser is None:
            return  # it failed already; the connection is being closed
        size = len(data)
        buffered = self._buffered
        self._received += size
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail("protocol", "the upstream switched protocols, which nobody asked for")
        except httptools.HttpParserError as exc:
            if self.complete:
                self._keep_alive = False  # more than was announced: the answer holds, nothing else
            else:
                self.fail("protocol", f"the upstream does not speak HTTP here: {exc}")
        if self._buffered == buffered and not self.complete:
            # Headers, chunk extensions and trailers are bounded; the body is by its reader.
            self._overhead += size
            if self._overhead > _LARGEST_HEAD_BYTES:
                what = "trailers" if self.head_done else "headers"
                self.fail("protocol", f"the answer's {what} exceed {_LARGEST_HEAD_BYTES} bytes")
        else:
            self._overhead = 0
            connection = self._connection
            if connection is not None and self._buffered > connection.pause_above_bytes:
                self._pause(connection)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def ended(self) -> None:
        """The other side sends no more."""
        if self.complete or self.error is not None:
            return
        if self._until_eof:
            self.complete = True
            self._keep_alive = False
            self._wake()
        else:
            self.fail(
                "closed",
                "the upstream closed the connection before its answer was complete"
                if self._received
                else "the upstream closed the connection without an answer",
            )

    def fail(self, kind: Kind, detail: str, os_error: int | None = None) -> None:
        """It will not be complete."""
        if self.complete or self.error is not None:
            return
        self.error = self._error(kind, detail, os_error)
        self._parser = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        self._wake()

    def time_out(self) -> None:
        """The head should have come by now."""
        if not self.head_done:
            self.fail("timeout", "no answer within the time limit")

    async def head(self) -> None:
        """Wait for status and headers."""
        while not self.head_done:
            if self.error is not None:
                raise self.error
            assert self._connection is not None
            self._waiter = self._connection.loop.create_future()
            await self._waiter

    # What httptools calls. Once the answer is complete, what follows is of no interest.

    def on_message_begin(self) -> None:
        """Another answer begins: the rest of one that is complete is surplus."""
        if self.complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line; trailers are ignored."""
        if not self.head_done:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete; an interim answer (1xx) is skipped."""
        if self.complete:
            return
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        # A line has one or two bytes between name and value: nobody need add up what is small as a whole.
        if self._received > _LARGEST_HEAD_BYTES // 2:
            size = sum([len(name) + len(value) + 4 for name, value in self.headers])
            if size > _LARGEST_HEAD_BYTES:
                self.fail("protocol", f"the answer's headers exceed {_LARGEST_HEAD_BYTES} bytes")
                return
        self.status = status
        self.head_done = True
        self._keep_alive = parser.should_keep_alive()
        if self._bodiless:
            # The parser does not know that the request was HEAD and would wait for a body.
            self.complete = True
        elif not self._keep_alive and status not in (204, 304):
            # Without a length the end of the connection is the end of the body (RFC 9112, 6.3).
            self._until_eof = not _is_delimited(self.headers)

    def on_body(self, body: bytes) -> None:
        """A piece of body."""
        if not self.complete:
            self._buffer.append(body)
            self._buffered += len(body)

    def on_message_complete(self) -> None:
        """The answer is complete, unless it was an interim one."""
        if self._interim:
            self._interim = False
            self.headers = []
        elif self.error is None:
            self.complete = True

    # What the reader calls.

    @property
    def ready(self) -> bool:
        """See `UpstreamResponse`."""
        return self.complete or bool(self._buffer)

    async def next_chunk(self) -> bytes:
        """See `UpstreamResponse`."""
        buffer = self._buffer
        while not buffer:
            if self.complete:
                self._finish()
                return b""
            if self.error is not None:
                raise self.error
            assert self._connection is not None
            self._waiter = self._connection.loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.close()
                raise
        data = buffer[0] if len(buffer) == 1 else b"".join(buffer)
        buffer.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            if self._connection is not None:
                self._connection.resume_reading()
        if self.complete:
            self._finish()
        return data

    async def read(self, limit_bytes: int) -> bytes:
        """See `UpstreamResponse`."""
        parts: list[bytes] = []
        size = 0
        while True:
            data = await self.next_chunk()
            if not data:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            size += len(data)
            if size > limit_bytes:
                self.close()
                raise self._error("protocol", f"the answer exceeds {limit_bytes} bytes")
            parts.append(data)

    def close(self) -> None:
        """See `UpstreamResponse`."""
        if self.complete:
            if self._connection is not None:
                self._buffer.clear()
                self._finish()
            return
        self.fail("closed", "the answer was closed before it was complete")

    # Helpers.

    def _finish(self) -> None:
        """The answer is over: its connection goes back to the pool, or away."""
        connection, self._connection = self._connection, None
        self._parser = None
        if connection is None:
            return
        if not self._keep_alive or not connection.is_open or connection.is_sending:
            connection.drop()
            return
        if self._paused:
            self._paused = False
            connection.resume_reading()
        keep_alive = None
        if 10 in map(len, map(_first, self.headers)):
            for name, value in self.headers:
                if len(name) == 10 and name.lower() == b"keep-alive":
                    keep_alive = value
        limit_s = idle_limit_s(keep_alive)
        if limit_s > 0:
            connection.rest(limit_s)
        else:
            connection.drop()

    def _pause(self, connection: Connection) -> None:
        if not self._paused and not self.complete:
            self._paused = True
            connection.pause_reading()

    def _error(self, kind: Kind, detail: str, os_error: int | None = None) -> TransportError:
        sending = self._connection is not None and self._connection.sending
        return TransportError(
            kind,
            "body" if self.head_done else "send" if sending else "head",
            detail=detail,
            reused=self.reused,
            received_bytes=self._received,
            os_error=os_error,
        )

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _is_delimited(headers: Headers) -> bool:
    """Whether the body says itself where it ends."""
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            return True
        if lower == b"transfer-encoding":
            return value.rsplit(b",", 1)[-1].strip().lower() == b"chunked"
    return False
