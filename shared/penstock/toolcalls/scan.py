"""
Reads the arguments of a call while they are being written, and tells how far they cannot need repair.

`safe` is the length of the beginning that can go on to the client: it is JSON so far, and every value in it
is of the kind that the schema wants. It stops before the first thing that may be wrong and then stays there
(`stuck`). It also waits for a moment where only the next sign tells: a comma counts when the next member has
begun, a closing quotation mark when what follows shows that it closed something. So whatever the repair
turns out to be, what stands before `safe` never has to be taken back.

Strings flow; keys, numbers, words and values from a list are judged whole, which is soon.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import orjson

from penstock.toolcalls.expect import (
    ANYTHING,
    Expectations,
    Place,
    Unclear,
    allows,
    is_listed,
    narrow,
)
from penstock.toolcalls.schema import ToolSchema

_DEEPEST = 200
_LONGEST_TOKEN = 1024
_SPACE = re.compile(r"[ \t\n\r]*+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*+')
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_WORD = re.compile(r"[^\s,\[\]{}:\"]*+")
_ESCAPE = re.compile(
    r'\\(?:["\\/bfnrt]|u(?:[0-9a-cA-Cef-fE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))"
)
_LONGEST_ESCAPE = 12
_BEGUN_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,4}(?:\\(?:u[0-9a-fA-F]{0,4})?)?)?\Z")


class _State(Enum):
    VALUE = auto()  # of a member, or the arguments as a whole
    FIRST_KEY = auto()
    KEY = auto()  # behind a comma that does not count yet
    COLON = auto()
    FIRST_ITEM = auto()
    ITEM = auto()  # behind a comma that does not count yet
    STRING = auto()
    QUOTE = auto()  # behind a quotation mark that does not count yet
    AFTER = auto()
    DONE = auto()


_UNDECIDED = frozenset({_State.KEY, _State.ITEM, _State.QUOTE})


class _Frame:
    __slots__ = ("count", "is_object", "place")

    def __init__(self, place: Place, *, is_object: bool) -> None:
        self.place = place
        self.is_object = is_object
        self.count = 0


class ArgumentScanner:
    """
    Follows one call's arguments.

    Args:
        tool: whose; None for a tool that was not offered: then only the JSON is followed.

    Attributes:
        safe: characters that can go on.
        stuck: the rest has to be held until the call has ended.
        done: where the arguments ended, None while they have not. `safe` stays before that end until
            `accept`: that is the moment to judge them as a whole.
    """

    __slots__ = (
        "_base",
        "_buffer",
        "_expect",
        "_frames",
        "_place",
        "_state",
        "done",
        "safe",
        "stuck",
    )

    def __init__(self, tool: ToolSchema | None) -> None:
        usable = tool is not None and tool.usable and tool.schema
        self._expect = Expectations(
            tool.schema if tool is not None and usable and tool.schema else {}
        )
        self._frames: list[_Frame] = []
        self._place: Place = ANYTHING
        self._state = _State.VALUE
        self._buffer = ""
        self._base = 0
        self.safe = 0
        self.stuck = False
        self.done: int | None = None
        try:
            self._place = self._expect.start()
        except Unclear:
            self.stuck = True

    def accept(self) -> None:
        """The arguments that are `done` were judged and are right."""
        assert self.done is not None
        self.safe = self.done
        self._go_on()

    def feed(self, text: str) -> None:
        """Take in the next fragment."""
        if self.stuck:
            return
        self._buffer += text
        if self.done is None or self.safe >= self.done:
            self._go_on()

    def _go_on(self) -> None:
        buffer, at = self._buffer, 0
        try:
            while at < len(buffer):
                before, state = at, self._state
                at = self._step(buffer, at)
                if at == before and self._state is state:
                    break  # the next sign tells
                if self.done is not None and self.safe < self.done:
                    break  # somebody has to judge
        except Unclear:
            self.stuck = True
            self._buffer = ""
            return
        self._buffer = buffer[at:]
        self._base += at

    def _step(self, text: str, at: int) -> int:
        """Read one token, return where the next begins; raises `Unclear` for what has to be held."""
        state = self._state
        if state is _State.STRING:
            return self._string(text, at)
        found = _SPACE.match(text, at)
        if found is not None and found.end() > at:
            end = found.end()
            if state not in _UNDECIDED:
                self.safe = self._base + end
            return end
        sign = text[at]
        if state is _State.AFTER or state is _State.QUOTE:
            return self._after(sign, at)
        if state is _State.COLON:
            if sign != ":":
                raise Unclear
            self._state = _State.VALUE
            return self._passed(at + 1)
        if state is _State.KEY or state is _State.FIRST_KEY:
            if sign == "}" and state is _State.FIRST_KEY:
                return self._close(at)
            return self._key(text, at)
        if state is _State.DONE:
            raise Unclear
        if sign == "]" and state is _State.FIRST_ITEM:
            return self._close(at)
        return self._value(text, at, sign)

    def _passed(self, at: int) -> int:
        self.safe = self._base + at
        return at

    def _string(self, text: str, at: int) -> int:
        found = _PLAIN.match(text, at)
        if found is not None and found.end() > at:
            return self._passed(found.end())
        if text[at] == '"':
            self._state = _State.QUOTE
            return at + 1
        escape = _ESCAPE.match(text, at)
        if escape is not None:
            return self._passed(escape.end())
        if _BEGUN_ESCAPE.match(text, at, at + _LONGEST_ESCAPE) is None:
            raise Unclear  # a control character as it is, an escape that JSON has not
        return at

    def _whole_string(self, text: str, at: int) -> tuple[str, int] | None:
        """The string that begins at *at*; None while it has not ended."""
        if text[at] != '"':
            raise Unclear
        found = _STRING.match(text, at)
        if found is None:
            if len(text) - at > _LONGEST_TOKEN:
                raise Unclear
            return None
        try:
            return orjson.loads(found.group()), found.end()
        except orjson.JSONDecodeError as exc:
            raise Unclear from exc

    def _key(self, text: str, at: int) -> int:
        whole = self._whole_string(text, at)
        if whole is None:
            return at
        key, end = whole
        self._place = self._expect.member(self._frames[-1].place, key)
        self._state = _State.COLON
        return self._passed(end)

    def _value(self, text: str, at: int, sign: str) -> int:
        place = self._place
        if self._frames and not self._frames[-1].is_object:
            place = self._expect.item(self._frames[-1].place, self._frames[-1].count)
        if not self._frames and sign != "{":
            raise Unclear  # arguments are an object
        if sign == "{" or sign == "[":
            is_object = sign == "{"
            below = narrow(place, "object" if is_object else "array")
            if below is None or len(self._frames) >= _DEEPEST:
                raise Unclear
            self._frames.append(_Frame(below, is_object=is_object))
            self._state = _State.FIRST_KEY if is_object else _State.FIRST_ITEM
            return self._passed(at + 1)
        if sign == '"':
            below = narrow(place, "string")
            if below is None:
                raise Unclear
            if not is_listed(below):
                self._state = _State.STRING
                return self._passed(at + 1)
            whole = self._whole_string(text, at)
            if whole is None:
                return at
            if not allows(below, whole[0]):
                raise Unclear
            self._state = _State.QUOTE
            return whole[1]
        return self._word(text, at, place)

    def _word(self, text: str, at: int, place: Place) -> int:
        """A number, `true`, `false` or `null`."""
        found = _WORD.match(text, at)
        end = at if found is None else found.end()
        if end == len(text) and end - at <= _LONGEST_TOKEN and end > at:
            return at
        try:
            value = orjson.loads(text[at:end])
        except orjson.JSONDecodeError as exc:
            raise Unclear from exc
        kind = "boolean" if isinstance(value, bool) else "null" if value is None else "number"
        below = narrow(place, kind)
        if below is None or not allows(below, value):
            raise Unclear
        self._state = _State.AFTER
        return self._passed(end)

    def _after(self, sign: str, at: int) -> int:
        frame = self._frames[-1]
        if sign == ",":
            if self._state is _State.QUOTE:
                self.safe = self._base + at
            frame.count += 1
            self._state = _State.KEY if frame.is_object else _State.ITEM
            return at + 1
        if sign != ("}" if frame.is_object else "]"):
            raise Unclear
        if self._state is _State.QUOTE:
            self.safe = self._base + at
        return self._close(at)

    def _close(self, at: int) -> int:
        self._frames.pop()
        if not self._frames:
            self._state = _State.DONE
            self.done = self._base + at + 1
            return at + 1
        self._state = _State.AFTER
        return self._passed(at + 1)
