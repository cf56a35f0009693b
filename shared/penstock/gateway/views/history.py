"""
The last half hour as numbers: what each upstream's limiter did, and how fast answers came. A ring of a sample each
five seconds, for the dashboard's charts; a page that was just opened has them at once. No request is told apart in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from penstock.gateway.edge.exchange import Exchange
from penstock.gateway.upstreams.fleet import UpstreamState
from penstock.gateway.views.record import Recorder

_EVERY_S = 5.0
_MOST_SAMPLES = 360
_MOST_UPSTREAMS = 50


class History:
    """
    Args:
        recorder: knows the pieces of answers that have ended.
        in_flight: requests that run.
    """

    def __init__(self, recorder: Recorder, in_flight: Mapping[str, Exchange]) -> None:
        self._recorder = recorder
        self._in_flight = in_flight
        self._samples: deque[dict[str, Any]] = deque(maxlen=_MOST_SAMPLES)
        self._before = 0

    async def watch(self, fleet: Iterable[UpstreamState]) -> None:
        """Take samples until cancelled."""
        while True:
            self.sample(fleet, time.time())
            await asyncio.sleep(_EVERY_S)

    def sample(self, fleet: Iterable[UpstreamState], at: float) -> None:
        """Remember how things are at wall-clock time *at*."""
        pieces = self._recorder.pieces_ended + sum(e.chunks for e in self._in_flight.values())
        came, self._before = max(0, pieces - self._before), pieces
        self._samples.append(
            {
                "at": round(at, 1),
                "pieces_per_s": round(came / _EVERY_S, 2),
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

    def shown(self) -> dict[str, Any]:
        """For `/penstock/history`."""
        return {"every_s": _EVERY_S, "samples": list(self._samples)}
