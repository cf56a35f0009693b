"""The pool: connections by origin, connecting (TCP, TLS, proxy, Unix socket), the silent reconnect."""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
import ssl
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote, urlsplit

from penstock.adapters.transport.connection import Connection
from penstock.adapters.transport.errors import TransportError
from penstock.adapters.transport.interface import Origin, UpstreamRequest, UpstreamResponse
from penstock.adapters.transport.pool import MOST_IDLE, pick

Maker = Callable[[], Connection]
_REAP_EVERY_S = 5.0


class Transport:
    """See `UpstreamTransport`."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._tls: dict[tuple[str | None, bool], ssl.SSLContext] = {}
        self._closed = False
        self._reaper: asyncio.TimerHandle | None = None

    async def send(
        self,
        origin: Origin,
        request: UpstreamRequest,
        *,
        connect_timeout_s: float,
        head_timeout_s: float | None,
    ) -> UpstreamResponse:
        """See `UpstreamTransport`."""
        if origin.proxy is not None and origin.scheme == "http":
            request = _absolute_form(origin, request)
        connection = self._take(origin)
        if connection is not None:
            try:
                await connection.request(request, head_timeout_s)
                return connection
            except TransportError as exc:
                # Closed by the server while it was idle: no attempt, no fault (RFC 9112, 9.3.1).
                if exc.received_bytes or exc.kind not in ("closed", "reset"):
                    raise
        connection = await self._connect(origin, connect_timeout_s)
        await connection.request(request, head_timeout_s)
        return connection

    async def aclose(self) -> None:
        """See `UpstreamTransport`."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for connections in self._idle.values():
            for connection in connections:
                connection.drop()
        self._idle.clear()
        await asyncio.sleep(0)

    def idle_connections(self) -> int:
        """How many connections wait for a request."""
        return sum(len(connections) for connections in self._idle.values())

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        if not idle:
            return None
        loop = asyncio.get_running_loop()
        found, rest, stale = pick(idle, loop.time())
        self._idle[origin] = rest
        for connection in stale:
            connection.drop()
        if found is None:
            return None
        found.lend(partial(self._give_back, origin))
        return found

    def _give_back(self, origin: Origin, connection: Connection) -> None:
        idle = self._idle.setdefault(origin, [])
        if self._closed or len(idle) >= MOST_IDLE:
            connection.drop()
            return
        idle.append(connection)
        if self._reaper is None:
            self._reaper = connection.loop.call_later(_REAP_EVERY_S, self._reap)

    def _reap(self) -> None:
        """Close idle connections whose time is up, so that none is kept for ever."""
        self._reaper = None
        for origin, idle in list(self._idle.items()):
            if not idle:
                del self._idle[origin]
                continue
            loop = idle[0].loop
            now_s = loop.time()
            keep = [c for c in idle if c.is_open and now_s < c.usable_until_s]
            for connection in idle:
                if connection not in keep:
                    connection.drop()
            self._idle[origin] = keep
            if self._reaper is None:
                self._reaper = loop.call_later(_REAP_EVERY_S, self._reap)

    async def _connect(self, origin: Origin, timeout_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        made = partial(Connection, loop, partial(self._give_back, origin))
        try:
            async with asyncio.timeout(timeout_s):
                return await self._open(loop, made, origin)
        except TimeoutError as exc:
            raise TransportError(
                "timeout", "connect", detail=f"no connection within {timeout_s:g} s"
            ) from exc
        except ssl.SSLError as exc:
            raise TransportError("tls", "connect", detail=f"TLS: {exc.reason or exc}") from exc
        except socket.gaierror as exc:
            raise TransportError(
                "dns",
                "connect",
                detail=f"the name {origin.host} cannot be resolved: {exc.strerror}",
            ) from exc
        except ConnectionRefusedError as exc:
            raise TransportError("refused", "connect", detail=_words(exc)) from exc
        except ConnectionResetError as exc:
            raise TransportError("reset", "connect", detail=_words(exc)) from exc
        except FileNotFoundError as exc:
            raise TransportError("unix", "connect", detail=_words(exc)) from exc
        except OSError as exc:
            # create_connection joins the errors of several addresses into one without a number.
            refused = "refused" in str(exc).lower() or exc.errno == errno.ECONNREFUSED
            kind = "unix" if origin.unix_path else ("refused" if refused else "unreachable")
            raise TransportError(kind, "connect", detail=_words(exc)) from exc

    async def _open(
        self, loop: asyncio.AbstractEventLoop, made: Maker, origin: Origin
    ) -> Connection:
        if origin.unix_path is not None:
            _, connection = await loop.create_unix_connection(made, origin.unix_path)
            return connection
        if origin.proxy is not None:
            return await self._open_by_proxy(loop, made, origin)
        tls = self._tls_context(origin) if origin.scheme == "https" else None
        _, connection = await loop.create_connection(
            made,
            origin.host,
            origin.port,
            ssl=tls,
            server_hostname=origin.host if tls else None,
            happy_eyeballs_delay=None if _is_address(origin.host) else 0.25,
        )
        return connection

    async def _open_by_proxy(
        self, loop: asyncio.AbstractEventLoop, made: Maker, origin: Origin
    ) -> Connection:
        parts = urlsplit(origin.proxy or "")
        host, port = parts.hostname or "", parts.port or 3128
        if origin.scheme == "http":
            _, connection = await loop.create_connection(made, host, port)
            return connection
        # CONNECT by hand on a plain socket, then TLS over it (RFC 9110 section 9.3.6).
        reader, writer = await asyncio.open_connection(host, port)
        target = f"{origin.host}:{origin.port}"
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        credentials = _proxy_credentials(origin.proxy or "")
        if credentials:
            head += f"Proxy-Authorization: {credentials}\r\n"
        writer.write((head + "\r\n").encode("latin-1"))
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            writer.close()
            raise TransportError("proxy", "connect", detail="the proxy gave no answer") from exc
        status = answer.split(b" ", 2)[1:2]
        if status != [b"200"]:
            writer.close()
            line = answer.split(b"\r\n", 1)[0].decode("latin-1")
            raise TransportError("proxy", "connect", detail=f"the proxy refused: {line}")
        connection: Connection = made()
        transport = await loop.start_tls(
            writer.transport, connection, self._tls_context(origin), server_hostname=origin.host
        )
        connection.connection_made(transport)
        return connection

    def _tls_context(self, origin: Origin) -> ssl.SSLContext:
        key = (origin.ca_file, origin.verify)
        context = self._tls.get(key)
        if context is None:
            context = ssl.create_default_context(cafile=origin.ca_file)
            context.set_alpn_protocols(["http/1.1"])
            if not origin.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._tls[key] = context
        return context


def _words(exc: OSError) -> str:
    return exc.strerror or str(exc) or type(exc).__name__


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def _proxy_credentials(proxy: str) -> str | None:
    parts = urlsplit(proxy)
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _absolute_form(origin: Origin, request: UpstreamRequest) -> UpstreamRequest:
    """A plain request to a proxy names the whole URL (RFC 9112 section 3.2.2)."""
    target = f"http://{origin.host}:{origin.port}".encode() + request.target
    headers = list(request.headers)
    credentials = _proxy_credentials(origin.proxy or "")
    if credentials:
        headers.append((b"Proxy-Authorization", credentials.encode()))
    return UpstreamRequest(request.method, target, headers, request.body)
