"""
Messages of a Messages request as neutral messages.

The dialect puts tool results into the user's message, before what the user says; chat servers want them as
messages of their own, so one message becomes several. A turn of the assistant is one message on both sides.
Claude Code sends a system message in mid-conversation as a list of blocks once and as a text from then on:
both are the same neutral message, else the server's prefix cache would miss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from penstock.dialects.anthropic.blocks import blocks_of, joined_texts, read_block
from penstock.dialects.shapes import dropped, needed_text, refused, wrong
from penstock.domain.change import Change
from penstock.domain.chat import ImagePart, Message, Part, TextPart, ToolCall

_FIELDS = frozenset({"role", "content"})
_OF_THE_ASSISTANT = frozenset({"tool_use", "thinking", "redacted_thinking"})
_IMAGE_FOLLOWS = "[image: see the next message]"
_LONGEST_HEADLINE = 100


def read_messages(value: Any, changes: list[Change]) -> list[Message]:
    """
    All of them.

    Raises:
        RequestError: one has the wrong shape; the message names its place.
    """
    if not isinstance(value, list):
        raise wrong("messages", "an array", value)
    if not value:
        raise refused("messages", "messages: at least one message is needed.")
    messages: list[Message] = []
    told: set[str] = set()
    for number, message in enumerate(value):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise wrong(where, "an object", message)
        for name in sorted(message.keys() - _FIELDS - told):
            told.add(name)
            changes.append(
                dropped(f"{where}.{name[:60]}", "messages of local servers have no such field")
            )
        role = message.get("role")
        place = f"{where}.content"
        content = message.get("content")
        if role == "user":
            messages += _from_user(content, place, changes)
        elif role == "assistant":
            messages.append(_from_assistant(content, place, changes))
        elif role == "system":
            messages.append(Message("system", (TextPart(joined_texts(content, place)),)))
        else:
            raise wrong(f"{where}.role", "one of assistant, system, user", role)
    return messages


def _from_user(content: Any, where: str, changes: list[Change]) -> list[Message]:
    """Results first, each a message; then the images that stood in them and the rest."""
    results: list[Message] = []
    images: list[Part] = []
    rest: list[Part] = []
    blocks = blocks_of(content, where)
    for kind, place, block in blocks:
        if kind == "tool_result":
            if rest:
                changes.append(
                    Change(
                        "template", place, "rewritten", "a tool's result stands before other text"
                    )
                )
            results.append(_result(block, place, images, changes))
        elif kind in _OF_THE_ASSISTANT:
            raise refused(
                place, f"{place}: a {kind} block belongs into a message of the assistant."
            )
        else:
            rest += read_block(kind, block, place, changes)
    rest = images + rest
    if rest or not results:
        return [*results, Message("user", tuple(rest))]
    return results


def _result(
    block: Mapping[str, Any], where: str, images: list[Part], changes: list[Change]
) -> Message:
    call_id = needed_text(block, "tool_use_id", where)
    content = block.get("content")
    parts: list[Part] = []
    has_image = False
    for kind, place, inner in blocks_of([] if content is None else content, f"{where}.content"):
        for part in read_block(kind, inner, place, changes):
            if isinstance(part, ImagePart):
                has_image = True
                images.append(part)
                part = TextPart(_IMAGE_FOLLOWS)
            parts.append(part)
    if has_image:
        detail = "images of a tool's result stand in a user message after it"
        changes.append(Change("template", f"{where}.content", "rewritten", detail))
    failed = block.get("is_error")
    if failed is not None and not isinstance(failed, bool):
        raise wrong(f"{where}.is_error", "a boolean", failed)
    return Message("tool", tuple(_as_error(parts) if failed else parts), tool_call_id=call_id)


def _as_error(parts: list[Part]) -> list[Part]:
    """
    Chat servers have no flag for it, so the text says it.

    Most do already ("TypeError: ...", "<tool_use_error>..."): whoever reads their first line knows.
    """
    first = parts[0] if parts else None
    if not isinstance(first, TextPart):
        return [TextPart("Error"), *parts]
    headline = first.text.lstrip()[:_LONGEST_HEADLINE].partition("\n")[0]
    if "error" in headline.lower():
        return parts
    return [TextPart(f"Error: {first.text}"), *parts[1:]]


def _from_assistant(content: Any, where: str, changes: list[Change]) -> Message:
    """
    A turn as the server said it.

    What thinking or a call stood between was one text there (`content`, `reasoning_content`) and is cut into
    blocks by this dialect only; a line feed where it was cut would be no prefix of the server's cache.
    """
    parts: list[Part] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for kind, place, block in blocks_of(content, where):
        if kind == "thinking":
            thought = needed_text(block, "thinking", place)
            if thought:
                thoughts.append(thought)
        elif kind == "redacted_thinking":
            changes.append(dropped(place, "encrypted thinking that only its maker can read"))
        elif kind == "tool_use":
            calls.append(_call(block, place))
        elif kind == "tool_result":
            raise refused(
                place, f"{place}: a tool_result block belongs into a message of the user."
            )
        else:
            parts += read_block(kind, block, place, changes)
    if len(parts) > 1 and all(isinstance(part, TextPart) for part in parts):
        parts = [TextPart("".join(part.text for part in parts if isinstance(part, TextPart)))]
    return Message("assistant", tuple(parts), tuple(calls), reasoning="".join(thoughts) or None)


def _call(block: Mapping[str, Any], where: str) -> ToolCall:
    call_id = needed_text(block, "id", where)
    name = needed_text(block, "name", where)
    given = block.get("input")
    if not isinstance(given, dict):
        raise wrong(f"{where}.input", "an object", given)
    try:
        return ToolCall(call_id, name, orjson.dumps(given).decode())
    except TypeError as error:
        raise refused(f"{where}.input", f"{where}.input: nested too deeply.") from error
