"""
Edits YAML as text: settings at the top, and elements of lists that stand at the top (Continue, aider,
LiteLLM). Everything else keeps its comments, order and spelling to the letter, which no library that writes
YAML anew can promise; the parser (PyYAML) only tells where things stand.

New text is written by PyYAML in block style, or as JSON (which is YAML) inside lists in brackets.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from penstock.clients.paths import MISSING, CannotEdit, Item, Path, get, matches, nested


def read(text: str) -> Any:
    """
    The plain value; an empty file is an empty mapping.

    Raises:
        CannotEdit: it is no YAML, or no mapping.
    """
    _composed(text)
    value = yaml.safe_load(text)
    return {} if value is None else value


def put(text: str, path: Path, value: Any) -> str:
    """
    The text with *value* at *path*: `(key,)` or `(key, item)`.

    Raises:
        CannotEdit: it is no YAML, or a list is something else.
    """
    top, key = _composed(text), path[0]
    assert isinstance(key, str)
    assert len(path) <= 2
    node = _member(top, key)
    if node is None:
        return _appended(text, _block(nested(path, value)))
    if len(path) == 1:
        return _replaced(text, node, value)
    wanted = path[1]
    assert isinstance(wanted, Item)
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"):
        return _replaced(text, node, [value])
    if not isinstance(node, yaml.SequenceNode):
        raise CannotEdit(f"line {node.start_mark.line + 1}: expected a list under {key}")
    number = _place(text, key, wanted)
    if number is not None:
        return _replaced(text, node.value[number], value, is_item=not node.flow_style)
    if node.flow_style:
        if not node.value:
            return _replaced(text, node, [value])
        end = node.value[-1].end_mark.index
        return f"{text[:end]}, {json.dumps(value, ensure_ascii=False)}{text[end:]}"
    lines = text.splitlines(keepends=True)
    after = _last_line(node) + 1
    indent = " " * node.start_mark.column
    if lines[after - 1 :] and not lines[after - 1].endswith("\n"):
        lines[after - 1] += "\n"
    return "".join([*lines[:after], _indented(_block([value]), indent), *lines[after:]])


def take(text: str, path: Path) -> str:
    """The text without what stands at *path*; unchanged when nothing does."""
    top, key = _composed(text), path[0]
    assert isinstance(key, str)
    if get(read(text), path) is MISSING or top is None:
        return text
    pairs = [pair for pair in top.value if pair[0].value == key]
    if not pairs:  # it comes from another mapping (`<<: *base`)
        return text
    name, node = pairs[-1]
    if len(path) == 1:
        if top.flow_style:
            raise CannotEdit("a mapping in braces")
        return _without_lines(text, name.start_mark.line, _last_line(node))
    wanted = path[1]
    assert isinstance(wanted, Item)
    number = _place(text, key, wanted)
    assert number is not None
    if node.flow_style:
        left = [v for i, v in enumerate(read(text)[key]) if i != number]
        return _replaced(text, node, left)
    element = node.value[number]
    text = _without_lines(text, element.start_mark.line, _last_line(element))
    if len(node.value) == 1:  # a key alone would be null; comments that stood in the list stay
        colon = text.index(":", name.end_mark.index) + 1
        text = f"{text[:colon]} []{text[colon:]}"
    return text


def _composed(text: str) -> yaml.MappingNode | None:
    try:
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        if len(documents) == 1:
            yaml.safe_load(text)
    except yaml.MarkedYAMLError as exc:
        line = f"line {exc.problem_mark.line + 1}: " if exc.problem_mark else ""
        raise CannotEdit(f"{line}not valid YAML: {exc.problem or exc.context}") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise CannotEdit(f"not valid YAML: {exc or type(exc).__name__}") from exc
    if len(documents) > 1:
        raise CannotEdit("several documents in one file")
    if not documents or (
        isinstance(documents[0], yaml.ScalarNode) and documents[0].tag.endswith(":null")
    ):
        return None
    if not isinstance(documents[0], yaml.MappingNode):
        raise CannotEdit("expected a mapping at the top")
    if documents[0].flow_style and documents[0].value:
        raise CannotEdit("a mapping in braces at the top; write it as lines of `key: value`")
    return documents[0]


def _member(top: yaml.MappingNode | None, key: str) -> yaml.Node | None:
    found = [value for name, value in (top.value if top is not None else ()) if name.value == key]
    return found[-1] if found else None


def _place(text: str, key: str, wanted: Item) -> int | None:
    elements = read(text)[key]
    found = [i for i, element in enumerate(elements) if matches(element, wanted)]
    return found[-1] if found else None


def _replaced(text: str, node: yaml.Node, value: Any, *, is_item: bool = False) -> str:
    """Put *value* in the place of a node."""
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        raise CannotEdit(f"line {node.start_mark.line + 1}: expected a value on one line")
    start, end = node.start_mark, node.end_mark.index
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        lines = text.splitlines(keepends=True)
        last = _last_line(node)
        end = sum(len(line) for line in lines[: last + 1])
        end -= len(lines[last]) - len(lines[last].rstrip("\r\n"))
    if not isinstance(value, dict | list):
        return text[: start.index] + _scalar(value, start.index == end, text) + text[end:]
    if is_item and isinstance(value, dict):
        rows = _block(value).rstrip("\n").split("\n")
        joined = ("\n" + " " * start.column).join(rows)
        return text[: start.index] + joined + text[end:]
    lead = "" if text[: start.index].endswith((" ", "\n", "\t")) else " "
    return text[: start.index] + lead + json.dumps(value, ensure_ascii=False) + text[end:]


def _scalar(value: Any, was_empty: bool, text: str) -> str:
    shown_value = yaml.safe_dump(value, width=10_000, allow_unicode=True).removesuffix("\n")
    shown_value = shown_value.removesuffix("...").rstrip("\n")
    return f" {shown_value}" if was_empty else shown_value


def _last_line(node: yaml.Node) -> int:
    """The last line on which something of *node* stands: the parser's own end lies behind what follows."""
    last = node.start_mark.line
    waiting: list[yaml.Node] = [node]
    while waiting:
        inner = waiting.pop()
        if not isinstance(inner, yaml.CollectionNode) or inner.flow_style or not inner.value:
            mark = inner.end_mark
            last = max(last, mark.line - (mark.column == 0 and mark.line > inner.start_mark.line))
        elif isinstance(inner, yaml.MappingNode):
            waiting += [part for pair in inner.value for part in pair]
        else:
            waiting += inner.value
    return last


def _without_lines(text: str, first: int, last: int) -> str:
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:first], *lines[last + 1 :]])


def _appended(text: str, block: str) -> str:
    if text and not text.endswith("\n"):
        text += "\n"
    lines = text.splitlines(keepends=True)
    at = len(lines)
    while at and lines[at - 1].strip() == "...":
        at -= 1
    body = "".join(lines[:at])
    if body.strip() in ("{}", "null", "~"):
        body = ""
    return body + block + "".join(lines[at:])


def _block(value: Any) -> str:
    return yaml.safe_dump(
        value, sort_keys=False, width=10_000, allow_unicode=True, default_flow_style=False
    )


def _indented(block: str, indent: str) -> str:
    return "".join(indent + line for line in block.splitlines(keepends=True))
