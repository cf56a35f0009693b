"""
When what is never dropped is still too much: images of the past go, tool results are shortened by their
content, then the largest texts lose their middle. System messages stay as they are.

The largest give first, down to one common level, so that equals are treated equally.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.compress.content import can_shrink, fill_level, has_images, shrunk, without_images
from penstock.compress.replay import shortening
from penstock.compress.segments import Segments
from penstock.compress.shorten import shorten, without_middle

Message = Mapping[str, Any]

# Smaller texts would say nothing.
_LEAST_TOKENS = 24
_ROUNDS = 3


class Squeeze:
    """
    Messages that are being made smaller.

    Attributes:
        replaced: {place: what stands in place of the original}.
        weights: {place of a kept message: its tokens now}.
        tokens: of all that is sent.
    """

    __slots__ = ("_messages", "_units", "_weigh", "replaced", "tokens", "weights")

    def __init__(
        self,
        messages: Sequence[Message],
        weights: dict[int, int],
        replaced: dict[int, Message],
        tokens: int,
        weigh: Callable[[Message], int],
        units: Segments,
    ) -> None:
        self._messages = messages
        self._units = units
        self._weigh = weigh
        self.weights = weights
        self.replaced = replaced
        self.tokens = tokens

    def to(self, most: int, *, window: int, shorten_last: bool) -> bool:
        """Make it at most *most* tokens; whether that was possible."""
        self._drop_images()
        tools = [p for p in self.weights if self._role(p) in ("tool", "function")]
        _, least = shortening(window)
        self._lower(tools, most, least, shorten)
        if shorten_last:
            self._lower(tools, most, _LEAST_TOKENS, shorten)
            said = [p for p in self.weights if self._role(p) not in ("system", "developer")]
            self._lower(said, most, _LEAST_TOKENS, without_middle)
        return self.tokens <= most

    def _role(self, place: int) -> Any:
        return self._messages[place].get("role")

    def _now(self, place: int) -> Message:
        return self.replaced.get(place, self._messages[place])

    def _drop_images(self) -> None:
        """Of all messages but the last round and the last of the user."""
        units = self._units
        if not units.start or units.latest_round[-1] < 0:
            return
        old = units.start[units.latest_round[-1]]
        asked = max(units.user_place)
        for place in self.weights:
            if place >= old or place == asked or self._role(place) in ("system", "developer"):
                continue
            if has_images(self._now(place)):
                self._replace(place, *self._bare(place))

    def _bare(self, place: int) -> tuple[Message, int]:
        bare = without_images(self._now(place))
        return bare, min(self._weigh(bare), self.weights[place])

    def _lower(
        self, places: Sequence[int], most: int, least: int, rule: Callable[[str, int], str]
    ) -> None:
        """Bring the largest of *places* to one level, not below *least*."""
        places = [place for place in places if can_shrink(self._now(place))]
        for _ in range(_ROUNDS):
            excess = self.tokens - most
            if excess <= 0 or not places:
                return
            sizes = [self.weights[place] for place in places]
            level = max(fill_level(sizes, sum(sizes) - excess), least)
            stuck = []
            for place in places:
                if self.weights[place] > level:
                    made, tokens = shrunk(
                        self._now(place), self.weights[place], level, self._weigh, rule
                    )
                    if tokens > level:
                        stuck.append(place)  # what weighs there is not its text
                    self._replace(place, made, tokens)
            places = [place for place in places if place not in stuck]

    def _replace(self, place: int, message: Message, tokens: int) -> None:
        self.tokens += tokens - self.weights[place]
        self.weights[place] = tokens
        self.replaced[place] = message
