"""
The memory of this machine while the gateway runs: read every few seconds in a thread of its own, never on a
request's path, and made into a pressure class (`penstock.resources`).

Whose memory it is decides what it is good for: our readings speak for an upstream only if it runs on this
machine, or is our child (contracts 10). For others only what the server said itself counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable

from penstock import resources, tokens
from penstock.adapters import machine
from penstock.domain.pressure import Pressure
from penstock.domain.profile import ModelProfile
from penstock.domain.upstream import Upstream
from penstock.errors import ErrorCode, Refused
from penstock.gateway.upstreams.fleet import Fleet, UpstreamState
from penstock.limits.num_ctx import largest_class

log = logging.getLogger("penstock.gateway")

_LOOK_EVERY_S = 5.0
_SOON_S = 0.5
"""A server that was told to let go of a model takes a moment."""
_RETRY_AFTER_S = 30.0
_KV_SHARE = 0.5
"""Of the memory that is left, what a larger window may take."""
_CHILDREN = ("embedded", "supervised")
"""Where upstreams come from that are our own processes (`Upstream.found_by`)."""


class Memory:
    """
    Args:
        fleet: whose upstreams may share the machine's memory.
        on_change: called when the pressure class is another one, or a request begins to wait for memory.
        read: takes a look at the machine; another one in tests.

    Attributes:
        machine: the last look, None before the first.
        pressure: the class by our own readings.
        waiting: upstreams -> requests that wait for memory there.
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
        self._promised_bytes = 0
        self._looked = asyncio.Event()
        self._soon = asyncio.Event()
        self.machine: machine.Machine | None = None
        self.pressure = Pressure.CALM
        self.waiting: Counter[str] = Counter()

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

    def most_window(self, state: UpstreamState, profile: ModelProfile) -> int | None:
        """
        The largest window to ask for while memory is short, None when that does not matter now: what the
        health monitor said after the server ran out of memory; and for a model that is not loaded yet, what
        the memory holds.
        """
        most = state.vitals.most_window(profile.model, asyncio.get_running_loop().time())
        if profile.reading.loaded or self.pressure_of(state) is Pressure.CALM:
            return most
        holds = self.affordable_window(state, profile)
        if holds is None:
            return most
        holds = largest_class(holds)
        return holds if most is None else min(most, holds)

    def needed_bytes(
        self, state: UpstreamState, profile: ModelProfile, *, window: int, tokens_taken: int
    ) -> int:
        """
        How much more memory a request makes its server take, by our estimate of its KV cache; 0 where it took
        all when it started, where nothing is known of the model's shape, and where it lives elsewhere.

        Args:
            window: that the request is sent with.
            tokens_taken: of its prompt and output.
        """
        grows = state.spec.behaviour.memory_grows
        if grows == "at_load" or not self.speaks_for(state):
            return 0
        reading = profile.reading
        loaded = (reading.running_window or 0) if reading.loaded else 0
        if grows == "by_window" and window <= loaded:
            return 0
        shape = tokens.kv_shape(reading.shape)
        if shape is None:
            return 0
        if grows == "by_request":
            return shape.bytes_for(tokens_taken)
        return shape.bytes_for(window) - (shape.bytes_for(loaded) if loaded else 0)

    async def room_for(
        self,
        upstream: str,
        needed_bytes: int,
        within_s: float,
        in_vain: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Wait until the memory holds so much more.

        Args:
            within_s: how long at most, seconds.
            in_vain: whether there is nothing to wait for any more.

        Raises:
            Refused: `memory_short`.
        """
        if not self._take(needed_bytes):
            self.waiting[upstream] += 1
            self._on_change()
            try:
                async with asyncio.timeout(within_s):
                    while not in_vain() and not self._take(needed_bytes):
                        await self._looked.wait()
            except TimeoutError:
                raise self._refusal(needed_bytes, within_s) from None
            finally:
                self.waiting[upstream] -= 1
                if not self.waiting[upstream]:
                    del self.waiting[upstream]

    def _take(self, needed_bytes: int) -> bool:
        if self.machine is None:
            return True
        if not resources.MemoryLeft(self._spare_bytes(), self._promised_bytes).holds(needed_bytes):
            return False
        self._promised_bytes += needed_bytes
        return True

    def _spare_bytes(self) -> int:
        assert self.machine is not None
        seen = self.machine
        on_gpus = 0 if seen.unified_memory else sum(gpu.free_bytes or 0 for gpu in seen.gpus)
        return resources.spare_bytes(
            available_bytes=seen.available_bytes,
            total_bytes=seen.total_bytes,
            gpu_free_bytes=on_gpus,
        )

    def _refusal(self, needed_bytes: int, waited_s: float) -> Refused:
        spare = max(0, self._spare_bytes() - self._promised_bytes)
        return Refused(
            ErrorCode.MEMORY_SHORT,
            f"The request would make its server take about {_mib(needed_bytes)} MiB of memory more, and "
            f"{_mib(spare)} MiB are to spare on this machine; it waited {waited_s:g} s for more.",
            hint="End other programs or unload other models, or set a smaller window (`limits.window`).",
            retry_after_s=_RETRY_AFTER_S,
        )

    def look_soon(self) -> None:
        """Something was done that should have freed memory: look at the machine again."""
        self._soon.set()

    def speaks_for(self, state: UpstreamState) -> bool:
        """Whether there is a reading, and it is one of the memory that *state* lives in."""
        return self.machine is not None and _is_ours(state.upstream, self.machine.in_container)

    def left_for(self, upstream: Upstream) -> int | None:
        """Bytes that are left where *upstream* runs, looked up now; None when that is not here."""
        return machine.available_bytes() if _is_ours(upstream, machine.in_container()) else None

    def look(self, now_s: float) -> None:
        """Decide the pressure class anew from the last look at the machine."""
        assert self.machine is not None
        self._promised_bytes = 0
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()
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
            self._soon.clear()
            self.machine = await loop.run_in_executor(None, self._read)
            self.look(loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._soon.wait()
                    await asyncio.sleep(_SOON_S)


def _mib(size_bytes: int) -> int:
    return round(size_bytes / 1024**2)


def _is_ours(upstream: Upstream, in_container: bool) -> bool:
    return resources.speaks_for(
        upstream.url, in_container=in_container, is_child=upstream.found_by in _CHILDREN
    )
