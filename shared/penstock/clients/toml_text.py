"""Edits TOML by `tomlkit`, which keeps comments, order and spelling of what is not ours (Codex)."""

from __future__ import annotations

from typing import Any

import tomlkit
import tomlkit.items
from tomlkit.exceptions import ParseError, TOMLKitError

from penstock.clients.paths import CannotEdit, Path, shown


def read(text: str) -> Any:
    """
    The plain value.

    Raises:
        CannotEdit: it is no TOML.
    """
    return _parsed(text).unwrap()


def put(text: str, path: Path, value: Any) -> str:
    """The text with *value* at *path*; tables that are missing on the way are made."""
    document = _parsed(text)
    place: Any = document
    for number, key in enumerate(path[:-1]):
        if key not in place:
            place[key] = tomlkit.table(is_super_table=number == len(path) - 2)
        place = place[key]
        if not isinstance(place, dict):
            raise CannotEdit(f"{shown(path[: number + 1])} is no table")
    inline = isinstance(place, tomlkit.items.InlineTable)
    try:
        place[path[-1]] = _table(value, inline=inline) if isinstance(value, dict) else value
    except (TOMLKitError, ValueError) as exc:
        raise CannotEdit(f"{shown(path)} cannot be set: {exc}") from exc
    new = _dumped(document)
    return new.rstrip("\n") + "\n" if new.endswith("\n\n") and not text.endswith("\n\n") else new


def take(text: str, path: Path) -> str:
    """The text without what stands at *path*; unchanged when nothing does."""
    document = _parsed(text)
    place: Any = document
    for key in path[:-1]:
        if not isinstance(place, dict) or key not in place:
            return text
        place = place[key]
    if not isinstance(place, dict) or path[-1] not in place:
        return text
    was_table = isinstance(place[path[-1]], dict)
    del place[path[-1]]
    left = _dumped(document)
    # The empty line before a table of ours is ours, too.
    return f"{left.rstrip()}\n" if was_table and left.strip() and left.endswith("\n\n") else left


def _table(value: dict[str, Any], *, inline: bool) -> Any:
    table: Any = tomlkit.inline_table() if inline else tomlkit.table()
    for key, inner in value.items():
        table[key] = inner
    if not inline:
        table.add(tomlkit.nl())  # an empty line before what follows
    return table


def _parsed(text: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except ParseError as exc:
        raise CannotEdit(f"not valid TOML: {exc}") from exc
    except (TOMLKitError, ValueError, RecursionError) as exc:
        raise CannotEdit(f"not valid TOML: {exc or type(exc).__name__}") from exc


def _dumped(document: tomlkit.TOMLDocument) -> str:
    try:
        return tomlkit.dumps(document)
    except (TOMLKitError, ValueError) as exc:
        raise CannotEdit(f"cannot be written as TOML: {exc}") from exc
