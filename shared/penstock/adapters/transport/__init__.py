"""
The way to an upstream: a lean HTTP/1.1 client on `asyncio.Protocol` and httptools.

One narrow interface (`UpstreamTransport`), so that another client can take its place. Why not a general
client library: measured, one halves the cost of a small request this way, and the gateway needs to know
what libraries hide: whether a connection had been used before, in which phase it failed, how many bytes
had come (`retry`, `faults`).
"""

from penstock.adapters.transport.client import Transport
from penstock.adapters.transport.errors import TransportError
from penstock.adapters.transport.interface import (
    Origin,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTransport,
)

__all__ = [
    "Origin",
    "Transport",
    "TransportError",
    "UpstreamRequest",
    "UpstreamResponse",
    "UpstreamTransport",
]
