"""
What clients put into system messages only to change them: found, and removed for local servers.

Such a nonce stands near the beginning, so every request misses the server's prefix cache (one report: 50 s
against 3.65 s a request). Known ones are Claude Code's: a line `x-anthropic-billing-header: ...; cch=...;`
at the head of the system message. Others are found by the user's own patterns (`context.nonce_patterns`).

A user's pattern may be slow on hostile text; it is theirs, as is the client that sends the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from penstock.domain.change import Change

Message = Mapping[str, Any]

# Known ones are looked for at the beginning only: further down the words may be somebody's text.
_HEAD_SIGNS = 2000
_KNOWN = (
    re.compile(r"^x-anthropic-billing-header:[^\n]*(?:\n+|\Z)", re.IGNORECASE | re.MULTILINE),
    re.compile(r"(?<![\w-])cch=[0-9a-zA-Z]{3,64};[ \t]*"),
)


class Cleaned(NamedTuple):
    """Messages without nonces: the identical object when there were none."""

    messages: Sequence[Message]
    changes: tuple[Change, ...] = ()


def without_nonces(messages: Sequence[Message], patterns: Sequence[str] = ()) -> Cleaned:
    """
    Remove nonces from system messages.

    Known ones go from those at the head of the conversation, what the user's *patterns* match from all of
    them. A part of a content list that was nothing but a nonce goes as a whole.
    """
    own = _compiled(tuple(patterns))
    out: list[Message] | None = None
    changes: list[Change] = []
    at_head = True
    for place, message in enumerate(messages):
        role = message.get("role")
        if role != "system" and role != "developer":
            at_head = False
            if not own:
                break
            continue
        content = _cleaned(message.get("content"), _KNOWN if at_head else (), own)
        if content is None:
            continue
        if out is None:
            out = list(messages)
        out[place] = {**message, "content": content}
        changes.append(
            Change(
                "fit",
                f"messages[{place}].content",
                "rewritten",
                "a part that changes with every request was removed, so that the prefix stays cached",
            )
        )
    return Cleaned(messages) if out is None else Cleaned(out, tuple(changes))


def check_pattern(pattern: str) -> str:
    """The pattern, if it can be used; else a `ValueError` that says what was expected."""
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    if compiled.match(""):
        raise ValueError("expected a regular expression that does not match the empty text")
    return pattern


@lru_cache(maxsize=16)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)


def _cleaned(
    content: Any, known: Sequence[re.Pattern[str]], own: Sequence[re.Pattern[str]]
) -> Any | None:
    """The content without nonces; None when it holds none."""
    if isinstance(content, str):
        text = _without(content, known, own)
        return None if text == content else text
    if not isinstance(content, list):
        return None
    parts: list[Any] = []
    for part in content:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text = _without(part["text"], known, own)
            if text != part["text"]:
                if not text.strip():
                    continue
                part = {**part, "text": text}
        parts.append(part)
    if parts == content:
        return None
    return parts or ""


def _without(text: str, known: Sequence[re.Pattern[str]], own: Sequence[re.Pattern[str]]) -> str:
    head, rest = text[:_HEAD_SIGNS], text[_HEAD_SIGNS:]
    for pattern in known:
        head = pattern.sub("", head)
    cleaned = head + rest
    for pattern in own:
        cleaned = pattern.sub("", cleaned)
    return cleaned
