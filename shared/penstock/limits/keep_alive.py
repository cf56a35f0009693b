"""
How long Ollama keeps a model after a request (`keep_alive`): a client's word is a wish. It is rounded up to
one of few classes, so that a side request which wants the model gone at once does not throw away what a
conversation comes back to.
"""

from __future__ import annotations

import re
from typing import Any

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PIECE = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ns|us|ms|s|m|h)")
CLASSES_S = (300.0, 1800.0, 7200.0, 86_400.0)
"""Five minutes is Ollama's own default (`envconfig/config.go`, KeepAlive)."""
FOR_EVER = -1


def keep_alive_s(value: Any) -> float | None:
    """
    A wish in seconds (Go's duration syntax, or a number of seconds); negative means for ever.

    Returns:
        None for what Ollama would not understand either.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    sign = -1.0 if text.startswith("-") else 1.0
    text = text.lstrip("+-")
    if not text:
        return None
    if text.replace(".", "", 1).isdigit():
        return sign * float(text)
    pieces = _PIECE.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        return None
    return sign * sum(float(number) * _UNITS_S[unit] for number, unit in pieces)


def keep_alive_class(value: Any) -> int | None:
    """The class that *value* is rounded up to, in seconds, `FOR_EVER` for ever; None for nonsense."""
    wished_s = keep_alive_s(value)
    if wished_s is None:
        return None
    if wished_s < 0:
        return FOR_EVER
    for class_s in CLASSES_S:
        if wished_s <= class_s:
            return int(class_s)
    return FOR_EVER
