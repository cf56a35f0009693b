"""Calls that a model wrote as text (behaviours E3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from penstock.toolcalls.schema import ToolSet


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the tool's name, its arguments as JSON text, and what had to be repaired in them."""

    name: str
    arguments: str
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recovered:
    """The calls that a whole message was."""

    calls: tuple[Call, ...]


def recover_calls(
    text: str, tools: ToolSet, *, earlier: Callable[[], Iterable[str]]
) -> Recovered | None:
    """The calls in *text*, None when it is not calls and nothing else."""
    return None


def may_become_call(prefix: str, tools: ToolSet | None = None) -> bool:
    """Whether an answer that begins with *prefix* can still become calls."""
    begin = prefix.lstrip()[:16]
    return any(
        begin.startswith(opener) or opener.startswith(begin)
        for opener in ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "{")
    )
