"""
Where a setting stands in a file: keys from the top, and elements of lists by what is in them.

A list has no names, so an element of ours is found by fields that only ours has: `Item((("envKey",),
"PENSTOCK_API_KEY"))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class CannotEdit(Exception):
    """A settings file that cannot be changed safely; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Item:
    """The element of a list in which each of *fields* (path inside it, value) is found."""

    fields: tuple[tuple[tuple[str, ...], Any], ...]


Segment = str | Item
Path = tuple[Segment, ...]

MISSING: Any = object()
"""What `get` finds where there is nothing; null is a value."""


def item(**fields: Any) -> Item:
    """An element by its own fields; `a__b` is field b of field a."""
    return Item(tuple((tuple(name.split("__")), value) for name, value in fields.items()))


def matches(value: Any, segment: Item) -> bool:
    """Whether *value* is the element that is meant."""
    return all(get(value, names) == wanted for names, wanted in segment.fields)


def get(value: Any, path: Sequence[Segment]) -> Any:
    """What stands at *path*, `MISSING` for nothing."""
    for segment in path:
        if isinstance(segment, str):
            if not isinstance(value, dict) or segment not in value:
                return MISSING
            value = value[segment]
            continue
        if not isinstance(value, list):
            return MISSING
        found = [element for element in value if matches(element, segment)]
        if not found:
            return MISSING
        value = found[-1]
    return value


def remove(value: Any, path: Sequence[Segment]) -> None:
    """Take out what stands at *path*, if anything does."""
    parent, last = get(value, path[:-1]), path[-1]
    if isinstance(last, str):
        if isinstance(parent, dict):
            parent.pop(last, None)
    elif isinstance(parent, list):
        parent[:] = [element for element in parent if not matches(element, last)]


def nested(path: Sequence[Segment], value: Any) -> Any:
    """*value* inside new objects and lists, one for each segment."""
    for segment in reversed(path):
        value = {segment: value} if isinstance(segment, str) else [value]
    return value


def shown(path: Path) -> str:
    """`env.ANTHROPIC_MODEL`, `models[Penstock]`, for people."""
    text = ""
    for segment in path:
        if isinstance(segment, str):
            text += f".{segment}" if text else segment
        else:
            text += f"[{segment.fields[0][1]}]"
    return text


def as_json(path: Path) -> list[Any]:
    """For the record of what was written."""
    return [
        segment
        if isinstance(segment, str)
        else {"fields": [[list(names), value] for names, value in segment.fields]}
        for segment in path
    ]


def from_json(value: Sequence[Any]) -> Path:
    """The other way."""
    return tuple(
        segment
        if isinstance(segment, str)
        else Item(tuple((tuple(names), wanted) for names, wanted in segment["fields"]))
        for segment in value
    )
