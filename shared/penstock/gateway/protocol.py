"""
uvicorn's HTTP/1.1 protocol with what it lacks: a limit for headers, clocks for slow clients, our error
shape for what cannot be parsed, and a handle on the connection for the request that runs on it.

Why a subclass: uvicorn's httptools protocol has no header limit at all, and ASGI offers no way to drop a
connection (a broken stream must not end cleanly) or to hear of a hang-up without a task that waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.errors import ERROR_TABLE, ErrorCode

_MOST_PIPELINED = 8
"""Requests of one connection that may wait behind one that is being answered (no client needs it)."""
_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
}


@dataclass(frozen=True, slots=True)
class WireLimits:
    """
    Bounds of what a client may send before its request reaches the app.

    Attributes:
        header_bytes: of request line and headers together.
        header_count: of header lines.
        header_timeout_s: from the first byte (or the connection) to the end of the headers.
    """

    header_bytes: int = 64 * 1024
    header_count: int = 200
    header_timeout_s: float = 30.0


class Connection:
    """
    A request's handle on its client's connection.

    Attributes:
        raw_headers: as the client sent them, case and order kept.
        disconnected: the client hung up before its answer was complete.
        body_complete: the request's last byte has come: reading its body waits for nothing.
    """

    __slots__ = ("_callbacks", "_transport", "body_complete", "disconnected", "raw_headers")

    def __init__(
        self, transport: asyncio.Transport, raw_headers: list[tuple[bytes, bytes]]
    ) -> None:
        self._transport = transport
        self._callbacks: list[Callable[[], Any]] = []
        self.raw_headers = raw_headers
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

    def write_buffer_size(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._transport.get_write_buffer_size()

    def done(self) -> None:
        """The answer is complete: what happens to the connection no longer concerns the request."""
        self._callbacks.clear()

    def lost(self) -> None:
        """The client hung up."""
        self.disconnected = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class _RefusedError(Exception):
    """Stops the parser: the request was refused."""


class Protocol(HttpToolsProtocol):
    """See the module. `limits` is set by `with_limits`."""

    limits = WireLimits()

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._feed_bytes = 0
        self._began = False
        self._refused = False
        self._muted = False
        self._last_words = b""
        self._raw: list[tuple[bytes, bytes]] = []
        self._handles: deque[Connection] = deque()
        self._head_timer: asyncio.TimerHandle | None = None
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stop_head_timer()
        self._unset_keepalive_if_required()  # uvicorn forgets it when the end is an error
        super().connection_lost(exc)
        while self._handles:
            self._handles.popleft().lost()

    def data_received(self, data: bytes) -> None:
        """See asyncio. In place of uvicorn's: upgrades are no reason to stop, errors are ours."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        was_in_head = self._in_head
        self._feed_bytes = len(data)
        self._began = False
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                # Nothing here can be upgraded to: answered as a plain request (RFC 9110 section
                # 7.8 allows it), and what follows is its body or the next request.
                data = data[exc.args[0] :]
                if self._in_body:
                    self._read_body_after_upgrade()
                continue
            except httptools.HttpParserError as exc:
                if not self._refused:
                    self._refuse(
                        ErrorCode.INVALID_REQUEST,
                        f"The request is not valid HTTP/1.1: {exc.__context__ or exc}.",
                    )
                return
            break
        if self._in_head:
            if was_in_head and not self._began:
                self._head_bytes += self._feed_bytes
                if self._head_bytes > self.limits.header_bytes:
                    self._refuse_head()
                    return
            if self._head_timer is None:
                self._start_head_timer()
        elif self._head_timer is None and self._is_idle:
            # Empty lines between requests, or the rest of a body that nobody wants any more.
            self._start_head_timer()

    def on_message_begin(self) -> None:
        """See httptools."""
        if self._muted:
            return
        super().on_message_begin()
        self._began = True
        self._in_head = True
        self._head_bytes = 0
        self._raw = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools. Trailers come here too; they are ignored."""
        if self._in_head:
            self._raw.append((name, value))
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        if self._muted:
            return
        self._in_head = False
        self._in_body = True
        self._stop_head_timer()
        raw = self._raw
        if len(raw) > self.limits.header_count or (
            self._head_bytes + self._feed_bytes > self.limits.header_bytes
            and _size(raw) + len(self.url) > self.limits.header_bytes
        ):
            self._in_body = False
            self._refuse_head()
            raise _RefusedError
        if self.url[:1] != b"/":
            # An absolute URL, CONNECT's authority, or `*`: the app would see only its path, and the
            # host in it contradict the one that is checked.
            self._in_body = False
            self._refuse(
                ErrorCode.INVALID_REQUEST,
                "The request line must name a path that begins with a slash: this is no proxy.",
            )
            raise _RefusedError
        hosts = sum([len(name) == 4 and name.lower() == b"host" for name, _ in raw])
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._in_body = False  # RFC 9112 section 3.2: such a request must be refused
            self._refuse(
                ErrorCode.INVALID_REQUEST,
                f"The request has {hosts or 'no'} Host header{'s' if hosts else ''}; HTTP/1.1 takes one.",
            )
            raise _RefusedError
        handle = Connection(self.transport, raw)
        self.scope["extensions"] = {"penstock": handle}  # type: ignore[dict-item]
        super().on_headers_complete()
        self._handles.append(handle)
        if self.pipeline and len(self.pipeline) <= _MOST_PIPELINED:
            # uvicorn stops reading now, and would not notice a hang-up before the answer is complete.
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """See httptools."""
        if self.parser.should_upgrade() and _framing(self._raw):
            return  # the parser takes an upgrade for the end of the request; its body is to come
        self._in_body = False
        if self._handles:
            self._handles[-1].body_complete = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is complete; answers come in the order of their requests."""
        if self._handles:
            self._handles.popleft().done()
        super().on_response_complete()
        if self._last_words and self._is_idle:
            self._say_and_close(self._last_words)

    def _should_upgrade(self) -> bool:
        """There are no WebSockets here."""
        return False

    def _read_body_after_upgrade(self) -> None:
        """
        Let a new parser read the body of a request that asked for an upgrade.

        Java's HTTP client asks every server without TLS for HTTP/2 in this way, also with a POST, and
        the parser takes what follows such a head for another protocol. The new one gets a head of
        our own that says the same about the body and nothing else.
        """
        self.parser = httptools.HttpRequestParser(self)
        self._muted = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % _framing(self._raw))
        self._muted = False

    @property
    def _is_idle(self) -> bool:
        """No request is being answered, and none waits for it."""
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(
                ErrorCode.REQUEST_TIMEOUT,
                "The request's headers were not complete after "
                f"{self.limits.header_timeout_s:g} s.",
            )
        elif self._is_idle:
            self.transport.close()  # it said nothing: nobody waits for an answer

    def _refuse_head(self) -> None:
        self._refuse(
            ErrorCode.HEADERS_TOO_LARGE,
            f"The request's headers exceed {self.limits.header_bytes} bytes or "
            f"{self.limits.header_count} lines.",
        )

    def _refuse(self, code: ErrorCode, message: str) -> None:
        """
        Answer a request that never reaches the app, and close; nothing is read any more.

        1. Nothing is being answered: say it now.
        2. The body of the request that is being answered is broken: say it if the answer has not
           begun, else cut it off.
        3. Answers to earlier requests of the same connection are due: say it after them.
        """
        self._refused = True
        self._stop_head_timer()
        answer = _answer(code, message)
        if self._is_idle:
            self._say_and_close(b"" if self._in_body else answer)
        elif not self._in_body:
            self._last_words = answer
        elif self.pipeline or self.cycle.response_started:
            self.transport.abort()
        else:
            self._say_and_close(answer)

    def _say_and_close(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            if answer:
                self.transport.write(answer)
            self.transport.close()


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    return sum([len(name) + len(value) + 4 for name, value in headers])


def _framing(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The header lines that say how the body ends; none if there is no body."""
    return b"".join(
        [
            b"%b: %b\r\n" % (name, value)
            for name, value in headers
            if name.lower() in (b"content-length", b"transfer-encoding") and value != b"0"
        ]
    )


def _answer(code: ErrorCode, message: str) -> bytes:
    row = ERROR_TABLE[code]
    error = {
        "message": message,
        "type": row.type,
        "param": None,
        "code": code.value,
        "source": "penstock",
    }
    body = orjson.dumps({"error": error})
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\nserver: penstock\r\n"
        b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (row.status, _REASONS[row.status], len(body), body)
    )


def with_limits(limits: WireLimits) -> type[Protocol]:
    """A protocol class with these limits, for uvicorn's `http=`."""
    return type("LimitedProtocol", (Protocol,), {"limits": limits})
