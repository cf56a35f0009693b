"""
Repairs by schema: what was changed, in words and as edits of the text (behaviours E1).

A repair is the least that makes the value validate. Where it cannot be made to, nothing is changed at all:
half a repair helps nobody, and the client sees what the model really wrote. In the text each repair is a
splice, so that everything else stays byte for byte and a stream may send on what lies before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from penstock.toolcalls.jsontext import parse, tokens, write
from penstock.toolcalls.mend import Mended, Mender
from penstock.toolcalls.schema import ToolSchema
from penstock.toolcalls.spelling import json_type

_MOST_TOLD = 20
"""Repairs that are told one by one; further ones are counted."""
_SHOWN_CHARS = 8
"""A value of at most so many characters may stand in an announcement: never prompts or files."""
_NAME_CHARS = 40
_PATH_CHARS = 160


class Edit:
    """
    One place of a value: what changed in or below it.

    Attributes:
        new: what stands here now; meaningless unless `replaced`.
        below: changed members by key or number, when the place itself stays.
    """

    __slots__ = ("below", "new", "old", "replaced")

    def __init__(self) -> None:
        self.below: dict[str | int, Edit] = {}
        self.replaced = False
        self.old: Any = None
        self.new: Any = None


def repair_value(value: Any, schema: Any) -> tuple[Any, tuple[str, ...]]:
    """
    *value* as *schema* wants it, and one sentence for each repair.

    Returns:
        the identical value and nothing told when it validates, cannot be made to, or cannot be judged.
    """
    mended = mend_value(value, ToolSchema("", schema))
    return (value, ()) if mended is None else (mended.value, told(edits(value, mended.value)))


def mend_value(value: Any, tool: ToolSchema) -> Mended | None:
    """*value* changed so that *tool* accepts it; None where it need not or cannot be."""
    if not tool.schema or not tool.usable or not tool.bears(value) or tool.accepts(value):
        return None
    mended = Mender(tool.schema).mend(value)
    if not mended.fits or mended.value is value or not tool.accepts(mended.value):
        return None
    return mended


def edits(old: Any, new: Any) -> Edit:
    """Where *new*, made from *old* by replacing parts of it, differs from it."""
    root = Edit()
    stack = [(root, old, new)]
    while stack:
        edit, before, after = stack.pop()
        if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
            pairs: Any = [(key, before[key], after[key]) for key in before]
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            pairs = zip(range(len(before)), before, after, strict=True)
        else:
            edit.replaced, edit.old, edit.new = True, before, after
            continue
        for key, one, other in pairs:
            if one is not other:
                inner = edit.below[key] = Edit()
                stack.append((inner, one, other))
    return root


def told(root: Edit, name: str = "arguments") -> tuple[str, ...]:
    """The edits in words, in the order of the text: `arguments.recursive: "True" -> true`."""
    sentences: list[str] = []
    more = 0
    stack = [(name, root)]
    while stack:
        path, edit = stack.pop()
        if edit.replaced:
            if len(sentences) < _MOST_TOLD:
                sentences.append(f"{path}: {_shown(edit.old)} -> {_shown(edit.new)}")
            else:
                more += 1
            continue
        for key, inner in reversed(edit.below.items()):
            step = f"[{key}]" if isinstance(key, int) else f".{key[:_NAME_CHARS]}"
            stack.append((path + step if len(path) < _PATH_CHARS else path, inner))
    if more:
        sentences.append(f"{name}: {more} more of the same kind")
    return tuple(sentences)


def _shown(value: Any) -> str:
    kind = json_type(value)
    if kind not in ("array", "object"):
        if kind == "string" and len(value) > _SHOWN_CHARS:
            return "a string"
        text = write(value)
        if len(text) <= _SHOWN_CHARS + 2:
            return text
    return f"{'an' if kind[0] in 'aio' else 'a'} {kind}"


def spliced(text: str, root: Edit) -> str:
    """
    The JSON *text* with the edits made in it and everything else as it was, in one pass.

    Raises:
        ValueError: *text* is no valid JSON, or what is new cannot be written as JSON.
    """
    # Of equal keys the last counts, in the parsed value as here: later places overwrite earlier ones.
    places: dict[int, tuple[int, int, Edit]] = {}
    for edit, start, end in located(text, root):
        places[id(edit)] = (start, end, edit)
    pieces: list[str] = []
    sent = 0
    for start, end, edit in sorted(places.values(), key=lambda place: place[0]):
        pieces += (text[sent:start], write(edit.new))
        sent = end
    pieces.append(text[sent:])
    return "".join(pieces)


def located(text: str, root: Edit) -> Iterator[tuple[Edit, int, int]]:
    """Where in *text* the replaced values stand."""
    # Of each open array or object: the edit that it is, its begin, and the key or number of the next
    # value; a key that is None comes next itself.
    open_: list[tuple[Edit | None, int, str | int | None]] = []
    edit: Edit | None = None
    start: int = 0
    key: str | int | None = None
    is_first = True
    for kind, begin, end in tokens(text):
        if kind in "[{":
            inner = root if is_first else _member(edit, key)
            is_first = False
            open_.append((edit, start, key))
            edit, start, key = inner, begin, (0 if kind == "[" else None)
        elif kind in "]}":
            if edit is not None and edit.replaced:
                yield edit, start, end
            edit, start, key = open_.pop()
        elif kind == ",":
            key = key + 1 if isinstance(key, int) else None
        elif kind == ":":
            pass
        elif key is None and not is_first:
            key = text[begin + 1 : end - 1] if edit is None else parse(text[begin:end])
        else:
            inner = root if is_first else _member(edit, key)
            is_first = False
            if inner is not None and inner.replaced:
                yield inner, begin, end


def _member(edit: Edit | None, key: str | int | None) -> Edit | None:
    return None if edit is None or key is None else edit.below.get(key)
