"""
Reads the header of a GGUF file: what a model says of itself, without its weights.

A file from a stranger may lie: every length is checked against what is there and against a bound before
anything is read or kept, arrays are walked and not believed, nothing recurses.

Source: the GGUF specification (ggml, `docs/gguf.md`), versions 2 and 3, both byte orders.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

Scalar = int | float | bool | str
Value = Scalar | list[Scalar]

_MAGIC = b"GGUF"
_MOST_ENTRIES = 16_384
_MOST_KEY_BYTES = 1_024
_MOST_TEXT_BYTES = 4 * 1024 * 1024
_MOST_ITEMS = 4_194_304
_MOST_KEPT_ITEMS = 4_096
_STRING, _ARRAY, _BOOL = 8, 9, 7
_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    10: "Q",
    11: "q",
    12: "d",
    7: "?",
}
_SIZES = {kind: struct.calcsize("<" + sign) for kind, sign in _FORMATS.items()}


class NotGguf(ValueError):
    """It is no GGUF file, or one that cannot be read; the message says why."""


class MoreNeeded(NotGguf):
    """The header goes on beyond the bytes that were given."""


@dataclass(frozen=True, slots=True)
class Header:
    """
    What stands before the weights.

    Attributes:
        version: 2 or 3.
        tensor_count: as the file says.
        metadata: by key. Arrays of more than 4,096 items are left out unless they were asked for.
    """

    version: int
    tensor_count: int
    metadata: Mapping[str, Value]


def read_header(data: bytes, *, keep: frozenset[str] = frozenset()) -> Header:
    """
    Read the header at the beginning of *data*.

    Args:
        data: the first bytes of a file.
        keep: keys whose long arrays are wanted too (`tokenizer.ggml.tokens`).

    Raises:
        MoreNeeded: more of the file is needed.
        NotGguf: it cannot be read.
    """
    if len(data) < 24:
        if data[:4] != _MAGIC[: len(data)]:
            raise NotGguf("it does not begin with GGUF")
        raise MoreNeeded("the header is not complete")
    if data[:4] != _MAGIC:
        raise NotGguf("it does not begin with GGUF")
    order = "<" if data[4:6] != b"\0\0" else ">"
    (version,) = struct.unpack_from(order + "I", data, 4)
    if version not in (2, 3):
        raise NotGguf(f"its version is {version}, and versions 2 and 3 are known")
    tensors, entries = struct.unpack_from(order + "QQ", data, 8)
    if entries > _MOST_ENTRIES:
        raise NotGguf(f"it claims {entries} entries, more than {_MOST_ENTRIES}")
    reader = _Reader(data, 24, order)
    metadata: dict[str, Value] = {}
    for _ in range(entries):
        key = reader.text(_MOST_KEY_BYTES)
        value = reader.value(key in keep)
        if value is not None:
            metadata[key] = value
    return Header(version, tensors, metadata)


class _Reader:
    """A place in the bytes of a header."""

    def __init__(self, data: bytes, at: int, order: str) -> None:
        self._data = data
        self._at = at
        self._number = struct.Struct(order + "I")
        self._length = struct.Struct(order + "Q")
        self._order = order

    def text(self, most: int) -> str:
        size = self._take(self._length)
        if size > most:
            raise NotGguf(f"it claims a text of {size} bytes, more than {most}")
        end = self._at + size
        if end > len(self._data):
            raise MoreNeeded("the header is not complete")
        raw = self._data[self._at : end]
        self._at = end
        return raw.decode("utf-8", "replace")

    def value(self, wanted: bool) -> Value | None:
        kind = self._take(self._number)
        if kind == _STRING:
            return self.text(_MOST_TEXT_BYTES)
        if kind != _ARRAY:
            return self._scalars(kind, 1)[0]
        kind, count = self._take(self._number), self._take(self._length)
        if count > _MOST_ITEMS:
            raise NotGguf(f"it claims an array of {count} items, more than {_MOST_ITEMS}")
        kept = wanted or count <= _MOST_KEPT_ITEMS
        if kind == _STRING:
            return self._texts(count, kept)
        if kind == _ARRAY:
            raise NotGguf("it has an array of arrays, which no model has")
        if not kept:
            self._skip(self._size(kind) * count)
            return None
        return self._scalars(kind, count)

    def _texts(self, count: int, kept: bool) -> list[Scalar] | None:
        if kept:
            return [self.text(_MOST_TEXT_BYTES) for _ in range(count)]
        for _ in range(count):
            self._skip(self._take(self._length))
        return None

    def _scalars(self, kind: int, count: int) -> list[Scalar]:
        size = self._size(kind) * count
        if self._at + size > len(self._data):
            raise MoreNeeded("the header is not complete")
        found = struct.unpack_from(f"{self._order}{count}{_FORMATS[kind]}", self._data, self._at)
        self._at += size
        return list(found)

    def _size(self, kind: int) -> int:
        size = _SIZES.get(kind)
        if size is None:
            raise NotGguf(f"it has a value of the unknown type {kind}")
        return size

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise MoreNeeded("the header is not complete")
        self._at += size

    def _take(self, what: struct.Struct) -> int:
        if self._at + what.size > len(self._data):
            raise MoreNeeded("the header is not complete")
        (found,) = what.unpack_from(self._data, self._at)
        self._at += what.size
        return int(found)
