"""
Conversations recognised by their prefix, and where consecutive requests of one differ.

A server's cache helps only as far as a request begins with the bytes of an earlier one. A client that
changes something near the beginning each time (a clock in the system message, a nonce) pays a full prefill
on every request without knowing. So the first difference to the previous request of the same conversation
is found and named.

Keys are Python's hashes: salted per process, which is all that a memory of one process needs. What is
remembered is bounded in conversations and bytes and can be lost at any time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

Message = Mapping[str, Any]

# Several conversations may begin with the same words; the ones seen last are compared.
_MOST_CANDIDATES = 8
_MESSAGE_BYTES = 300


@dataclass(frozen=True, slots=True)
class Difference:
    """
    The first place at which a request differs from the one before.

    Attributes:
        message: place of the message.
        role: of the earlier request's message there.
        byte: how many bytes (UTF-8) of its text are the same; None when it is not known any more or
            the texts do not differ.
        why: a sentence for people, without any of the text.
    """

    message: int
    role: str
    byte: int | None
    why: str


class PrefixReport(NamedTuple):
    """
    How a request goes on from the previous one of its conversation.

    Attributes:
        conversation: number of the conversation, for as long as it is remembered. One that parts from
            another behind a common beginning gets a number of its own.
        shared_messages: how many messages both begin with.
        previous_messages: how many the previous request had; 0 for the first of a conversation.
        first_difference: None when the previous request is the beginning of this one.
        before_last_turn: whether it lies before the previous request's last user message, so that more
            than a corrected question is computed again.
    """

    conversation: int
    shared_messages: int
    previous_messages: int
    first_difference: Difference | None = None
    before_last_turn: bool = False


def message_key(message: Message) -> int:
    """A key of one message, good in this process."""
    return _key_and_size(message)[0]


def head_key(messages: Sequence[Message]) -> int:
    """
    A key of the beginning up to the first user message, good in this process.

    It stays when a client compacts what follows.
    """
    key = 0
    for message in messages:
        key = hash((key, message_key(message)))
        if message.get("role") == "user":
            break
    return key


def chain(messages: Sequence[Message], scope: str = "") -> list[int]:
    """Keys of all prefixes: the one at *i* stands for the messages up to and with *i*, in this scope."""
    return _chained([*map(message_key, messages)], scope)


def _chained(each: list[int], scope: str) -> list[int]:
    keys: list[int] = []
    key = hash(scope)
    for one in each:
        key = hash((key, one))
        keys.append(key)
    return keys


@dataclass(slots=True)
class _Known:
    number: int
    head: tuple[str, int]  # scope and first user message
    keys: list[int]
    head_end: int  # messages up to and with the first of the user
    last_turn: int
    roles: list[str]
    messages: Sequence[Message] | None  # None: too large to be kept
    size_bytes: int


class Conversations:
    """The latest request of each conversation, the longest unseen forgotten first."""

    __slots__ = ("_by_end", "_by_head", "_known", "_most", "_most_bytes", "_next", "_size_bytes")

    def __init__(self, *, most: int = 256, most_bytes: int = 8 * 1024 * 1024) -> None:
        """
        Args:
            most: conversations that are remembered.
            most_bytes: of texts that are kept to find the byte that differs; beyond it only places are known.
        """
        self._most = most
        self._most_bytes = most_bytes
        self._size_bytes = 0
        self._next = 1
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._by_end: dict[int, int] = {}
        self._by_head: dict[tuple[str, int], list[int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    @property
    def size_bytes(self) -> int:
        """Bytes of texts that are held."""
        return self._size_bytes

    def seen(self, messages: Sequence[Message], scope: str = "") -> PrefixReport:
        """
        Note a request, and say how it goes on from the one before it.

        Args:
            messages: best as the client sent them: what we cut ourselves is no surprise.
            scope: keeps apart what never shares a cache: the client, the model.
        """
        # One look at each message: writing out those that are more than a text costs the most.
        looked = [*map(_key_and_size, messages)]
        keys = _chained([key for key, _ in looked], scope)
        users = [place for place, message in enumerate(messages) if message.get("role") == "user"]
        head = scope, looked[users[0]][0] if users else 0
        before, shared = self._find(keys, head)
        # Two conversations may begin alike: where they part, both are remembered.
        parted = before is not None and before.head_end <= shared < before.last_turn
        if before is None or parted:
            number = self._next
            self._next += 1
        else:
            number = before.number
            self._forget(number)
        report = _compare(number, before, messages, shared)
        size = sum([size for _, size in looked])
        kept: Sequence[Message] | None = messages
        if size > self._most_bytes // 4:
            kept, size = None, 0
        roles = [str(message.get("role"))[:20] for message in messages]
        head_end, last_turn = (users[0] + 1, users[-1]) if users else (0, 0)
        self._remember(_Known(number, head, keys, head_end, last_turn, roles, kept, size))
        return report

    def _find(self, keys: list[int], head: tuple[str, int]) -> tuple[_Known | None, int]:
        """The previous request, and how many messages are the same."""
        by_end = self._by_end
        for place in range(len(keys) - 1, -1, -1):
            number = by_end.get(keys[place])
            if number is not None and (known := self._known[number]).head == head:
                return known, place + 1
        best: _Known | None = None
        most = -1
        for number in reversed(self._by_head.get(head, ())):
            known = self._known[number]
            shared = _shared(known.keys, keys)
            if shared > most:
                best, most = known, shared
        return best, max(most, 0)

    def _remember(self, known: _Known) -> None:
        self._known[known.number] = known
        self._size_bytes += known.size_bytes
        if known.keys:
            self._by_end[known.keys[-1]] = known.number
        alike = self._by_head.setdefault(known.head, [])
        alike.append(known.number)
        if len(alike) > _MOST_CANDIDATES:
            del alike[0]
        while len(self._known) > self._most or self._size_bytes > self._most_bytes:
            self._forget(next(iter(self._known)))

    def _forget(self, number: int) -> None:
        known = self._known.pop(number)
        self._size_bytes -= known.size_bytes
        if known.keys and self._by_end.get(known.keys[-1]) == number:
            del self._by_end[known.keys[-1]]
        alike = self._by_head.get(known.head, [])
        if number in alike:
            alike.remove(number)
        if not alike:
            self._by_head.pop(known.head, None)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many prefixes are the same; by bisection, since a differing one makes all later ones differ."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def _compare(
    number: int, before: _Known | None, messages: Sequence[Message], shared: int
) -> PrefixReport:
    if before is None:
        return PrefixReport(number, 0, 0)
    previous = len(before.keys)
    if shared == previous:
        return PrefixReport(number, shared, previous)
    role = before.roles[shared]
    byte: int | None = None
    if shared == len(messages):
        why = f"the request ends before {role} message {shared}"
    else:
        why = f"{role} message {shared} differs"
        if before.messages is not None:
            byte = _same_bytes(before.messages[shared], messages[shared])
            why += f" at byte {byte}" if byte is not None else " beside its text"
    return PrefixReport(
        number, shared, previous, Difference(shared, role, byte, why), shared < before.last_turn
    )


def _same_bytes(one: Message, other: Message) -> int | None:
    """How many bytes the texts of two messages begin with; None where it is not their texts that differ."""
    first, second = _text(one), _text(other)
    if first == second:
        return None
    return len(_common(first, second).encode("utf-8", "surrogatepass"))


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _common(one: str, other: str) -> str:
    """What both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return one[:low]


def _key_and_size(message: Message) -> tuple[int, int]:
    """A message's key, and about what it takes in memory."""
    if len(message) == 2:
        content = message.get("content")
        role = message.get("role")
        if type(content) is str and type(role) is str:
            size = len(content) if content.isascii() else 3 * len(content)
            return hash((role, content)), _MESSAGE_BYTES + size
    written = _as_bytes(message)
    return hash(written), _MESSAGE_BYTES + 2 * len(written)


def _as_bytes(message: Message) -> bytes:
    try:
        return orjson.dumps(message)
    except TypeError:  # half a surrogate pair, a number of more than 64 bits
        return repr(message).encode("utf-8", "backslashreplace")
