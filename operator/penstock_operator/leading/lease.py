"""
Who leads: decided from the Lease as it stands and this replica's own clock. Pure.

Clocks of two machines are never compared: a holder is gone when its Lease has not changed for the whole duration on
*our* clock. The leader itself stops writing earlier, at the renew deadline counted from *before* the last renewal
that succeeded was sent, so the two never overlap: not even when it was paused in between (a monotonic clock goes on).
Source: client-go tools/leaderelection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Terms:
    """
    Attributes:
        duration_s: so long a silent holder is respected; with `retry_s` it bounds the take-over.
        renew_deadline_s: a leader that could not renew for so long stops writing.
        retry_s: between two looks.
    """

    duration_s: float = 10.0
    renew_deadline_s: float = 6.0
    retry_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Holding:
    """What stands in the Lease: holder (empty when released), and its version."""

    holder: str
    version: str


class Move(StrEnum):
    """What to do with the Lease now."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


class Election:
    """One replica's view. Times are this replica's monotonic seconds."""

    def __init__(self, identity: str, terms: Terms) -> None:
        self.identity = identity
        self.terms = terms
        self._version = ""
        self._changed_at = 0.0
        self._renewed_at: float | None = None

    def move(self, holding: Holding | None, now: float) -> Move:
        """What to do, having just read the Lease (None: there is none)."""
        if holding is None:
            return Move.CREATE
        if holding.version != self._version:
            self._version, self._changed_at = holding.version, now
        if holding.holder == self.identity:
            return Move.RENEW
        self._renewed_at = None
        silent_s = now - self._changed_at
        if not holding.holder or silent_s >= self.terms.duration_s:
            return Move.TAKE
        return Move.WAIT

    def renewed(self, sent_at: float, version: str) -> None:
        """The write that was sent at *sent_at* succeeded."""
        self._renewed_at = sent_at
        self._version, self._changed_at = version, sent_at

    def lost(self) -> None:
        """Somebody else holds it, or it was given back."""
        self._renewed_at = None

    def leads(self, now: float) -> bool:
        """Whether this replica may write now."""
        return self._renewed_at is not None and now - self._renewed_at < self.terms.renew_deadline_s
