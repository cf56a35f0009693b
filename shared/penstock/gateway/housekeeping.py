"""
Watches what the process runs in: clocks that jump, descriptors and disks that run out. Each few seconds, off every
request's path; what is decided by numbers is decided in `penstock.clocks` and `penstock.resources`.

After a jump connections that were idle are closed (they died without a word while the machine slept), upstreams
are looked at anew, and whoever has asked is told. Our own timers need nothing: they are monotonic. Short of
descriptors, idle connections are closed and none is kept; a nearly full disk is told of, and what cannot be
written is done without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableMapping

from penstock import clocks, resources
from penstock.adapters import surroundings
from penstock.adapters.folders import cache_folder, runtime_folder, state_folder
from penstock.adapters.transport import UpstreamTransport
from penstock.gateway.upstreams.health import HealthMonitor
from penstock.gateway.upstreams.profiles import ProfileKeeper
from penstock.gateway.views.record import Recorder

log = logging.getLogger("penstock.gateway")

_LOOK_EVERY_S = 5.0
_DISKS_EVERY = 12
"""Looks between two at the disks: a minute."""


class Housekeeping:
    """
    Args:
        notices: of the status; ours are `descriptors` and `disk`.

    Attributes:
        transport: whose idle connections are closed; None before there is one.
        descriptors: at the last look; None where it cannot be told.
        on_jump: called after time has jumped.
    """

    def __init__(
        self,
        keeper: ProfileKeeper,
        health: HealthMonitor,
        recorder: Recorder,
        notices: MutableMapping[str, str],
    ) -> None:
        self._keeper = keeper
        self._health = health
        self._recorder = recorder
        self._notices = notices
        self._short = False
        self._clocks: clocks.Clocks | None = None
        self.transport: UpstreamTransport | None = None
        self.descriptors: surroundings.Descriptors | None = None
        self.on_jump: list[Callable[[], None]] = []

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        folders = (state_folder(), runtime_folder(), cache_folder())
        look = 0
        while True:
            self.look_at_clocks(surroundings.read_clocks(loop.time()))
            self.look_at_descriptors(await loop.run_in_executor(None, surroundings.descriptors))
            if look % _DISKS_EVERY == 0:
                found = await loop.run_in_executor(None, surroundings.disks, folders)
                self.look_at_disks(found)
            look += 1
            await asyncio.sleep(_LOOK_EVERY_S)

    def look_at_clocks(self, now: clocks.Clocks, waited_s: float = _LOOK_EVERY_S) -> None:
        """Whether time jumped since the last look, and what follows."""
        before, self._clocks = self._clocks, now
        if before is None:
            return
        jump = clocks.jump(before, now, waited_s)
        if jump is None:
            return
        told = f"{jump.why}; idle connections were closed, and upstreams are looked at anew"
        self._recorder.acted("", "time_jumped", told)
        if self.transport is not None:
            self.transport.drop_idle()
        self._keeper.start_afresh()
        self._health.wake()
        for hook in self.on_jump:
            hook()

    def look_at_descriptors(self, seen: surroundings.Descriptors | None) -> None:
        """Whether descriptors run out, and what follows."""
        self.descriptors = seen
        if seen is None:
            return
        short = resources.descriptors_are_short(seen.in_use, seen.limit, were_short=self._short)
        if self.transport is not None and short is not self._short:
            self.transport.keep_idle(not short)
        self._short = short
        told = (
            f"{seen.in_use} of {seen.limit} file descriptors are in use, so that no idle connection is kept. "
            "Raise the limit (`ulimit -n`, LimitNOFILE=), or look for clients that never close."
        )
        self._notice("descriptors", told if short else None)

    def look_at_disks(self, seen: list[surroundings.Disk]) -> None:
        """Whether a disk is nearly full."""
        full = [d for d in seen if resources.disk_is_short(d.free_bytes, d.total_bytes)]
        told = None
        if full:
            least = min(full, key=lambda disk: disk.free_bytes)
            told = (
                f"The disk with {least.folder} is nearly full: {least.free_bytes // 1024**2} MiB are left. "
                "Requests go on; what is switched or learned may not survive a restart."
            )
        self._notice("disk", told)

    def _notice(self, name: str, told: str | None) -> None:
        before = self._notices.get(name)
        if told is None:
            self._notices.pop(name, None)
        else:
            self._notices[name] = told
        if (before is None) is not (told is None):
            if told is not None:
                log.warning(told)
            self._recorder.changed("notices")
