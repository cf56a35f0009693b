"""
All addresses of a name, as the system resolves it.

That a name has no address is an answer; that nobody could be asked is none, and whoever asked goes on with what
was known. The system tells them apart (RFC 3493, 6.4: `EAI_NONAME` as against `EAI_AGAIN`, `EAI_FAIL`).
"""

from __future__ import annotations

import asyncio
import socket

_NONE_THERE = {
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, name)
}


async def addresses_of(host: str) -> tuple[str, ...]:
    """
    The IP addresses of *host*, sorted, each once; empty when it has none. Takes as long as the resolver lets it.

    Raises:
        OSError: the name could not be looked up.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        if exc.errno in _NONE_THERE:
            return ()
        raise
    except UnicodeError as exc:
        raise OSError(f"{host!r} is not a host name") from exc
    return tuple(sorted({str(address[4][0]) for address in found}))
