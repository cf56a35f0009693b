"""
The arguments of one call, judged against the tool's schema (behaviours E1 and E2).

What is valid stays byte for byte. What was cut off stays too, whatever would validate: agents have written
half files as whole ones. The rest is repaired where the result validates, else passed on and flagged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from penstock.toolcalls.jsontext import is_unterminated, parse
from penstock.toolcalls.schema import ToolSchema

__all__ = ["Checked", "Verdict", "check_arguments", "is_unterminated"]


class Verdict(StrEnum):
    """What was found about a call's arguments."""

    VALID = "valid"
    REPAIRED = "repaired"
    FLAGGED = "flagged"
    CUT_OFF = "cut_off"


@dataclass(frozen=True, slots=True)
class Checked:
    """
    Arguments to hand to the client.

    Attributes:
        text: the arguments, the very same text unless they were repaired.
        repairs: one sentence each, without the arguments' own words.
    """

    text: str
    verdict: Verdict
    repairs: tuple[str, ...] = ()


def check_arguments(text: str, tool: ToolSchema | None, *, cut_off: bool) -> Checked:
    """Judge, and repair where that is certain, the arguments of a call of *tool*."""
    try:
        value = parse(text)
    except ValueError:
        return Checked(
            text, Verdict.CUT_OFF if cut_off or is_unterminated(text) else Verdict.FLAGGED
        )
    return Checked(text, Verdict.VALID if _fits(value, tool) else Verdict.FLAGGED)


def _fits(value: Any, tool: ToolSchema | None) -> bool:
    if tool is None or not tool.usable:
        return isinstance(value, dict)
    return tool.validates(value)
