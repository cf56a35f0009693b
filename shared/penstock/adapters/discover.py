"""Finds the model servers that run on this machine: which places listen, then a look at each."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import urlsplit

from penstock.adapters import probe
from penstock.adapters.machine import in_container
from penstock.detection import Place, places
from penstock.domain.upstream import Upstream

_CONNECT_WITHIN_S = 0.3


async def discover(
    environ: Mapping[str, str] | None = None,
    *,
    extra_ports: Collection[int] = (),
    not_ports: Collection[int] = (),
    timeout_s: float = 2.0,
) -> tuple[list[probe.Look], list[Place]]:
    """
    Look everywhere at once.

    Args:
        environ: the process's environment when None.
        extra_ports: more ports on loopback.
        not_ports: ports on loopback that are our own.
        timeout_s: for each answer.

    Returns:
        the model servers found, each once, and every place that was looked at.
    """
    wanted = places(
        os.environ if environ is None else environ,
        extra_ports=extra_ports,
        in_container=in_container(),
    )
    own = {("this machine", port) for port in not_ports}
    wanted = tuple(place for place in wanted if _same_server(place.url) not in own)
    unknown = await _unknown_names(urlsplit(place.url).hostname or "" for place in wanted)
    listening = await asyncio.gather(*(_listens(place.url, unknown=unknown) for place in wanted))
    open_places = [place for place, is_open in zip(wanted, listening, strict=True) if is_open]
    looks = await asyncio.gather(*(_look(place.url, timeout_s) for place in open_places))
    found: dict[tuple[str, int | None], probe.Look] = {}
    for look in looks:
        if look.is_penstock or look.kind is None:
            continue
        found.setdefault(_same_server(look.url), look)
    return list(found.values()), list(wanted)


async def _look(url: str, timeout_s: float) -> probe.Look:
    async with probe.make_client(Upstream("discovered", url)) as client:
        return await probe.look(url, client=client, timeout_s=timeout_s)


def _same_server(url: str) -> tuple[str, int | None]:
    """`localhost`, 127.0.0.1 and ::1 are one machine; the Docker host is seen by its name only."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "unix":
        return (parts.path, None)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return ("this machine" if host in ("localhost", "127.0.0.1", "::1") else host, port)


async def _unknown_names(hosts: Iterable[str]) -> frozenset[str]:
    """
    The names that nothing is known of, each asked for once.

    A look-up runs in a thread that cannot be ended. Outside Docker the Docker host's name is unknown, and
    a resolver that is slow to say so would keep one thread per port.
    """
    names = sorted({host for host in hosts if host and not _is_address(host)})
    loop = asyncio.get_running_loop()

    async def is_known(name: str) -> bool:
        try:
            async with asyncio.timeout(_CONNECT_WITHIN_S):
                return bool(await loop.getaddrinfo(name, None))
        except (OSError, TimeoutError, UnicodeError):
            return False

    known = await asyncio.gather(*(is_known(name) for name in names))
    return frozenset(name for name, found in zip(names, known, strict=True) if not found)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def _listens(url: str, *, unknown: Collection[str] = ()) -> bool:
    if url.startswith("unix:"):
        return True
    parts = urlsplit(url)
    if parts.hostname in unknown:
        return False
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(_CONNECT_WITHIN_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
