"""
JSON that is not quite JSON, read by a library that does only this (json_repair), within bounds.

Only for texts that end where they should: a text that was cut off is never completed, and the caller must
have made sure of that. The library's time grows faster than the text in bad cases, so long texts get the
one reading that is cheap: line breaks and tabs that stand bare in strings.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import json_repair

_MOST_CHARS = 32_768
_MOST_EFFORT = 8_000_000
"""
Characters times quotes and brackets. The library looks ahead from each of them, so this is what its time
follows: measured with version 0.64, the worst texts take 40 ns for each, a third of a second here.
"""
_FENCE = re.compile(r"\A\s*```[a-zA-Z]{0,12}[ \t]*\r?\n(.*)\n[ \t]*```\s*\Z", re.DOTALL)


def unfenced(text: str) -> str:
    """*text* without a code fence around the whole of it."""
    found = _FENCE.match(text)
    return found.group(1) if found else text


def read_exactly(text: str) -> Any:
    """
    The value of valid JSON with whole numbers of any size kept.

    Raises:
        ValueError: it is none.
    """
    return _loads(text, strict=True)


def read_loosely(text: str) -> Any:
    """
    The value that a text which is almost JSON means.

    Args:
        text: begins with a bracket; known not to be cut off.

    Raises:
        ValueError: it means nothing, or is too long to be tried.
    """
    try:
        return _loads(text, strict=False)
    except ValueError:
        if len(text) > _MOST_CHARS or len(text) * _signs(text) > _MOST_EFFORT:
            raise
    try:
        value = json_repair.loads(text, skip_json_loads=True)
    except (RecursionError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise ValueError("beyond repair") from error
    if not isinstance(value, dict | list):
        raise ValueError("beyond repair")
    return value


def _signs(text: str) -> int:
    return sum(map(text.count, "\"'[]{}"))


def _loads(text: str, *, strict: bool) -> Any:
    try:
        return json.loads(text, strict=strict, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nests too deep") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")
