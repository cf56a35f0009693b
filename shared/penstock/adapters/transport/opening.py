"""
Opening a connection: TCP with happy eyeballs, TLS, HTTP proxies, Unix sockets.

The race between a name's addresses is run here, because uvloop does not offer asyncio's: `localhost` is
often ::1 and 127.0.0.1, of which a model server listens on one, and a host whose IPv6 does not work must
not cost the time that a failing connect takes.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from penstock.adapters.transport.connection import Connection
from penstock.adapters.transport.errors import TransportError
from penstock.adapters.transport.interface import Origin

Maker = Callable[[], Connection]
_NEXT_ADDRESS_AFTER_S = 0.25
"""Recommended by RFC 8305 section 5."""
_LARGEST_PROXY_ANSWER_BYTES = 16 * 1024
_PROXY_PORT = 3128
Address = tuple[int, int, int, str, Any]
"""As `getaddrinfo` gives it: family, type, protocol, canonical name, socket address."""


async def open_connection(
    loop: asyncio.AbstractEventLoop, made: Maker, origin: Origin, tls: ssl.SSLContext | None
) -> Connection:
    """
    A connection to *origin*, made by *made*. Without a time limit; cancelling leaves nothing open.

    Raises:
        OSError: also as `ssl.SSLError` and `socket.gaierror`.
        TransportError: the proxy did not do what it was asked.
    """
    if origin.unix_path is not None:
        _, connection = await loop.create_unix_connection(made, origin.unix_path)
    elif origin.proxy is None:
        connection = await _open_tcp(loop, made, origin.host, origin.port, tls)
    elif tls is None:
        host, port = _proxy_address(origin.proxy)
        connection = await _open_tcp(loop, made, host, port, None)
    else:
        connection = await _open_tunnel(loop, made, origin, origin.proxy, tls)
    return connection


async def _open_tcp(
    loop: asyncio.AbstractEventLoop,
    made: Callable[[], Any],
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
) -> Any:
    name = host if tls else None
    if is_address(host):
        transport, protocol = await loop.create_connection(
            made, host, port, ssl=tls, server_hostname=name
        )
        refuse_itself(transport)
        return protocol
    sock = await connected_socket(loop, host, port)
    try:
        transport, protocol = await loop.create_connection(
            made, sock=sock, ssl=tls, server_hostname=name
        )
    except BaseException:
        sock.close()
        raise
    refuse_itself(transport)
    return protocol


def refuse_itself(transport: asyncio.BaseTransport) -> None:
    """
    Close a connection that leads to itself.

    Whoever asks again and again for a dead server on a port of the range for outgoing connections is given that port
    as its own end one day. TCP connects the two (RFC 9293 section 3.5, simultaneous open), and the server could not
    listen there again.

    Raises:
        ConnectionRefusedError: it leads to itself.
    """
    own, other = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    if isinstance(own, tuple) and own == other:
        cast(asyncio.Transport, transport).abort()  # uvloop's is none by its class
        raise ConnectionRefusedError(errno.ECONNREFUSED, "nothing listens there")


async def connected_socket(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """
    A socket that is connected to *host*, a name. Cancelling leaves nothing open.

    Raises:
        OSError: also as `socket.gaierror`.
    """
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await _race(loop, interleave(found))


def interleave(found: Sequence[Address]) -> list[Address]:
    """The addresses in the order to try: families take turns, the system's favourite first."""
    first = [a for a in found if a[0] == found[0][0]] if found else []
    others = [a for a in found if a[0] != found[0][0]] if found else []
    return [a for a in chain.from_iterable(zip_longest(first, others)) if a is not None]


async def _race(loop: asyncio.AbstractEventLoop, addresses: list[Address]) -> socket.socket:
    """
    Connect to the first address that answers (RFC 8305): the next one is tried when one fails, or when
    it has not answered for a quarter of a second.

    Raises:
        OSError: of the first address; none answered.
    """
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    failure: OSError | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(loop.create_task(_connect(loop, waiting.pop(0))))
            done, running = await asyncio.wait(
                running,
                timeout=_NEXT_ADDRESS_AFTER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            winner: socket.socket | None = None
            for task in done:
                exc = task.exception()
                if exc is None and winner is None:
                    winner = task.result()
                elif exc is None:
                    task.result().close()
                elif isinstance(exc, OSError):
                    failure = failure or exc
                else:
                    raise exc
            if winner is not None:
                return winner
    finally:
        for task in running:
            task.add_done_callback(_close_late)
            task.cancel()
    raise failure or OSError("the name has no address")


async def _connect(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """Of a connect that lost the race: it may have been made before it could be cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel (CONNECT, RFC 9110 section 9.3.6)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = None
        self.head: asyncio.Future[bytes] = loop.create_future()
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio. A server speaks TLS only when spoken to, so nothing follows the head."""
        self._data += data
        if b"\r\n\r\n" in self._data and not self.head.done():
            self.head.set_result(self._data)
        elif len(self._data) > _LARGEST_PROXY_ANSWER_BYTES and self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if not self.head.done():
            self.head.set_result(b"")


async def _open_tunnel(
    loop: asyncio.AbstractEventLoop, made: Maker, origin: Origin, proxy: str, tls: ssl.SSLContext
) -> Connection:
    host, port = _proxy_address(proxy)
    tunnel: _Tunnel = await _open_tcp(loop, lambda: _Tunnel(loop), host, port, None)
    transport = tunnel.transport
    assert transport is not None
    try:
        target = f"{bracketed(origin.host)}:{origin.port}"
        request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        credentials = proxy_credentials(proxy)
        if credentials is not None:
            request += f"Proxy-Authorization: {credentials}\r\n"
        transport.write((request + "\r\n").encode("latin-1"))
        head = await tunnel.head
        line = head.split(b"\r\n", 1)[0]
        status = line.split(b" ", 2)[1:2]
        if not line.startswith(b"HTTP/1.") or not status or not status[0].startswith(b"2"):
            said = line[:200].decode("latin-1")
            words = f"the proxy refused: {said}" if said else "the proxy gave no answer"
            raise TransportError("proxy", "connect", detail=words)
        connection = made()
        secure = await loop.start_tls(transport, connection, tls, server_hostname=origin.host)
    except BaseException:
        transport.abort()
        raise
    if secure is None:  # only when the connection was lost in that moment
        raise ConnectionResetError("the connection was lost while TLS began")
    connection.connection_made(secure)
    return connection


def is_address(host: str) -> bool:
    """Whether *host* is an IP address and not a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def bracketed(host: str) -> str:
    """*host* as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def proxy_credentials(proxy: str) -> str | None:
    """The value of `Proxy-Authorization`, None without a user in the proxy's URL."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _proxy_address(proxy: str) -> tuple[str, int]:
    parts = urlsplit(proxy)
    if parts.scheme != "http" or not parts.hostname:
        raise TransportError(
            "proxy", "connect", detail="the proxy's address must be http://host:port"
        )
    return parts.hostname, parts.port or _PROXY_PORT
