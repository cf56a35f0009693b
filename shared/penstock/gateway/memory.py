"""
The memory of this machine while the gateway runs: read every few seconds in a thread of its own, never on a
request's path, and made into a pressure class (`penstock.resources`).

Whose memory it is decides what it is good for: our readings speak for an upstream only if it runs on this
machine, or is our child (contracts 10). For others only what the server said itself counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from penstock import resources, tokens
from penstock.adapters import machine
from penstock.domain.pressure import Pressure
from penstock.domain.profile import ModelProfile
from penstock.domain.upstream import Upstream
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState

log = logging.getLogger("penstock.gateway")

_LOOK_EVERY_S = 5.0
_KV_SHARE = 0.5
"""Of the memory that is left, what a larger window may take."""
_CHILDREN = ("embedded", "supervised")
"""Where upstreams come from that are our own processes (`Upstream.found_by`)."""


class Memory:
    """
    Args:
        fleet: whose upstreams may share the machine's memory.
        on_change: called when the pressure class is another one.
        read: takes a look at the machine; another one in tests.

    Attributes:
        machine: the last look, None before the first.
        pressure: the class by our own readings.
    """

    def __init__(
        self,
        fleet: Fleet,
        on_change: Callable[[], None],
        *,
        read: Callable[[], machine.Machine] = machine.read_machine,
    ) -> None:
        self._fleet = fleet
        self._on_change = on_change
        self._read = read
        self._since_s = 0.0
        self.machine: machine.Machine | None = None
        self.pressure = Pressure.CALM

    def short(self, state: UpstreamState) -> bool:
        """Whether the machine that *state* runs on is short of memory."""
        return self.pressure_of(state) is not Pressure.CALM

    def pressure_of(self, state: UpstreamState) -> Pressure:
        """
        How short of memory the machine of *state* is: by our own readings as far as we may speak for it,
        else by what the server said itself.
        """
        if self.speaks_for(state):
            return self.pressure
        now_s = asyncio.get_running_loop().time()
        recent = resources.is_recent(state.last_out_of_memory_s, now_s)
        return Pressure.HEAVY if recent else Pressure.CALM

    def affordable_window(self, state: UpstreamState, profile: ModelProfile) -> int | None:
        """The largest window of a model that the memory holds; None when nothing is known of it."""
        if self.machine is None or not self.speaks_for(state):
            return None
        shape = tokens.kv_shape(profile.reading.shape)
        if shape is None:
            return None
        return shape.most_tokens(int(self.machine.available_bytes * _KV_SHARE))

    def speaks_for(self, state: UpstreamState) -> bool:
        """Whether there is a reading, and it is one of the memory that *state* lives in."""
        return self.machine is not None and _is_ours(state.upstream, self.machine.in_container)

    def left_for(self, upstream: Upstream) -> int | None:
        """Bytes that are left where *upstream* runs, looked up now; None when that is not here."""
        return machine.available_bytes() if _is_ours(upstream, machine.in_container()) else None

    def look(self, now_s: float) -> None:
        """Decide the pressure class anew from the last look at the machine."""
        assert self.machine is not None
        before = self.pressure
        self.pressure, self._since_s = resources.pressure_class(
            self.machine.used_share,
            previous=self.pressure,
            since_s=self._since_s,
            now_s=now_s,
            last_out_of_memory_s=max(
                (
                    state.last_out_of_memory_s
                    for state in self._fleet
                    if state.last_out_of_memory_s is not None and self.speaks_for(state)
                ),
                default=None,
            ),
        )
        if self.pressure is not before:
            log.info("memory pressure changed to %s", self.pressure.value)
            self._on_change()

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.machine = await loop.run_in_executor(None, self._read)
            self.look(loop.time())
            await asyncio.sleep(_LOOK_EVERY_S)


def _is_ours(upstream: Upstream, in_container: bool) -> bool:
    return resources.speaks_for(
        upstream.url, in_container=in_container, is_child=upstream.found_by in _CHILDREN
    )
