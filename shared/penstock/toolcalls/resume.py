"""
Ends a JSON text that has begun in another way than it was going to.

When a call turns out to need repair, its beginning is with the client already. The repaired arguments must
then go on from there: `ending` writes what is missing, and declines when the beginning says something else
than the repaired value does.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from penstock.toolcalls.jsontext import value_end, write

_SPACE = re.compile(r"[ \t\n\r]*+")


class _Frame:
    __slots__ = ("comma", "key", "value", "written")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.written: dict[Any, None] = {}  # keys, or numbers of elements
        self.key: Any = None  # whose value comes next
        self.comma = False


class _Differs(Exception):
    """The beginning does not lead to the value."""


def ending(begun: str, value: Any) -> str | None:
    """
    The text that makes *begun* into JSON for *value*.

    Args:
        begun: a beginning of a JSON text that ends between tokens, or inside a string between its signs.

    Returns:
        None when there is no such text.
    """
    try:
        return _Walk(begun, value).rest()
    except (_Differs, ValueError, IndexError):
        return None


class _Walk:
    def __init__(self, begun: str, value: Any) -> None:
        self._text = begun
        self._value = value
        self._at = 0
        self._frames: list[_Frame] = []
        self._begun_string = ""  # what is missing of the string that *begun* ends in
        self._complete = False

    def rest(self) -> str:
        if self._skip():
            return write(self._value)
        self._open_or_compare(self._value)
        while not self._complete and not self._skip():
            if not self._frames:
                raise _Differs  # something stands behind the value
            self._step(self._frames[-1])
        if self._complete:
            if not self._skip():
                raise _Differs
            return ""
        return self._begun_string + "".join(self._closings())

    def _skip(self) -> bool:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found is not None else self._at
        return self._at >= len(self._text)

    def _step(self, frame: _Frame) -> None:
        sign = self._text[self._at]
        is_object = isinstance(frame.value, dict)
        if frame.key is not None:
            if is_object and sign == ":" and frame.key not in frame.written:
                self._at += 1
                frame.written[frame.key] = None
                return
            if is_object and frame.key not in frame.written:
                raise _Differs
            key, frame.key = frame.key, None
            self._open_or_compare(frame.value[key])
        elif sign == ("}" if is_object else "]"):
            if len(frame.written) != len(frame.value) or frame.comma:
                raise _Differs
            self._at += 1
            self._frames.pop()
            self._complete = not self._frames
        elif sign == ",":
            if frame.comma or not frame.written:
                raise _Differs
            self._at += 1
            frame.comma = True
        elif frame.written and not frame.comma:
            raise _Differs
        elif is_object:
            end = value_end(self._text, self._at)
            key = orjson.loads(self._text[self._at : end])
            if key not in frame.value or key in frame.written:
                raise _Differs
            self._at = end
            frame.key, frame.comma = key, False
        else:
            number = len(frame.written)
            if number >= len(frame.value):
                raise _Differs
            frame.written[number] = None
            frame.comma = False
            self._open_or_compare(frame.value[number])

    def _open_or_compare(self, value: Any) -> None:
        """Go into a container that begins here, pass a scalar that is *value*."""
        sign = self._text[self._at]
        if sign in "{[":
            if not isinstance(value, dict if sign == "{" else list):
                raise _Differs
            self._frames.append(_Frame(value))
            self._at += 1
            return
        try:
            end = value_end(self._text, self._at)
        except ValueError:
            self._end_string(value)
            return
        found = orjson.loads(self._text[self._at : end])
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise _Differs
        self._at = end

    def _end_string(self, value: Any) -> None:
        said = orjson.loads(self._text[self._at :] + '"')
        if not isinstance(value, str) or not value.startswith(said):
            raise _Differs
        self._begun_string = write(value[len(said) :])[1:]
        self._at = len(self._text)

    def _closings(self) -> list[str]:
        """What is missing of all containers, from the inside out."""
        out: list[str] = []
        for frame in reversed(self._frames):
            if isinstance(frame.value, dict):
                if frame.key is not None:  # its value has not begun
                    out.append("" if frame.key in frame.written else ":")
                    frame.written[frame.key] = None
                    out.append(write(frame.value[frame.key]))
                missing = [
                    f"{write(key)}:{write(inner)}"
                    for key, inner in frame.value.items()
                    if key not in frame.written
                ]
                close = "}"
            else:
                missing = [write(inner) for inner in frame.value[len(frame.written) :]]
                close = "]"
            if frame.comma and not missing:
                raise _Differs
            lead = "," if missing and frame.written and not frame.comma else ""
            out.append(lead + ",".join(missing) + close)
        return out
