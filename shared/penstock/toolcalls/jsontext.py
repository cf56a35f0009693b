"""
JSON as text: where values stand in it, where it ends too early, how a value is written back.

Arguments of calls are judged as text, because what is right in them must stay byte for byte. Nothing here
recurses: how deep a text nests is up to a model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

# Possessive quantifiers: a megabyte of string is one step and never tried twice.
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_ANY_TOKEN = re.compile(rf"{_STRING}|[\[\]{{}},:]|[^\s\[\]{{}},:\"]++", re.DOTALL)
_VALUE_END = re.compile(r"[^\s,\[\]{}:\"]*+")
_HALF = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\n\r]*+")
_STRING_AT = re.compile(_STRING, re.DOTALL)
_OPEN_STRICT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_OPEN_LENIENT = re.compile(
    r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|' r"'[^'\\]*+(?:\\.[^'\\]*+)*+(?:'|\\?\Z)|[\[\]{}]",
    re.DOTALL,
)


def parse(text: str) -> Any:
    """
    The value of a JSON text.

    Raises:
        ValueError: it is none, nests deeper than 1,024, or holds what no Python float or UTF-8 can.
    """
    return orjson.loads(text)


def is_unterminated(text: str) -> bool:
    """
    Whether *text* ends inside a string or with open brackets, so that it may have been cut off.

    In a text that is not quite JSON quotes can be read in two ways; one that finds it open is enough.
    """
    return _is_open(text, _OPEN_STRICT) or ("'" in text and _is_open(text, _OPEN_LENIENT))


def _is_open(text: str, tokens: re.Pattern[str]) -> bool:
    depth = 0
    for found in tokens.finditer(text):
        token = found.group()
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        elif found.end() == len(text) and not _closes(token):
            return True
    return depth > 0


def _closes(string: str) -> bool:
    """Whether a string that ends with the text ends by a quote of its own."""
    return len(string) > 1 and string[-1] == string[0] and not _is_escaped(string)


def _is_escaped(string: str) -> bool:
    body = string[1:-1]
    return (len(body) - len(body.rstrip("\\"))) % 2 == 1


def skip_space(text: str, at: int) -> int:
    """The first place from *at* on that is not white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def value_end(text: str, at: int) -> int:
    """
    Where the JSON value that begins at *at* ends.

    Raises:
        ValueError: it does not end.
    """
    first = text[at : at + 1]
    if first == '"':
        found = _STRING_AT.match(text, at)
        if found is None:
            raise ValueError("a string that does not end")
        return found.end()
    if first not in ("[", "{"):
        plain = _VALUE_END.match(text, at)
        end = plain.end() if plain else at
        if end == at:
            raise ValueError("no value")
        return end
    depth = 0
    for token in _TOKEN.finditer(text, at):
        sign = token.group()
        if sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
            if depth == 0:
                return token.end()
    raise ValueError("brackets that do not close")


def tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """Each token of valid JSON: its first sign, begin and end."""
    for found in _ANY_TOKEN.finditer(text):
        begin = found.start()
        yield text[begin], begin, found.end()


def members(text: str, at: int) -> Iterator[tuple[str | int, int, int]]:
    """
    The members of the valid JSON array or object at *at*: key or number, begin and end of the value.

    Raises:
        ValueError: the text is no valid JSON.
    """
    is_object = text[at : at + 1] == "{"
    count = 0
    at = skip_space(text, at + 1)
    while text[at : at + 1] not in ("]", "}"):
        key: str | int = count
        if is_object:
            end = value_end(text, at)
            key = orjson.loads(text[at:end])
            at = skip_space(text, skip_space(text, end) + 1)  # past the colon
        end = value_end(text, at)
        yield key, at, end
        count += 1
        at = skip_space(text, end)
        if text[at : at + 1] == ",":
            at = skip_space(text, at + 1)
        elif at >= len(text):
            raise ValueError("brackets that do not close")


def write(value: Any) -> str:
    """
    *value* as JSON text, however deep it nests and however large its numbers are.

    Raises:
        ValueError: it holds what JSON does not (not a number, infinity).
    """
    try:
        text = orjson.dumps(value).decode()
    except TypeError:  # deeper than 254, whole numbers above 64 bits, halves of characters
        return "".join(_pieces(value))
    # What is no number it writes as null.
    return "".join(_pieces(value)) if "null" in text else text


def _pieces(value: Any) -> Iterator[str]:
    stack: list[Any] = [value]
    closing = object()
    while stack:
        item = stack.pop()
        if isinstance(item, tuple) and item and item[0] is closing:
            yield item[1]
        elif isinstance(item, Mapping):
            yield "{"
            stack.append((closing, "}"))
            pairs = list(item.items())
            for place in range(len(pairs) - 1, -1, -1):
                key, inner = pairs[place]
                stack.append(inner)
                stack.append((closing, f"{',' if place else ''}{_scalar(key)}:"))
        elif isinstance(item, list):
            yield "["
            stack.append((closing, "]"))
            for place in range(len(item) - 1, -1, -1):
                stack.append(item[place])
                if place:
                    stack.append((closing, ","))
        else:
            yield _scalar(item)


def _scalar(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("JSON has no such number")
    # A pair of halves, which json_repair makes of escapes, becomes one character again when it is read.
    return json.dumps(value, ensure_ascii=not _is_whole(value))


def _is_whole(value: Any) -> bool:
    return not isinstance(value, str) or value.isascii() or not _HALF.search(value)
