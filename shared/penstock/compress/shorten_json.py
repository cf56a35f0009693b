"""
JSON that keeps its shape: of long arrays the first and last elements, of long strings both ends.

Numbers keep their digits and keys their order. The result is valid JSON; where elements or keys are
missing stands a text that says so. Walked with a stack of its own: what a tool returns may be nested deeply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

# (elements or keys of a container, signs of a string): the first of these that fits is taken.
_LEVELS = (
    (2000, 8000),
    (600, 8000),
    (200, 6000),
    (96, 4000),
    (64, 2000),
    (48, 1000),
    (32, 600),
    (24, 400),
    (16, 300),
    (12, 200),
    (8, 120),
    (6, 80),
    (4, 60),
    (3, 40),
    (2, 24),
)
_HEAD_SHARE = 0.7


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def sampled(text: str, most_bytes: int, gone: str) -> str | None:
    """The JSON value in *text* in at most *most_bytes*, or None: no JSON, or it cannot be made to fit."""
    if not text.lstrip()[:1] in ("[", "{"):
        return None
    try:
        value = json.loads(text, parse_float=_Number, parse_constant=_refused)
    except (ValueError, RecursionError):  # no JSON, NaN, a number of thousands of digits, too deep
        return None
    for elements, signs in _LEVELS:
        made = _written(value, elements, signs, gone, most_bytes)
        if made is not None:
            return made
    return None


def _refused(name: str) -> Any:
    raise ValueError(name)


def _written(value: Any, elements: int, signs: int, gone: str, most_bytes: int) -> str | None:
    """The value as JSON with these limits; None as soon as it is too large."""
    pieces: list[str] = []
    size = 0
    stack: list[Iterator[tuple[str, Any]]] = [iter([("", value)])]
    closers: list[str] = []
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            piece = closers.pop() if closers else ""
        else:
            before, item = step
            if isinstance(item, dict):
                piece = before + "{"
                closers.append("}")
                stack.append(_members(item, elements, gone))
            elif isinstance(item, list):
                piece = before + "["
                closers.append("]")
                stack.append(_elements(item, elements, gone))
            else:
                piece = before + _scalar(item, signs, gone)
        pieces.append(piece)
        size += len(piece.encode("utf-8", "surrogatepass"))
        if size > most_bytes:
            return None
    return "".join(pieces)


def _elements(items: list[Any], most: int, gone: str) -> Iterator[tuple[str, Any]]:
    head, tail = _ends(len(items), most)
    for index in range(head):
        yield ("," if index else ""), items[index]
    if tail < len(items) - head:
        yield ",", gone
    for index in range(len(items) - tail, len(items)):
        yield ("," if index else ""), items[index]


def _members(members: dict[str, Any], most: int, gone: str) -> Iterator[tuple[str, Any]]:
    # Objects have a shape by their keys: these are kept longer than elements of arrays.
    head, tail = _ends(len(members), most * 3)
    comma = ""
    for index, (key, item) in enumerate(members.items()):
        if index == head and head < len(members) - tail:
            yield f"{comma}{_quoted('...')}:", gone
        if index < head or index >= len(members) - tail:
            yield f"{comma}{_quoted(key)}:", item
        comma = ","


def _ends(count: int, most: int) -> tuple[int, int]:
    """How many of the first and of the last are kept; all of them are first when none is left out."""
    if count <= most:
        return count, 0
    head = max(1, round(most * _HEAD_SHARE))
    return head, most - head


def _scalar(item: Any, signs: int, gone: str) -> str:
    if isinstance(item, _Number):
        return item
    if isinstance(item, str):
        if len(item) > signs + len(gone):
            head = max(1, int(signs * _HEAD_SHARE))
            item = f"{item[:head]} {gone} {item[len(item) - (signs - head) :]}"
        return _quoted(item)
    return json.dumps(item)


def _quoted(text: str) -> str:
    written = json.dumps(text, ensure_ascii=False)
    # Half a surrogate pair can only travel escaped.
    return written if written.isascii() or _encodable(written) else json.dumps(text)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
