"""
How several servers are asked to count tokens, and readers of what they answer.

Never raise on what a stranger may send.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.servers.base import ChatCount

SEPARATOR = 2**31 - 1
"""Stands between texts in a list that llama.cpp tokenises; no vocabulary has so many tokens."""


def amount(value: Any) -> int | None:
    """A count: a whole number that is not negative."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def field(value: Any, name: str) -> Any:
    """`value[name]`, None when it is no object or has no such field."""
    return value.get(name) if isinstance(value, Mapping) else None


def number_in(name: str) -> Callable[[Any, int], list[int] | None]:
    """Reader of an answer that holds the count of one text in a field."""

    def read(value: Any, texts: int) -> list[int] | None:
        found = amount(field(value, name))
        return [found] if found is not None and texts == 1 else None

    return read


def length_of(name: str) -> Callable[[Any, int], list[int] | None]:
    """Reader of an answer that holds the tokens of one text in a list."""

    def read(value: Any, texts: int) -> list[int] | None:
        found = field(value, name)
        return [len(found)] if isinstance(found, list) and texts == 1 else None

    return read


def separated(value: Any, texts: int) -> list[int] | None:
    """llama.cpp's tokens of several texts, with `SEPARATOR` between them."""
    tokens = field(value, "tokens")
    if not isinstance(tokens, list):
        return None
    counts = [0]
    for token in tokens:
        if token == SEPARATOR:
            counts.append(0)
        else:
            counts[-1] += 1
    return counts if len(counts) == texts else None


def with_separators(model: str, texts: Sequence[str]) -> Any:
    """
    The body for llama.cpp: texts with numbers between them.

    Its `tokenize_mixed` (tools/server/server-common.cpp) tokenises each text of a list by itself and
    takes over numbers as they are, so that hundreds of messages are counted in one question.
    """
    content: list[str | int] = []
    for text in texts:
        content.extend((text, SEPARATOR))
    return {"model": model, "content": content[:-1]}


def rendered(model: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """What of a chat request is rendered by the template."""
    names = ("messages", "tools", "functions", "tool_choice", "chat_template_kwargs")
    return {"model": model, **{name: request[name] for name in names if request.get(name)}}


def chat_number(path: str, name: str, **more: Any) -> ChatCount:
    """A path that takes a chat request (with *more* fields) and answers a count in the field *name*."""
    return ChatCount(
        path,
        lambda model, request: {**rendered(model, request), **more},
        lambda value: amount(field(value, name)),
    )
