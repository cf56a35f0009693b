"""
A bounded first-come line in front of weighted permits: a state machine without clock or tasks.

State is changed by `enter`, `leave`, `abort`, `expire` and `resize` only. Laws (held by tests): the weight
that is out never exceeds the limit, except one request alone that is heavier than the limit; whoever came
first goes first; no ticket is lost, none is granted twice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from penstock.concurrency.options import ConcurrencyOptions
from penstock.errors import ErrorCode

_SMOOTHING = 0.2


@dataclass(slots=True, eq=False)
class Ticket:
    """
    One request in the line or at work.

    Attributes:
        weight: slots that it takes.
        size_bytes: what it holds while it waits.
        entered_s, deadline_s: when it came, and until when it waits (same clock).
        granted_s: when it got its permit, None while it waits.
    """

    weight: int
    size_bytes: int
    entered_s: float
    deadline_s: float
    granted_s: float | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """The permit is there."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A place in the line, counted from 1."""

    position: int


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """No place; `retry_after_s` is when one is likely."""

    code: ErrorCode
    retry_after_s: float
    why: str


class Line:
    """
    Attributes:
        limit: permits.
        in_use: weight that is out.
    """

    def __init__(self, limit: int, options: ConcurrencyOptions) -> None:
        self.limit = max(1, limit)
        self.options = options
        self.in_use = 0
        self._out: set[Ticket] = set()
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()
        self._waiting_bytes = 0
        self._service_s: float | None = None

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests with a permit."""
        return len(self._out)

    @property
    def free(self) -> int:
        """Permits that nobody has."""
        return max(0, self.limit - self.in_use)

    @property
    def expected_wait_s(self) -> float:
        """How long a request that came now would likely wait: by the measured time of service."""
        if self.free and not self._waiting:
            return 0.0
        service_s = self._service_s if self._service_s is not None else 5.0
        return service_s * (len(self._waiting) + 1) / self.limit

    def enter(self, ticket: Ticket) -> Granted | Queued | RefusedEntry:
        """Come in: a permit at once, a place in the line, or neither."""
        if not self._waiting and self._fits(ticket):
            self._grant(ticket, ticket.entered_s)
            return Granted()
        if len(self._waiting) >= self.options.queue_length:
            return RefusedEntry(
                ErrorCode.QUEUE_FULL,
                self.expected_wait_s,
                f"{len(self._waiting)} requests wait already",
            )
        if self._waiting and self._waiting_bytes + ticket.size_bytes > self.options.queue_bytes:
            return RefusedEntry(
                ErrorCode.QUEUE_FULL,
                self.expected_wait_s,
                f"the waiting requests hold {self._waiting_bytes} bytes already",
            )
        self._waiting[ticket] = None
        self._waiting_bytes += ticket.size_bytes
        return Queued(len(self._waiting))

    def leave(self, ticket: Ticket, now_s: float) -> list[Ticket]:
        """Give a permit back. Returns who got one for it."""
        if ticket not in self._out:
            return []
        self._out.discard(ticket)
        self.in_use -= ticket.weight
        if ticket.granted_s is not None:
            took_s = max(0.0, now_s - ticket.granted_s)
            old_s = self._service_s
            self._service_s = took_s if old_s is None else old_s + _SMOOTHING * (took_s - old_s)
        return self._advance(now_s)

    def abort(self, ticket: Ticket, now_s: float) -> list[Ticket]:
        """Go, from the line or from work. Returns who got a permit for it."""
        if ticket in self._waiting:
            self._remove(ticket)
            return self._advance(now_s)
        return self.leave(ticket, now_s)

    def expire(self, now_s: float) -> tuple[list[Ticket], list[Ticket]]:
        """Those whose deadline has passed, and those who got a permit because they went."""
        expired = [ticket for ticket in self._waiting if ticket.deadline_s <= now_s]
        for ticket in expired:
            self._remove(ticket)
        return expired, self._advance(now_s) if expired else []

    def resize(self, limit: int, now_s: float) -> list[Ticket]:
        """Another limit. Those at work stay; returns who got a permit."""
        self.limit = max(1, limit)
        return self._advance(now_s)

    def position(self, ticket: Ticket) -> int | None:
        """Its place in the line, from 1; None when it does not wait."""
        for place, waiting in enumerate(self._waiting, 1):
            if waiting is ticket:
                return place
        return None

    def _fits(self, ticket: Ticket) -> bool:
        return self.in_use == 0 or self.in_use + ticket.weight <= self.limit

    def _grant(self, ticket: Ticket, now_s: float) -> None:
        ticket.granted_s = now_s
        self._out.add(ticket)
        self.in_use += ticket.weight

    def _remove(self, ticket: Ticket) -> None:
        del self._waiting[ticket]
        self._waiting_bytes -= ticket.size_bytes

    def _advance(self, now_s: float) -> list[Ticket]:
        granted = []
        while self._waiting:
            first = next(iter(self._waiting))
            if not self._fits(first):
                break
            self._remove(first)
            self._grant(first, now_s)
            granted.append(first)
        return granted
