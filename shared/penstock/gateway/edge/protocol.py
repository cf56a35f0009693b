"""
uvicorn's HTTP/1.1 protocol with what it lacks: a limit for headers, clocks for slow clients, our error
shape for what cannot be parsed, and a handle on the connection for the request that runs on it.

Why a subclass: uvicorn's httptools protocol has no header limit at all, and ASGI offers no way to drop a
connection (a broken stream must not end cleanly) or to hear of a hang-up without a task that waits for it.

What uvicorn does for each request is done anew where it can be had for less: headers are lowered once, the
time-out of an idle connection is one timer that looks at the clock and not one for each request, and
requests are started by `Starts`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.errors import ERROR_TABLE, ErrorCode
from penstock.gateway.edge.cycle import Connection, Cycle
from penstock.gateway.edge.head import Head
from penstock.gateway.edge.starts import Starts

_MOST_PIPELINED = 8
"""Requests of one connection that may wait behind one that is being answered (no client needs it)."""
_ALWAYS_ANSWERED = (b"/penstock", b"/healthz", b"/readyz", b"/metrics")
"""What tells how the gateway is, and steers it, is answered in a crowd as well."""
_RETRY_AFTER_S = 5
_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    429: b"Too Many Requests",
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
        connections: of clients at a time; beyond it requests are refused, and a quarter beyond that
            connections are. None for as many as the system gives.
    """

    header_bytes: int = 64 * 1024
    header_count: int = 200
    header_timeout_s: float = 30.0
    connections: int | None = None


class _RefusedError(Exception):
    """Stops the parser: the request was refused."""


class Protocol(HttpToolsProtocol):
    """See the module. `limits` and `starts` are set by `with_limits`, `leaving` by the server."""

    limits = WireLimits()
    starts: Starts
    leaving = False
    """
    The server is about to stop: each answer is the last one of its connection, so that its client comes back by a new
    one, which a load balancer leads elsewhere (a kept connection would lead here to the end).
    """

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._feed_bytes = 0
        self._began = False
        self._refused = False
        self._crowded = False
        self._muted = False
        self._last_words = b""
        self._raw: list[tuple[bytes, bytes]] = []
        self._head: Head | None = None
        self._handles: deque[Connection] = deque()
        self._head_timer: asyncio.TimerHandle | None = None
        self._resting_since_s: float | None = None
        self._start_head_timer()
        most = self.limits.connections
        if most is not None and (count := len(self.connections)) > most and not self._make_room():
            self._crowded = True
            if count > most + most // 4:
                self._refuse_crowd()

    def _make_room(self) -> bool:
        """Close a client's connection that waits for its next request, as every server may. Returns whether one was."""
        for other in self.connections:
            if isinstance(other, Protocol) and other is not self and other._is_resting:
                other.transport.close()
                return True
        return False

    @property
    def _is_resting(self) -> bool:
        """It has had an answer, and nothing came since."""
        resting = self._resting_since_s is not None and self._is_idle
        return resting and not self.transport.is_closing()

    def rest_no_more(self) -> None:
        """Close the connection if it waits for its next request."""
        if self._is_resting:
            self.transport.close()

    def _refuse_crowd(self) -> None:
        self._refuse(
            ErrorCode.QUEUE_FULL,
            f"{len(self.connections)} connections of clients are open, more than the limit of file descriptors "
            "allows. A higher limit (`ulimit -n`, LimitNOFILE=) allows more.",
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stop_head_timer()
        self._unset_keepalive_if_required()  # uvicorn forgets it when the end is an error
        super().connection_lost(exc)
        while self._handles:
            # uvicorn tells only the latest of pipelined requests, which is not the one that is being answered.
            handle = self._handles.popleft()
            handle.cycle.disconnected = True
            handle.cycle.message_event.set()
            handle.lost()

    def data_received(self, data: bytes) -> None:
        """See asyncio. In place of uvicorn's: upgrades are no reason to stop, errors are ours."""
        if self._refused:
            return
        self._resting_since_s = None
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
        self.url = b""
        self._began = True
        self._in_head = True
        self._head_bytes = 0
        self._raw = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools. Trailers come here too; they are ignored."""
        if self._in_head:
            self._raw.append((name, value))

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
        if self._crowded and not self.url.startswith(_ALWAYS_ANSWERED):
            self._in_body = False
            self._refuse_crowd()
            raise _RefusedError
        head = self._head
        if head is None or not head.is_said_again_by(raw):
            head = Head(raw)
            self._head = head if head.is_small else None
        hosts = head.hosts
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._in_body = False  # RFC 9112 section 3.2: such a request must be refused
            self._refuse(
                ErrorCode.INVALID_REQUEST,
                f"The request has {hosts or 'no'} Host header{'s' if hosts else ''}; HTTP/1.1 takes one.",
            )
            raise _RefusedError
        self._begin_request(head)

    def _begin_request(self, head: Head) -> None:
        """The head of a request is complete: let the app answer it, or let it wait for its turn."""
        parser, url = self.parser, self.url
        version = parser.get_http_version()
        path, raw_path, query = _short_target(url) if len(url) <= 256 else _target(url)
        handle = Connection(self.transport, head)
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]
            "root_path": "",
            "method": parser.get_method().decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": head.lowered,
            "state": {},
            "extensions": {"penstock": handle},  # type: ignore[dict-item]
        }
        before = self.cycle
        # By position: a class that is called with names makes a dictionary of them first.
        handle.cycle = self.cycle = Cycle(
            self.scope,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            False,
            self.server_state.default_headers,
            asyncio.Event(),
            head.wants_continue,
            version != "1.0" and not self.leaving and parser.should_keep_alive(),
            self.on_response_complete,
        )
        self._handles.append(handle)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
            return
        self.pipeline.appendleft((self.cycle, self.app))
        if len(self.pipeline) > _MOST_PIPELINED:
            # Not before: who does not read would not notice a hang-up either.
            self.flow.pause_reading()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.starts.add(self.loop, self.tasks, cycle.run_asgi(app))

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
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.leaving and not self._last_words:
            self.transport.close()
        else:
            self._resting_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._start_rest_timer(self.timeout_keep_alive)
        if self._last_words and self._is_idle:
            self._say_and_close(self._last_words)

    def _start_rest_timer(self, within_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(within_s, self._rested)

    def _rested(self) -> None:
        """Close a connection that has been idle for as long as it may; the timer outlives requests."""
        self.timeout_keep_alive_task = None
        if self._resting_since_s is None:
            return
        left_s = self._resting_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0.001:
            self._start_rest_timer(left_s)
        else:
            self.transport.close()

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


def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, the same as it was sent, and query."""
    parsed = httptools.parse_url(url)
    raw_path: bytes = parsed.path
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, raw_path, parsed.query or b""


_short_target = lru_cache(maxsize=256)(_target)


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
    later = b"retry-after: %d\r\n" % _RETRY_AFTER_S if row.blame == "penstock" else b""
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\nserver: penstock\r\n%b"
        b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (row.status, _REASONS[row.status], later, len(body), body)
    )


def with_limits(limits: WireLimits) -> type[Protocol]:
    """A protocol class with these limits, for uvicorn's `http=`."""
    return type("LimitedProtocol", (Protocol,), {"limits": limits, "starts": Starts()})
