"""
Permits for one upstream: the asynchronous side of `penstock.concurrency.Line`.

Whoever finds a permit free pays neither a task nor a timer; all who wait share one timer. A permit is given back
once, whatever happens; it may be given back late (a ghost: the server still works on a request whose client is
gone), and then to whoever asks for the very same again (`inheritance`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.concurrency import (
    Ask,
    ConcurrencyOptions,
    Granted,
    Line,
    RefusedEntry,
    Ticket,
)
from penstock.errors import ErrorCode, Refused
from penstock.gateway.edge.exchange import Exchange


class TurnedAway(Refused):
    """Nobody waits for this upstream any more. Whoever can ask the breaker is told more by that one."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.BREAKER_OPEN,
            "The upstream failed again and again while the request waited for it.",
            hint="It is tried again in a moment; `penstock doctor` tells more.",
            retry_after_s=5.0,
        )


class Permit:
    """The right to send one request. `release` is idempotent."""

    __slots__ = ("_limiter", "_ticket")

    def __init__(self, limiter: Limiter, ticket: Ticket) -> None:
        self._limiter: Limiter | None = limiter
        self._ticket = ticket

    def belongs_to(self, conversation: int) -> None:
        """It is known only now which conversation the request belongs to."""
        if self._limiter is not None:
            self._limiter.note_conversation(self._ticket, conversation)

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.give_back(self._ticket)


class Spot:
    """
    A request's place in the queue: for whoever wants to know of it, or comes back to it.

    Attributes:
        limiter: whose queue.
    """

    __slots__ = ("limiter", "ticket")

    def __init__(self, limiter: Limiter, ticket: Ticket) -> None:
        self.limiter = limiter
        self.ticket = ticket

    @property
    def was_kept(self) -> bool:
        """Whether it waited rather than take the slot of another conversation."""
        return self.ticket.was_kept

    def told(self) -> tuple[int, float] | None:
        """Its position, from 1, and how long it is likely to wait yet; None when it waits no more."""
        return self.limiter.told(self.ticket)


class Limiter:
    """
    Weighted permits with a bounded, fair queue.

    Args:
        limit: permits.
        options: bounds of the queue.

    Attributes:
        stood_s: tells how long the server has been away in all (`upstreams.absence`).
        heirs: of requests that wait for a ghost's permit: they wait as those in the queue do, but for no turn.
    """

    def __init__(self, limit: int, options: ConcurrencyOptions) -> None:
        self._line = Line(limit, options)
        self._waiters: dict[Ticket, asyncio.Future[None]] = {}
        # When it goes off is kept here: uvloop gives a plain handle, without `when`, for what is due at once.
        self._timer: asyncio.Handle | None = None
        self._timer_due_s = 0.0
        self._order: dict[Ticket, int] = {}
        self._apart: Limiter | None = None
        self.stood_s: Callable[[], float] = _never
        self.heirs: set[asyncio.Future[None]] = set()

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
        """Requests with a permit, also one of the budget apart."""
        apart = self._apart
        return self._line.running + (0 if apart is None else apart.running)

    @property
    def waiting(self) -> int:
        """Requests that wait for a permit, also for one of the budget apart."""
        apart = self._apart
        return self._line.waiting + len(self.heirs) + (0 if apart is None else apart.waiting)

    @property
    def asks_for_conversation(self) -> bool:
        """Whether it makes a difference which conversation a request that came now would belong to."""
        return self._line.asks_for_conversation

    @property
    def shared_tokens(self) -> int | None:
        """Tokens of the KV cache that all slots share; None where each has its own."""
        return self._line.tokens

    @property
    def expected_wait_s(self) -> float:
        """How long a request that came now would likely wait; 0 when there is a free permit."""
        return self._line.expected_wait_s(_now_s())

    def queued_by_client(self) -> dict[str, int]:
        """How many requests of each client wait."""
        found = self._line.clients()
        if self._apart is not None:
            for client, number in self._apart.queued_by_client().items():
                found[client] = found.get(client, 0) + number
        return found

    def apart(self) -> Limiter:
        """A budget of its own, as large as this one, for what the server works on in another runner."""
        if self._apart is None:
            self._apart = Limiter(self.limit, self._line.options)
            self._apart.stood_s = self.stood_s
        return self._apart

    def refuse_if_full(self, size_bytes: int) -> None:
        """
        The door: whoever would find the queue full is told at once, before anything is made ready. Whoever passes
        may still find it full, since others come meanwhile.

        Raises:
            Refused: `queue_full`.
        """
        line = self._line
        if line.waiting and (full := line.why_full(size_bytes, _now_s())) is not None:
            raise _refusal(full)

    async def acquire(
        self,
        ask: Ask,
        *,
        deadline_s: float,
        away_s: float = 0.0,
        exchange: Exchange | None = None,
        spot: Spot | None = None,
        first: bool = False,
    ) -> Permit:
        """
        Wait for a permit.

        Args:
            deadline_s: longest wait behind others, seconds.
            away_s: how much longer it may wait while the server is away.
            exchange: is told of its place (`spot`), which stays there when it is cancelled: somebody may come
                back to it.
            spot: one that was left, to come back to.
            first: before all others, by a right that was had before.

        Raises:
            Refused: `queue_full` or `queue_deadline`, with when to try again.
            TurnedAway: see `turn_away`.
        """
        loop = asyncio.get_running_loop()
        line, now_s = self._line, loop.time()
        if (
            spot is not None
            and spot.limiter is self
            and line.come_back(spot.ticket, now_s, now_s + deadline_s)
        ):
            ticket = spot.ticket
        else:
            ticket = Ticket(ask, now_s, now_s + deadline_s)
            entry = line.enter_first(ticket) if first else line.enter(ticket)
            if isinstance(entry, Granted):
                return Permit(self, ticket)
            if isinstance(entry, RefusedEntry):
                raise _refusal(entry)
        if away_s > 0:
            ticket.more_s, ticket.stood_s = away_s, self.stood_s()
        waiter = self._waiters[ticket] = loop.create_future()
        if exchange is not None:
            exchange.spot = Spot(self, ticket)
        self._settle(line.advance(now_s))
        try:
            await waiter
        except BaseException as exc:
            # Cancelled, perhaps in the very moment in which it was granted: either way it goes.
            go = line.abort if exchange is None or isinstance(exc, TurnedAway) else line.step_out
            self._settle(go(ticket, loop.time()))
            raise
        finally:
            self._waiters.pop(ticket, None)
        if ticket.granted_s is None:
            raise Refused(
                ErrorCode.QUEUE_DEADLINE,
                f"The request waited {deadline_s:g} s behind others, as long as it may.",
                hint="The limit is concurrency.queue_deadline_s, or what the client itself said "
                "(penstock-deadline, its read time-out).",
                retry_after_s=max(1.0, line.expected_wait_s(loop.time())),
            )
        return Permit(self, ticket)

    def told(self, ticket: Ticket) -> tuple[int, float] | None:
        """Position and expected wait of a request in the queue. The order is made once for all who ask."""
        if not ticket.is_waiting:
            return None
        if not self._order:
            self._order = {one: place for place, one in enumerate(self._line.order(), 1)}
        position = self._order.get(ticket)
        return (
            None if position is None else (position, self._line.expected_wait_s(_now_s(), position))
        )

    def turn_away(self) -> None:
        """All who wait wait no more: what they wait for is known to fail."""
        for waiter in (*self._waiters.values(), *self.heirs):
            if not waiter.done():
                waiter.set_exception(TurnedAway())
        if self._apart is not None:
            self._apart.turn_away()

    def note_conversation(self, ticket: Ticket, conversation: int) -> None:
        """Called by `Permit.belongs_to`."""
        self._line.belongs_to(ticket, conversation, _now_s())

    def give_back(self, ticket: Ticket) -> None:
        """Called by `Permit.release`."""
        granted = self._line.leave(ticket, _now_s(ticket.granted_s or 0.0))
        if granted or self._line.waiting:
            self._settle(granted)

    def resize(self, limit: int) -> None:
        """Another number of permits; those that are out stay out."""
        if self._apart is not None:
            self._apart.resize(limit)
        self._settle(self._line.resize(limit, _now_s()))

    def share_tokens(self, tokens: int | None) -> None:
        """The server's slots share a KV cache of so many tokens: permits carry tokens; None: they do not."""
        if tokens != self._line.tokens:
            self._settle(self._line.share_tokens(tokens, _now_s()))

    def group_models(self, at_once: int | None) -> None:
        """The server holds so many models side by side, and loads anew at each change; None: it does not matter."""
        self._settle(self._line.group_models(at_once, _now_s()))

    def keep_slots(self, slots: int | None) -> None:
        """The server has so many slots that stay warm with conversations; None: it does not matter."""
        self._settle(self._line.keep_slots(slots, _now_s()))

    def set_options(self, options: ConcurrencyOptions) -> None:
        """Other bounds of the queue; who waits already stays."""
        self._line.options = options
        if self._apart is not None:
            self._apart.set_options(options)

    def _settle(self, granted: list[Ticket]) -> None:
        """Tell those who got a permit, and see to it that nobody is forgotten."""
        line = self._line
        while granted:
            lost = self._wake(granted)
            granted = []
            for ticket in lost:  # nobody waits for it any more
                granted += line.leave(ticket, ticket.granted_s or 0.0)
        if self._order:
            self._order = {}
        if line.waiting:
            self._arm()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, tickets: list[Ticket]) -> list[Ticket]:
        lost = []
        for ticket in tickets:
            waiter = self._waiters.get(ticket)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            elif waiter is None and ticket.granted_s is not None:
                lost.append(ticket)
        return lost

    def _arm(self) -> None:
        """Have the one timer go off when something is due: never too late, sometimes for nothing."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        due_s = self._line.next_due_s(loop.time())
        timer = self._timer
        if due_s is None or (timer is not None and self._timer_due_s <= due_s):
            return
        if timer is not None:
            timer.cancel()
        self._timer_due_s = due_s
        self._timer = loop.call_at(due_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        # A timer may fire early by its resolution; a little grace keeps it from spinning.
        now_s = asyncio.get_running_loop().time() + 1e-4
        self._wake(self._line.expire(now_s, self.stood_s()))
        self._settle(self._line.advance(now_s))


def _never() -> float:
    return 0.0


def _refusal(entry: RefusedEntry) -> Refused:
    return Refused(
        entry.code,
        f"The queue is full: {entry.why}.",
        hint="Fewer requests at a time, or a larger concurrency.queue_length.",
        retry_after_s=max(1.0, entry.retry_after_s),
    )


def _now_s(otherwise: float = 0.0) -> float:
    """The loop's time; *otherwise* after its end, when nobody waits any more."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return otherwise


__all__ = ["Limiter", "Permit", "Spot", "TurnedAway"]
