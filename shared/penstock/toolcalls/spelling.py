"""
Types of JSON Schema, and how models spell values of them in text.

A reading costs something: what has a second meaning costs more than another spelling of the same, so that
of several types that a schema allows the surest reading wins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_TRUE, _FALSE = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})
_NULL = frozenset({"null", "none", "nil"})
_NUMBER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
CONVERT, GUESS, RESHAPE = 1, 2, 3
"""Costs: another spelling of the same; a spelling with a second meaning; another shape."""


def json_type(value: Any) -> str:
    """The name of *value*'s type in JSON Schema."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def types_of(schema: Mapping[str, Any]) -> frozenset[str] | None:
    """The types that a schema names, None when it names none."""
    wanted = schema.get("type")
    if isinstance(wanted, str):
        return frozenset((wanted,))
    if isinstance(wanted, list):
        return frozenset(item for item in wanted if isinstance(item, str))
    return None


def is_of(value: Any, types: frozenset[str]) -> bool:
    """Whether *value* is of one of *types*."""
    kind = json_type(value)
    if kind in types or (kind == "integer" and "number" in types):
        return True
    return kind == "number" and "integer" in types and value.is_integer()


def is_same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def words(text: str, types: frozenset[str]) -> Iterator[tuple[Any, int]]:
    """The number, boolean or null that a text spells."""
    if len(text) > 64:
        return
    if ("integer" in types or "number" in types) and _NUMBER.fullmatch(text):
        number = _number(text, whole="number" not in types)
        if number is not None:
            yield number, CONVERT
    word = text.casefold()
    if "boolean" in types and word in _TRUE | _FALSE:
        yield word in _TRUE, CONVERT
    if "null" in types and word in _NULL:
        yield None, CONVERT
    if "boolean" in types and word in ("1", "0"):
        yield word == "1", GUESS
    if "null" in types and not word:
        yield None, GUESS


def _number(text: str, *, whole: bool) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if whole:
        return int(number) if number.is_integer() and abs(number) < 2**53 else None
    return number if math.isfinite(number) else None
