"""
Watermark replay: where a conversation is cut (contracts 9, design 4.2).

The conversation is replayed from its beginning, message by message, as if it had grown. Whenever what is
kept exceeds *high*, a cut is made: old oversized tool results are shortened and old images go, then whole
turns and rounds, the oldest first, until at most *low* is left. Nothing changes between cuts, so the next
request begins with the bytes of this one and the server finds its prefix in the cache. No state is
needed: the same conversation has the same cuts everywhere.

The accounts are kept in nominal tokens: a shortened result counts as the size it is to be shortened to
(the text itself is made later, and only if it is still there at the end), what is merged as its parts.
What is sent weighs that or less. So no decision waits for a text of ours to be counted, and a fitted
conversation never exceeds the mark that it was fitted to.

Each message enters once, each unit leaves once: linear, and the next message that matters is found by
bisection.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from penstock.compress.budget import Budget
from penstock.compress.content import can_shrink, has_images, without_images
from penstock.compress.segments import Segments, segments

# A tool result is oversized from a sixteenth of the window; it is shortened to half of that. Between, a cut
# would win too little for what is lost. The floors leave a few words on tiny windows.
_OVERSIZED_SHARE = 16
_LEAST_OVERSIZED = 128


@dataclass(slots=True)
class Cuts:
    """
    What is left after the replay.

    Attributes:
        first_kept: units before this one are dropped, except the first user message's and *anchor*.
        anchor: unit of the user message whose turn was cut in its middle, or -1.
        shortened: {place: nominal tokens} of tool results to shorten.
        bare: {place: (the message without its images, its tokens)}.
        tokens: nominal tokens of everything kept, fixed ones included.
        decided_at: place of the last message that had a part in a decision, or -1.
        count: how many cuts changed something.
    """

    units: Segments
    first_kept: int = 0
    anchor: int = -1
    shortened: dict[int, int] = field(default_factory=dict)
    bare: dict[int, tuple[Mapping[str, Any], int]] = field(default_factory=dict)
    tokens: int = 0
    decided_at: int = -1
    count: int = 0


class Replay:
    """One replay of one conversation."""

    __slots__ = (
        "_big",
        "_budget",
        "_cuts",
        "_first",
        "_gone",
        "_held",
        "_left_out",
        "_messages",
        "_note_tokens",
        "_pictures",
        "_reset",
        "_room",
        "_saved",
        "_sums",
        "_units",
        "_weigh",
        "_weights",
    )

    def __init__(
        self,
        messages: Sequence[Mapping[str, Any]],
        weights: Sequence[int],
        *,
        budget: Budget,
        weigh: Callable[[Mapping[str, Any]], int],
        note_tokens: int,
        room: int = 0,
        reset: bool = False,
    ) -> None:
        """
        Args:
            weights: tokens of each message, none negative.
            weigh: tokens of a message that is made here.
            note_tokens: tokens of the note.
            room: tokens that are kept free for a summary in its place.
            reset: a cut keeps only what is never dropped.
        """
        self._messages = messages
        self._weights = weights
        self._budget = budget
        self._weigh = weigh
        self._note_tokens = note_tokens + room
        self._room = room
        self._reset = reset
        self._sums = list(accumulate(weights, initial=budget.fixed))
        self._units = segments(messages, self._sums)
        self._cuts = Cuts(self._units)
        first = self._units.first_user
        self._first = self._units.unit_of(first) if first >= 0 else -1
        # Tokens up to a message that are no longer sent: of what was dropped or shortened, less the note.
        self._gone = 0
        self._saved: dict[int, int] = {}  # {unit: tokens saved inside it}
        self._left_out = False  # whether anything was dropped
        self._big: list[int] = []
        self._pictures: list[int] = []
        self._held: list[int] = []  # places with images that were too new at the last cut

    def run(self) -> Cuts:
        """Replay the whole conversation."""
        count = len(self._messages)
        reached = bisect_right(self._sums, self._budget.high, 1)
        if reached <= count:
            self._find_what_can_shrink()
        while reached <= count:
            self._cut(reached - 1)
            reached = bisect_right(self._sums, self._budget.high + self._gone, reached + 1)
        self._cuts.tokens = self._sums[count] - self._gone
        return self._cuts

    def cut_now(self) -> Cuts:
        """After the replay: cut as if the mark had been reached."""
        if self._cuts.decided_at < 0:
            self._find_what_can_shrink()
        if self._messages:
            self._cut(len(self._messages) - 1)
        return self._cuts

    def to_the_least(self) -> Cuts:
        """After the replay: drop everything that may ever be dropped."""
        last = len(self._messages) - 1
        self._cuts.decided_at = last
        before = self._gone
        self._drop(last, -1, self._room)
        self._cuts.count += self._gone != before
        self._cuts.tokens = self._sums[last + 1] - self._gone
        return self._cuts

    def _find_what_can_shrink(self) -> None:
        oversized, _ = shortening(self._budget.window)
        roles = self._units.roles
        # Reversed, so that the oldest is taken from the end.
        self._big = [
            place
            for place, weight in enumerate(self._weights)
            if weight > oversized and roles[place] in ("tool", "function")
        ][::-1]
        self._pictures = [
            place
            for place, message in enumerate(self._messages)
            if type(message.get("content")) is list
            and roles[place] not in ("system", "developer")
            and has_images(message)
        ][::-1]

    def _cut(self, place: int) -> None:
        """Make what is kept of the messages up to *place* small enough."""
        self._cuts.decided_at = place
        before = self._gone
        self._make_small(place)
        self._cuts.count += self._gone != before

    def _make_small(self, place: int) -> None:
        low = -1 if self._reset else self._budget.low
        if not self._reset:
            self._shrink_old(place)
            if self._sums[place + 1] - self._gone <= low:
                return
        self._drop(place, low)

    # 1. Old tool results and images

    def _shrink_old(self, place: int) -> None:
        units = self._units
        now = units.unit_of(place)
        if now < 0:
            return
        newest_round, newest_user = units.latest_round[now], units.latest_user[now]
        # Older than the last round; before there is one, older than the last user message.
        old = units.start[newest_round if newest_round >= 0 else newest_user]
        held = []
        while self._pictures and self._pictures[-1] < old:
            self._held.append(self._pictures.pop())
        for picture in self._held:
            unit = units.unit_of(picture)
            if picture == units.user_place[newest_user]:
                held.append(picture)
            elif self._is_kept(unit) and picture != units.first_user:
                bare = without_images(self._messages[picture])
                tokens = min(self._weigh(bare), self._weights[picture])
                self._cuts.bare[picture] = bare, tokens
                self._save(unit, self._weights[picture] - tokens)
        self._held = held
        oversized, target = shortening(self._budget.window)
        while self._big and self._big[-1] < old:
            big = self._big.pop()
            unit = units.unit_of(big)
            weight = self._cuts.bare[big][1] if big in self._cuts.bare else self._weights[big]
            if weight > oversized and self._is_kept(unit) and can_shrink(self._messages[big]):
                self._cuts.shortened[big] = target
                self._save(unit, weight - target)

    def _save(self, unit: int, tokens: int) -> None:
        self._saved[unit] = self._saved.get(unit, 0) + tokens
        self._gone += tokens

    # 2. Turns and rounds

    def _drop(self, place: int, low: int, spare: int = 0) -> None:
        """
        Drop units, the oldest first, until at most *low* is left or nothing may be dropped.

        *spare*: of the room for the note, what need not be used.
        """
        units, cuts = self._units, self._cuts
        now = units.unit_of(place)
        if now < 0:
            return
        newest_round, newest_user = units.latest_round[now], units.latest_user[now]
        # Of a turn with several rounds the last one stays, and its user message as the anchor.
        end = newest_round if newest_round >= 0 else newest_user
        total = self._sums[place + 1]
        before = cuts.first_kept, cuts.anchor, self._gone, self._left_out
        while cuts.first_kept < end and total - self._gone > low:
            unit = cuts.first_kept
            cuts.first_kept = unit + 1
            if units.begins_turn[unit + 1]:
                self._release_anchor(-1)
                self._leave_out(unit)
            elif units.latest_user[unit] == unit:
                self._release_anchor(unit)
            else:
                self._leave_out(unit)
        if total - self._gone > low and cuts.anchor != newest_user:
            self._release_anchor(-1)
        if self._gone + spare <= before[2]:
            # The note would take more than what it stands for.
            cuts.first_kept, cuts.anchor, self._gone, self._left_out = before

    def _release_anchor(self, following: int) -> None:
        """The turn of the anchor is over: its user message goes, *following* stays in its place."""
        before = self._cuts.anchor
        self._cuts.anchor = following if following != self._first else -1
        if before >= 0:
            self._leave_out(before)

    def _leave_out(self, unit: int) -> None:
        if unit == self._first:
            return
        self._gone += self._units.weight[unit] - self._saved.get(unit, 0)
        if not self._left_out:
            self._left_out = True
            self._gone -= self._note_tokens

    def _is_kept(self, unit: int) -> bool:
        return unit >= self._cuts.first_kept or unit in (self._first, self._cuts.anchor)


def shortening(window: int) -> tuple[int, int]:
    """From how many tokens on an old tool result is oversized, and how many are left of it."""
    oversized = max(_LEAST_OVERSIZED, window // _OVERSIZED_SHARE)
    return oversized, oversized // 2
