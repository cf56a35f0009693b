"""
What of one chat message costs tokens, and the key under which its count is remembered.

Messages are the dicts that a client sent: OpenAI's shape, and Ollama's native one (`images`, `thinking`,
arguments as objects). Nothing of a stranger's message may raise here, and nothing recurses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

_TEXTS_BESIDE_CONTENT = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "refusal",
    "name",
    "tool_name",
)
_THINKING = ("reasoning_content", "reasoning", "thinking")
_END_OF_THINKING = "</think>"
_TEXT_PARTS = ("text", "refusal", "thinking", "content", "input_text")
_IMAGE_PARTS = frozenset({"image_url", "image", "input_image"})


@dataclass(frozen=True, slots=True)
class Countable:
    """
    What of one message costs tokens.

    Attributes:
        texts: content, name, thinking, and of each tool call its name and its arguments as JSON text.
        images: images of usual detail.
        audio_or_other: parts that are neither text nor image (audio, files).
        small_images: images that are asked for with `detail: low`.
        calls: tool calls, whose markup the template adds.
    """

    texts: tuple[str, ...]
    images: int = 0
    audio_or_other: int = 0
    small_images: int = 0
    calls: int = 0


def countable(message: Mapping[str, Any]) -> Countable:
    """What of *message* costs tokens."""
    if not isinstance(message, Mapping):
        return Countable(())
    texts: list[str] = []
    images = small = other = 0
    content = message.get("content")
    if isinstance(content, str):
        texts.append(content)
    elif isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if isinstance(part, str):
                texts.append(part)
            elif not isinstance(part, Mapping):
                texts.append(json_text(part))
            elif isinstance(kind, str) and kind in _IMAGE_PARTS:
                low = _detail(part) == "low"
                images, small = images + (not low), small + low
            elif found := [part[name] for name in _TEXT_PARTS if isinstance(part.get(name), str)]:
                texts.extend(found)
            else:
                other += 1
    elif content is not None:
        texts.append(json_text(content))
    for name in _TEXTS_BESIDE_CONTENT:
        value = message.get(name)
        if isinstance(value, str):
            texts.append(value)
    pictures = message.get("images")
    if isinstance(pictures, list):
        images += len(pictures)
    calls = _calls(message)
    for call in calls:
        texts.extend(_call_texts(call))
    return Countable(tuple(text for text in texts if text), images, other, small, len(calls))


def without_spent_thinking(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """
    *messages* as a template reads them that leaves out the thinking of all turns but the last.

    Returns:
        the identical object when there is none.
    """
    last = max((at for at, one in enumerate(messages) if one.get("role") == "user"), default=0)
    out: list[Mapping[str, Any]] | None = None
    for place in range(last):
        message = messages[place]
        if message.get("role") != "assistant" or not any(name in message for name in _THINKING):
            continue
        if out is None:
            out = list(messages)
        out[place] = {name: value for name, value in message.items() if name not in _THINKING}
    return messages if out is None else out


def thinking_bytes(messages: Iterable[Mapping[str, Any]]) -> int:
    """
    Bytes of the thinking in what the model said: many templates leave it out of the prompt, so there may
    be so many tokens less.
    """
    size = 0
    for message in messages:
        if message.get("role") != "assistant":
            continue
        for name in _THINKING:
            value = message.get(name)
            if isinstance(value, str):
                size += len(value.encode("utf-8", "surrogatepass"))
        content = message.get("content")
        if isinstance(content, str):
            end = content.rfind(_END_OF_THINKING)
            if end >= 0:
                size += len(content[: end + len(_END_OF_THINKING)].encode("utf-8", "surrogatepass"))
    return size


def message_key(message: Mapping[str, Any]) -> int:
    """
    A key for caches of this process (Python salts it; two processes have different ones).

    A message of a role and a text, which nearly all are, is hashed without being written out.
    """
    if len(message) == 2:
        role, content = message.get("role"), message.get("content")
        if type(content) is str and type(role) is str:
            return hash((role, content))
    return hash(json_bytes(message))


def json_text(value: Any) -> str:
    """The JSON text of *value*."""
    return json_bytes(value).decode("utf-8", "surrogatepass")


def json_bytes(value: Any) -> bytes:
    """The JSON of *value*, however deep, large or odd: what orjson refuses is written out here."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return _odd(value)


def _odd(value: Any) -> bytes:
    """Iterative: for nesting beyond orjson's 254 levels, whole numbers beyond 64 bits, half surrogates."""
    pieces: list[str] = []
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, _Mark):
            pieces.append(item)
        elif isinstance(item, dict):
            stack.append(_Mark("}"))
            for name, inner in reversed(list(item.items())):
                stack.extend((_Mark(","), inner, _Mark(f'"{name}":')))
            stack.append(_Mark("{"))
        elif isinstance(item, list | tuple):
            stack.append(_Mark("]"))
            for inner in reversed(item):
                stack.extend((_Mark(","), inner))
            stack.append(_Mark("["))
        elif isinstance(item, str):
            pieces.append(f'"{item}"')
        elif isinstance(item, int) and item.bit_length() > 4_000:
            pieces.append(f"{item:x}")  # Python refuses to write huge numbers in decimal
        else:
            pieces.append(str(item))
    return "".join(pieces).encode("utf-8", "surrogatepass")


class _Mark(str):
    """A piece of JSON's own punctuation, told apart from the strings of the value."""

    __slots__ = ()


def _detail(part: Mapping[str, Any]) -> Any:
    inner = part.get("image_url")
    return inner.get("detail") if isinstance(inner, Mapping) else part.get("detail")


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    found = [c for c in calls if isinstance(c, Mapping)] if isinstance(calls, list) else []
    old = message.get("function_call")
    return [*found, old] if isinstance(old, Mapping) else found


def _call_texts(call: Mapping[str, Any]) -> list[str]:
    function = call.get("function", call.get("custom", call))
    if not isinstance(function, Mapping):
        return []
    arguments = function.get("arguments", function.get("input"))
    texts = [function.get("name"), arguments if isinstance(arguments, str) else None]
    if isinstance(arguments, Mapping | list):
        texts.append(json_text(arguments))
    return [text for text in texts if isinstance(text, str)]
