"""
The last half hour as numbers, for the dashboard's charts; a page that was just opened has them at once. A ring of a
sample each five seconds: what each upstream's limiter did, how fast answers came, what failed, and the machine's memory.
No request is told apart in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Any

from penstock.adapters.machine import Machine
from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.views.record import Recorder

_EVERY_S = 5.0
_LEAST_STEP_S = 0.1
_MOST_SAMPLES = 360
_MOST_UPSTREAMS = 50


class History:
    """
    Args:
        recorder: knows what has ended.
        in_flight: requests that run.
        machine: the last look at the machine's memory, None before there was one.
    """

    def __init__(
        self,
        recorder: Recorder,
        in_flight: Mapping[str, Exchange],
        machine: Callable[[], Machine | None],
    ) -> None:
        self._recorder = recorder
        self._in_flight = in_flight
        self._machine = machine
        self._samples: deque[dict[str, Any]] = deque(maxlen=_MOST_SAMPLES)
        self._tokens = 0
        self._failed = 0
        self._last = ""

    async def watch(self, fleet: Iterable[UpstreamState]) -> None:
        """Take samples until cancelled."""
        before_s = time.monotonic() - _EVERY_S
        while True:
            now_s = time.monotonic()
            self.sample(fleet, time.time(), now_s - before_s)
            before_s = now_s
            await asyncio.sleep(_EVERY_S)

    def sample(
        self, fleet: Iterable[UpstreamState], at: float, elapsed_s: float = _EVERY_S
    ) -> None:
        """
        Remember how things are.

        A token is a piece that was relayed until its request ends; then the server's own count stands in its place,
        where it told one.

        Args:
            at: the wall clock's time; one that was set back goes on from the last sample, or whoever asks for what
                is newer than that would get nothing until it caught up.
            elapsed_s: since the last sample, more than a step after a busy moment.
        """
        if self._samples:
            at = max(at, self._samples[-1]["at"] + _LEAST_STEP_S)
        tokens = self._recorder.tokens_ended + sum(e.chunks for e in self._in_flight.values())
        came, self._tokens = max(0, tokens - self._tokens), tokens
        errors = sum(one["count"] for one in self._recorder.metrics.errors())
        failed, self._failed = errors - self._failed, errors
        firsts = self._first_tokens()
        machine = self._machine()
        self._samples.append(
            {
                "at": round(at, 1),
                "pieces_per_s": round(came / max(elapsed_s, _LEAST_STEP_S), 2),
                "failed": failed,
                "first_token_s": round(median(firsts), 3) if firsts else None,
                "memory_share": None if machine is None else round(machine.used_share, 3),
                "gpu_shares": []
                if machine is None
                else [
                    round(1 - gpu.free_bytes / gpu.total_bytes, 3)
                    for gpu in machine.gpus
                    if gpu.total_bytes and gpu.free_bytes is not None
                ],
                "upstreams": {
                    state.name: [
                        state.limiter.running,
                        state.limiter.waiting + state.holding.waiting,
                        state.limiter.limit,
                    ]
                    for state in list(fleet)[:_MOST_UPSTREAMS]
                },
            }
        )

    def _first_tokens(self) -> list[float]:
        """Of the requests that have ended since the last sample, as far as they are remembered."""
        found = []
        recent = self._recorder.recent()
        for exchange in recent:
            if exchange.id == self._last:
                break
            if exchange.ttft_s is not None:
                found.append(exchange.ttft_s)
        self._last = recent[0].id if recent else ""
        return found

    def shown(self, since: float = 0.0) -> dict[str, Any]:
        """For `/penstock/history`: the samples after wall-clock time *since*."""
        return {"every_s": _EVERY_S, "samples": [s for s in self._samples if s["at"] > since]}
