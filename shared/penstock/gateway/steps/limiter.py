"""
Permits for one upstream: the asynchronous side of `penstock.concurrency.Line`.

Whoever finds a permit free pays neither a task nor a timer. A permit is given back once, whatever happens;
it may be given back late (a ghost: the server still works on a request whose client is gone).
"""

from __future__ import annotations

import asyncio

from penstock.concurrency import ConcurrencyOptions, Granted, Line, RefusedEntry, Ticket
from penstock.errors import ErrorCode, Refused


class Permit:
    """The right to send one request. `release` is idempotent."""

    __slots__ = ("_limiter", "_ticket")

    def __init__(self, limiter: Limiter, ticket: Ticket) -> None:
        self._limiter: Limiter | None = limiter
        self._ticket = ticket

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.give_back(self._ticket)


class Limiter:
    """
    Weighted permits, first come first served, with a bounded queue.

    Args:
        limit: permits.
        options: bounds of the queue.
    """

    def __init__(self, limit: int, options: ConcurrencyOptions) -> None:
        self._line = Line(limit, options)
        self._waiters: dict[Ticket, asyncio.Future[None]] = {}

    @property
    def limit(self) -> int:
        """Permits."""
        return self._line.limit

    @property
    def free(self) -> int:
        """Permits that nobody has."""
        return self._line.free

    @property
    def in_use(self) -> int:
        """Weight of the permits that are out."""
        return self._line.in_use

    @property
    def running(self) -> int:
        """Requests with a permit."""
        return self._line.running

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._line.waiting

    @property
    def expected_wait_s(self) -> float:
        """See `Line`."""
        return self._line.expected_wait_s

    async def acquire(self, *, weight: int, size_bytes: int, deadline_s: float) -> Permit:
        """
        Wait for a permit.

        Args:
            weight: slots that the request takes.
            size_bytes: what it holds while it waits.
            deadline_s: longest wait, seconds.

        Raises:
            Refused: `queue_full` or `queue_deadline`, with when to try again.
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        ticket = Ticket(weight, size_bytes, now_s, now_s + deadline_s)
        entry = self._line.enter(ticket)
        if isinstance(entry, Granted):
            return Permit(self, ticket)
        if isinstance(entry, RefusedEntry):
            raise Refused(
                entry.code,
                f"The queue is full: {entry.why}.",
                hint="Fewer requests at a time, or a larger concurrency.queue_length.",
                retry_after_s=max(1.0, entry.retry_after_s),
            )
        waiter = self._waiters[ticket] = loop.create_future()
        timer = loop.call_at(ticket.deadline_s, self._expire)
        try:
            await waiter
        except BaseException:
            # Cancelled, perhaps in the very moment in which it was granted: either way it goes.
            self._granted(self._line.abort(ticket, loop.time()))
            raise
        finally:
            timer.cancel()
            self._waiters.pop(ticket, None)
        if ticket.granted_s is None:
            raise Refused(
                ErrorCode.QUEUE_DEADLINE,
                f"The request waited {deadline_s:g} s behind others, as long as it may.",
                hint="concurrency.queue_deadline_s is the limit.",
                retry_after_s=max(1.0, self._line.expected_wait_s),
            )
        return Permit(self, ticket)

    def give_back(self, ticket: Ticket) -> None:
        """Called by `Permit.release`."""
        try:
            now_s = asyncio.get_running_loop().time()
        except RuntimeError:  # the loop has ended; nobody waits any more
            now_s = ticket.granted_s or 0.0
        self._granted(self._line.leave(ticket, now_s))

    def resize(self, limit: int) -> None:
        """Another number of permits; those that are out stay out."""
        try:
            now_s = asyncio.get_running_loop().time()
        except RuntimeError:
            now_s = 0.0
        self._granted(self._line.resize(limit, now_s))

    def set_options(self, options: ConcurrencyOptions) -> None:
        """Other bounds of the queue; who waits already stays."""
        self._line.options = options

    def _expire(self) -> None:
        expired, granted = self._line.expire(asyncio.get_running_loop().time() + 1e-6)
        self._granted(expired)
        self._granted(granted)

    def _granted(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            waiter = self._waiters.get(ticket)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            elif ticket.granted_s is not None and waiter is None:
                # Nobody waits for it any more: it must not be lost.
                self._granted(self._line.leave(ticket, ticket.granted_s))
