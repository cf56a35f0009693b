"""What a JSON value is called in a sentence for people: Python's names of types mean nothing to them."""

from __future__ import annotations

from typing import Any


def kind_of(value: Any) -> str:
    """`nothing`, `true`, `a number`, `a text`, `a list`, `an object`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, dict) else "a list"
