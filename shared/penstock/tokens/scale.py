"""
Weighs the messages of one model at one upstream, remembering each: a request costs its new messages.

Memory is bounded by entries: two generations, of which the older one goes when the younger is full, so a
look costs one dictionary access and no bookkeeping. Nothing here is needed for correctness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from penstock.tokens.families import factors
from penstock.tokens.measure import measure_packed
from penstock.tokens.message import Countable, countable, json_bytes, json_text, message_key
from penstock.tokens.mix import MASK, Lane, Mix, packed
from penstock.tokens.overhead import Overhead

# What a template renders beside the messages. A `response_format` is none of it: servers turn it into a
# grammar.
_RENDERED = ("tools", "functions")
_MOST_ENTRIES = 65_536
_MOST_TOOLSETS = 512
_INLINE_BYTES = 16_384


class Counts(Protocol):
    """A vocabulary that counts exactly."""

    def count(self, text: str) -> int:
        """Tokens of *text*."""
        ...


class Weighed(NamedTuple):
    """
    What the messages of a conversation weigh.

    Attributes:
        tokens: one weight for each message, what the template adds included.
        uncounted: places whose weight is only the upper bound: the server can count them and has not.
        mix: what all of them together are made of.
        edition: of the scale; what was weighed by another one holds no more.
    """

    tokens: list[int]
    uncounted: list[int]
    mix: Mix
    edition: int = 0


class Scale:
    """
    Weights of the messages of one model at one upstream.

    Args:
        exact: the server counts: a message that was not counted yet weighs its upper bound (one token
            per byte of UTF-8 and the template), and is named in `Weighed.uncounted`.
        family: see `penstock.tokens.families.family_of`.
        overhead: what the template adds.
        vocabulary: counts at once what is short; long messages are left to the caller (`uncounted`).
        most_entries: messages remembered, about 150 bytes each.
    """

    def __init__(
        self,
        *,
        exact: bool,
        family: str = "",
        overhead: Overhead | None = None,
        vocabulary: Counts | None = None,
        most_entries: int = _MOST_ENTRIES,
    ) -> None:
        self.exact = exact or vocabulary is not None
        self.family = family
        self.overhead = overhead or Overhead()
        self.vocabulary = vocabulary
        self._factors = factors(family)
        self._half = max(1, most_entries // 2)
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._tools: dict[int, int] = {}
        self.edition = 0

    def weigh(self, messages: Sequence[Mapping[str, Any]]) -> Weighed:
        """What each of *messages* weighs."""
        get = self._young.get
        found = []
        keys = []
        for message in messages:
            content = message.get("content")
            role = message.get("role")
            simple = type(content) is str and type(role) is str and len(message) == 2
            key = hash((role, content)) if simple else message_key(message)
            one = get(key)
            if one is None:
                one = self._missed(key, message, simple)
                get = self._young.get
            found.append(one)
            keys.append(key)
        total = sum(found)
        uncounted = []
        if total >= _UNCOUNTED:  # it is the highest lane
            uncounted = [at for at, one in enumerate(found) if one >= _UNCOUNTED]
        mix = Mix(total, tuple(keys))
        return Weighed([one & MASK for one in found], uncounted, mix, self.edition)

    def weigh_one(self, message: Mapping[str, Any]) -> tuple[int, bool]:
        """What *message* weighs, and whether that is as good as it gets (not just an upper bound)."""
        weighed = self.weigh((message,))
        return weighed.tokens[0], not weighed.uncounted

    def weigh_tools(self, body: Mapping[str, Any], key: int | None = None) -> tuple[int, bool]:
        """
        What the tools of *body* weigh, and whether that is as good as it gets.

        Args:
            key: their `tools_key`, where it is known already.
        """
        one = self._toolset(body, tools_key(body) if key is None else key)
        return one & MASK, one < _UNCOUNTED

    def weigh_request(
        self, messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any], key: int | None = None
    ) -> Mix:
        """What a whole request is made of: its messages, tools, and what the template adds once."""
        return self.whole(self.weigh(messages), body, key)

    def whole(self, weighed: Weighed, body: Mapping[str, Any], key: int | None = None) -> Mix:
        """The same for messages that were weighed already; *key* as for `weigh_tools`."""
        mix = weighed.mix
        tools = tools_key(body) if key is None else key
        once = _REQUEST + self._added(self.overhead.base)
        return Mix(mix.packed + self._toolset(body, tools) + once, (tools, *mix.keys))

    def learn(self, message: Mapping[str, Any], tokens: int) -> None:
        """The texts of *message* (`countable`) have so many *tokens* by the server's count."""
        self._keep(message_key(message), self._counted(message, countable(message), tokens))

    def learn_tools(self, body: Mapping[str, Any], tokens: int) -> None:
        """The tools of *body* cost so many *tokens*, everything included."""
        key = tools_key(body)
        if key:
            self._keep_tools(key, packed(Lane.COUNTED, tokens) | tokens)

    def forget(self) -> None:
        """The model or its template is another one: nothing that was counted holds any more."""
        self._young, self._old, self._tools = {}, {}, {}
        self.edition += 1

    def __len__(self) -> int:
        """Messages that are remembered."""
        return len(self._young) + len(self._old)

    def _missed(self, key: int, message: Mapping[str, Any], simple: bool) -> int:
        one = self._old.get(key)
        if one is None and simple and not self.exact:
            one = self._simple(message["role"], message["content"])
        elif one is None:
            parts = countable(message)
            if self.vocabulary is not None and _short(parts):
                count = self.vocabulary.count
                one = self._counted(message, parts, sum(count(text) for text in parts.texts))
            elif self.exact:
                # Not kept: it is weighed anew until its count comes.
                return self._upper(message, parts)
            else:
                one = self._measured(message, parts)
        self._keep(key, one)
        return one

    def _keep(self, key: int, one: int) -> None:
        if len(self._young) >= self._half and key not in self._young:
            self._old, self._young = self._young, {}
        self._young[key] = one

    def _around(self, message: Mapping[str, Any], parts: Countable) -> int:
        """What the template and pictures add, with its lanes."""
        overhead = self.overhead
        added = overhead.of_role(message.get("role")) if isinstance(message, Mapping) else 0
        one = _MESSAGE
        if parts.calls:
            added += parts.calls * overhead.per_call
            one += packed(Lane.CALLS, parts.calls)
        one += self._added(added)
        pictures = (
            parts.images * overhead.per_image
            + parts.small_images * overhead.per_small_image
            + parts.audio_or_other * overhead.per_other
        )
        if pictures:
            one += packed(Lane.PICTURES, pictures) + pictures
        return one

    def _added(self, tokens: int) -> int:
        """What the template adds; where that was measured it is as good as counted."""
        return tokens + packed(Lane.COUNTED, tokens) if self.overhead.measured else tokens

    def _counted(self, message: Mapping[str, Any], parts: Countable, tokens: int) -> int:
        return self._around(message, parts) + packed(Lane.COUNTED, tokens) + tokens

    def _measured(self, message: Mapping[str, Any], parts: Countable) -> int:
        one = self._around(message, parts)
        for text in parts.texts:
            one += measure_packed(text, self._factors)
        return one

    def _simple(self, role: str, content: str) -> int:
        """`_measured` for a message of a role and a text, the common case."""
        added = self.overhead.roles.get(role, self.overhead.per_message)
        return _MESSAGE + self._added(added) + measure_packed(content, self._factors)

    def _upper(self, message: Mapping[str, Any], parts: Countable) -> int:
        one = self._around(message, parts) + _UNCOUNTED
        for text in parts.texts:
            measured = measure_packed(text, self._factors)
            one += measured - (measured & MASK) + _size(text)
        return one

    def _toolset(self, body: Mapping[str, Any], key: int) -> int:
        if not key:
            return 0
        one = self._tools.get(key)
        if one is None:
            one = packed(Lane.TOOLSETS, 1) + self._added(self.overhead.toolset)
            if self.exact and self.vocabulary is None:
                one += _UNCOUNTED
            for name in _RENDERED:
                if body.get(name):
                    one += self._tool_text(json_text(body[name]))
            if one < _UNCOUNTED:
                self._keep_tools(key, one)
        return one

    def _tool_text(self, text: str) -> int:
        if self.vocabulary is not None:
            tokens = self.vocabulary.count(text)
            return packed(Lane.COUNTED, tokens) + tokens
        measured = measure_packed(text, self._factors)
        return measured - (measured & MASK) + _size(text) if self.exact else measured

    def _keep_tools(self, key: int, one: int) -> None:
        if len(self._tools) >= _MOST_TOOLSETS:
            self._tools.clear()
        self._tools[key] = one


_UNCOUNTED = packed(Lane.UNCOUNTED, 1)
_MESSAGE = packed(Lane.MESSAGES, 1)
_REQUEST = packed(Lane.REQUESTS, 1)


def tools_key(body: Mapping[str, Any]) -> int:
    """
    A key of all that the template renders beside the messages, good in this process; 0 where there is
    nothing. Tools are written out for it, kilobytes in a coding agent's requests: asked once for each.
    """
    if not (body.get("tools") or body.get("functions")):
        return 0
    return hash(json_bytes([body[name] for name in _RENDERED if body.get(name)])) or 1


def _short(parts: Countable) -> bool:
    return sum(map(len, parts.texts)) <= _INLINE_BYTES


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
