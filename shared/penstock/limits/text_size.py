"""
A certain lower bound on a prompt's tokens, from the size of its text alone.

It decides nothing but how far an output limit can be too large for certain, so it must never exceed the
truth. Tokenizers in use average 3 to 5 bytes a token for prose; the longest tokens of their vocabularies
(runs of spaces or dashes) reach 128 bytes, but no text of a conversation is made of these alone. One
token per 16 bytes of text other than white space has a margin of three over the best ratio seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BYTES_PER_TOKEN_AT_MOST = 16


def prompt_lower_bound(body: Mapping[str, Any]) -> int:
    """Tokens that the prompt of *body* (chat or completion) has at the very least."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return _bound(_signs(prompt))
    size = 0
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            size += _signs(content)
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, Mapping) else None
                if isinstance(text, str):
                    size += _signs(text)
    return _bound(size)


def _signs(text: str) -> int:
    return len(text) - text.count(" ") - text.count("\n")


def _bound(characters: int) -> int:
    return characters // _BYTES_PER_TOKEN_AT_MOST
