"""
Runs kopf's watches in a thread and a loop of their own, and begins them anew when they end.

A watch ends for good when the API server says an error inside of it, or when LocalModel is no longer known; kopf then
ends as a whole, and cancels every task of its loop on the way, which is why that loop is not ours.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from penstock_operator.api.cluster import Access
from penstock_operator.api.resources import WATCHED
from penstock_operator.watches.handlers import Backoff, Tell, registry

_log = logging.getLogger(__name__)


class Watches:
    """
    Args:
        namespaces: that are watched; empty for all.
        tell: is told every event, in the loop of `run`.
        known: waits until the API server knows LocalModel.
        access: how to reach the API server.
    """

    def __init__(
        self,
        namespaces: tuple[str, ...],
        tell: Tell,
        known: Callable[[], Awaitable[None]],
        access: Callable[[], Awaitable[Access]],
    ) -> None:
        self._namespaces = namespaces
        self._tell = tell
        self._known = known
        self._access = access
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waits = False
        self.restarts = 0

    @property
    def expected(self) -> int:
        """How many should run now: none while there is nothing to watch."""
        return 0 if self._waits else len(WATCHED) * max(1, len(self._namespaces))

    def live(self) -> int:
        """How many run."""
        loop = self._loop
        if loop is None:
            return 0
        return sum(
            task.get_name().startswith("watcher for ") and not task.done()
            for task in asyncio.all_tasks(loop)
        )

    async def run(self) -> None:
        """Watch until cancelled."""
        waits = iter(Backoff())
        while True:
            self._waits = True
            await self._known()
            self._waits = False
            began = asyncio.get_running_loop().time()
            said = await self._once()
            self.restarts += 1
            if asyncio.get_running_loop().time() - began > 60.0:
                waits = iter(Backoff())
            wait_s = next(waits)
            _log.warning("The watches ended: %s. They begin anew in %.1f s.", said, wait_s)
            await asyncio.sleep(wait_s)

    async def _once(self) -> str:
        """Until they end by themselves; why."""
        loop, stop = asyncio.get_running_loop(), threading.Event()
        ended: asyncio.Future[str] = loop.create_future()

        def tell(kind: str | None, body: Mapping[str, Any]) -> None:
            loop.call_soon_threadsafe(self._tell, kind, body)

        def end(said: str) -> None:
            if not ended.done():
                ended.set_result(said)

        async def watch() -> None:
            self._loop = asyncio.get_running_loop()
            try:
                await kopf.operator(
                    registry=registry(tell, self._access),
                    clusterwide=not self._namespaces,
                    namespaces=self._namespaces,
                    standalone=True,
                    stop_flag=stop,
                )
            finally:
                stop.set()  # kopf waits for it in a thread, and the loop waits for that thread at its end

        def thread() -> None:
            try:
                asyncio.run(watch())
                said = "kopf stopped"
            except Exception as exc:  # noqa: BLE001 - whatever it is, they begin anew
                said = f"{type(exc).__name__}: {exc}"
            finally:
                self._loop = None
            if not loop.is_closed():
                loop.call_soon_threadsafe(end, said)

        worker = threading.Thread(target=thread, name="watches", daemon=True)
        worker.start()
        try:
            return await asyncio.shield(ended)
        finally:
            stop.set()
            if not ended.done():
                await asyncio.wait([ended], timeout=20.0)
