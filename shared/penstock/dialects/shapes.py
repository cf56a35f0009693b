"""What is said when a field has the wrong shape, and the checks that say it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from penstock.domain.change import Change
from penstock.domain.json_kinds import kind_of
from penstock.errors import ErrorCode, RequestError

_TALKERS = ("user", "assistant")
# orjson writes 254 levels; a body puts a few around the arguments of a call.
_LEVELS_AROUND = 12


def wrong(param: str, expected: str, got: Any) -> RequestError:
    """The field is there and is something else."""
    is_short = isinstance(got, str | int | float) and not isinstance(got, bool)
    name = repr(got)[:60] if is_short else kind_of(got)
    return refused(param, f"{param}: expected {expected}, got {name}.")


def refused(param: str, sentence: str) -> RequestError:
    """The request cannot be served; *sentence* says why and what to do."""
    return RequestError(ErrorCode.INVALID_REQUEST, sentence, param=param)


def dropped(field: str, detail: str, step: str = "template") -> Change:
    """A part of the request that cannot be said further on."""
    return Change(step, field, "dropped", detail)


def is_plain(message: Mapping[str, Any]) -> bool:
    """
    Whether it is what nearly all messages of a long chat are: a text of the user or the assistant, and nothing
    else. Every dialect says that in the same way, so it needs no closer look.
    """
    if len(message) != 2:
        return False
    content = message.get("content")
    return isinstance(content, str) and content != "" and message.get("role") in _TALKERS


def text_in(body: Mapping[str, Any], name: str, where: str = "") -> str | None:
    """A text, None when it is missing or null."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(where or name, "a string", value)
    return value


def needed_text(body: Mapping[str, Any], name: str, where: str) -> str:
    """A text that must be there."""
    value = body.get(name)
    if not isinstance(value, str):
        raise wrong(f"{where}.{name}", "a string", value)
    return value


def flag_in(body: Mapping[str, Any], name: str) -> bool | None:
    """A boolean, None when it is missing or null."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(name, "a boolean", value)
    return value


def number_in(body: Mapping[str, Any], name: str) -> float | int | None:
    """A finite number, None when it is missing or null."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise wrong(name, "a number", value)
    return value


def object_in(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object, empty when it is missing or null."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(name, "an object", value)
    return value


def array_in(body: Mapping[str, Any], name: str, where: str = "") -> list[Any]:
    """An array, empty when it is missing or null."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(where or name, "an array", value)
    return value


def object_of(text: str) -> dict[str, Any] | None:
    """
    A call's arguments as the object that some dialects have there; {} for none. None where the text is no object
    (cut off, or never JSON), or is nested deeper than can be written again: then it is never completed.
    """
    if not text:
        return {}
    try:
        value = orjson.loads(text)
        around = value
        for _ in range(_LEVELS_AROUND):
            around = [around]
        orjson.dumps(around)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return value if isinstance(value, dict) else None
