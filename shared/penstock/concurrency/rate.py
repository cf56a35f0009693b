"""How quickly a line moves: what waits are foretold by, and when to come again."""

from __future__ import annotations

_SMOOTHING = 0.1
_UNKNOWN_SERVICE_S = 5.0


class Rate:
    """
    The measured rate of grants, while somebody waits (a line without anybody in it tells nothing of how quickly
    it would move). Before the first of these, and after a rest, by how long permits are kept.
    """

    __slots__ = ("_between_s", "_last_s", "_service_s")

    def __init__(self) -> None:
        self._between_s: float | None = None
        self._last_s: float | None = None
        self._service_s: float | None = None

    def granted(self, now_s: float) -> None:
        """Somebody in the line got a permit."""
        if self._last_s is not None:
            took_s, old_s = now_s - self._last_s, self._between_s
            self._between_s = took_s if old_s is None else old_s + _SMOOTHING * (took_s - old_s)
        self._last_s = now_s

    def served(self, took_s: float) -> None:
        """A permit came back after so many seconds."""
        old_s = self._service_s
        self._service_s = took_s if old_s is None else old_s + 2 * _SMOOTHING * (took_s - old_s)

    def emptied(self) -> None:
        """Nobody waits any more: the time until the next grant is nobody's wait."""
        self._last_s = None

    def between_s(self, limit: int, now_s: float) -> float:
        """Seconds from one grant to the next; a line that stands still is as slow as it has been standing."""
        service_s = self._service_s if self._service_s is not None else _UNKNOWN_SERVICE_S
        expected_s = self._between_s if self._between_s is not None else service_s / limit
        standing_s = 0.0 if self._last_s is None else now_s - self._last_s
        return max(expected_s, standing_s)
