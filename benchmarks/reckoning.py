"""
What a server would have to work on, reckoned instead of measured: all of a request behind the first message
that differs from the request before. Nothing here needs a server; `marks.py` and the drawing of the docs use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.compress import ContextOptions, Marks, budget, fit
from penstock.domain.pressure import Pressure
from penstock.domain.strategy import Strategy

Message = dict[str, Any]
Way = Callable[[list[Message]], list[Message]]


class Weights(Protocol):
    """Tokens of messages, and of what is sent with every request (`fixed`: tools and template)."""

    fixed: int

    def of(self, message: Message) -> int:
        """Tokens of one message."""
        ...


class BytesByFour:
    """One token for four bytes of text: near enough where no server is at hand."""

    fixed = 300

    def of(self, message: Message) -> int:
        """Tokens of one message."""
        calls = message.get("tool_calls") or ()
        texts = [
            str(message.get("content") or ""),
            *(call["function"]["arguments"] for call in calls),
        ]
        return 6 + sum(len(text.encode()) for text in texts) // 4


@dataclass(frozen=True, slots=True)
class Step:
    """
    One request.

    Attributes:
        whole: tokens of the conversation so far.
        same: tokens that the request before began with as well: the server still has them.
        new: tokens behind these: the server works on them.
        moved: whether the prefix moved: the request before did not simply go on.
        cut: whether anything is missing of the conversation.
    """

    whole: int
    same: int
    new: int
    moved: bool
    cut: bool


def steps(requests: Iterable[list[Message]], way: Way, weights: Weights) -> Iterator[Step]:
    """All requests of one conversation, in a slot of its own."""
    before: list[Message] = []
    for messages in requests:
        sent = way(messages)
        count = 0
        for ours, theirs in zip(sent, before):  # noqa: B905
            if ours != theirs:
                break
            count += 1
        whole = weights.fixed + sum(map(weights.of, messages))
        total = weights.fixed + sum(map(weights.of, sent))
        same = weights.fixed + sum(map(weights.of, sent[:count])) if before else 0
        yield Step(whole, same, total - same, count < len(before), len(sent) < len(messages))
        before = sent


def watermarks(weights: Weights, window: int, marks: Marks | None = None) -> Way:
    """The product's own planner, with the default marks or others."""
    options = ContextOptions(calm=marks) if marks else ContextOptions()
    room = budget(window, pressure=Pressure.CALM, options=options, fixed=weights.fixed)

    def way(messages: list[Message]) -> list[Message]:
        fitted = fit(
            messages,
            [weights.of(message) for message in messages],
            budget=room,
            weigh=lambda message: weights.of(dict(message)),
            strategy=Strategy.WINDOW,
            options=options,
        )
        return [dict(message) for message in fitted.messages]

    return way
