"""
One HTTP/1.1 connection to an upstream: it sends requests, one after the other, and feeds what comes
back to the answer that is due (`answer.py`). Backpressure both ways.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from penstock.adapters.transport.answer import Answer
from penstock.adapters.transport.errors import TransportError
from penstock.adapters.transport.interface import UpstreamRequest

_LINE = b"%b: %b\r\n"
_LARGE_BODY_BYTES = 64 * 1024
_PIECE_BYTES = 256 * 1024


class Connection(asyncio.Protocol):
    """
    Serves one request after the other.

    Attributes:
        sending: the body of the request is not written completely.
        served: requests that were begun on it.
        usable_until_s: loop time until which it may be reused; set when an answer is complete.
    """

    __slots__ = (
        "_answer",
        "_can_write",
        "_on_idle",
        "_on_lost",
        "_transport",
        "loop",
        "pause_above_bytes",
        "sending",
        "served",
        "usable_until_s",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
        pause_above_bytes: int,
    ) -> None:
        self.loop = loop
        self.pause_above_bytes = pause_above_bytes
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._answer: Answer | None = None
        self._transport: asyncio.Transport | None = None
        self._can_write: asyncio.Future[None] | None = None
        self.sending = False
        self.served = 0
        self.usable_until_s = 0.0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        # uvloop's transports are not asyncio's by inheritance.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        answer = self._answer
        if answer is None or answer.complete:
            # Bytes that nobody asked for: this connection is of no more use.
            self.drop()
            return
        answer.feed(data)
        if self._can_write is not None and (answer.head_done or answer.error is not None):
            self._release_writer()  # an early answer ends the sending

    def eof_received(self) -> bool | None:
        """See asyncio: the transport closes itself."""
        if self._answer is not None:
            self._answer.ended()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._transport = None
        answer = self._answer
        if answer is not None:
            if isinstance(exc, ssl.SSLError):
                answer.fail("tls", f"TLS: {exc.reason or exc}")
            elif isinstance(exc, OSError):
                words = exc.strerror or str(exc) or "the connection was reset"
                answer.fail("reset", words, exc.errno)
            answer.ended()
        self._release_writer()
        self._on_lost(self)

    def pause_writing(self) -> None:
        """See asyncio."""
        if self._can_write is None:
            self._can_write = self.loop.create_future()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._release_writer()
        self._can_write = None

    def _release_writer(self) -> None:
        waiter = self._can_write
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # What the client calls.

    @property
    def is_open(self) -> bool:
        """Whether the other side has not closed it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_sending(self) -> bool:
        """The request has not gone out completely: not written, or not taken by the socket."""
        return self.sending or (
            self._transport is not None and self._transport.get_write_buffer_size() > 0
        )

    async def request(self, request: UpstreamRequest, head_timeout_s: float | None) -> Answer:
        """Send *request* and wait for the head of its answer."""
        answer = Answer(self, self.served > 0, request.method == b"HEAD")
        self._answer = answer
        self.served += 1
        timer = None
        try:
            if head_timeout_s is not None:
                timer = self.loop.call_later(head_timeout_s, answer.time_out)
            self._write(request)
            if self.sending:
                await self._write_body(request.body or b"", answer)
            await answer.head()
        except BaseException:
            self.drop()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return answer

    def _write(self, request: UpstreamRequest) -> None:
        """Write the head, with a small body in the same packet."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise TransportError(
                "closed", "send", detail="the connection was closed", reused=self.served > 1
            )
        body = request.body
        lines = [
            b"%b %b HTTP/1.1\r\n" % (request.method, request.target),
            *map(_LINE.__mod__, request.headers),
        ]
        if body is None:
            lines.append(b"\r\n")
        else:
            lines.append(b"content-length: %d\r\n\r\n" % len(body))
            if len(body) <= _LARGE_BODY_BYTES:
                lines.append(body)
            else:
                self.sending = True
        transport.write(b"".join(lines))

    async def _write_body(self, body: bytes, answer: Answer) -> None:
        """Write a large body as fast as the socket takes it."""
        view = memoryview(body)
        for start in range(0, len(view), _PIECE_BYTES):
            # An early answer (413, 401) ends the sending: the server does not read on, and the
            # connection, in the middle of a request, cannot be used again (`is_sending`).
            if answer.head_done or answer.error is not None or self._transport is None:
                return
            self._transport.write(view[start : start + _PIECE_BYTES])
            if self._can_write is not None:
                await self._can_write
        self.sending = False

    # What an answer calls.

    def pause_reading(self) -> None:
        """The reader of the answer is slow."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The reader of the answer has caught up."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def rest(self, limit_s: float) -> None:
        """The answer was read to its end; wait for the next request for at most *limit_s*."""
        self._answer = None
        self.usable_until_s = self.loop.time() + limit_s
        self._on_idle(self)

    def drop(self) -> None:
        """Close at once, without sending what is buffered."""
        if self._transport is not None:
            self._transport.abort()
