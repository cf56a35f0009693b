"""
Finds what went away while nobody watched.

A watch that was cut off long enough begins again with a listing, and what is missing from that listing is told to
nobody: kopf has no event for it. So when a watch lists again, when a write meets an object that is not there, and at
long intervals, the kind is listed here and the cache loses what is gone. A listing is also believed where it is older
than what was known before: after a restored etcd, versions begin again at lower numbers.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from penstock_operator.api.cache import Cache, version_of
from penstock_operator.api.cluster import ApiRefused, Cluster
from penstock_operator.localmodel.names import OURS
from penstock_operator.seen import Key

_log = logging.getLogger(__name__)
_SETTLES_S = 2.0  # a listing comes as many events; they are one reason to look
_EVERY_S = 900.0


class Sweep:
    """
    Args:
        kinds: that are watched.
        namespaces: that are watched; `[None]` for all.
        add: is told each LocalModel that something changed for.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        kinds: Sequence[str],
        namespaces: Sequence[str | None],
        add: Callable[[Key], None],
        *,
        settles_s: float = _SETTLES_S,
        every_s: float = _EVERY_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._kinds = tuple(kinds)
        self._namespaces = tuple(namespaces)
        self._add = add
        self._settles_s = settles_s
        self._every_s = every_s
        self._chance = chance
        self._owed: set[str] = set()
        self._news = asyncio.Event()
        self.done = 0

    def owed(self, kind: str) -> None:
        """The cache may hold objects of *kind* that are gone."""
        if kind in self._kinds:
            self._owed.add(kind)
            self._news.set()

    async def first(self) -> None:
        """List everything once, before anything is watched; raises what the API server refuses."""
        for kind in self._kinds:
            await self.look(kind)

    async def run(self) -> None:
        """Look when it is owed, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._every_s * (0.75 + 0.5 * self._chance())):
                    await self._news.wait()
            except TimeoutError:
                self._owed.update(self._kinds)
            await asyncio.sleep(self._settles_s)
            self._news.clear()
            for kind in sorted(self._owed):
                self._owed.discard(kind)
                try:
                    await self.look(kind)
                except ApiRefused as exc:
                    self._owed.add(kind)
                    _log.warning("%s could not be listed: %s", kind, exc)
            if self._owed:
                await asyncio.sleep(self._settles_s)
                self._news.set()

    async def look(self, kind: str) -> None:
        """List *kind* now, also one that is not watched; raises what the API server refuses."""
        labels = "" if kind == "LocalModel" else OURS
        before = self._cache.known(kind)
        there: set[str] = set()
        for namespace in self._namespaces:
            async for body in self._cluster.each(kind, namespace, labels):
                uid = str(body["metadata"]["uid"])
                there.add(uid)
                # Older than what was known before it was asked for: the past has changed (etcd was restored).
                rewound = 0 < version_of(body) < before.get(uid, 0)
                self._tell(self._cache.heard({**body, "kind": kind}, rewound=rewound))
        for uid in before.keys() - there:
            self._tell(self._cache.lost(kind, uid))
        self.done += 1

    def _tell(self, key: Key | None) -> None:
        if key is not None:
            self._add(key)
