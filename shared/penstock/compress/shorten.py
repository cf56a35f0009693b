"""
One text, shorter, by rules that depend on its own content and the wanted size only.

So the same tool result is shortened to the same bytes on every replica and in every later request. JSON
keeps its shape (`shorten_json`), logs and diffs keep the lines that matter (`shorten_lines`), of all else
the middle goes. Linear; the result is always valid Unicode where the text was.

What was made is remembered, within bounds: a growing conversation brings the same results with each request.
"""

from __future__ import annotations

import unicodedata
from collections import OrderedDict

from penstock.compress.shorten_json import sampled
from penstock.compress.shorten_lines import telling_lines

GONE = "[... left out ...]"
_GAP = f"\n{GONE}\n"
# What a reader needs first stands at the beginning, what it led to at the end.
_HEAD_SHARE = 0.6
# How far a cut moves to fall between lines, as a share of the piece, and between characters, in signs.
_LINE_SHARE = 0.2
_MOST_SIGNS = 32


def size_bytes(text: str) -> int:
    """Bytes of the text in UTF-8."""
    return len(text) if text.isascii() else len(_encoded(text))


class _Memory:
    """Texts made lately, the oldest forgotten first. Keys hold no text: a hash and the length stand for it."""

    __slots__ = ("_made", "_size")

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[int, int, int], str] = OrderedDict()
        self._size = 0

    def get(self, key: tuple[int, int, int]) -> str | None:
        """What was made."""
        return self._made.get(key)

    def put(self, key: tuple[int, int, int], made: str) -> None:
        """Remember it for a while."""
        if key in self._made:
            return
        self._made[key] = made
        self._size += len(made) + _ENTRY_SIGNS
        while self._size > _MOST_SIGNS_KEPT:
            _, forgotten = self._made.popitem(last=False)
            self._size -= len(forgotten) + _ENTRY_SIGNS


_MOST_SIGNS_KEPT = 2_000_000
_ENTRY_SIGNS = 200
_memory = _Memory()


def shorten(text: str, most_bytes: int) -> str:
    """
    The text in at most *most_bytes* of UTF-8; the same text when it is not larger.

    A size too small for anything of the text beside the mark gives the beginning of the text alone.
    """
    if size_bytes(text) <= most_bytes:
        return text
    key = hash(text), len(text), most_bytes
    made = _memory.get(key)
    if made is None:
        made = _shortened(text, most_bytes)
        _memory.put(key, made)
    return made


def _shortened(text: str, most_bytes: int) -> str:
    for rule in (sampled, telling_lines):
        made = rule(text, most_bytes, GONE)
        if made is not None and size_bytes(made) <= most_bytes:
            return made
    return without_middle(text, most_bytes)


def without_middle(text: str, most_bytes: int) -> str:
    """Both ends of the text in at most *most_bytes* of UTF-8; the same text when it is not larger."""
    if size_bytes(text) <= most_bytes:
        return text
    room = most_bytes - len(_GAP)
    if room < len(_GAP):
        return head(text, most_bytes)
    head_bytes = int(room * _HEAD_SHARE)
    return head(text, head_bytes) + _GAP + tail(text, room - head_bytes)


def head(text: str, most_bytes: int) -> str:
    """The beginning in at most *most_bytes*, up to the end of a line where one is near."""
    end = _boundary(text, _signs(text, most_bytes, from_end=False))
    line = text.rfind("\n", end - int(end * _LINE_SHARE), end)
    return text[: line if line > 0 else end]


def tail(text: str, most_bytes: int) -> str:
    """The end in at most *most_bytes*, from the beginning of a line where one is near."""
    count = _signs(text, most_bytes, from_end=True)
    start = _boundary(text, len(text) - count, forward=True)
    line = text.find("\n", start, start + int(count * _LINE_SHARE))
    return text[line + 1 if line >= 0 else start :]


def _signs(text: str, most_bytes: int, *, from_end: bool) -> int:
    """How many code points of one end fit."""
    if most_bytes <= 0:
        return 0
    if text.isascii():
        return min(most_bytes, len(text))
    piece = (
        text[-most_bytes:] if from_end else text[:most_bytes]
    )  # a code point takes a byte or more
    data = _encoded(piece)
    if len(data) <= most_bytes:
        return len(piece)
    if from_end:
        start = len(data) - most_bytes
        while start < len(data) and data[start] & 0xC0 == 0x80:
            start += 1
        return len(data[start:].decode("utf-8", "surrogatepass"))
    end = most_bytes
    while end > 0 and data[end] & 0xC0 == 0x80:
        end -= 1
    return len(data[:end].decode("utf-8", "surrogatepass"))


def _encoded(text: str) -> bytes:
    # JSON may carry half a surrogate pair; it is passed on as it came.
    return text.encode("utf-8", "surrogatepass")


def _boundary(text: str, place: int, *, forward: bool = False) -> int:
    """*place*, moved so that no sign is parted from what belongs to it. Towards less text, never more."""
    step = 1 if forward else -1
    moved = place
    for _ in range(_MOST_SIGNS):
        if not 0 < moved < len(text) or not _clings(text[moved - 1], text[moved]):
            return moved
        moved += step
    return place


def _clings(before: str, after: str) -> bool:
    """Whether *after* is drawn as one with *before*."""
    code = ord(after)
    if code < 0x300:
        return before == "\r" and after == "\n"
    return (
        unicodedata.combining(after) != 0
        or unicodedata.category(after) in ("Mn", "Me", "Mc")
        or code == 0x200D  # joins two emoji
        or ord(before) == 0x200D
        or 0x1F3FB <= code <= 0x1F3FF  # colour of skin
        or (0x1F1E6 <= code <= 0x1F1FF and 0x1F1E6 <= ord(before) <= 0x1F1FF)  # flags are pairs
        or (0xDC00 <= code <= 0xDFFF and 0xD800 <= ord(before) <= 0xDBFF)
    )
