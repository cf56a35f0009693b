"""
Edits JSON with comments (VS Code's, Zed's and opencode's settings) as text: what is not ours keeps its
comments, its order and its spelling.

A parser that remembers where each value stands, and two edits on top of it: put a value at a path, take one
out. JSON as those programs read it: `//` and `/* */` comments and trailing commas are fine. Nothing here
calls itself, so nesting to any depth costs time and no stack.

Sources: RFC 8259; the JSON with comments of Microsoft's jsonc-parser (README: comments, trailing commas).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.clients.paths import CannotEdit, Path, Segment, matches, nested, shown

_TRIVIA = re.compile(r"(?:[ \t\r\n\ufeff]+|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_LITERAL = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_LONGEST_LINE = 60
_INDENT = re.compile(r"\n([ \t]+)\S")


@dataclass(slots=True)
class Node:
    """
    One value and where it stands.

    Attributes:
        value: as Python has it; of an object or array it is filled while it is read.
        members: (key or None, where the key or element starts, the value), in order.
        comma: where the comma after the value stands, None without one.
    """

    start: int
    end: int
    value: Any
    members: list[tuple[str | None, int, Node]] = field(default_factory=list)
    comma: int | None = None


def parse(text: str) -> Node:
    """
    Where everything stands.

    Raises:
        CannotEdit: this is no JSON, with line and reason.
    """
    place = _skip(text, 0)
    root = Node(place, place, None)
    open_nodes: list[Node] = []
    node, place = _value(text, place)
    root = node
    if isinstance(node.value, dict | list):
        open_nodes.append(node)
    while open_nodes:
        parent = open_nodes[-1]
        is_object = isinstance(parent.value, dict)
        place = _skip(text, place)
        if text[place : place + 1] == ("}" if is_object else "]"):
            parent.end = place = place + 1
            open_nodes.pop()
            place = _after_value(text, place, open_nodes, parent)
            continue
        if parent.members and parent.members[-1][2].comma is None:
            raise _wrong(text, place, "expected a comma or the end")
        starts, key = place, None
        if is_object:
            key, place = _string(text, place)
            place = _skip(text, place)
            if text[place : place + 1] != ":":
                raise _wrong(text, place, "expected a colon")
            place = _skip(text, place + 1)
        node, place = _value(text, place)
        parent.members.append((key, starts, node))
        if key is not None:
            parent.value[key] = node.value
        else:
            parent.value.append(node.value)
        if isinstance(node.value, dict | list):
            open_nodes.append(node)
        else:
            place = _after_value(text, place, open_nodes, node)
    place = _skip(text, place)
    if place != len(text):
        raise _wrong(text, place, "expected nothing more")
    return root


def read(text: str) -> Any:
    """The plain value; an empty file is an empty object."""
    return parse(text).value if _skip(text, 0) < len(text) else {}


def put(text: str, path: Path, value: Any) -> str:
    """
    The text with *value* at *path*; what is missing on the way is made.

    Raises:
        CannotEdit: it is no JSON, or something on the way is no object or list.
    """
    if _skip(text, 0) == len(text):
        made = _dumps(nested(path, value), "  ")
        return f"{text.rstrip()}\n{made}\n" if text.strip() else f"{made}\n"
    chain = _walk(parse(text), path)
    if len(chain) == len(path) + 1:
        node = chain[-1]
        made = _render(text, value, _line_indent(text, node.start))
        return text[: node.start] + made + text[node.end :]
    parent, rest = chain[-1], path[len(chain) - 1 :]
    if not isinstance(parent.value, dict if isinstance(rest[0], str) else list):
        kind = "an object" if isinstance(rest[0], str) else "a list"
        where = shown(path[: len(chain) - 1]) or "the top"
        raise CannotEdit(f"line {_line(text, parent.start)}: expected {kind} at {where}")
    return _insert(text, parent, rest[0], nested(rest[1:], value))


def take(text: str, path: Path) -> str:
    """The text without what stands at *path*; unchanged when nothing does."""
    if _skip(text, 0) == len(text):
        return text
    chain = _walk(parse(text), path)
    if len(chain) != len(path) + 1:
        return text
    parent, node = chain[-2], chain[-1]
    number = next(i for i, member in enumerate(parent.members) if member[2] is node)
    begin = starts = parent.members[number][1]
    end = node.end if node.comma is None else node.comma + 1
    if _is_first_on_line(text, starts) and not text[end:].split("\n", 1)[0].strip():
        begin = max(text.rfind("\n", 0, starts), 0)  # the whole line
        begin -= text[begin - 1 : begin + 1] == "\r\n"
    else:
        begin = len(text[:starts].rstrip(" \t"))
    spans = [(begin, node.end)]
    if node.comma is not None:
        spans.append((node.comma, node.comma + 1))
    elif number and (before := parent.members[number - 1][2].comma) is not None:
        spans.insert(0, (before, before + 1))
    elif (
        not number
        and not text[parent.start + 1 : starts].strip()
        and not text[node.end : parent.end - 1].strip()
    ):
        spans = [(parent.start + 1, parent.end - 1)]
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    return text


def _walk(root: Node, path: Path) -> list[Node]:
    """The nodes along *path*, as far as they exist; the root first."""
    chain = [root]
    for segment in path:
        found = [
            node
            for key, _, node in chain[-1].members
            if (key == segment if isinstance(segment, str) else _fits(key, node, segment))
        ]
        if not found:
            break
        chain.append(found[-1])  # of keys that stand twice, readers take the last
    return chain


def _fits(key: str | None, node: Node, segment: Segment) -> bool:
    return key is None and not isinstance(segment, str) and matches(node.value, segment)


def _insert(text: str, parent: Node, segment: Segment, value: Any) -> str:
    key = f"{_dumps(segment)}: " if isinstance(segment, str) else ""
    close = parent.end - 1
    kept = len(text[:close].rstrip())
    eol = "\r\n" if "\r\n" in text else "\n"
    whole = text[parent.start : parent.end]
    bare = _STRING.sub("", whole)
    if isinstance(segment, str) and not any(sign in bare for sign in ("\n", "//", "/*")):
        together = {**parent.value, segment: value}
        if len(whole) + len(json.dumps(together)) - len(json.dumps(parent.value)) > _LONGEST_LINE:
            rendered = _render(text, together, _line_indent(text, parent.start))
            return text[: parent.start] + rendered + text[parent.end :]
    if "\n" not in text[parent.start : parent.end] and parent.members:
        made = key + _dumps(value)
        lead, tail = " ", ""
    else:
        closing = _line_indent(text, close)
        indent = closing + _unit(text)
        if parent.members and _is_first_on_line(text, parent.members[0][1]):
            indent = _line_indent(text, parent.members[0][1])
        made = key + _render(text, value, indent)
        lead, tail = eol + indent, ""
        if "\n" not in text[kept:close]:
            kept, tail = close, eol + closing
            kept = len(text[:close].rstrip(" \t"))
    last = parent.members[-1][2] if parent.members else None
    if last is None:
        return text[:kept] + lead + made + tail + text[kept:]
    if last.comma is not None:
        return text[:kept] + lead + made + "," + tail + text[kept:]
    return text[: last.end] + "," + text[last.end : kept] + lead + made + tail + text[kept:]


def _render(text: str, value: Any, indent: str) -> str:
    lines = _dumps(value, _unit(text)).split("\n")
    return ("\r\n" if "\r\n" in text else "\n").join(
        [lines[0], *(indent + line for line in lines[1:])]
    )


def _dumps(value: Any, indent: str | None = None) -> str:
    made = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        made.encode()
    except (
        UnicodeEncodeError
    ):  # half a surrogate pair, which JSON can escape and UTF-8 cannot write
        return json.dumps(value, indent=indent)
    return made


def _unit(text: str) -> str:
    found = _INDENT.search(text)
    return found[1] if found else "  "


def _line_indent(text: str, place: int) -> str:
    line = text[text.rfind("\n", 0, place) + 1 : place]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _is_first_on_line(text: str, place: int) -> bool:
    return not text[text.rfind("\n", 0, place) + 1 : place].strip()


def _skip(text: str, place: int) -> int:
    found = _TRIVIA.match(text, place)
    return found.end() if found else place


def _string(text: str, place: int) -> tuple[str, int]:
    found = _STRING.match(text, place)
    if found is None:
        raise _wrong(text, place, "expected a name in double quotes")
    try:
        return str(json.loads(found[0])), found.end()
    except ValueError:
        raise _wrong(text, place, "a string that JSON cannot read") from None


def _value(text: str, place: int) -> tuple[Node, int]:
    sign = text[place : place + 1]
    if sign in ("{", "["):
        return Node(place, place, {} if sign == "{" else []), place + 1
    if sign == '"':
        value, end = _string(text, place)
        return Node(place, end, value), end
    found = _LITERAL.match(text, place)
    if found is None or not found[0]:
        raise _wrong(text, place, "expected a value")
    try:
        return Node(place, found.end(), json.loads(found[0])), found.end()
    except ValueError:  # a number of thousands of digits
        raise _wrong(text, place, "a number that cannot be read") from None


def _after_value(text: str, place: int, open_nodes: Sequence[Node], node: Node) -> int:
    if open_nodes:
        following = _skip(text, place)
        if text[following : following + 1] == ",":
            node.comma = following
            return following + 1
    return place


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _wrong(text: str, place: int, what: str) -> CannotEdit:
    got = "the end of the file" if place >= len(text) else repr(text[place : place + 12])
    return CannotEdit(f"line {_line(text, place)}: {what}, got {got}")
