"""The pool: connections by origin, the silent reconnect, and what went wrong in our own words."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from functools import partial

from penstock.adapters.transport.answer import Answer
from penstock.adapters.transport.connection import Connection
from penstock.adapters.transport.errors import Kind, TransportError
from penstock.adapters.transport.interface import Origin, UpstreamRequest
from penstock.adapters.transport.opening import bracketed, open_connection, proxy_credentials
from penstock.adapters.transport.pool import MOST_IDLE, expired, take

_REAP_EVERY_S = 5.0


class Transport:
    """
    See `UpstreamTransport`. Belongs to one event loop.

    Args:
        most_idle: connections per origin that are kept for the next request. How many are in use is
            not bounded here: that is the limiter's decision.
        pause_above_bytes: of an answer that its reader has not taken; then the upstream waits.
    """

    def __init__(self, *, most_idle: int = MOST_IDLE, pause_above_bytes: int = 256 * 1024) -> None:
        self._most_idle = most_idle
        self._pause_above_bytes = pause_above_bytes
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._tls: dict[tuple[str | None, bool], ssl.SSLContext] = {}
        self._closed = False
        self._keeps_idle = True
        self._reaper: asyncio.TimerHandle | None = None

    async def send(
        self,
        origin: Origin,
        request: UpstreamRequest,
        *,
        connect_timeout_s: float,
        head_timeout_s: float | None,
    ) -> Answer:
        """See `UpstreamTransport`."""
        if origin.proxy is not None and origin.scheme == "http":
            request = _absolute_form(origin, request)
        connection = self._take(origin)
        if connection is not None:
            try:
                return await connection.request(request, head_timeout_s)
            except TransportError as exc:
                # Closed by the server while it was idle: no attempt, no fault (RFC 9112, 9.3.1).
                if exc.received_bytes or exc.kind not in ("closed", "reset"):
                    raise
        connection = await self._connect(origin, connect_timeout_s)
        return await connection.request(request, head_timeout_s)

    async def aclose(self) -> None:
        """See `UpstreamTransport`. Answers that are still being read break."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for idle in self._idle.values():
            idle.clear()
        for connection in list(self._open):
            connection.drop()
        # An aborted transport closes its socket in the next round of the loop.
        await asyncio.sleep(0)

    def drop_idle(self) -> int:
        """See `UpstreamTransport`."""
        gone = [connection for idle in self._idle.values() for connection in idle]
        for idle in self._idle.values():
            idle.clear()
        for connection in gone:
            connection.drop()
        return len(gone)

    def keep_idle(self, keep: bool) -> None:
        """See `UpstreamTransport`."""
        self._keeps_idle = keep
        if not keep:
            self.drop_idle()

    def idle_connections(self) -> int:
        """How many connections wait for a request."""
        return sum(len(connections) for connections in self._idle.values())

    def open_connections(self) -> int:
        """How many connections there are, idle or in use."""
        return len(self._open)

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        if not idle:
            return None
        found, stale = take(idle, asyncio.get_running_loop().time())
        for connection in stale:
            connection.drop()
        return found

    def _give_back(self, idle: list[Connection], connection: Connection) -> None:
        if self._closed or not self._keeps_idle or len(idle) >= self._most_idle:
            connection.drop()
            return
        idle.append(connection)
        if self._reaper is None:
            self._reaper = connection.loop.call_later(_REAP_EVERY_S, self._reap)

    def _forget(self, origin: Origin, connection: Connection) -> None:
        """*connection* is closed."""
        self._open.discard(connection)
        idle = self._idle.get(origin)
        if idle and connection in idle:
            idle.remove(connection)

    def _reap(self) -> None:
        """Close idle connections whose time is up, so that none is kept for ever."""
        self._reaper = None
        loop = asyncio.get_running_loop()
        for idle in list(self._idle.values()):
            idle[:], gone = expired(idle, loop.time())
            for connection in gone:
                connection.drop()
        if any(self._idle.values()):
            self._reaper = loop.call_later(_REAP_EVERY_S, self._reap)

    async def _connect(self, origin: Origin, timeout_s: float) -> Connection:
        try:
            return await self._open_one(origin, timeout_s)
        except TransportError as exc:
            if exc.kind != "descriptors" or not self.drop_idle():
                raise
            await asyncio.sleep(0)  # an aborted transport closes its socket in the next round
            return await self._open_one(origin, timeout_s)

    async def _open_one(self, origin: Origin, timeout_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        made = partial(
            Connection,
            loop,
            partial(self._give_back, self._idle.setdefault(origin, [])),
            partial(self._forget, origin),
            self._pause_above_bytes,
        )
        try:
            tls = self._tls_context(origin) if origin.scheme == "https" else None
            async with asyncio.timeout(timeout_s):
                connection = await open_connection(loop, made, origin, tls)
        except TimeoutError as exc:
            if exc.errno is not None:  # the system's own limit
                raise _translate(exc, origin) from exc
            words = f"no connection within {timeout_s:g} s"
            raise TransportError("timeout", "connect", detail=words) from exc
        except (OSError, UnicodeError) as exc:
            raise _translate(exc, origin) from exc
        if self._closed:  # while it was made: nobody would close it any more
            connection.drop()
        elif connection.is_open:  # it may be lost again already; then sending will say so
            self._open.add(connection)
        return connection

    def _tls_context(self, origin: Origin) -> ssl.SSLContext:
        key = (origin.ca_file, origin.verify)
        context = self._tls.get(key)
        if context is None:
            try:
                context = ssl.create_default_context(cafile=origin.ca_file)
            except OSError as exc:
                words = f"the CA file {origin.ca_file} cannot be used: {exc.strerror or exc}"
                raise TransportError("tls", "connect", detail=words, os_error=exc.errno) from exc
            context.set_alpn_protocols(["http/1.1"])
            if not origin.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._tls[key] = context
        return context


def _translate(exc: OSError | UnicodeError, origin: Origin) -> TransportError:
    """A failed connect in our words. The order matters: TLS and DNS errors are OSErrors too."""
    kind: Kind
    if isinstance(exc, UnicodeError):
        return TransportError("dns", "connect", detail=f"{origin.host!r} is not a host name")
    words, number = exc.strerror or str(exc) or type(exc).__name__, exc.errno
    if number in (errno.EMFILE, errno.ENFILE):
        kind = "descriptors"
    elif isinstance(exc, ssl.SSLCertVerificationError):
        kind, words, number = "tls", f"TLS: {exc.verify_message or words}", None
    elif isinstance(exc, ssl.SSLError):
        kind, words, number = "tls", f"TLS: {exc.reason or words}", None
    elif isinstance(exc, socket.gaierror):
        name = origin.host if origin.proxy is None else "of the proxy"
        kind, words = "dns", f"the name {name} cannot be resolved: {words}"
    elif origin.unix_path is not None and not isinstance(exc, ConnectionError):
        kind = "unix"
    elif isinstance(exc, ConnectionRefusedError):
        kind = "refused"
    elif isinstance(exc, ConnectionError) or exc.errno == errno.ECONNRESET:
        kind = "reset"
    elif isinstance(exc, TimeoutError):
        kind = "timeout"
    else:
        kind = "unreachable"
    return TransportError(kind, "connect", detail=words, os_error=number)


def _absolute_form(origin: Origin, request: UpstreamRequest) -> UpstreamRequest:
    """A plain request to a proxy names the whole URL (RFC 9112 section 3.2.2)."""
    target = f"http://{bracketed(origin.host)}:{origin.port}".encode() + request.target
    headers = list(request.headers)
    credentials = proxy_credentials(origin.proxy or "")
    if credentials is not None:
        headers.append((b"Proxy-Authorization", credentials.encode()))
    return UpstreamRequest(request.method, target, headers, request.body)
