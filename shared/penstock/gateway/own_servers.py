"""The servers that this gateway runs itself, all of them: their begin, their upstreams, their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from penstock.adapters.folders import log_folder
from penstock.adapters.server_process import log_name
from penstock.domain.upstream import Upstream
from penstock.gateway.runtime import Runtime
from penstock.gateway.upstreams.supervisor import ServerToRun, Supervisor

_LOOK_S = 0.1


class OwnServers:
    """
    Args:
        runtime: whose upstreams they serve.
        servers: to be run.
        port: of the gateway as the settings name it, for the names of the log files.
    """

    def __init__(self, runtime: Runtime, servers: tuple[ServerToRun, ...], port: int) -> None:
        self._runtime = runtime
        self._supervisors = [
            Supervisor(
                server,
                runtime.fleet,
                runtime.keeper,
                runtime.recorder,
                lambda: runtime.settings,
                log_folder() / log_name(server.name, port),
            )
            for server in servers
        ]

    async def begin(
        self, upstreams: tuple[Upstream, ...], is_stopped: Callable[[], bool]
    ) -> tuple[Upstream, ...]:
        """
        Start them, and wait for what has to be there before the first request comes: addresses that only the
        server knows, and servers without which the gateway is nothing.

        Args:
            upstreams: of the gateway, without those whose addresses are unknown.
            is_stopped: whether somebody wants the gateway to end by now.

        Returns:
            all upstreams.

        Raises:
            ServerNotStarted: one that has to be there ended.
        """
        for supervisor in self._supervisors:
            supervisor.begin()
            supervisor.attach()
        for supervisor in self._supervisors:
            server = supervisor.server
            if server.url is None:
                url = await _unless(supervisor.address(), is_stopped)
                if url is None:
                    break
                found = Upstream(server.name, url, local=True, found_by="supervised")
                upstreams = (found, *upstreams)
                self._runtime.set_upstreams(upstreams)
                self._runtime.keeper.start()
                supervisor.attach()
            if server.must_start:
                await _unless(supervisor.first_start(), is_stopped)
        return upstreams

    def reloaded(self) -> None:
        """Settings were read again: their upstreams may be other ones, and who was given up is tried again."""
        for supervisor in self._supervisors:
            supervisor.attach()
            supervisor.settings_changed()
            supervisor.try_again()

    async def stop(self) -> None:
        """End them all."""
        await asyncio.gather(*(supervisor.stop() for supervisor in self._supervisors))


async def _unless(work: Coroutine[Any, Any, Any], is_stopped: Callable[[], bool]) -> Any:
    """The result of *work*; None when the gateway is to end before."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_LOOK_S)
            if is_stopped():
                return None
        return task.result()
    finally:
        task.cancel()
