"""
Tools of a Messages request, and which of them may or must be called.

Tools that Anthropic itself runs or whose schema only its models know (`web_search_20250305`, `bash_20250124`,
...) have a type and no `input_schema`; no local server has them, so they are left out and announced.
Kinds: `anthropic.types.tool_union_param`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.dialects.shapes import (
    array_in,
    dropped,
    needed_text,
    refused,
    text_in,
    wrong,
)
from penstock.domain.change import Change
from penstock.domain.chat import Tool

# What says when and how Anthropic loads, caches and streams a tool, beside what a tool is.
_FIELDS = frozenset(
    {
        "name", "description", "input_schema", "type", "strict", "cache_control", "defer_loading",
        "eager_input_streaming", "allowed_callers",
    }
)  # fmt: skip
_MODES = {"auto": "auto", "any": "required", "none": "none"}


@dataclass(frozen=True, slots=True)
class Toolbox:
    """
    The tools that are offered.

    Attributes:
        left_out: names of those that are not.
    """

    tools: tuple[Tool, ...]
    left_out: frozenset[str]


@dataclass(frozen=True, slots=True)
class Choice:
    """
    What may be called.

    Attributes:
        value: as `ChatRequest.tool_choice`.
        one_only: whether at most one tool may be called at once.
    """

    value: str | Mapping[str, Any] | None = None
    one_only: bool = False


def read_tools(body: Mapping[str, Any], changes: list[Change]) -> Toolbox:
    """
    `tools`.

    Raises:
        RequestError: one has the wrong shape.
    """
    tools: dict[str, Tool] = {}
    left_out: set[str] = set()
    told: set[str] = set()
    for number, tool in enumerate(array_in(body, "tools")):
        where = f"tools[{number}]"
        if not isinstance(tool, dict):
            raise wrong(where, "an object", tool)
        kind = text_in(tool, "type", f"{where}.type")
        schema = tool.get("input_schema")
        if schema is None and kind not in (None, "custom"):
            changes.append(dropped(where, f"no local server runs the tool {str(kind)[:60]}"))
            if isinstance(tool.get("name"), str):
                left_out.add(tool["name"])
            continue
        name = needed_text(tool, "name", where)
        if not name:
            raise wrong(f"{where}.name", "a name", name)
        if name in tools:
            changes.append(dropped(where, f"there is a tool {name[:60]} already"))
            continue
        for field in sorted(tool.keys() - _FIELDS - told):
            told.add(field)
            detail = "tools of local servers have no such field"
            changes.append(dropped(f"{where}.{field[:60]}", detail))
        if not isinstance(schema, dict):
            raise wrong(f"{where}.input_schema", "an object", schema)
        strict = tool.get("strict")
        if strict is not None and not isinstance(strict, bool):
            raise wrong(f"{where}.strict", "a boolean", strict)
        description = text_in(tool, "description", f"{where}.description") or ""
        tools[name] = Tool(name, description, schema, strict)
    return Toolbox(tuple(tools.values()), frozenset(left_out))


def read_choice(value: Any, box: Toolbox, changes: list[Change]) -> Choice:
    """
    `tool_choice`.

    Raises:
        RequestError: it is no choice, or names a tool that is not there.
    """
    if value is None:
        return Choice()
    if not isinstance(value, dict):
        raise wrong("tool_choice", "an object", value)
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in (*_MODES, "tool"):
        raise wrong("tool_choice.type", "one of any, auto, none, tool", kind)
    one_only = value.get("disable_parallel_tool_use")
    if one_only is not None and not isinstance(one_only, bool):
        raise wrong("tool_choice.disable_parallel_tool_use", "a boolean", one_only)
    if kind == "tool":
        name = needed_text(value, "name", "tool_choice")
        if any(tool.name == name for tool in box.tools):
            return Choice({"name": name}, bool(one_only))
        if name not in box.left_out:
            raise refused(
                "tool_choice.name", f"tool_choice.name: there is no tool {name[:60]!r} in tools."
            )
        changes.append(dropped("tool_choice", f"no local server runs the tool {name[:60]}"))
        return Choice(None, bool(one_only and box.tools))
    if not box.tools:
        # A chat server refuses a choice where there is nothing to choose from.
        if kind == "any":
            changes.append(dropped("tool_choice", "there is no tool that could be called"))
        return Choice()
    return Choice(_MODES[kind], bool(one_only))
