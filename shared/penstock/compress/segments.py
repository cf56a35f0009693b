"""
What of a conversation belongs together: the units that a cut keeps or drops as a whole.

A user message begins a turn and is a unit; an assistant message with the results of its tool calls is a
unit, called a round. A result that stands later than it should pulls what lies between into its call's
unit, since a call without its result (or the reverse) is refused by servers. A result whose call is not
there sticks to the unit before it. System messages belong to no unit: they stay wherever they stand.

One pass, linear: each unit is made once and swallowed at most once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CallKey = str | tuple[str, str]


@dataclass(slots=True)
class Segments:
    """
    Units by number. `start[u]` is the place of the first message of unit *u*; its last one stands before
    `start[u + 1]`.

    Attributes:
        weight: tokens of the unit's messages, without system messages that stand among them.
        begins_turn: whether the unit's first message is the user's.
        latest_user: number of the last unit up to this one that holds a user message, or -1.
        latest_round: the same for the last round.
        user_place: place of the last user message in the unit, or -1.
        pinned: places of system messages.
        first_user: place of the first user message, or -1.
    """

    start: list[int] = field(default_factory=list)
    weight: list[int] = field(default_factory=list)
    begins_turn: list[bool] = field(default_factory=list)
    latest_user: list[int] = field(default_factory=list)
    latest_round: list[int] = field(default_factory=list)
    user_place: list[int] = field(default_factory=list)
    pinned: list[int] = field(default_factory=list)
    first_user: int = -1

    def unit_of(self, place: int) -> int:
        """The unit that the message at *place* belongs to; of a system message, the one before it."""
        return bisect_right(self.start, place) - 1

    def end(self, unit: int, count: int) -> int:
        """Place behind the unit, in a conversation of *count* messages."""
        return self.start[unit + 1] if unit + 1 < len(self.start) else count


def segments(messages: Sequence[Mapping[str, Any]], weights: Sequence[int]) -> Segments:
    """Sort messages into units."""
    found = Segments()
    start, weight, begins_turn = found.start, found.weight, found.begins_turn
    pinned = found.pinned
    user_place = found.user_place
    has_round: list[bool] = []
    waiting: dict[CallKey, int] = {}  # {call that has no result yet: place of its message}
    for place, message in enumerate(messages):
        role = message.get("role")
        if role == "system" or role == "developer":
            pinned.append(place)
            continue
        if role == "tool" or role == "function":
            called = _awaited(message, waiting)
            if called >= 0:
                # What lies between a call and its late result can no longer be told apart.
                while start[-1] > called:
                    start.pop()
                    begins_turn.pop()
                    tokens = weight.pop()
                    weight[-1] += tokens
                    newest = user_place.pop()
                    user_place[-1] = max(user_place[-1], newest)
                    has_round.pop()  # that of the call is one already
            if start:
                weight[-1] += weights[place]
                continue
        is_user = role == "user"
        if is_user and found.first_user < 0:
            found.first_user = place
        start.append(place)
        weight.append(weights[place])
        begins_turn.append(is_user)
        user_place.append(place if is_user else -1)
        has_round.append(not is_user)
        if not is_user and ("tool_calls" in message or "function_call" in message):
            for key in _calls(message):
                waiting[key] = place
    user = latest = -1
    for unit in range(len(start)):
        if user_place[unit] >= 0:
            user = unit
        if has_round[unit]:
            latest = unit
        found.latest_user.append(user)
        found.latest_round.append(latest)
    return found


def _calls(message: Mapping[str, Any]) -> list[CallKey]:
    """What results of this message's calls refer to: ids, or names where there are none (`function`)."""
    keys: list[CallKey] = []
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        for call in calls:
            if isinstance(call, Mapping) and isinstance(call.get("id"), str):
                keys.append(call["id"])
    legacy = message.get("function_call")
    if isinstance(legacy, Mapping) and isinstance(legacy.get("name"), str):
        keys.append(("function", legacy["name"]))
    return keys


def _awaited(message: Mapping[str, Any], waiting: dict[CallKey, int]) -> int:
    """Place of the call that this result answers, which then waits no longer; or -1."""
    call_id = message.get("tool_call_id")
    if isinstance(call_id, str):
        return waiting.pop(call_id, -1)
    name = message.get("name")
    if isinstance(name, str):
        return waiting.pop(("function", name), -1)
    return -1
