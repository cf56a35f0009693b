"""
How many tokens a conversation may have (contracts 9): two marks, and what it may never exceed.

All numbers are in the measure of whoever weighs the messages. Where that measure is not calibrated yet,
`budget_class` divides the window: a coarse guard that changes in few steps, so that cuts stay where they
are while evidence grows.
"""

from __future__ import annotations

from typing import NamedTuple

from penstock.compress.options import ContextOptions
from penstock.domain.pressure import Pressure

_MOST_RESERVE = 4096
_RESERVE_SHARE = 8


class Budget(NamedTuple):
    """
    Token counts that a plan keeps to.

    Attributes:
        window: of one request, prompt and answer.
        high: above it a cut is made. Never above `most`.
        low: what a cut leaves at most, where what is never dropped allows it.
        most: what is sent at most: the window without the reserve for the answer.
        fixed: tools and the template's own words. They are always rendered and count against all marks.
    """

    window: int
    high: int
    low: int
    most: int
    fixed: int = 0


def budget(
    window: int,
    *,
    pressure: Pressure,
    options: ContextOptions,
    fixed: int = 0,
    budget_class: float = 1.0,
) -> Budget:
    """
    The marks for a window under a pressure.

    Args:
        window: of one request, in the server's tokens.
        pressure: which of the marks in *options* hold.
        fixed: tokens of tools and template, in the measure.
        budget_class: server's tokens per token of the measure, at most; 1.0 where counts are exact.
    """
    # Not a dictionary: the members of an enumeration are hashed by a function in Python.
    if pressure is Pressure.CALM:
        marks = options.calm
    else:
        marks = options.pressure if pressure is Pressure.PRESSURE else options.heavy
    reserve = reserve_tokens(window, options)
    inside = window / budget_class
    most = int((window - reserve) / budget_class)
    high = min(int(marks.high * inside), most)
    return Budget(int(inside), high, min(int(marks.low * inside), high), most, fixed)


def reserve_tokens(window: int, options: ContextOptions) -> int:
    """Tokens of *window* that are kept free for the answer."""
    reserve = options.reserve_tokens
    if reserve is None:
        reserve = min(_MOST_RESERVE, window // _RESERVE_SHARE)
    # A reserve of the whole window would leave nothing to send: whoever set it meant a larger model.
    return min(reserve, window // 2)
