"""
Which model's requests go next, where the server would load anew at each change: A B A B becomes A A B B.

    1. A model that is at work, or was the last one to be, goes on,
    2. unless others have waited for `TURN_S`, or `MOST_IN_A_ROW` of its requests went since one of them came:
       then it gets no more until one of these had its turn.
    3. Another model begins when the server has room for it: what is at work there has ended.
    4. One that has waited for `ESCAPE_S` begins with any free permit: what we believe of the room there may be
       wrong, and then the server itself knows best.

So a request of another model waits for at most `MOST_IN_A_ROW` requests or `TURN_S`, then for those at work to end,
and for no longer than `ESCAPE_S` while there is a free permit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

TURN_S = 15.0
MOST_IN_A_ROW = 16
ESCAPE_S = 20.0


class Grouping:
    """
    Attributes:
        at_once: models that the server holds side by side, as far as is known.
    """

    __slots__ = ("_current", "_in_a_row", "_running", "at_once")

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._running: dict[str, int] = {}
        self._current: OrderedDict[str, None] = OrderedDict()
        self._in_a_row = 0

    def started(self, model: str, *, others_wait: bool) -> None:
        """A request for *model* got a permit."""
        self._running[model] = self._running.get(model, 0) + 1
        if model in self._current:
            self._in_a_row += others_wait
        else:
            self._in_a_row = 0
            self._current[model] = None
            while len(self._current) > self.at_once:
                self._current.popitem(last=False)
        self._current.move_to_end(model)

    def ended(self, model: str) -> None:
        """A request for *model* gave its permit back."""
        left = self._running.get(model, 0) - 1
        if left > 0:
            self._running[model] = left
        else:
            self._running.pop(model, None)

    def may_start(self, model: str) -> bool:
        """Whether a request for *model* may go when nobody waits."""
        return self._goes_on(model) or self._has_room(model)

    def choose(self, waiting: Iterable[tuple[str, float]], now_s: float) -> str | None:
        """
        The model whose turn it is; None when those that wait have to wait for what is at work.

        Args:
            waiting: each model that is waited for, and since when.
        """
        going_on: tuple[float, str] | None = None
        other: tuple[float, str] | None = None
        others_since_s: float | None = None
        for model, since_s in waiting:
            one = since_s, model
            if self._goes_on(model):
                going_on = one if going_on is None else min(going_on, one)
                continue
            others_since_s = since_s if others_since_s is None else min(others_since_s, since_s)
            if self._has_room(model) or now_s - since_s >= ESCAPE_S:
                other = one if other is None else min(other, one)
        if others_since_s is not None and (
            self._in_a_row >= MOST_IN_A_ROW or now_s - others_since_s >= TURN_S
        ):
            going_on = None
        chosen = going_on or other
        return None if chosen is None else chosen[1]

    def next_due_s(self, waiting: Iterable[tuple[str, float]], now_s: float) -> float | None:
        """When somebody may go although nothing has ended; None when that will not be."""
        return min(
            (
                since_s + ESCAPE_S
                for model, since_s in waiting
                if not self._goes_on(model) and since_s + ESCAPE_S > now_s
            ),
            default=None,
        )

    def _goes_on(self, model: str) -> bool:
        return model in self._current and (model in self._running or self._has_room(model))

    def _has_room(self, model: str) -> bool:
        others = len(self._running) - (model in self._running)
        return others < self.at_once
