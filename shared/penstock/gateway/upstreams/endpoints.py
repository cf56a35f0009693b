"""
Upstreams whose name stands for several servers (`endpoints: dns`): which of them there are, by the name's addresses.

Each address becomes an upstream of its own, a member (`server/10.0.0.7`), with its own profile, limiter, breaker
and health. The name is looked up every 5 s, and at once when a connection to a member failed; new members are
looked at before they are counted on, vanished ones end what they run and get nothing new. While nobody can be
asked, the last answer holds; that there is no address at all is believed when it was said twice (a DNS server that
has just started may not know the names yet). Then requests are held in front of the declared upstream.

Needs no rights in the cluster, and works while the operator is away. A Service's own address is never used: it
would lead each connection to a pod of its choice (Kubernetes, "Headless Services").
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

from penstock.adapters.addresses import addresses_of
from penstock.domain.upstream import Upstream

log = logging.getLogger("penstock.gateway")

_LOOK_EVERY_S = 5.0
_SHORTEST_BETWEEN_LOOKS_S = 0.25


class Endpoints:
    """
    Args:
        declared: returns the upstreams as declared, now.
        on_change: called when a name has other addresses than before.
        on_problem: called with the upstream's name, and why its name cannot be looked up, or None when it can again.
    """

    def __init__(
        self,
        declared: Callable[[], Iterable[Upstream]],
        on_change: Callable[[], None],
        on_problem: Callable[[str, str | None], None],
    ) -> None:
        self._declared = declared
        self._on_change = on_change
        self._on_problem = on_problem
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._problems: dict[str, str] = {}
        self._empty: set[str] = set()
        self._wake = asyncio.Event()

    def expand(self, upstreams: Iterable[Upstream]) -> Iterator[Upstream]:
        """The upstreams that requests go to: members in place of what stands for several; itself while there is none."""
        for upstream in upstreams:
            addresses = self._addresses.get(_host(upstream)) if upstream.awaits_address else None
            if not addresses:
                yield upstream
                continue
            for address in addresses:
                yield member_at(upstream, address)

    def look_soon(self) -> None:
        """A connection failed: who was there may be gone."""
        self._wake.set()

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.look()
            except Exception:  # the next look may go better, and nobody else looks
                log.exception("looking for servers failed")
            await asyncio.sleep(_SHORTEST_BETWEEN_LOOKS_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S - _SHORTEST_BETWEEN_LOOKS_S):
                    await self._wake.wait()

    async def look(self) -> None:
        """Look up all names that stand for several servers."""
        asked = [upstream for upstream in self._declared() if upstream.awaits_address]
        hosts = {_host(upstream): upstream.name for upstream in asked}
        for old in set(self._addresses) - set(hosts):
            del self._addresses[old]
        for name in set(self._problems) - set(hosts.values()):
            self._note(name, None)
        changed = await asyncio.gather(*(self._look_up(host, name) for host, name in hosts.items()))
        if any(changed):
            self._on_change()

    async def _look_up(self, host: str, name: str) -> bool:
        """Whether *host* has other addresses than before."""
        known = self._addresses.get(host, ())
        try:
            found = await addresses_of(host)
        except OSError as exc:
            told = f"{host} cannot be looked up: {exc.strerror or exc}"
            self._note(name, f"{told}; its {len(known)} last known addresses stay in use.")
            return False
        self._note(name, None)
        if not found and known and host not in self._empty:
            self._empty.add(host)
            self._wake.set()
            return False
        self._empty.discard(host)
        self._addresses[host] = found
        return found != known

    def _note(self, name: str, problem: str | None) -> None:
        if self._problems.get(name) == problem:
            return
        if problem is None:
            self._problems.pop(name, None)
        else:
            self._problems[name] = problem
            log.warning("%s", problem, extra={"penstock": {"upstream": name}})
        self._on_problem(name, problem)


def member_at(upstream: Upstream, address: str) -> Upstream:
    """The server of *upstream* at one address."""
    parts = urlsplit(upstream.url)
    shown = f"[{address}]" if ":" in address else address
    port = "" if parts.port is None else f":{parts.port}"
    return replace(
        upstream,
        name=f"{upstream.name}/{address}",
        url=f"{parts.scheme}://{shown}{port}{parts.path}",
        member_of=upstream.name,
        proxy=None,
    )


def _host(upstream: Upstream) -> str:
    return urlsplit(upstream.url).hostname or ""
