"""What a request tells the limit, and what the limit tells in turn."""

from __future__ import annotations

from typing import Literal, NamedTuple

Lesson = Literal["success", "dropped", "too_much", "ignored"]
"""`dropped` speaks against the server, `too_much` says that it had too much at once."""


class Sample(NamedTuple):
    """
    One request that has ended.

    Attributes:
        lesson: what it teaches.
        sent_s, now_s: when it was sent, and when it is told here (same clock).
        in_flight, at_end: requests at work when it was sent, and when it ended, itself included.
        first_token_s: from sending to the first token, None without one.
        uncached_tokens: prompt tokens that the server had to work on.
        output_tokens: of the answer, 0 when unknown.
        output_s: from the first token to the end.
        cold: the model was loaded for it.
    """

    lesson: Lesson
    sent_s: float
    now_s: float
    in_flight: int
    at_end: int = 0
    first_token_s: float | None = None
    uncached_tokens: int = 0
    output_tokens: int = 0
    output_s: float = 0.0
    cold: bool = False


class Move(NamedTuple):
    """
    The limit is another one now.

    Attributes:
        before, after: the limit.
        why: one sentence.
        is_trial: only to see what happens; it may go back.
    """

    before: int
    after: int
    why: str
    is_trial: bool
