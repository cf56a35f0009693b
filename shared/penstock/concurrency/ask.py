"""What a request asks of admission, and its ticket."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Priority(IntEnum):
    """How urgent a request is, by its client's word."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Ask(NamedTuple):
    """
    What a request asks for. Made once per request, so a tuple.

    Attributes:
        weight: slots that it takes.
        size_bytes: what it holds while it waits.
        tokens: of the server's KV cache, prompt and reserve for the answer; counted where slots share one.
        work_s: how long the server will be at it, by estimate.
        client: who asks: what is shared fairly is shared between clients.
        priority: before others, or behind them.
        model: requests for one model are grouped where the server would load anew at each change.
        conversation: what tells it from others, 0 when it is of none.
    """

    weight: int = 1
    size_bytes: int = 0
    tokens: int = 0
    work_s: float = 1.0
    client: str = ""
    priority: Priority = Priority.NORMAL
    model: str = ""
    conversation: int = 0


class Place(IntEnum):
    """Where a ticket is."""

    OUTSIDE = 0
    """At work, or gone."""
    LANE = 1
    """It waits for its turn."""
    ASIDE = 2
    """Its turn has come, and it waits a moment for its slot."""
    FRONT = 3
    """It is before all others, by a right that it had before."""
    ABSENT = 4
    """Its client left the line, and the place stays for a while."""


class Ticket:
    """
    One request in the line or at work.

    Attributes:
        ask: what it asks for.
        entered_s, deadline_s: when it came, and until when it waits (same clock).
        granted_s: when it got its permit, None while it waits.
        place: where it is.
        left_s: when its client left the line, 0 while it did not.
        was_kept: it waited for its slot, or for another, rather than take that of another conversation.
        more_s: how much later its deadline may become because the server was away; stood_s: how long it had been
            away in all by the time up to which that was made good.
    """

    __slots__ = (
        "ask", "deadline_s", "entered_s", "granted_s", "left_s", "more_s", "place", "stood_s", "was_kept",
    )  # fmt: skip

    def __init__(self, ask: Ask, entered_s: float, deadline_s: float) -> None:
        self.ask = ask
        self.entered_s = entered_s
        self.deadline_s = deadline_s
        self.granted_s: float | None = None
        self.place = Place.OUTSIDE
        self.left_s = self.more_s = self.stood_s = 0.0
        self.was_kept = False

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits with it."""
        return Place.OUTSIDE < self.place < Place.ABSENT


def estimated_work_s(
    prompt_tokens: int,
    output_tokens: int,
    *,
    prefill_tokens_per_s: float | None,
    output_tokens_per_s: float | None = None,
) -> float:
    """
    How long a server will be at a request.

    Args:
        prompt_tokens: those that it has to work on (what it has in its cache costs nothing).
        output_tokens: that are expected of it.
        prefill_tokens_per_s, output_tokens_per_s: measured on it; None while unknown: then by a small model on
            a processor, since only the proportions of requests to one another matter.
    """
    prefill = prefill_tokens_per_s or _PREFILL_TOKENS_PER_S
    output = output_tokens_per_s or max(1.0, prefill / _PREFILL_TO_OUTPUT)
    return prompt_tokens / prefill + output_tokens / output


_PREFILL_TOKENS_PER_S = 250.0
_PREFILL_TO_OUTPUT = 10.0
