"""
Which LocalModel is looked at next, and when: the pure half of the work queue.

A key is in it once, however often it was added, and never worked on twice at a time: added while it is worked on,
it comes again afterwards. A failure brings it back later each time; news may bring it forward, but not into the
shortest delay after a failure, else a reconcile that fails after a write would feed itself by its own event.
Each success sets a date for the next look without any news (the resync), spread by chance.

Time and chance come in as numbers. Source: client-go's util/workqueue (dirty and processing sets).
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Pace:
    """
    Attributes:
        first_delay_s: after the first failure; each further one doubles it.
        jitter: share by which chance makes a delay longer or shorter.
        resync_s: when a key is looked at again without news.
    """

    first_delay_s: float = 0.5
    longest_delay_s: float = 300.0
    jitter: float = 0.2
    resync_s: float = 600.0

    def delay_s(self, failures: int, chance: float) -> float:
        """How long to wait after so many failures in a row; *chance* is in [0, 1)."""
        plain = min(self.longest_delay_s, self.first_delay_s * 2.0 ** min(failures - 1, 40))
        return plain * (1.0 + self.jitter * (2.0 * chance - 1.0))

    def next_look_s(self, chance: float) -> float:
        """Until the resync: between 0.75 and 1.25 of it, so that a thousand keys do not come at once."""
        return self.resync_s * (0.75 + 0.5 * chance)


class Backlog(Generic[K]):
    """Keys with the time at which each is due. Every method takes the time as a number."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = 0
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}

    def add(self, key: K, now: float, *, delay_s: float = 0.0) -> None:
        """There is news of *key* (or there will be, in *delay_s*)."""
        if key in self._running:
            self._again.add(key)
            return
        self._schedule(key, max(now + delay_s, self._not_before.get(key, now)))

    def first(self, key: K) -> None:
        """*key* comes before all others, unless it is worked on."""
        if key not in self._running:
            self._schedule(key, -math.inf)

    def take(self, now: float) -> K | None:
        """The key that has been due longest, or None. It is worked on until `succeeded` or `failed`."""
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == at and key not in self._running:
                del self._due[key]
                self._running.add(key)
                return key
        return None

    def next_due(self) -> float | None:
        """When `take` will have something; None while nothing waits."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def succeeded(self, key: K, now: float, chance: float, *, again_s: float | None = None) -> None:
        """*key* is as it should be; look again in *again_s*, None for the resync."""
        self._running.discard(key)
        self._failures.pop(key, None)
        self._not_before.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            again_s = 0.0
        wait_s = self.pace.next_look_s(chance) if again_s is None else again_s
        self._schedule(key, now + wait_s)

    def failed(self, key: K, now: float, chance: float) -> float:
        """*key* could not be brought where it should be. Returns the delay until it is tried again."""
        self._running.discard(key)
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        # News that came meanwhile may have healed it, as news that comes from now on.
        delay_s = self.pace.delay_s(1 if key in self._again else failures, chance)
        self._again.discard(key)
        self._not_before[key] = now + min(delay_s, self.pace.delay_s(1, chance))
        self._schedule(key, now + delay_s)
        return delay_s

    def forgive(self, now: float) -> None:
        """What failed is due now, as if it had not: the API server was away, and the failures were of that."""
        for key in self._failures:
            self._not_before.pop(key, None)
            if key not in self._running:
                self._schedule(key, now)
        self._failures.clear()

    def gone(self, key: K, now: float) -> None:
        """*key* needs no further look; news that came meanwhile still counts."""
        self._running.discard(key)
        self._failures.pop(key, None)
        self._not_before.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self._schedule(key, now)

    def waiting(self, now: float) -> int:
        """Keys that are due and not worked on."""
        return sum(at <= now for at in self._due.values())

    def _schedule(self, key: K, at: float) -> None:
        if key in self._due and self._due[key] <= at:
            return
        self._due[key] = at
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, key))
