"""
Which conversations a server's slots are warm with, and when a request does better to wait a moment.

A slot keeps the prefix of what it worked on last; whoever gets it next and shares nothing with that throws it
away, and the conversation that comes back for it is computed anew from its first word. So

    1. a request whose conversation is at work waits for that slot rather than take another one's,
    2. a stranger does not take the last warm slot of a conversation that is about to come back: one that did
       come back that quickly before. An agent is back from its tool in a second; who comes only once is not
       waited for.

Both only where no cold slot is left, and both for at most `keep_s` since the request came: a prefill costs seconds
and minutes, a slot that idles for a second now and then costs little, and under load, where requests wait longer
than that anyway, it costs nothing: whoever has waited that long takes what is free.
"""

from __future__ import annotations

from collections import OrderedDict

_MOST_REMEMBERED = 1024


class Warmth:
    """
    Attributes:
        slots: of the server.
        keep_s: longest wait.
    """

    __slots__ = ("_comes_back", "_ended_s", "_idle", "_running", "_taken", "keep_s", "slots")

    def __init__(self, slots: int, keep_s: float) -> None:
        self.slots = slots
        self.keep_s = keep_s
        self._taken = 0
        self._running: dict[int, int] = {}
        self._idle: OrderedDict[int, float] = OrderedDict()
        self._ended_s: OrderedDict[int, float] = OrderedDict()
        self._comes_back: dict[int, bool] = {}

    def started(self, conversation: int, now_s: float) -> None:
        """A request of a conversation (0: of none, or not known yet) got a permit."""
        self._taken += 1
        if conversation:
            self.named(conversation, now_s)
        self._forget_what_is_gone()

    def named(self, conversation: int, now_s: float) -> None:
        """It is known now which conversation one that started belongs to."""
        self._running[conversation] = self._running.get(conversation, 0) + 1
        self._idle.pop(conversation, None)
        ended_s = self._ended_s.get(conversation)
        if ended_s is not None:
            self._comes_back[conversation] = now_s - ended_s <= self.keep_s

    def ended(self, conversation: int, now_s: float) -> None:
        """It gave the permit back."""
        self._taken -= 1
        if not conversation:
            return
        left = self._running.get(conversation, 0) - 1
        if left > 0:
            self._running[conversation] = left
        else:
            self._running.pop(conversation, None)
        for known in (self._idle, self._ended_s):
            known[conversation] = now_s
            known.move_to_end(conversation)
        if len(self._ended_s) > _MOST_REMEMBERED:
            forgotten, _ = self._ended_s.popitem(last=False)
            self._comes_back.pop(forgotten, None)
        self._forget_what_is_gone()

    def wait_until_s(self, conversation: int, entered_s: float, now_s: float) -> float | None:
        """
        Until when a request does better to wait, though there is a slot; None when it should go.

        Args:
            entered_s: when it came.
        """
        patience_s = entered_s + self.keep_s
        free = self.slots - self._taken
        if now_s >= patience_s or free <= 0 or free > len(self._idle) or conversation in self._idle:
            return None
        if conversation in self._running:
            return patience_s
        if free > 1:
            return None
        owner, since_s = next(iter(self._idle.items()))
        until_s = min(patience_s, since_s + self.keep_s)
        return until_s if self._comes_back.get(owner) and now_s < until_s else None

    @property
    def matters(self) -> bool:
        """Whether it makes a difference which conversation the next request belongs to."""
        return len(self._idle) >= self.slots - self._taken

    def is_warm(self, conversation: int) -> bool:
        """Whether a free slot has the beginning of this conversation."""
        return conversation in self._idle

    def _forget_what_is_gone(self) -> None:
        """There are only so many slots: what was used longest ago was given to somebody else."""
        most = max(0, self.slots - self._taken)
        while len(self._idle) > most:
            self._idle.popitem(last=False)
