"""
The arguments of one call, judged against the tool's schema (behaviours E1 and E2).

What is valid stays byte for byte. What was cut off stays too, whatever would validate: agents have written
half files as whole ones. The rest is repaired where the result validates, else passed on and flagged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from penstock.toolcalls.broken import read_exactly, read_loosely, unfenced
from penstock.toolcalls.jsontext import is_unterminated, parse, write
from penstock.toolcalls.repair import edits, mend_value, spliced, told
from penstock.toolcalls.schema import ToolSchema

__all__ = ["Checked", "Verdict", "check_arguments", "is_unterminated"]

_MOST_LAYERS = 3
"""Arguments that are a string that holds JSON are unpacked so often."""


class Verdict(StrEnum):
    """
    What was found about a call's arguments.

    `VALID`: an object that validates, or nothing is known against it. `REPAIRED`: it validates now.
    `CUT_OFF`: they ended too early. `FLAGGED`: wrong in another way. The last two go on as they are.
    """

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
    """
    Judge the arguments of a call, and repair them where the result validates.

    Repairs by the schema are splices: the text before the first of them stays as it was.

    Args:
        tool: the tool that is called; None when no tool of that name was offered: nothing is repaired.
        cut_off: the output limit or a broken stream ended them, so nothing in them may be completed.
    """
    try:
        value = parse(text)
    except ValueError:
        if cut_off or is_unterminated(text):
            return Checked(text, Verdict.CUT_OFF)
        return _rewritten(text, tool) or Checked(text, Verdict.FLAGGED)
    if tool is None or not tool.usable or not tool.bears(value):
        return Checked(text, Verdict.VALID if isinstance(value, dict) else Verdict.FLAGGED)
    if tool.validates(value):
        return Checked(text, Verdict.VALID)
    if cut_off:
        return Checked(text, Verdict.CUT_OFF)
    if isinstance(value, dict):
        return _mended(text, tool) or Checked(text, Verdict.FLAGGED)
    return _rewritten(text, tool) or Checked(text, Verdict.FLAGGED)


def _mended(text: str, tool: ToolSchema) -> Checked | None:
    """Valid JSON with wrong values in it."""
    try:
        value = read_exactly(text)
        mended = mend_value(value, tool)
        if mended is None:
            return None
        changed = edits(value, mended.value)
        result = spliced(text, changed)
        if not tool.validates(parse(result)):
            return None
    except ValueError:  # nested too deep, or numbers beyond bounds
        return None
    return Checked(result, Verdict.REPAIRED, told(changed))


def _rewritten(text: str, tool: ToolSchema | None) -> Checked | None:
    """No JSON, or a string or an array that may hold the object: written anew when the tool takes it."""
    if tool is None or not tool.usable:
        return None
    try:
        value, how = _object_in(text)
        repairs: tuple[str, ...] = ()
        if not tool.validates(value):
            mended = mend_value(value, tool)
            if mended is None:
                return None
            value, repairs = mended.value, told(edits(value, mended.value))
        result = write(value)
        if not tool.validates(parse(result)):
            return None
    except ValueError:
        return None
    return Checked(result, Verdict.REPAIRED, (f"arguments: {how}", *repairs))


def _object_in(text: str) -> tuple[Any, str]:
    """
    The object that *text*, which is not cut off, means, and what was wrong with it.

    Raises:
        ValueError: it means none.
    """
    if not text.strip():
        return {}, "empty, and the tool needs none"
    how = "broken JSON was repaired"
    bare = unfenced(text).strip()
    if bare != text.strip():
        how = "a code fence was removed"
    value: Any = bare
    for _ in range(_MOST_LAYERS):
        if not isinstance(value, str):
            break
        inner = value.strip()
        if is_unterminated(inner):
            raise ValueError("cut off")
        try:
            value = read_exactly(inner)
        except ValueError:
            if inner[:1] != "{" or inner[-1:] != "}":
                raise
            value, how = read_loosely(inner), "broken JSON was repaired"
        else:
            if isinstance(value, str):
                how = "a string that holds JSON was unpacked"
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value, how
