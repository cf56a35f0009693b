"""One HTTP/1.1 connection to an upstream: bytes in, head and body out, backpressure both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httptools

from penstock.adapters.transport.errors import Kind, Phase, TransportError
from penstock.adapters.transport.interface import Headers, UpstreamRequest
from penstock.adapters.transport.pool import idle_limit_s

_LARGEST_HEAD_BYTES = 64 * 1024
_PAUSE_ABOVE_BYTES = 256 * 1024
_LARGE_BODY_BYTES = 64 * 1024


class Connection(asyncio.Protocol):
    """
    Serves one request after the other. It is its own response while one runs.

    Attributes:
        status, headers: of the answer, once `head_done`.
        usable_until_s: loop time until which it may be reused; set when an answer is complete.
    """

    __slots__ = (
        "_bodiless",
        "_buffer",
        "_buffered",
        "_can_write",
        "_complete",
        "_eof",
        "_error",
        "_expect_eof",
        "_head_bytes",
        "_head_done",
        "_interim",
        "_keep_alive",
        "_lost",
        "_on_idle",
        "_parser",
        "_paused",
        "_received",
        "_surplus",
        "_transport",
        "_waiter",
        "headers",
        "loop",
        "reused",
        "served",
        "status",
        "usable_until_s",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_idle: Callable[[Connection], None]
    ) -> None:
        self.loop = loop
        self._on_idle: Callable[[Connection], None] | None = on_idle
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._can_write: asyncio.Future[None] | None = None
        self._lost = False
        self.served = 0
        self.usable_until_s = 0.0
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: Headers = []
        self.reused = self.served > 0
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._head_done = False
        self._head_bytes = 0
        self._interim = False
        self._complete = False
        self._eof = False
        self._expect_eof = False
        self._surplus = False
        self._error: TransportError | None = None
        self._received = 0
        self._paused = False
        self._keep_alive = True
        self._bodiless = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._complete:
            self._surplus = True  # bytes that nobody asked for: this connection is of no more use
            self.drop()
            return
        self._received += len(data)
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("protocol", "the upstream switched protocols, which nobody asked for")
        except httptools.HttpParserError as exc:
            if self._complete:
                self._surplus = True
                self._keep_alive = False
            else:
                self._fail("protocol", f"the upstream does not speak HTTP here: {exc}")
        if not self._head_done and self._head_bytes > _LARGEST_HEAD_BYTES:
            self._fail("protocol", f"the answer's headers exceed {_LARGEST_HEAD_BYTES} bytes")
        if self._buffered > _PAUSE_ABOVE_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._buffered or self._complete or self._head_done or self._error is not None:
            self._wake()

    def eof_received(self) -> bool | None:
        """See asyncio."""
        self._ended()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._lost = True
        self._transport = None
        if isinstance(exc, OSError) and not self._complete:
            self._fail("reset", str(exc) or "the connection was reset")
        self._ended()
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._can_write = self.loop.create_future()

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_result(None)
        self._can_write = None

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line."""
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete; an interim answer (1xx) is skipped."""
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        self.status = status
        self._head_done = True
        self._keep_alive = self._parser.should_keep_alive()
        if self._bodiless:
            # The parser does not know that the request was HEAD and would wait for a body.
            self._complete = True
        elif status not in (204, 304):
            self._expect_eof = not any(
                name.lower() in (b"content-length", b"transfer-encoding")
                for name, _ in self.headers
            )

    def on_body(self, body: bytes) -> None:
        """A piece of body."""
        self._buffer.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        """The answer is complete, unless it was an interim one."""
        if self._interim:
            self._interim = False
            self.headers = []
            return
        self._complete = True

    # What the client calls.

    @property
    def is_open(self) -> bool:
        """Whether the other side has not closed it."""
        return not self._lost and self._transport is not None and not self._transport.is_closing()

    async def request(self, request: UpstreamRequest, head_timeout_s: float | None) -> None:
        """Send *request* and wait for the head of its answer."""
        if self.served:
            self._reset()
        self.served += 1
        self._bodiless = request.method == b"HEAD"
        timer = None
        try:
            if head_timeout_s is not None:
                timer = self.loop.call_later(head_timeout_s, self._time_out)
            self._write_head(request)
            body = request.body
            if body is not None and len(body) > _LARGE_BODY_BYTES:
                await self._write_body(body)
            while not self._head_done:
                if self._error is not None:
                    raise self._error
                await self._wait()
        except BaseException:
            self.drop()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _write_head(self, request: UpstreamRequest) -> None:
        body = request.body
        lines = [b"%b %b HTTP/1.1\r\n" % (request.method, request.target)]
        lines.extend([b"%b: %b\r\n" % header for header in request.headers])
        if body is not None:
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        if body is not None and len(body) <= _LARGE_BODY_BYTES:
            lines.append(body)
        transport = self._transport
        if transport is None:
            raise self._failure("closed", "send", "the connection was closed")
        transport.write(b"".join(lines))

    async def _write_body(self, body: bytes) -> None:
        view = memoryview(body)
        for start in range(0, len(view), _PAUSE_ABOVE_BYTES):
            # An early answer (413, 401) ends the sending: the server does not read on.
            if self._head_done or self._error is not None or self._transport is None:
                self._keep_alive = False
                break
            self._transport.write(view[start : start + _PAUSE_ABOVE_BYTES])
            if self._can_write is not None:
                await self._can_write

    async def next_chunk(self) -> bytes:
        """See `UpstreamResponse`."""
        while not self._buffer:
            if self._complete:
                self._finish()
                return b""
            if self._error is not None:
                raise self._error
            try:
                await self._wait()
            except asyncio.CancelledError:
                self.drop()
                raise
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        if self._complete:
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
                self.drop()
                raise self._failure("protocol", "body", f"the answer exceeds {limit_bytes} bytes")
            parts.append(data)

    def close(self) -> None:
        """See `UpstreamResponse`."""
        if not self._complete or self._buffer:
            self.drop()

    # Helpers.

    def _finish(self) -> None:
        """The answer was read to its end: the connection goes back to the pool, or away."""
        if self._on_idle is None:
            return
        if not self._keep_alive or self._surplus or self._expect_eof or not self.is_open:
            self.drop()
            return
        keep_alive = None
        for name, value in self.headers:
            if len(name) == 10 and name.lower() == b"keep-alive":
                keep_alive = value
        limit_s = idle_limit_s(keep_alive)
        if limit_s <= 0:
            self.drop()
            return
        self.usable_until_s = self.loop.time() + limit_s
        on_idle, self._on_idle = self._on_idle, None
        on_idle(self)

    def lend(self, on_idle: Callable[[Connection], None]) -> None:
        """Taken from the pool: *on_idle* is called when it may go back."""
        self._on_idle = on_idle

    def drop(self) -> None:
        """Close at once, without sending what is buffered."""
        self._on_idle = None
        if self._transport is not None:
            self._transport.abort()

    def _time_out(self) -> None:
        self._fail("timeout", "no answer within the time limit")

    def _ended(self) -> None:
        """The other side sends no more."""
        if self._eof:
            return
        self._eof = True
        if not self._complete and self._error is None:
            if self._head_done and self._expect_eof and not self._interim:
                self._complete = True
                self._keep_alive = False
            else:
                self._fail(
                    "closed", "the upstream closed the connection before its answer was complete"
                )
        self._wake()

    def _fail(self, kind: Kind, detail: str) -> None:
        if self._error is None:
            self._error = self._failure(kind, "body" if self._head_done else "head", detail)
        self.drop()
        self._wake()

    def _failure(self, kind: Kind, phase: Phase, detail: str) -> TransportError:
        return TransportError(
            kind, phase, detail=detail, reused=self.reused, received_bytes=self._received
        )

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
