"""
Workers that take keys from the backlog and reconcile them: the asyncio edge of `backlog`.

An exception of the work is a failure of that key alone. Workers do nothing while `may_work` says no (another
replica leads), and keys wait meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock_operator.queueing.backlog import Backlog, Pace

K = TypeVar("K")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """
    A key is as it should be.

    Attributes:
        again_s: look again after so long; None leaves it to the resync.
        gone: the object is no more, and needs no resync.
    """

    again_s: float | None = None
    gone: bool = False


class WorkQueue(Generic[K]):
    """
    Args:
        work: brings one key where it should be.
        finished: is told key, seconds and the failure (None for success): metrics.
        passing: a sentence for a failure that is usual and needs nobody; empty for others, of which it is warned.
        clock, chance: for tests.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[Done]],
        *,
        pace: Pace | None = None,
        workers: int = 8,
        may_work: Callable[[], bool] = lambda: True,
        finished: Callable[[K, float, Exception | None], None] = lambda key, seconds, failure: None,
        passing: Callable[[Exception], str] = lambda failure: "",
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._backlog: Backlog[K] = Backlog(pace or Pace())
        self._workers = workers
        self._may_work = may_work
        self._finished = finished
        self._passing = passing
        self._clock = clock
        self._chance = chance
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, key: K, *, delay_s: float = 0.0) -> None:
        """There is news of *key*. Call it in the loop of `run`."""
        self._backlog.add(key, self._clock(), delay_s=delay_s)
        self._wake()

    def first(self, key: K) -> None:
        """*key* comes before all others. Call it in the loop of `run`."""
        self._backlog.first(key)
        self._wake()

    def forgive(self) -> None:
        """What failed is tried again now, and its delays begin anew. Call it in the loop of `run`."""
        self._backlog.forgive(self._clock())
        self._wake()

    def _wake(self) -> None:
        # A set event that each worker clears would lose wake-ups between workers; the waiters are few.
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    @property
    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        return self._backlog.waiting(self._clock())

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._worker(), name=f"reconcile worker {number}")

    async def _worker(self) -> None:
        while True:
            key = self._backlog.take(self._clock()) if self._may_work() else None
            if key is None:
                await self._wait()
            else:
                await self._one(key)

    async def _wait(self) -> None:
        due = self._backlog.next_due()
        # Leading is polled: it changes seldom, and a worker that waits for it holds nothing up.
        wait_s = 1.0 if due is None else min(1.0, max(0.0, due - self._clock()))
        if not self._may_work():
            wait_s = max(wait_s, 0.1)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await asyncio.wait_for(waiter, wait_s)
        except TimeoutError:
            pass

    async def _one(self, key: K) -> None:
        began = self._clock()
        failure: Exception | None = None
        try:
            done = await self._work(key)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it concerns this key alone
            failure = exc
            delay_s = self._backlog.failed(key, self._clock(), self._chance())
            usual = self._passing(exc)
            if usual:
                _log.info("%s: %s It is looked at again in %.1f s.", key, usual, delay_s)
            else:
                why = type(exc).__name__
                _log.warning("%s: %s: %s; tried again in %.1f s", key, why, exc, delay_s)
        else:
            if done.gone:
                self._backlog.gone(key, self._clock())
            else:
                self._backlog.succeeded(key, self._clock(), self._chance(), again_s=done.again_s)
        self._finished(key, self._clock() - began, failure)
        self._wake()
