"""
Tools of a Responses request as neutral functions, and the way back from a function's name to its tool.

A chat server knows functions only. A `custom` tool takes free text (Codex' `apply_patch`), so it becomes a
function with one text, `input`; a `namespace` is a group whose functions get its name as a prefix. Codex
puts its own tools into the namespace `functions`, which means none: it refuses a call that names it
(openai/codex, `codex-rs/protocol/src/tool_name.rs`). Tools that OpenAI itself runs (web search, code
interpreter, ...) exist at no local server.
Shapes: platform.openai.com/docs/api-reference/responses/create, `tools`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

NO_NAMESPACE = "functions"
CUSTOM_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}


@dataclass(frozen=True, slots=True)
class ToolName:
    """A tool as the client knows it."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class Toolbox:
    """
    The tools of one request.

    Attributes:
        tools: as the model sees them.
        names: function name -> the client's tool.
    """

    tools: tuple[Tool, ...] = ()
    names: Mapping[str, ToolName] = field(default_factory=dict)

    def function_name(self, name: str, namespace: str | None) -> str:
        """The function's name of a tool that a message of the history names."""
        for flat, tool in self.names.items():
            if tool.name == name and tool.namespace == _own(namespace):
                return flat
        return flat_name(name, _own(namespace))


def flat_name(name: str, namespace: str | None) -> str:
    """`mcp__demo` and `look` are `mcp__demo__look`; so are `mcp__demo__` and `look`."""
    if not namespace:
        return name
    return f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"


def _own(namespace: str | None) -> str | None:
    return None if not namespace or namespace == NO_NAMESPACE else namespace


def read_tools(groups: Sequence[tuple[str, list[Any]]], changes: list[Change]) -> Toolbox:
    """
    All tools of a request.

    Args:
        groups: where the tools stand (`tools`, `input[0].tools`), and the tools there.
        changes: what is left out or said otherwise is added here.

    Raises:
        RequestError: a tool without a name, or that is no object.
    """
    tools: list[Tool] = []
    names: dict[str, ToolName] = {}
    known: set[tuple[str | None, str]] = set()
    for where, tool, namespace, told in _each(groups, changes):
        name = needed_text(tool, "name", where)
        if not name:
            raise wrong(f"{where}.name", "a name", name)
        if (namespace, name) in known:
            changes.append(dropped(where, f"there is a tool {name} already"))
            continue
        known.add((namespace, name))
        flat = free = flat_name(name, namespace)
        number = 2
        while free in names:
            free = f"{flat}_{number}"
            number += 1
        is_custom = tool.get("type") == "custom"
        names[free] = ToolName(name, namespace, is_custom)
        description = (text_in(tool, "description", f"{where}.description") or "").strip()
        description = f"{told}\n\n{description}".strip() if told else description
        if is_custom:
            tools.append(_custom(tool, free, description, where, changes))
        else:
            tools.append(_function(tool, free, description, where))
    return Toolbox(tuple(tools), names)


def _each(
    groups: Sequence[tuple[str, list[Any]]], changes: list[Change]
) -> list[tuple[str, Mapping[str, Any], str | None, str]]:
    """Functions and custom tools: where, the tool, its namespace, what its group's description tells."""
    found: list[tuple[str, Mapping[str, Any], str | None, str]] = []
    for place, tools in groups:
        for number, tool in enumerate(tools):
            where = f"{place}[{number}]"
            kind = _kind(tool, where)
            if kind in ("function", "custom"):
                found.append((where, tool, None, ""))
            elif kind != "namespace":
                changes.append(dropped(where, f"no local server runs the tool {kind[:60]}"))
            else:
                name = needed_text(tool, "name", where)
                told = (text_in(tool, "description", f"{where}.description") or "").strip()
                if _own(name) is not None:
                    detail = f"the tools of {name} are functions called {flat_name('...', name)}"
                    changes.append(Change("template", where, "renamed", detail))
                    told = f"{name}: {told}" if told else ""
                for inner_number, inner in enumerate(array_in(tool, "tools", f"{where}.tools")):
                    inner_where = f"{where}.tools[{inner_number}]"
                    inner_kind = _kind(inner, inner_where)
                    if inner_kind not in ("function", "custom"):
                        detail = f"no local server runs the tool {inner_kind[:60]}"
                        changes.append(dropped(inner_where, detail))
                        continue
                    found.append((inner_where, inner, _own(name), told))
                    told = ""  # once is enough
    return found


def _kind(tool: Any, where: str) -> str:
    if not isinstance(tool, dict):
        raise wrong(where, "an object", tool)
    return needed_text(tool, "type", where)


def _function(tool: Mapping[str, Any], name: str, description: str, where: str) -> Tool:
    parameters = tool.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise wrong(f"{where}.parameters", "an object", parameters)
    strict = tool.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise wrong(f"{where}.strict", "a boolean", strict)
    return Tool(name, description, parameters, strict)


def _custom(
    tool: Mapping[str, Any], name: str, description: str, where: str, changes: list[Change]
) -> Tool:
    form = tool.get("format")
    if form is not None and not isinstance(form, dict):
        raise wrong(f"{where}.format", "an object", form)
    told = "It is called with an object whose one field, `input`, holds the whole text."
    detail = f"{name} takes free text and is offered as a function with one text"
    if form is not None and isinstance(form.get("definition"), str):
        named = form.get("syntax")
        syntax = named[:20] if isinstance(named, str) else "given"
        told += f" The text follows this {syntax} grammar:\n{form['definition']}"
        detail += f"; its {syntax} grammar is told to the model, not enforced"
    changes.append(Change("template", where, "rewritten", detail))
    return Tool(name, f"{description}\n\n{told}".strip(), CUSTOM_PARAMETERS)


def read_choice(
    value: Any, box: Toolbox, changes: list[Change]
) -> tuple[str | Mapping[str, Any] | None, tuple[Tool, ...]]:
    """
    `tool_choice`, and the tools that may be called by it.

    Raises:
        RequestError: it is no choice, or names a function that is not there.
    """
    if value is None:
        return None, box.tools
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise wrong("tool_choice", "one of auto, none, required, or an object", value)
        return _mode(value, box.tools, changes), box.tools
    if not isinstance(value, dict):
        raise wrong("tool_choice", "a string or an object", value)
    kind = needed_text(value, "type", "tool_choice")
    if kind in ("function", "custom"):
        return {"name": _named(value, box, "tool_choice")}, box.tools
    if kind == "allowed_tools":
        mode = value.get("mode")
        if mode not in ("auto", "required"):
            raise wrong("tool_choice.mode", "one of auto, required", mode)
        allowed = set()
        for number, one in enumerate(array_in(value, "tools", "tool_choice.tools")):
            where = f"tool_choice.tools[{number}]"
            if _kind(one, where) in ("function", "custom"):
                allowed.add(_named(one, box, where))
        tools = tuple(tool for tool in box.tools if tool.name in allowed)
        return _mode(mode, tools, changes), tools
    changes.append(dropped("tool_choice", f"no local server runs the tool {kind[:60]}"))
    return None, box.tools


def _mode(mode: str, tools: Sequence[Tool], changes: list[Change]) -> str | None:
    """A chat server refuses a choice where there is nothing to choose from."""
    if tools:
        return mode
    if mode == "required":
        changes.append(dropped("tool_choice", "there is no tool that could be called"))
    return None


def _named(value: Mapping[str, Any], box: Toolbox, where: str) -> str:
    name = needed_text(value, "name", where)
    flat = box.function_name(name, text_in(value, "namespace", f"{where}.namespace"))
    if flat not in box.names:
        raise refused(where, f"{where}: there is no tool {name[:60]!r} in tools.")
    return flat
