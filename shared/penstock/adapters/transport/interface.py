"""What the gateway needs of an HTTP client. Everything else about it may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Origin:
    """
    Where connections go; one pool each.

    Attributes:
        scheme: "http" or "https".
        host: name or IP address, without brackets.
        unix_path: socket file, None for TCP.
        ca_file: CA bundle, None for the system's.
        verify: whether the certificate is checked.
        proxy: "http://user:password@host:port", None for a direct connection.
    """

    scheme: str
    host: str
    port: int
    unix_path: str | None = None
    ca_file: str | None = None
    verify: bool = True
    proxy: str | None = None


@dataclass(slots=True)
class UpstreamRequest:
    """
    One request. Headers are sent as given; `content-length` is added for a body.

    Attributes:
        target: path and query.
        body: None sends neither body nor length.
    """

    method: bytes
    target: bytes
    headers: Headers
    body: bytes | None = None


class UpstreamResponse(Protocol):
    """
    An answer whose head has come.

    Attributes:
        reused: the connection had served a request before.
        complete: the last byte has come; `next_chunk` returns all that is left at once.
        ready: `next_chunk` returns at once.
    """

    status: int
    headers: Headers
    reused: bool
    complete: bool

    @property
    def ready(self) -> bool:
        """See above."""

    async def next_chunk(self) -> bytes:
        """
        All of the body that is there, waiting for at least one byte; b"" at its proper end.

        Transfer encoding is undone, content encoding is not touched.

        Raises:
            TransportError: the body ended before it should, or cannot be read.
        """

    async def read(self, limit_bytes: int) -> bytes:
        """The rest of the body, at most *limit_bytes*; what is longer raises `TransportError`."""

    def close(self) -> None:
        """
        Not interested in the rest: hang up, unless the body has come to its end (then the connection
        is of use to others). Harmless when repeated, and after the end.
        """


class UpstreamTransport(Protocol):
    """Sends requests."""

    async def send(
        self,
        origin: Origin,
        request: UpstreamRequest,
        *,
        connect_timeout_s: float,
        head_timeout_s: float | None,
    ) -> UpstreamResponse:
        """
        Send *request* and wait for the head of its answer.

        A failure on a reused connection before any byte came is repeated once on a fresh one, unseen:
        the server had closed it while it was idle (RFC 9112 section 9.3.1). Cancelling closes the
        connection.

        Raises:
            TransportError: no answer.
        """

    def drop_idle(self) -> int:
        """Close the connections that wait for a request. Returns how many there were."""

    def keep_idle(self, keep: bool) -> None:
        """Whether connections are kept for the next request; those that wait are closed where not."""

    async def aclose(self) -> None:
        """Close all connections."""
