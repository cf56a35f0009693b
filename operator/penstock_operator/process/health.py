"""
`/healthz`, `/readyz` and `/metrics` of the operator.

Alive means that every watch lives: a process whose watcher died hears nothing more, and only a restart helps. A watch
that is between two connections is not dead, so it is given some time. Ready means that everything was listed once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

PATIENCE_S = 30.0


class Liveness:
    """
    Args:
        live: how many watchers run.
        expected: how many there should be now.
    """

    def __init__(
        self,
        live: Callable[[], int],
        expected: Callable[[], int],
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live = live
        self._expected = expected
        self._patience_s = patience_s
        self._clock = clock
        self._well_at = clock()

    def problem(self) -> str:
        """What is wrong, a sentence; empty while nothing is."""
        now, live, expected = self._clock(), self._live(), self._expected()
        if live >= expected:
            self._well_at = now
            return ""
        if now - self._well_at < self._patience_s:
            return ""
        return f"Only {live} of {expected} watches live, for {now - self._well_at:.0f} s."


async def serve(
    host: str,
    port: int,
    *,
    liveness: Liveness,
    ready: Callable[[], bool],
    registry: CollectorRegistry,
) -> web.AppRunner:
    """Listen; `cleanup()` of the result ends it."""

    async def healthz(_: web.Request) -> web.Response:
        problem = liveness.problem()
        return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)

    async def readyz(_: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ok\n")
        return web.Response(text="The cluster has not been listed yet.\n", status=503)

    async def metrics(_: web.Request) -> web.Response:
        text = generate_latest(registry)
        return web.Response(body=text, headers={"content-type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
