"""
Changes a client's settings file and changes it back, whatever its format.

`apply` puts our settings in and tells what stood there before; `take_back` removes them again from a file that
was changed since: only where the value is still ours. Each result is read again and compared, setting by
setting; a file in which anything else would have changed is refused and stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from penstock.clients import jsonc, toml_text, yaml_text
from penstock.clients.paths import MISSING, CannotEdit, Path, get, remove, shown

Format = Literal["json", "toml", "yaml"]
_LONE_LF = re.compile(r"(?<!\r)\n")
_FORMATS: dict[str, ModuleType] = {"json": jsonc, "toml": toml_text, "yaml": yaml_text}


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One value of ours.

    Attributes:
        path: where it stands.
        value: JSON-like.
        why: one sentence for people.
        if_absent: only put where nothing stands yet (`$schema`, a file's own name).
    """

    path: Path
    value: Any
    why: str = ""
    if_absent: bool = False


@dataclass(frozen=True, slots=True)
class Undo:
    """
    How one setting is taken back.

    Attributes:
        path, value: what we wrote.
        before: what stood there, `MISSING` for nothing.
        depth: how many segments of the path existed before; what was made below goes when it is empty.
    """

    path: Path
    value: Any
    before: Any
    depth: int


def apply(format_: Format, text: str, settings: Sequence[Setting]) -> tuple[str, tuple[Undo, ...]]:
    """
    Put the settings into a file's text.

    Returns:
        the new text, and how each setting is taken back.

    Raises:
        CannotEdit: the file cannot be read or not be changed without changing something else.
    """
    module = _FORMATS[format_]
    value = module.read(text)
    if not isinstance(value, dict):
        raise CannotEdit("expected an object at the top")
    undos = []
    wanted = [s for s in settings if not (s.if_absent and get(value, s.path) is not MISSING)]
    new = text
    for setting in wanted:
        before = get(value, setting.path)
        depth = next(n for n in range(len(setting.path), -1, -1)
                     if get(value, setting.path[:n]) is not MISSING)  # fmt: skip
        if before != setting.value or type(before) is not type(setting.value):
            new = module.put(new, setting.path, setting.value)
        undos.append(Undo(setting.path, setting.value, before, depth))
    new = _same_line_ends(text, new)
    _check(module, text, new, {s.path: s.value for s in wanted})
    return new, tuple(undos)


def take_back(format_: Format, text: str, undos: Sequence[Undo]) -> tuple[str, tuple[str, ...]]:
    """
    Take our settings out of a file that was changed since.

    Returns:
        the new text, and the settings that were left because their value is no longer ours.
    """
    module, given = _FORMATS[format_], text
    kept: list[str] = []
    value = module.read(text)
    for undo in reversed(undos):
        current = get(value, undo.path)
        if current is MISSING:
            continue
        if current != undo.value:
            kept.append(shown(undo.path))
            continue
        if undo.before is not MISSING:
            text = module.put(text, undo.path, undo.before)
            continue
        text = module.take(text, undo.path)
        remove(value, undo.path)
        for length in range(len(undo.path) - 1, undo.depth, -1):
            if get(value, undo.path[:length]) in ({}, []):
                text = module.take(text, undo.path[:length])
                remove(value, undo.path[:length])
    return _same_line_ends(given, text), tuple(reversed(kept))


def read(format_: Format, text: str) -> Any:
    """The plain value of a settings file."""
    return _FORMATS[format_].read(text)


def _same_line_ends(old: str, new: str) -> str:
    """In a file whose lines all end as Windows' do, ours do too."""
    if "\r\n" not in old or _LONE_LF.search(old):
        return new
    return _LONE_LF.sub("\r\n", new)


def _check(module: ModuleType, old: str, new: str, ours: dict[Path, Any]) -> None:
    value = module.read(new)
    for path, wanted in ours.items():
        if get(value, path) != wanted:
            raise CannotEdit(f"{shown(path)} could not be set without changing something else")
    try:
        if _without(module.read(old), ours) != _without(value, ours):
            raise CannotEdit("it could not be changed without changing something that is not ours")
    except RecursionError as exc:  # only comparing them goes down; such a file is no settings file
        raise CannotEdit("nested too deeply") from exc


def _without(value: Any, ours: dict[Path, Any]) -> Any:
    """What is not ours, without objects and lists that are empty only because of that."""
    for path in ours:
        remove(value, path)
        for length in range(len(path) - 1, 0, -1):
            if get(value, path[:length]) in ({}, [], None):
                remove(value, path[:length])
    return value
