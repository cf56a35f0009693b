"""The output budget: how long an answer may become (behaviours B4)."""

from __future__ import annotations

from typing import NamedTuple

from penstock.domain.change import Change
from penstock.limits.options import LimitOptions


class OutputBudget(NamedTuple):
    """
    What is sent as the output limit.

    Attributes:
        tokens: the limit; None sends none, and the server stops at its window.
        source: `request`, `settings`, `LOCAL_MODEL_MAX_TOKENS`, `memory`, `server`.
        change: what is announced when it differs from what the client asked for.
    """

    tokens: int | None
    source: str
    change: Change | None = None


def output_budget(
    *,
    requested: int | None,
    default: int | None,
    env_default: int | None,
    window: int | None,
    prompt_tokens_at_least: int,
    memory_short: bool,
    options: LimitOptions,
) -> OutputBudget:
    """
    Decide the output budget: request, else settings, else environment, else what memory allows.

    Args:
        requested: the client's limit, a ceiling and no reservation.
        window: tokens; None when unknown.
        prompt_tokens_at_least: tokens the prompt has for certain.
        memory_short: the machine that the server runs on is short of memory.
    """
    tokens, source = requested, "request"
    if tokens is None:
        if default is not None:
            tokens, source = default, "settings"
        elif env_default is not None:
            tokens, source = env_default, "LOCAL_MODEL_MAX_TOKENS"
        elif memory_short:
            tokens, source = options.short_memory_output_tokens, "memory"
        else:
            return OutputBudget(None, "server")
    # A prompt that cannot fit at all is refused by the server, in numbers; nothing is reduced then.
    room = None if window is None else window - prompt_tokens_at_least
    if room is not None and 0 < room < tokens:
        told = f"{tokens} tokens do not fit the window of {window} together with the prompt"
        return OutputBudget(
            room, source, Change("output", "max_tokens", "reduced", f"{told}: {room}")
        )
    if source != "request":
        return OutputBudget(
            tokens, source, Change("output", "max_tokens", "set", f"{tokens} by {source}")
        )
    return OutputBudget(tokens, source)
