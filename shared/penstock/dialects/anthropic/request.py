"""
A Messages request -> neutral.

What only tunes Anthropic's service (tiers, caches, context management) is left out; `cache_control` without
a word, since a local server caches every prefix by itself, the rest announced.
Fields: docs.anthropic.com/en/api/messages, `anthropic.types.message_create_params`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.dialects.anthropic.blocks import joined_texts
from penstock.dialects.anthropic.conversation import read_messages
from penstock.dialects.anthropic.tools import read_choice, read_tools
from penstock.dialects.base import Asked
from penstock.dialects.shapes import (
    array_in,
    dropped,
    flag_in,
    number_in,
    object_in,
    refused,
    text_in,
    wrong,
)
from penstock.domain.change import Change
from penstock.domain.chat import ChatRequest, Message, ResponseFormat, TextPart

_READ = frozenset(
    {
        "model", "messages", "system", "max_tokens", "stop_sequences", "stream", "temperature", "top_p",
        "top_k", "tools", "tool_choice", "thinking", "output_config", "output_format", "metadata",
        "cache_control", "penstock",
    }
)  # fmt: skip
# Servers keep it in 32 bits; 1e30 as a whole number is more than JSON is written with.
_LARGEST_TOP_K = 2**31 - 1
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_WHY_DROPPED = {
    "service_tier": "a local server has no tiers",
    "speed": "a local server has no tiers",
    "container": "Penstock stores no containers",
    "mcp_servers": "Penstock calls no MCP servers",
    "context_management": "Penstock fits conversations by its strategy",
    "betas": "betas are Anthropic's",
}


def read_request(body: Mapping[str, Any], *, needs_limit: bool = True) -> Asked:
    """
    The neutral request.

    Args:
        needs_limit: whether `max_tokens` must be there.

    Raises:
        RequestError: the body is not of the dialect; the message names the field.
    """
    changes: list[Change] = []
    messages = read_messages(body.get("messages"), changes)
    system = body.get("system")
    text = joined_texts(system, "system") if system is not None else ""
    if text:
        messages.insert(0, Message("system", (TextPart(text),)))
    box = read_tools(body, changes)
    choice = read_choice(body.get("tool_choice"), box, changes)
    config = object_in(body, "output_config")
    stream = flag_in(body, "stream") is True
    extra: dict[str, Any] = {"parallel_tool_calls": False} if choice.one_only else {}
    user = _user(body, changes)
    if user is not None:
        extra["user"] = user
    chat = ChatRequest(
        model=text_in(body, "model") or "",
        messages=tuple(messages),
        tools=box.tools,
        tool_choice=choice.value,
        sampling=_sampling(body),
        max_output_tokens=_limit(body, needs_limit=needs_limit),
        stop=_stops(body),
        stream=stream,
        include_usage=stream,
        response_format=_format(body, config),
        reasoning=_reasoning(body, config, changes),
        extra=extra,
    )
    _announce(body, config, changes)
    return Asked(chat, tuple(changes))


def _limit(body: Mapping[str, Any], *, needs_limit: bool) -> int | None:
    value = body.get("max_tokens")
    if value is None:
        if needs_limit:
            raise refused(
                "max_tokens",
                "max_tokens: the field is missing; say how many tokens the answer may have at most.",
            )
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong("max_tokens", "a whole number of at least 1", value)
    return value


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("temperature", "top_p", "top_k"):
        value = number_in(body, name)
        if value is None:
            continue
        if name == "top_k" and (value != int(value) or abs(value) > _LARGEST_TOP_K):
            raise wrong(name, f"a whole number of at most {_LARGEST_TOP_K}", value)
        found[name] = int(value) if name == "top_k" else value
    return found


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    stops = array_in(body, "stop_sequences")
    for number, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise wrong(f"stop_sequences[{number}]", "a string", stop)
    return tuple(stops)


def _user(body: Mapping[str, Any], changes: list[Change]) -> str | None:
    metadata = object_in(body, "metadata")
    for name in metadata:
        if name != "user_id":
            changes.append(dropped(f"metadata.{name[:60]}", "Penstock stores no metadata"))
    return text_in(metadata, "user_id", "metadata.user_id")


def _format(body: Mapping[str, Any], config: Mapping[str, Any]) -> ResponseFormat:
    """`output_format` is its older name."""
    where, value = "output_config.format", config.get("format")
    if value is None:
        where, value = "output_format", body.get("output_format")
    if value is None:
        return ResponseFormat()
    if not isinstance(value, dict):
        raise wrong(where, "an object", value)
    if value.get("type") != "json_schema":
        raise wrong(f"{where}.type", "json_schema", value.get("type"))
    schema = value.get("schema")
    if not isinstance(schema, dict):
        raise wrong(f"{where}.schema", "an object", schema)
    return ResponseFormat("json_schema", schema, text_in(value, "name", f"{where}.name"))


def _reasoning(
    body: Mapping[str, Any], config: Mapping[str, Any], changes: list[Change]
) -> bool | str | None:
    """Whether to think, or how hard; an effort says both."""
    thinking = object_in(body, "thinking")
    kind = text_in(thinking, "type", "thinking.type")
    if kind not in _THINKING and body.get("thinking") is not None:
        raise wrong("thinking.type", f"one of {', '.join(_THINKING)}", kind)
    if thinking.get("budget_tokens") is not None:
        detail = "a local server has no limit of its own for thinking"
        changes.append(dropped("thinking.budget_tokens", detail))
    if thinking.get("display") == "omitted":
        detail = "thinking is said in full: sent back, it keeps the conversation's prefix cached"
        changes.append(dropped("thinking.display", detail, "output"))
    if kind == "between_tools":
        detail = "the model thinks when it does"
        changes.append(dropped("thinking.type", detail))
    effort = text_in(config, "effort", "output_config.effort")
    if effort is None:
        return None if kind is None else _THINKING[kind]
    if effort not in _EFFORTS:
        raise wrong("output_config.effort", f"one of {', '.join(_EFFORTS)}", effort)
    if kind == "disabled":
        changes.append(dropped("output_config.effort", "the model is told not to think"))
        return False
    if _EFFORTS[effort] != effort:
        detail = f"local servers know no effort above high, so {effort} is high"
        changes.append(Change("template", "output_config.effort", "rewritten", detail))
    return _EFFORTS[effort]


_THINKING = {"enabled": True, "disabled": False, "adaptive": None, "between_tools": None}


def _announce(body: Mapping[str, Any], config: Mapping[str, Any], changes: list[Change]) -> None:
    """What is left out, field by field."""
    for name in config:
        if name not in ("effort", "format"):
            changes.append(
                dropped(f"output_config.{name[:60]}", "no local server has it", "output")
            )
    for name, value in body.items():
        if name not in _READ and value is not None:
            why = _WHY_DROPPED.get(name, "Penstock has no such field on Messages")
            changes.append(dropped(name[:60], why))
