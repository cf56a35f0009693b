"""
Whose turn it is: fair between clients, short before long within a client, urgent before patient, and nobody
waits for ever.

    1. Priority.  A level is served before a lower one, as if its requests had come `LAG_S` earlier: a patient
                  request is passed by urgent ones that came up to 30 s (one level) or 60 s (two) later, and by
                  none that came after that. Ageing costs nothing this way: the order never changes by itself.
    2. Client.    Within a level, deficit round robin over the clients (Shreedhar, Varghese 1996) on the work
                  that their requests are, in milliseconds. Two clients that both wait differ in what they got
                  by at most QUANTUM_MS + 2 MOST_MS. What counts of one request is bounded by MOST_MS, so that
                  each comes to its turn within `MOST_MS / QUANTUM_MS` rounds: fifteen.
    3. Request.   Within a client, by the time it came plus `STRETCH` times its work, at most `MOST_HEAD_START_S`:
                  a short request passes a long one that came shortly before, and none that came 15 s before.

The rounds that must pass until somebody has saved enough are computed, not played: a decision is O(clients).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from penstock.concurrency.ask import Place, Priority, Ticket
from penstock.concurrency.heap import Heap

LAG_S = {Priority.HIGH: 0.0, Priority.NORMAL: 30.0, Priority.LOW: 60.0}
QUANTUM_MS = 2_000
MOST_MS = 30_000
STRETCH = 0.5
MOST_HEAD_START_S = 15.0


def cost_ms(ticket: Ticket) -> int:
    """What a request counts against its client."""
    return min(MOST_MS, max(1, int(1000 * ticket.ask.work_s) * ticket.ask.weight))


def rank(ticket: Ticket) -> float:
    """Where it stands among its client's own, lowest first."""
    return ticket.entered_s + min(MOST_HEAD_START_S, STRETCH * ticket.ask.work_s)


def _has_place(_: float, ticket: Ticket) -> bool:
    return ticket.place is Place.LANE or ticket.place is Place.ABSENT


def _is_here(_: float, ticket: Ticket) -> bool:
    return ticket.place is Place.LANE


class _Flow:
    """One client's requests of one level."""

    __slots__ = ("deficit_ms", "requests")

    def __init__(self) -> None:
        self.requests = Heap(_has_place)
        self.deficit_ms = 0


class _Level:
    """
    The clients of one priority.

    Attributes:
        flows: in the order of their turns.
        current: the client who has its turn, and got what it saves in this round; the first in `flows`, or gone.
    """

    __slots__ = ("current", "flows", "oldest")

    def __init__(self) -> None:
        self.flows: OrderedDict[str, _Flow] = OrderedDict()
        self.current: str | None = None
        self.oldest = Heap(_is_here)

    def add(self, ticket: Ticket) -> None:
        """A request has come; a client that had none here comes behind the others, without savings."""
        client = ticket.ask.client
        flow = self.flows.get(client)
        if flow is not None and flow.requests.first() is None:
            self._forget(client)
            flow = None
        if flow is None:
            flow = self.flows[client] = _Flow()
        flow.requests.push(rank(ticket), ticket)

    def next(self) -> Ticket | None:
        """Whose turn it is. Told again and again until `served`, it is the same one or another of its client."""
        for client in [c for c, flow in self.flows.items() if flow.requests.first() is None]:
            self._forget(client)
        found: tuple[int, int, str, Ticket] | None = None
        for place, client, flow in self._round():
            ticket = flow.requests.first()
            assert ticket is not None
            lacks = cost_ms(ticket) - flow.deficit_ms
            if client == self.current and lacks <= 0:
                return ticket
            visits = max(1, -(-lacks // QUANTUM_MS))
            if found is None or (visits - 1, place) < found[:2]:
                found = visits - 1, place, client, ticket
        if found is None:
            return None
        rounds, chosen_at, chosen, ticket = found
        for place, client, flow in list(self._round()):
            flow.deficit_ms += QUANTUM_MS * (rounds + (place <= chosen_at))
            if place < chosen_at or (client == self.current and client != chosen):
                self.flows.move_to_end(client)
        self.current = chosen
        return ticket

    def order(self) -> list[Ticket]:
        """All, in the order of their turns if nobody else came."""
        placed = []
        for place, client, flow in self._round():
            total = 0
            for number, ticket in enumerate(flow.requests.in_order()):
                total += cost_ms(ticket)
                visits = -(-(total - flow.deficit_ms) // QUANTUM_MS)
                visits = max(visits, 0 if client == self.current else 1)
                placed.append((visits - 1, place, number, ticket))
        placed.sort(key=lambda one: one[:3])
        return [ticket for *_, ticket in placed]

    def _round(self) -> Iterator[tuple[int, str, _Flow]]:
        """The clients and their places in the next round: who has its turn comes last there."""
        for place, (client, flow) in enumerate(self.flows.items()):
            yield len(self.flows) if client == self.current else place, client, flow

    def _forget(self, client: str) -> None:
        del self.flows[client]
        if client == self.current:
            self.current = None


class Turns:
    """All that wait for one thing."""

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: dict[Priority, _Level] = {}

    def add(self, ticket: Ticket) -> None:
        """Somebody has come to wait."""
        level = self._levels.get(ticket.ask.priority)
        if level is None:
            level = self._levels[ticket.ask.priority] = _Level()
        level.add(ticket)
        level.oldest.push(ticket.entered_s, ticket)

    def came_back(self, ticket: Ticket) -> None:
        """A client is back at the place that it left."""
        self._levels[ticket.ask.priority].oldest.push(ticket.entered_s, ticket)

    def next(self) -> Ticket | None:
        """Whose turn it is; it may be one whose client is away."""
        found: tuple[float, Priority] | None = None
        for priority, level in self._levels.items():
            oldest_s = level.oldest.first_key()
            if oldest_s is not None:
                aged = oldest_s + LAG_S[priority], priority
                found = aged if found is None else min(found, aged)
        return None if found is None else self._levels[found[1]].next()

    def served(self, ticket: Ticket) -> None:
        """The one that `next` told had its turn, and its client pays for it."""
        flow = self._levels[ticket.ask.priority].flows.get(ticket.ask.client)
        if flow is not None:
            flow.deficit_ms -= cost_ms(ticket)

    def oldest_s(self) -> float | None:
        """When the one came that has waited longest; None when nobody waits."""
        return min(
            (s for level in self._levels.values() if (s := level.oldest.first_key()) is not None),
            default=None,
        )

    def order(self) -> list[Ticket]:
        """All who have a place, in the order of their turns if nobody else came and nobody grew older."""
        aged = sorted(
            (LAG_S[priority] + (level.oldest.first_key() or 0.0), priority)
            for priority, level in self._levels.items()
        )
        return [ticket for _, priority in aged for ticket in self._levels[priority].order()]
