"""A heap of tickets in which those that left are passed over, and thrown out when they are too many."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from penstock.concurrency.ask import Ticket

_FEW = 32


class Heap:
    """
    Tickets by a number, the lowest first; among equals who came first.

    Args:
        keeps: whether a ticket still belongs here, by this number.
    """

    __slots__ = ("_items", "_keeps", "_pushed", "_worth")

    def __init__(self, keeps: Callable[[float, Ticket], bool]) -> None:
        self._keeps = keeps
        self._items: list[tuple[float, int, Ticket]] = []
        self._pushed = 0
        self._worth = _FEW

    def push(self, key: float, ticket: Ticket) -> None:
        """Add one: O(log n), and now and then a sweep that all who were added since pay for together."""
        self._pushed += 1
        heappush(self._items, (key, self._pushed, ticket))
        if len(self._items) > self._worth:
            self._items = [item for item in self._items if self._keeps(item[0], item[2])]
            heapify(self._items)
            self._worth = max(_FEW, 2 * len(self._items))

    def first(self) -> Ticket | None:
        """The one with the lowest number; None when there is none."""
        items = self._items
        while items:
            key, _, ticket = items[0]
            if self._keeps(key, ticket):
                return ticket
            heappop(items)
        return None

    def first_key(self) -> float | None:
        """Its number."""
        return None if self.first() is None else self._items[0][0]

    def in_order(self) -> list[Ticket]:
        """All of them; O(n log n)."""
        return [ticket for key, _, ticket in sorted(self._items) if self._keeps(key, ticket)]
