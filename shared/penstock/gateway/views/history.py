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
from dataclasses import dataclass
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


@dataclass(slots=True)
class _Sample:
    """
    What is shown of five seconds.

    Attributes:
        shown: all but the pieces, by name.
        elapsed_s, ended_s: how long it was, and the monotonic time of its end.
        pieces: relayed or counted in that time.
        told_at: the wall-clock time of the newest sample when this one changed last.
    """

    shown: dict[str, Any]
    elapsed_s: float
    ended_s: float
    pieces: float
    told_at: float


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
        self._samples: deque[_Sample] = deque(maxlen=_MOST_SAMPLES)
        self._pieces = 0
        self._failed = 0
        self._last = ""

    async def watch(self, fleet: Iterable[UpstreamState]) -> None:
        """Take samples until cancelled."""
        before_s = time.monotonic() - _EVERY_S
        while True:
            now_s = time.monotonic()
            self.sample(fleet, time.time(), now_s - before_s, now_s)
            before_s = now_s
            await asyncio.sleep(_EVERY_S)

    def sample(
        self,
        fleet: Iterable[UpstreamState],
        at: float,
        elapsed_s: float = _EVERY_S,
        now_s: float = 0.0,
    ) -> None:
        """
        Remember how things are.

        A token is a piece that was relayed until its request ends. What the server counted beyond these (all, of an
        answer that is no stream) is spread over the time that the answer took, so samples that were told change.

        Args:
            at: the wall clock's time; one that was set back goes on from the last sample, or whoever asks for what
                is newer than that would get nothing until it caught up.
            elapsed_s: since the last sample, more than a step after a busy moment.
            now_s: the monotonic time.
        """
        if self._samples:
            at = max(at, self._samples[-1].shown["at"] + _LEAST_STEP_S)
        pieces = self._recorder.pieces_ended + sum(e.chunks for e in self._in_flight.values())
        came, self._pieces = max(0, pieces - self._pieces), pieces
        errors = sum(one["count"] for one in self._recorder.metrics.errors())
        failed, self._failed = errors - self._failed, errors
        firsts = self._first_tokens()
        machine = self._machine()
        shown = {
            "at": round(at, 1),
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
        self._samples.append(
            _Sample(shown, max(elapsed_s, _LEAST_STEP_S), now_s, float(came), shown["at"])
        )
        while self._recorder.late:
            self._spread(*self._recorder.late.popleft())

    def _spread(self, tokens: int, from_s: float, to_s: float) -> None:
        """Evenly over the samples of this time."""
        took_s = max(to_s - from_s, _LEAST_STEP_S)
        for sample in reversed(self._samples):
            if sample.ended_s <= from_s:
                break
            begun_s = sample.ended_s - sample.elapsed_s
            share = (min(to_s, sample.ended_s) - max(to_s - took_s, begun_s)) / took_s
            if share > 0:
                sample.pieces += tokens * share
                sample.told_at = self._samples[-1].told_at

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
        """For `/penstock/history`: the samples that are newer than wall-clock time *since*, or have changed since."""
        return {
            "every_s": _EVERY_S,
            "samples": [
                {**one.shown, "pieces_per_s": round(max(0.0, one.pieces) / one.elapsed_s, 2)}
                for one in self._samples
                if one.told_at > since
            ],
        }
