"""Contents of OpenAI-shaped messages: joined, without images, with shorter texts. Nothing is mutated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.compress.shorten import shorten, size_bytes

Message = Mapping[str, Any]

_JOINT = "\n\n"
_IMAGE_TYPES = ("image_url", "input_image", "image")
IMAGE_GONE = "[An earlier image was left out to fit the model's window.]"
# No text is made smaller than this: less says nothing.
_LEAST_BYTES = 24
# Of the bytes that the average of the message would give: beginnings and ends may be denser than it.
_FIRST_TRY = 0.9
_NEXT_TRY = 0.6
_TRIES = 8


def has_images(message: Message) -> bool:
    """Whether there are images in it."""
    content = message.get("content")
    return isinstance(content, list) and any(_is_image(part) for part in content)


def without_images(message: Message) -> Message:
    """The message with a few words in place of each run of images."""
    parts: list[Any] = []
    for part in message["content"]:
        if not _is_image(part):
            parts.append(part)
        elif not parts or parts[-1] != _GONE_PART:
            parts.append(_GONE_PART)
    return {**message, "content": parts}


_GONE_PART = {"type": "text", "text": IMAGE_GONE}


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _IMAGE_TYPES


def joined(contents: Sequence[Any]) -> Any:
    """
    Contents one after the other, apart by a blank line.

    Texts become one text. With a list among them the result is a list; templates put its texts directly
    behind each other, so the blank line stands in the texts that are added.
    """
    if not any(isinstance(content, list) for content in contents):
        return _JOINT.join(c for c in contents if isinstance(c, str) and c)
    parts: list[Any] = []
    for content in contents:
        added = content if isinstance(content, list) else [{"type": "text", "text": content}]
        if not content:
            continue
        if parts:
            first = added[0]
            if isinstance(first, dict) and isinstance(first.get("text"), str):
                added = [{**first, "text": _JOINT + first["text"]}, *added[1:]]
            else:
                parts.append({"type": "text", "text": _JOINT})
        parts.extend(added)
    return parts


def contains(message: Message, words: str) -> bool:
    """Whether one of its texts holds these words."""
    return any(words in text for text in texts(message))


def texts(message: Message) -> list[str]:
    """The texts of its content."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        return [part["text"] for part in content if _is_text(part)]
    return []


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def can_shrink(message: Message) -> bool:
    """Whether it has text that can be made shorter."""
    return any(len(text) > _LEAST_BYTES for text in texts(message))


def shrunk(
    message: Message,
    weight: int,
    target: int,
    weigh: Callable[[Message], int],
    rule: Callable[[str, int], str] = shorten,
) -> tuple[Message, int]:
    """
    The message with shorter texts, and its weight: at most *target* tokens where its texts allow that.

    The sizes that are tried follow from the content, *weight* and *target*; *weigh* only says which of
    them is taken. So the first one that *weigh* knows exactly to fit is the same everywhere.

    Args:
        weight: tokens of the message as it is.
        rule: how a text is brought to a number of bytes.
    """
    sizes = [size_bytes(text) for text in texts(message)]
    room = int(sum(sizes) * target / max(weight, 1) * _FIRST_TRY)
    best = message, weight
    for _ in range(_TRIES):
        level = max(fill_level(sizes, room), _LEAST_BYTES)
        made = _with_texts(message, lambda text, level=level: rule(text, level))  # type: ignore[misc]
        tokens = weigh(made)
        if tokens < best[1]:
            best = made, tokens
        if tokens <= target or level == _LEAST_BYTES:
            break
        room = int(room * _NEXT_TRY)
    return best


def _with_texts(message: Message, change: Callable[[str], str]) -> Message:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": change(content)}
    parts = [{**part, "text": change(part["text"])} if _is_text(part) else part for part in content]
    return {**message, "content": parts}


def fill_level(sizes: Sequence[int], room: int) -> int:
    """
    The height to which all *sizes* must be cut so that their sum is at most *room*.

    What is lower than that stays whole: the largest give first, and equals give equally.
    """
    left = room
    rest = len(sizes)
    for size in sorted(sizes):
        if size * rest > left:
            return max(left // rest, 0)
        left -= size
        rest -= 1
    return max(sizes, default=0)
