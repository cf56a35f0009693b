"""
Small questions to a server beside its requests: a POST, and its whole answer or nothing.

Over the kind of transport that requests take. Nearly every request of an agent brings messages that
the server has not counted yet, and waits for their counts: with httpx such a request took more than twice the
time. Whoever has no transport (the command line) asks over httpx.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import httpx

from penstock.adapters.transport import (
    Origin,
    TransportError,
    UpstreamRequest,
    UpstreamTransport,
)

_CONNECT_WITHIN_S = 5.0
_LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class Way(Protocol):
    """How a server is asked. The caller's clock is the limit, but for the connection."""

    async def post(self, path: str, content: bytes, api_key: str | None) -> bytes | None:
        """The body of a 200 answer to a JSON body; None is every kind of failure."""


class OverTransport:
    """
    Args:
        origin, host, prefix: where the upstream is, the value of `Host`, and what its paths begin with.
    """

    __slots__ = ("_host", "_origin", "_prefix", "_transport")

    def __init__(
        self, transport: UpstreamTransport, origin: Origin, host: bytes, prefix: str
    ) -> None:
        self._transport = transport
        self._origin = origin
        self._host = host
        self._prefix = prefix

    async def post(self, path: str, content: bytes, api_key: str | None) -> bytes | None:
        """See `Way`."""
        headers = [
            (b"host", self._host),
            (b"accept", b"application/json"),
            (b"content-type", b"application/json"),
        ]
        if api_key:
            headers.append((b"authorization", b"Bearer " + api_key.encode()))
        try:
            response = await self._transport.send(
                self._origin,
                UpstreamRequest(b"POST", (self._prefix + path).encode(), headers, content),
                connect_timeout_s=_CONNECT_WITHIN_S,
                head_timeout_s=None,
            )
            if response.status != 200:
                response.close()
                return None
            body = await response.read(_LARGEST_ANSWER_BYTES)
        except TransportError:
            return None
        return _plain(body, response.headers)


class OverHttpx:
    """
    Args:
        url: of the upstream, normalised.
        client: see `penstock.adapters.control_client.make_client`.
    """

    __slots__ = ("_base", "_client")

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._base = "http://localhost" if url.startswith("unix:") else url
        self._client = client

    async def post(self, path: str, content: bytes, api_key: str | None) -> bytes | None:
        """See `Way`."""
        headers = {"accept": "application/json", "content-type": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        try:
            async with self._client.stream(
                "POST",
                self._base + path,
                content=content,
                headers=headers,
                timeout=httpx.Timeout(None, connect=_CONNECT_WITHIN_S),
            ) as response:
                if response.status_code != 200:
                    return None
                chunks: list[bytes] = []
                size = 0
                async for chunk in response.aiter_bytes():
                    size += len(chunk)
                    if size > _LARGEST_ANSWER_BYTES:
                        return None
                    chunks.append(chunk)
                return b"".join(chunks)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
            return None


def _plain(body: bytes, headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """*body* without the coding that some proxies apply although nobody asked for it."""
    for name, value in headers:
        if name.lower() == b"content-encoding" and value.strip().lower() != b"identity":
            try:
                return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, _LARGEST_ANSWER_BYTES)
            except zlib.error:
                return None
    return body
