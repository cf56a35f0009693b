"""
How long an upstream has been away in all: it loaded, was held, or was being restarted. Meanwhile requests in the queue
wait for the server and not behind other requests, so that their clock stands still (contracts 6).
"""

from __future__ import annotations

import asyncio


class Absence:
    """Counts by the loop's clock; without a loop nobody waits."""

    __slots__ = ("_since_s", "_total_s")

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._total_s = 0.0

    def note(self, is_away: bool) -> None:
        """Whether it is away from now on."""
        if is_away is (self._since_s is not None):
            return
        now_s = _now_s()
        if is_away:
            self._since_s = now_s
        elif self._since_s is not None:
            if now_s is not None:
                self._total_s += max(0.0, now_s - self._since_s)
            self._since_s = None

    def total_s(self) -> float:
        """Seconds of all absences until now."""
        now_s = None if self._since_s is None else _now_s()
        if now_s is None or self._since_s is None:
            return self._total_s
        return self._total_s + max(0.0, now_s - self._since_s)


def _now_s() -> float | None:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return None
