"""
The messages that are sent after a cut: what is kept, and one note where something was left out.

The note has a fixed text, without counts, since these would change with every cut. It is user text, never
system text: nobody's instructions. It goes to the end of the first user message, and the user message that
the cut makes its neighbour is merged into it, so that a template that insists on alternation takes the
result when it took the original. Where something is left out before any user message, the note is a user
message of its own there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from penstock.compress.content import contains, joined
from penstock.compress.replay import Cuts

Message = Mapping[str, Any]

NOTE = "[Earlier parts of this conversation were left out to fit the model's window.]"


@dataclass(frozen=True, slots=True)
class Kept:
    """
    Which messages are left.

    Attributes:
        head: places before `tail` that are kept, in order.
        stays: the same as a set.
        tail: all messages from this place on are kept.
        dropped: places that are left out.
        behind: the same, and the user message of a turn that was cut in its middle: what a summary covers.
            From cut to cut it only grows at its end.
        merged: place of the user message that becomes part of the first one, or -1.
    """

    head: Sequence[int]
    stays: AbstractSet[int]
    tail: int
    dropped: Sequence[int]
    behind: Sequence[int]
    merged: int = -1

    def places(self, count: int) -> list[int]:
        """All places that are kept, of *count*."""
        return [*self.head, *range(self.tail, count)]

    def __contains__(self, place: int) -> bool:
        return place >= self.tail or place in self.stays


def kept(messages: Sequence[Message], cuts: Cuts) -> Kept:
    """What the cuts leave of the messages."""
    units = cuts.units
    if cuts.first_kept == 0:
        return Kept((), frozenset(), 0, (), ())
    tail = units.start[cuts.first_kept]
    pinned = set(units.pinned)
    stays: set[int] = {place for place in units.pinned if place < tail}
    first = units.unit_of(units.first_user) if units.first_user >= 0 else cuts.first_kept
    if first < cuts.first_kept:
        stays.update(units.places(first))
    behind = [place for place in range(tail) if place not in stays]
    if cuts.anchor >= 0:
        stays.update(units.places(cuts.anchor))
    dropped = [place for place in behind if place not in stays]
    merged = -1
    if dropped and first < cuts.first_kept:
        following = units.start[cuts.anchor] if cuts.anchor >= 0 else tail
        own = [p for p in units.places(first) if p not in pinned]
        if own[-1] == units.first_user and messages[following].get("role") == "user":
            merged = following
    return Kept(sorted(stays), stays, tail, dropped, behind, merged)


def assembled(
    messages: Sequence[Message],
    cuts: Cuts,
    left: Kept,
    replaced: Mapping[int, Message],
    note: str,
) -> list[Message]:
    """
    The messages that are sent.

    Args:
        replaced: {place: what stands in place of the original}.
        note: what is said about that which was left out.
    """
    out: list[Message] = []
    first = cuts.units.first_user
    # The note stands behind the first user message when that comes before the gap, else before the rest.
    behind_first = left.dropped and first in left.stays
    for place in left.head:
        if place == left.merged:
            continue
        message = replaced.get(place, messages[place])
        if behind_first and place == first:
            message = _with_note(message, note, left.merged, messages, replaced)
        out.append(message)
    rest = list(messages[left.tail :])
    for place, message in replaced.items():
        if place >= left.tail:
            rest[place - left.tail] = message
    if left.dropped and not behind_first:
        if rest[0].get("role") == "user":
            if not contains(rest[0], note):
                rest[0] = {**rest[0], "content": joined([note, rest[0].get("content")])}
        else:
            out.append({"role": "user", "content": note})
    elif left.merged == left.tail:
        del rest[0]
    out.extend(rest)
    return out


def _with_note(
    message: Message,
    note: str,
    merged: int,
    messages: Sequence[Message],
    replaced: Mapping[int, Message],
) -> Message:
    contents = [message.get("content")]
    if not contains(message, note):
        contents.append(note)
    if merged >= 0:
        contents.append(replaced.get(merged, messages[merged]).get("content"))
    return {**message, "content": joined(contents)}
