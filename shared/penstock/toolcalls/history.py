"""
Broken calls and unseeable images in a conversation's history (behaviours E).

Some servers fail every later request when an earlier call in the conversation has arguments that are no
JSON object, or when it holds an image that their model cannot see. A gateway that lets this stand leaves
the conversation dead; so it is mended where that is certain and replaced by a note otherwise. The note is
fixed, so that the prefix stays the same from request to request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from penstock.domain.change import Change
from penstock.toolcalls.arguments import Verdict, check_arguments
from penstock.toolcalls.schema import ToolSchema

ARGUMENTS_NOTE = '{"note":"The arguments of this call were not valid JSON and are left out."}'
IMAGE_NOTE = "[An image was left out: the model cannot see images.]"
_IMAGES = ("image_url", "input_image", "image")
_ANY_OBJECT = ToolSchema("")
_LARGEST_KEPT_CHARS = 4_096


def mend_history(
    messages: Sequence[Mapping[str, Any]], *, vision: bool | None = None
) -> tuple[Sequence[Mapping[str, Any]], tuple[Change, ...]]:
    """
    Messages that no server chokes on.

    Args:
        vision: whether the model sees images; None when that is not known: images stay. One in the last
            user message stays in any case: it is what is asked about now, and the server's refusal is the
            true answer.

    Returns:
        the identical messages when there was nothing to mend, and what was changed.
    """
    out: list[Mapping[str, Any]] | None = None
    changes: list[Change] = []
    asked_now = _last_user(messages) if vision is False else 0
    for place, message in enumerate(messages):
        changed = message
        if "tool_calls" in message:
            changed = _calls_mended(changed, f"messages[{place}]", changes)
        if place < asked_now and ("images" in message or type(message.get("content")) is list):
            changed = _without_images(changed, f"messages[{place}]", changes)
        if changed is not message:
            if out is None:
                out = list(messages)
            out[place] = changed
    return (messages if out is None else out), tuple(changes)


def unseen_image(messages: Sequence[Mapping[str, Any]]) -> str:
    """
    Where in what is asked now (the last user message and all after it) the first image stands, as a client names
    the place (`messages[3].content[1]`); "" when there is none.
    """
    for place in range(_last_user(messages), len(messages)):
        message = messages[place]
        if message.get("images"):
            return f"messages[{place}].images[0]"
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, Mapping) and part.get("type") in _IMAGES:
                return f"messages[{place}].content[{number}]"
    return ""


def _last_user(messages: Sequence[Mapping[str, Any]]) -> int:
    for place in range(len(messages) - 1, -1, -1):
        if messages[place].get("role") == "user":
            return place
    return 0


def _calls_mended(
    message: Mapping[str, Any], where: str, changes: list[Change]
) -> Mapping[str, Any]:
    calls = message["tool_calls"]
    if not isinstance(calls, list):
        return message
    out: list[Any] | None = None
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or "arguments" not in function:
            continue
        given = function["arguments"]
        if isinstance(given, dict):
            continue  # Ollama's own way
        right, how = (
            _right_arguments(given) if isinstance(given, str) else (ARGUMENTS_NOTE, _LEFT_OUT)
        )
        if right == given:
            continue
        if out is None:
            out = list(calls)
        out[place] = {**call, "function": {**function, "arguments": right}}
        field = f"{where}.tool_calls[{place}].function.arguments"
        changes.append(Change("repair", field, "rewritten", how))
    return message if out is None else {**message, "tool_calls": out}


_LEFT_OUT = "they were no JSON object, which makes servers fail: a note stands in their place"
_MENDED = "broken JSON, which makes servers fail, was repaired"


def _right_arguments(text: str) -> tuple[str, str]:
    return (_kept if len(text) <= _LARGEST_KEPT_CHARS else _judged)(text)


def _judged(text: str) -> tuple[str, str]:
    """The arguments as they may stand, the same text when they are an object, and why they changed."""
    try:
        if isinstance(orjson.loads(text), dict):
            return text, ""
    except ValueError:
        pass
    checked = check_arguments(text, _ANY_OBJECT, cut_off=False)
    if checked.verdict is Verdict.REPAIRED:
        return checked.text, _MENDED
    return ARGUMENTS_NOTE, _LEFT_OUT


_kept = lru_cache(maxsize=1_024)(_judged)


def _without_images(
    message: Mapping[str, Any], where: str, changes: list[Change]
) -> Mapping[str, Any]:
    content = message.get("content")
    images = 0
    parts: Any = content
    if isinstance(content, list):
        parts = []
        for part in content:
            if isinstance(part, dict) and part.get("type") in _IMAGES:
                images += 1
                part = {"type": "text", "text": IMAGE_NOTE}
            parts.append(part)
    own = message.get("images")  # Ollama's own way
    if isinstance(own, list) and own:
        images += len(own)
        if isinstance(content, str) or content is None:
            parts = "\n".join([text for text in (content, *[IMAGE_NOTE] * len(own)) if text])
    if not images:
        return message
    changes.append(
        Change("repair", f"{where}.content", "rewritten",
               f"{images} image{'s' if images > 1 else ''} left out: the model cannot see them")
    )  # fmt: skip
    return {**{k: v for k, v in message.items() if k != "images"}, "content": parts}
