"""The nouns of mending an answer: what to go by, what goes out, what is announced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from penstock.domain.chat import TextDelta, ToolCallDelta
from penstock.toolcalls.schema import ToolSet


class Became(StrEnum):
    """What became of a call that was not simply right."""

    REPAIRED = "repaired"
    RECOVERED = "recovered"
    RENUMBERED = "renumbered"
    FLAGGED = "flagged"
    CUT_OFF = "cut_off"


@dataclass(frozen=True, slots=True)
class Mended:
    """
    Something about a call that is announced.

    Attributes:
        call: its number, counted from 0.
        name: the tool's.
        detail: a sentence without the arguments' own words.
        choice: which of several answers it is in.
    """

    became: Became
    call: int
    name: str
    detail: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """
    What to go by for one request.

    Attributes:
        tools: those that it offers; asked for when the first call is looked at.
        repair, recover: see `ToolCallOptions`.
        earlier: all texts of its messages, where markup of calls must not come from.
        seed: makes ids for calls that have none, the same on every try.
    """

    tools: Callable[[], ToolSet]
    repair: bool
    recover: bool
    earlier: Callable[[], Iterable[str]]
    seed: str


@dataclass(frozen=True, slots=True)
class Out:
    """Goes to the client: the token as it came, or *delta* in its place."""

    token: Any
    delta: TextDelta | ToolCallDelta | None = None
