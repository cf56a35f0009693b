"""
uvicorn's HTTP/1.1 protocol with what it lacks: a limit for headers, clocks for slow clients, our error
shape for what cannot be parsed, and a handle on the connection for the request that runs on it.

Why a subclass: uvicorn's httptools protocol has no header limit at all, and ASGI offers no way to drop a
connection (a broken stream must not end cleanly) or to hear of a hang-up without a task that waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.errors import ERROR_TABLE, ErrorCode

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
        disconnected: the client is gone.
    """

    __slots__ = ("_callbacks", "_protocol", "disconnected", "raw_headers")

    def __init__(self, protocol: Protocol, raw_headers: list[tuple[bytes, bytes]]) -> None:
        self._protocol = protocol
        self._callbacks: list[Callable[[], Any]] = []
        self.raw_headers = raw_headers
        self.disconnected = False

    def on_disconnect(self, callback: Callable[[], Any]) -> None:
        """Call *callback* in the event loop when the client hangs up; at once if it did already."""
        if self.disconnected:
            callback()
        else:
            self._callbacks.append(callback)

    def done(self) -> None:
        """The request is over: what happens to the connection no longer concerns it."""
        self._callbacks.clear()
        self._protocol.forget(self)

    def abort(self) -> None:
        """Drop the connection now; what is buffered is not sent."""
        transport = self._protocol.transport
        if transport is not None and not transport.is_closing():
            transport.abort()

    def write_buffer_size(self) -> int:
        """Bytes that the client has not taken yet."""
        transport = self._protocol.transport
        return 0 if transport is None else int(transport.get_write_buffer_size())

    def lost(self) -> None:
        """The client hung up."""
        self.disconnected = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Protocol(HttpToolsProtocol):
    """See the module. `limits` is set by `with_limits`."""

    limits = WireLimits()

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._header_bytes = 0
        self._header_count = 0
        self._in_headers = False
        self._raw: list[tuple[bytes, bytes]] = []
        self._handles: list[Connection] = []
        self._header_timer: asyncio.TimerHandle | None = None
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stop_header_timer()
        handles, self._handles = self._handles, []
        super().connection_lost(exc)
        for handle in handles:
            handle.lost()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > self.limits.header_bytes:
                self._too_large()

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = 0
        self._header_count = 0
        self._raw = []
        if self._header_timer is None:
            self._wait_for_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._header_count += 1
        self._raw.append((name, value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_headers = False
        self._stop_header_timer()
        size = sum(len(name) + len(value) + 4 for name, value in self._raw) + len(self.url)
        if self._header_count > self.limits.header_count or size > self.limits.header_bytes:
            self._too_large()
            return
        handle = Connection(self, self._raw)
        self.scope["extensions"] = {"penstock": handle}  # type: ignore[typeddict-unknown-key]
        self._handles.append(handle)
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        """There are no WebSockets here; answered as a plain request would be."""
        self.send_400_response("WebSocket upgrades are not supported.")

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed gets our error shape, then the connection is closed."""
        self._refuse(
            ErrorCode.INVALID_REQUEST,
            f"The request is not valid HTTP/1.1: {msg}",
        )

    def forget(self, handle: Connection) -> None:
        """The request of *handle* is over."""
        if handle in self._handles:
            self._handles.remove(handle)

    def _wait_for_headers(self) -> None:
        self._stop_header_timer()
        self._header_timer = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if not self._in_headers:
            if self.transport is not None and self.cycle is None:
                self.transport.close()  # connected and never said a word: nobody waits for an answer
            return
        self._refuse(
            ErrorCode.REQUEST_TIMEOUT,
            f"The request's headers were not complete after {self.limits.header_timeout_s:g} s.",
        )

    def _too_large(self) -> None:
        self._refuse(
            ErrorCode.HEADERS_TOO_LARGE,
            f"The request's headers exceed {self.limits.header_bytes} bytes or "
            f"{self.limits.header_count} lines.",
        )

    def _refuse(self, code: ErrorCode, message: str) -> None:
        row = ERROR_TABLE[code]
        error = {
            "message": message,
            "type": row.type,
            "param": None,
            "code": code.value,
            "source": "penstock",
        }
        body = orjson.dumps({"error": error})
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\nconnection: close\r\n" % (
            row.status,
            _REASONS[row.status],
        )
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(
                head + b"server: penstock\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            self.transport.close()


def with_limits(limits: WireLimits) -> type[Protocol]:
    """A protocol class with these limits, for uvicorn's `http=`."""
    return type("LimitedProtocol", (Protocol,), {"limits": limits})
