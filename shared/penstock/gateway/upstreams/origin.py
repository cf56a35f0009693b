"""Where connections to an upstream go, from its URL."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from penstock.adapters.transport import Origin
from penstock.domain.upstream import Upstream

_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin_of(upstream: Upstream) -> tuple[Origin, bytes, str]:
    """
    Where connections to *upstream* go.

    Returns:
        the origin, the value of the `Host` header, and the path prefix ("" or "/api").
    """
    if upstream.url.startswith("unix:"):
        path = unquote(upstream.url.removeprefix("unix://").removeprefix("unix:"))
        return Origin("http", "localhost", 80, unix_path=path), b"localhost", ""
    parts = urlsplit(upstream.url)
    host = parts.hostname or ""
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    if port != _DEFAULT_PORTS[parts.scheme]:
        shown = f"{shown}:{port}"
    origin = Origin(
        parts.scheme,
        host,
        port,
        ca_file=upstream.ca_file,
        verify=upstream.verify,
        proxy=upstream.proxy,
    )
    return origin, shown.encode("ascii"), parts.path.rstrip("/")
