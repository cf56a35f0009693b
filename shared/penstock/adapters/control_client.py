"""
The HTTP client of the control plane: probes, counts, health. An `httpx` client whose connections can be cancelled.

httpcore shields its cleaning up by anyio's cancel scopes, which do not hold back asyncio's `Task.cancel`: a look that
is given up while httpcore closes connections, one after the other, leaves the rest open for good; and so does one
that is given up in the moment in which `anyio.connect_tcp` has connected. asyncio's own streams close what they made
and can be closed without waiting, so these are used here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpcore
import httpx

from penstock.adapters.transport.opening import connected_socket, is_address, refuse_itself
from penstock.domain.upstream import Upstream

_MOST_CONNECTIONS = 100
_MOST_IDLE = 20
_IDLE_S = 5.0


class _Stream(httpcore.AsyncNetworkStream):
    """One connection, by asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore."""
        async with _translated(httpcore.ReadTimeout, httpcore.ReadError, timeout):
            return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore."""
        async with _translated(httpcore.WriteTimeout, httpcore.WriteError, timeout):
            self._writer.write(buffer)
            await self._writer.drain()

    async def aclose(self) -> None:
        """
        At once, and without waiting: httpcore takes several connections out of its pool and closes one after the
        other; whoever is cancelled in between would leave the rest open.
        """
        self._writer.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        try:
            async with _translated(httpcore.ConnectTimeout, httpcore.ConnectError, timeout):
                await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except BaseException:
            self._writer.transport.abort()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        """See httpcore: it asks whether an idle connection was closed by the other side, and for TLS."""
        if info == "is_readable":
            return self._reader.at_eof() or self._writer.is_closing()
        return self._writer.get_extra_info(info)


class _Network(httpcore.AsyncNetworkBackend):
    """Opens connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore; neither an own address nor options are used here."""
        async with _translated(httpcore.ConnectTimeout, httpcore.ConnectError, timeout):
            return await _open(host, port)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        if sys.platform == "win32":
            raise httpcore.ConnectError("there are no Unix sockets on Windows")
        async with _translated(httpcore.ConnectTimeout, httpcore.ConnectError, timeout):
            return _Stream(*await asyncio.open_unix_connection(path))

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        await asyncio.sleep(seconds)


async def _open(host: str, port: int) -> _Stream:
    if is_address(host):
        reader, writer = await asyncio.open_connection(host, port)
    else:
        sock = await connected_socket(asyncio.get_running_loop(), host, port)
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
    refuse_itself(writer.transport)
    return _Stream(reader, writer)


@contextlib.asynccontextmanager
async def _translated(
    late: type[Exception], broken: type[Exception], timeout_s: float | None
) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as exc:
        raise late(str(exc)) from exc
    except (OSError, ssl.SSLError) as exc:
        raise broken(str(exc)) from exc


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's own, with another way to open connections."""

    def __init__(self, context: ssl.SSLContext, unix_path: str | None) -> None:
        super().__init__(verify=context)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=_MOST_CONNECTIONS,
            max_keepalive_connections=_MOST_IDLE,
            keepalive_expiry=_IDLE_S,
            uds=unix_path,
            network_backend=_Network(),
        )


def make_client(upstream: Upstream | None = None) -> httpx.AsyncClient:
    """A client for probes: of one upstream with its TLS or socket, or of all plain ones."""
    unix_path: str | None = None
    context: ssl.SSLContext | None = None
    if upstream is not None and upstream.url.startswith("unix:"):
        unix_path = upstream.url.removeprefix("unix://")
    elif upstream is not None and not upstream.verify:
        context = httpx.create_ssl_context(verify=False)
    elif upstream is not None and upstream.ca_file:
        context = ssl.create_default_context(cafile=upstream.ca_file)
    transport = _Transport(context or httpx.create_ssl_context(), unix_path)
    return httpx.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)
