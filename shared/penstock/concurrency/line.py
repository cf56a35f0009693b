"""
A bounded line in front of weighted permits: a state machine without clock or tasks.

Who goes next is decided by, in this order: who came back to a place whose turn has passed; who waits a moment for
its slot (`warmth`); the model (`grouping`); priority, client and length (`turns`). Whoever is next and does not fit
is waited for: nobody passes it, so that large requests are not starved by small ones.

Laws (held by tests): the weight that is out never exceeds the limit, and its tokens never the server's, except by
one request alone that is larger; nobody waits while the one whose turn it is would fit; no ticket is lost, none is
granted twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.concurrency.ask import Place, Priority, Ticket
from penstock.concurrency.grouping import Grouping
from penstock.concurrency.heap import Heap
from penstock.concurrency.left import KEPT_S
from penstock.concurrency.options import ConcurrencyOptions
from penstock.concurrency.rate import Rate
from penstock.concurrency.turns import Turns
from penstock.concurrency.warmth import Warmth
from penstock.errors import ErrorCode

_MOST_ASIDE = 8
_LEAST_MORE_S = 1.0
"""While the server is away a deadline moves by no less, or it would have to be moved all the time."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The permit is there."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A place in the line; `advance` tells whether it is its turn already."""


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """No place; `retry_after_s` is when one is likely."""

    code: ErrorCode
    retry_after_s: float
    why: str


GRANTED, QUEUED = Granted(), Queued()


def _waits_until(deadline_s: float, ticket: Ticket) -> bool:
    return ticket.is_waiting and ticket.deadline_s == deadline_s


class Line:
    """
    Attributes:
        limit: permits.
        in_use: weight that is out.
        tokens, tokens_in_use: of a KV cache that all slots share, None where each has its own; those that are out.
        waiting, waiting_bytes: requests in the line, and what they hold.
    """

    def __init__(self, limit: int, options: ConcurrencyOptions) -> None:
        self.limit = max(1, limit)
        self.options = options
        self.in_use = 0
        self.tokens: int | None = None
        self.tokens_in_use = 0
        self.waiting = 0
        self.waiting_bytes = 0
        self._warmth: Warmth | None = None
        self._grouping: Grouping | None = None
        self._out: set[Ticket] = set()
        self._lanes: dict[str, Turns] = {}
        self._front: dict[Ticket, None] = {}
        self._aside: dict[Ticket, float] = {}
        """Until when each of them waits for its slot."""
        self._deadlines = Heap(_waits_until)
        self._rate = Rate()

    @property
    def running(self) -> int:
        """Requests with a permit."""
        return len(self._out)

    @property
    def free(self) -> int:
        """Permits that nobody has."""
        return max(0, self.limit - self.in_use)

    @property
    def asks_for_conversation(self) -> bool:
        """Whether it makes a difference which conversation a request that came now would belong to."""
        return self._warmth is not None and self._warmth.matters

    def expected_wait_s(self, now_s: float, position: int | None = None) -> float:
        """How long the one at *position* is likely to wait; left out, a request that came now."""
        if position is None:
            if self.free and not self.waiting:
                return 0.0
            position = self.waiting + 1
        return self._rate.between_s(self.limit, now_s) * position

    # Coming and going.

    def enter(self, ticket: Ticket) -> Granted | Queued | RefusedEntry:
        """Come in: a permit at once, a place in the line (then `advance`), or neither."""
        now_s = ticket.entered_s
        if self._fits(ticket) and (
            self._may_go_now(ticket, now_s) if not self.waiting else self._was_kept_for(ticket)
        ):
            self._grant(ticket, now_s)
            return GRANTED
        refused = self.why_full(ticket.ask.size_bytes, now_s)
        if refused is not None:
            return refused
        self._wait(ticket, Place.LANE)
        self._lane(ticket).add(ticket)
        return QUEUED

    def enter_first(self, ticket: Ticket) -> Granted | Queued:
        """Come in before all others, by a right that was had before; the bounds do not hold. Then `advance`."""
        if not self._front and self._fits(ticket):
            self._grant(ticket, ticket.entered_s)
            return GRANTED
        self._wait(ticket, Place.FRONT)
        self._front[ticket] = None
        return QUEUED

    def why_full(self, size_bytes: int, now_s: float) -> RefusedEntry | None:
        """
        Why there is no place for a request that has to wait; None when there is one. Who is refused is told to
        come again when the line is likely to be half as long.
        """
        if self.waiting >= self.options.queue_length:
            why = f"{self.waiting} requests wait already"
        elif self.waiting and self.waiting_bytes + size_bytes > self.options.queue_bytes:
            why = f"the waiting requests hold {self.waiting_bytes} bytes already"
        else:
            return None
        again_s = self.expected_wait_s(now_s, 1 + self.waiting // 2)
        return RefusedEntry(ErrorCode.QUEUE_FULL, again_s, why)

    def leave(self, ticket: Ticket, now_s: float) -> list[Ticket]:
        """Give a permit back. Returns who got one for it."""
        if ticket not in self._out:
            return []
        ask = ticket.ask
        self._out.discard(ticket)
        self.in_use -= ask.weight
        self.tokens_in_use -= ask.tokens
        if ticket.granted_s is not None:
            self._rate.served(max(0.0, now_s - ticket.granted_s))
        if self._grouping is not None:
            self._grouping.ended(ask.model)
        if self._warmth is not None:
            self._warmth.ended(ask.conversation, now_s)
        return self.advance(now_s) if self.waiting else []

    def abort(self, ticket: Ticket, now_s: float) -> list[Ticket]:
        """Go, from the line or from work. Returns who got a permit for it."""
        if not ticket.is_waiting:
            return self.leave(ticket, now_s)
        self._unwait(ticket)
        return self.advance(now_s)

    def step_out(self, ticket: Ticket, now_s: float) -> list[Ticket]:
        """
        Leave the line, and the place stays for a minute for whoever comes back to it; who is at work just goes.
        Returns who got a permit for it.
        """
        if not ticket.is_waiting:
            return self.leave(ticket, now_s)
        had_its_turn = ticket.place is not Place.LANE
        self._unwait(ticket)
        ticket.left_s = now_s
        if not had_its_turn:
            ticket.place = Place.ABSENT
        return self.advance(now_s)

    def come_back(self, ticket: Ticket, now_s: float, deadline_s: float) -> bool:
        """
        Sit down again at the place that was left, or, where its turn has passed, before all others. Then
        `advance`. False when the place is there no more.
        """
        if ticket.left_s == 0.0 or now_s - ticket.left_s > KEPT_S:
            if ticket.place is Place.ABSENT:
                ticket.place = Place.OUTSIDE
            return False
        ticket.left_s, ticket.deadline_s = 0.0, deadline_s
        if ticket.place is Place.ABSENT:
            self._wait(ticket, Place.LANE)
            self._lane(ticket).came_back(ticket)
        else:
            self._wait(ticket, Place.FRONT)
            self._front[ticket] = None
        return True

    def expire(self, now_s: float, stood_s: float = 0.0) -> list[Ticket]:
        """
        Those whose deadline has passed; they are gone. Then `advance`.

        Args:
            stood_s: how long the server has been away in all: nobody waited behind others meanwhile.
        """
        expired = []
        while (key := self._deadlines.first_key()) is not None and key <= now_s:
            ticket = self._deadlines.first()
            assert ticket is not None
            if (late_s := stood_s - ticket.stood_s) > 0 and ticket.more_s > 0:
                more_s = min(ticket.more_s, max(late_s, _LEAST_MORE_S))
                ticket.more_s -= more_s
                ticket.stood_s = stood_s
                ticket.deadline_s += more_s
                self._deadlines.push(ticket.deadline_s, ticket)
                continue
            self._unwait(ticket)
            expired.append(ticket)
        return expired

    def next_due_s(self, now_s: float) -> float | None:
        """When `expire` or `advance` would do something although nobody comes or goes; None for never."""
        if not self.waiting:
            return None
        due = [self._deadlines.first_key()]
        # Who has waited long enough for a slot waits for any permit, and no time brings that.
        due += [until_s for until_s in self._aside.values() if until_s > now_s]
        if self._grouping is not None and self.free:
            due.append(self._grouping.next_due_s(self._waited_for(), now_s))
        return min((due_s for due_s in due if due_s is not None), default=None)

    def belongs_to(self, ticket: Ticket, conversation: int, now_s: float) -> None:
        """It is known only now which conversation a request at work belongs to."""
        if ticket in self._out and not ticket.ask.conversation:
            ticket.ask = ticket.ask._replace(conversation=conversation)
            if self._warmth is not None and conversation:
                self._warmth.named(conversation, now_s)

    # Other bounds.

    def resize(self, limit: int, now_s: float) -> list[Ticket]:
        """Another limit. Those at work stay; returns who got a permit."""
        self.limit = max(1, limit)
        return self.advance(now_s)

    def share_tokens(self, tokens: int | None, now_s: float) -> list[Ticket]:
        """What all slots share holds so many tokens; None: each has its own. Returns who got a permit."""
        self.tokens = tokens
        return self.advance(now_s)

    def group_models(self, at_once: int | None, now_s: float) -> list[Ticket]:
        """The server holds so many models side by side; None: that does not matter. Returns who got a permit."""
        if at_once is None and self._grouping is None:
            return []
        if at_once is not None and self._grouping is not None:
            self._grouping.at_once = at_once
            return self.advance(now_s)
        waiting = [ticket for lane in self._lanes.values() for ticket in lane.order()]
        self._lanes = {}
        self._grouping = None if at_once is None else Grouping(at_once)
        for ticket in self._out:
            if self._grouping is not None:
                self._grouping.started(ticket.ask.model, others_wait=False)
        for ticket in waiting:
            if ticket.place is Place.LANE:
                self._lane(ticket).add(ticket)
            else:
                ticket.place = Place.OUTSIDE
        return self.advance(now_s)

    def keep_slots(self, slots: int | None, now_s: float) -> list[Ticket]:
        """The server has so many slots that stay warm; None: that does not matter. Returns who got a permit."""
        if slots is None:
            self._warmth = None
        elif self._warmth is None:
            self._warmth = Warmth(slots, self.options.keep_slot_s)
            for ticket in self._out:
                self._warmth.started(ticket.ask.conversation, now_s)
        else:
            self._warmth.slots, self._warmth.keep_s = slots, self.options.keep_slot_s
        return self.advance(now_s)

    # Who goes next.

    def advance(self, now_s: float) -> list[Ticket]:
        """Give permits to those whose turn it is. Returns who got one."""
        granted: list[Ticket] = []
        while self.waiting and (ticket := self._next(now_s)) is not None and self._fits(ticket):
            if ticket.place is Place.LANE:
                self._lane(ticket).served(ticket)
            self._unwait(ticket)
            self._rate.granted(now_s)
            self._grant(ticket, now_s)
            granted.append(ticket)
        if not self.waiting:
            self._rate.emptied()
        return granted

    def order(self) -> list[Ticket]:
        """All who wait, in the order in which they would go if nobody else came; O(n log n)."""
        lanes = [self._lanes[model] for _, model in sorted((s, m) for m, s in self._waited_for())]
        rest = [t for lane in lanes for t in lane.order() if t.place is Place.LANE]
        return [*self._front, *self._aside, *rest]

    def clients(self) -> dict[str, int]:
        """How many requests of each client wait."""
        found: dict[str, int] = {}
        for ticket in self.order():
            found[ticket.ask.client] = found.get(ticket.ask.client, 0) + 1
        return found

    def _next(self, now_s: float) -> Ticket | None:
        """Whose turn it is; None when those that wait do better to wait on."""
        for ticket in self._front:
            return ticket
        for ticket in self._aside:
            until_s = self._better_until_s(ticket, now_s)
            if until_s is None:
                return ticket
            self._aside[ticket] = until_s  # later, when the conversation came back and went again
        while (lane := self._next_lane(now_s)) is not None:
            found = lane.next()
            if found is None or not self.free:
                return None
            if found.place is Place.ABSENT:
                lane.served(found)
                found.place = Place.OUTSIDE  # it comes back before all others
                continue
            until_s = self._better_until_s(found, now_s) if self._fits(found) else None
            if until_s is None:
                return found
            if len(self._aside) >= _MOST_ASIDE:
                return None
            lane.served(found)
            found.place = Place.ASIDE
            self._aside[found] = until_s
            found.was_kept = True
        return None

    def _next_lane(self, now_s: float) -> Turns | None:
        if self._grouping is None:
            return self._lanes.get("")
        chosen = self._grouping.choose(self._waited_for(), now_s)
        return None if chosen is None else self._lanes[chosen]

    def _lane(self, ticket: Ticket) -> Turns:
        model = "" if self._grouping is None else ticket.ask.model
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = Turns()
        return lane

    def _waited_for(self) -> list[tuple[str, float]]:
        """Each model that is waited for, and since when; lanes in which nobody has a place are given up."""
        found = []
        for model, lane in list(self._lanes.items()):
            since_s = lane.oldest_s()
            if since_s is not None:
                found.append((model, since_s))
            elif not lane.order():
                del self._lanes[model]
        return found

    def _may_go_now(self, ticket: Ticket, now_s: float) -> bool:
        """Whether nothing but a permit is needed; who has no place to wait in does not wait for better things."""
        if self._grouping is not None and not self._grouping.may_start(ticket.ask.model):
            return False
        if self._warmth is None or self._better_until_s(ticket, now_s) is None:
            return True
        return self.options.queue_length == 0

    def _was_kept_for(self, ticket: Ticket) -> bool:
        """Whether others wait aside so that a slot stays free for this very conversation."""
        warm = self._warmth is not None and self._warmth.is_warm(ticket.ask.conversation)
        return warm and bool(self._aside) and not self._front

    def _better_until_s(self, ticket: Ticket, now_s: float) -> float | None:
        if self._warmth is None or ticket.ask.priority is Priority.HIGH:
            return None  # who is in a hurry waits for nobody's slot
        return self._warmth.wait_until_s(ticket.ask.conversation, ticket.entered_s, now_s)

    def _fits(self, ticket: Ticket) -> bool:
        if self.in_use == 0:
            return True
        if self.in_use + ticket.ask.weight > self.limit:
            return False
        return self.tokens is None or self.tokens_in_use + ticket.ask.tokens <= self.tokens

    def _grant(self, ticket: Ticket, now_s: float) -> None:
        ask = ticket.ask
        ticket.granted_s = now_s
        self._out.add(ticket)
        self.in_use += ask.weight
        self.tokens_in_use += ask.tokens
        if self._grouping is not None:
            others = bool(self.waiting) and any(m != ask.model for m, _ in self._waited_for())
            self._grouping.started(ask.model, others_wait=others)
        if self._warmth is not None:
            self._warmth.started(ask.conversation, now_s)

    def _wait(self, ticket: Ticket, place: Place) -> None:
        ticket.place = place
        self.waiting += 1
        self.waiting_bytes += ticket.ask.size_bytes
        self._deadlines.push(ticket.deadline_s, ticket)

    def _unwait(self, ticket: Ticket) -> None:
        if ticket.place is Place.FRONT:
            del self._front[ticket]
        elif ticket.place is Place.ASIDE:
            del self._aside[ticket]
        ticket.place = Place.OUTSIDE
        self.waiting -= 1
        self.waiting_bytes -= ticket.ask.size_bytes
