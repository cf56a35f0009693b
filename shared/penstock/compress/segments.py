"""
What of a conversation belongs together: the units that a cut keeps or drops as a whole.

A user message begins a turn and is a unit; an assistant message with the results of its tool calls is a
unit, called a round. A result that stands later than it should pulls what lies between into its call's
unit, since a call without its result (or the reverse) is refused by servers. A result whose call is not
there sticks to the unit before it. System messages belong to no unit: they stay wherever they stand.

Linear, and written for long conversations in which each result stands directly behind its call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

CallKey = str | tuple[str, str]

# What a role means here; any other is a round, as the assistant's.
_SYSTEM, _USER, _RESULT = 1, 2, 3
_MEANING: dict[Any, int] = {
    "system": _SYSTEM,
    "developer": _SYSTEM,
    "user": _USER,
    "tool": _RESULT,
    "function": _RESULT,
}


@dataclass(frozen=True, slots=True)
class Segments:
    """
    Units by number. `start[u]` is the place of the first message of unit *u*; its last one stands before
    `start[u + 1]`.

    Attributes:
        roles: of each message.
        weight: tokens of the unit's messages, without system messages that stand among them.
        begins_turn: whether the unit's first message is the user's; else it is a round.
        user_place: place of the last user message in the unit, or -1.
        latest_user: number of the last unit up to this one that holds a user message, or -1.
        latest_round: the same for the last round.
        pinned: places of system messages.
        first_user: place of the first user message, or -1.
    """

    roles: Sequence[Any]
    start: Sequence[int]
    weight: Sequence[int]
    begins_turn: Sequence[bool]
    user_place: Sequence[int]
    latest_user: Sequence[int]
    latest_round: Sequence[int]
    pinned: Sequence[int]
    first_user: int

    def unit_of(self, place: int) -> int:
        """The unit that the message at *place* belongs to; of a system message, the one before it, or -1."""
        return bisect_right(self.start, place) - 1

    def places(self, unit: int) -> range:
        """Of the unit's messages, system messages among them included."""
        following = unit + 1
        end = self.start[following] if following < len(self.start) else len(self.roles)
        return range(self.start[unit], end)


def segments(messages: Sequence[Mapping[str, Any]], sums: Sequence[int]) -> Segments:
    """
    Sort messages into units.

    Args:
        sums: tokens of the first *n* messages, at *n*, each with the same addend.
    """
    roles = [message.get("role") for message in messages]
    try:
        kinds = [_MEANING.get(role) for role in roles]
    except TypeError:  # a role that is a list or an object
        kinds = [_MEANING.get(str(role)) for role in roles]
    start = [place for place, kind in enumerate(kinds) if kind is None or kind == _USER]
    pinned = [place for place, kind in enumerate(kinds) if kind == _SYSTEM]
    users = [place for place, kind in enumerate(kinds) if kind == _USER]
    leading = next((place for place, kind in enumerate(kinds) if kind != _SYSTEM), -1)
    if leading >= 0 and (not start or start[0] > leading):
        start.insert(0, leading)
    in_order = _in_order(messages, kinds)
    if not in_order:
        start = _without_gaps(start, _spans(messages, kinds), len(roles))
    ends = [*start[1:], len(roles)] if start else []
    weight = [sums[end] - sums[begin] for begin, end in zip(start, ends, strict=True)]
    for place in pinned:
        unit = bisect_right(start, place) - 1
        if unit >= 0:
            weight[unit] -= sums[place + 1] - sums[place]
    begins_turn = [kinds[place] == _USER for place in start]
    user_place = [place if turn else -1 for place, turn in zip(start, begins_turn, strict=True)]
    if not in_order:
        for place in users:
            user_place[bisect_right(start, place) - 1] = place
    return Segments(
        roles,
        start,
        weight,
        begins_turn,
        user_place,
        _latest([place >= 0 for place in user_place]),
        _latest([not turn for turn in begins_turn]),
        pinned,
        users[0] if users else -1,
    )


def _latest(flags: Sequence[bool]) -> list[int]:
    """For each unit the number of the last one up to it whose flag is set, or -1."""
    return list(accumulate((unit if flag else -1 for unit, flag in enumerate(flags)), max))


def _in_order(messages: Sequence[Mapping[str, Any]], kinds: Sequence[int | None]) -> bool:
    """Whether every result stands in the round of its call."""
    own: Sequence[CallKey] | None = ()
    caller = -1
    for place, kind in enumerate(kinds):
        if kind == _RESULT:
            if own is None:
                own = _calls(messages[caller])
            if _answered(messages[place]) not in own:
                return False
        elif kind != _SYSTEM:
            own, caller = None, place
    return True


def _spans(
    messages: Sequence[Mapping[str, Any]], kinds: Sequence[int | None]
) -> list[tuple[int, int]]:
    """Places of calls and their results, wherever these stand."""
    spans: list[tuple[int, int]] = []
    waiting: dict[CallKey, int] = {}  # {call that has no result yet: place of its message}
    for place, kind in enumerate(kinds):
        if kind == _RESULT:
            key = _answered(messages[place])
            if key is not None and key in waiting:
                spans.append((waiting.pop(key), place))
        elif kind is None:
            for key in _calls(messages[place]):
                waiting[key] = place
    return spans


def _without_gaps(start: Sequence[int], spans: Sequence[tuple[int, int]], count: int) -> list[int]:
    """The places where units begin, without those that lie within a span."""
    steps = [0] * (count + 1)
    for call, result in spans:
        steps[call + 1] += 1
        steps[result + 1] -= 1
    covered = list(accumulate(steps))
    return [place for place in start if covered[place] == 0]


def _calls(message: Mapping[str, Any]) -> list[CallKey]:
    """What results of this message's calls refer to: ids, or names where there are none (`function`)."""
    keys: list[CallKey] = []
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        for call in calls:
            if isinstance(call, dict) and isinstance(call.get("id"), str):
                keys.append(call["id"])
    legacy = message.get("function_call")
    if isinstance(legacy, dict) and isinstance(legacy.get("name"), str):
        keys.append(("function", legacy["name"]))
    return keys


def _answered(message: Mapping[str, Any]) -> CallKey | None:
    """The call that a result answers."""
    call_id = message.get("tool_call_id")
    if isinstance(call_id, str):
        return call_id
    name = message.get("name")
    return ("function", name) if isinstance(name, str) else None
