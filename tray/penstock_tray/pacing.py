"""
When a change is shown: at once if nothing was shown lately, else with all that follows, a moment later.

A panel that gets hundreds of menus a second falls behind and grows; a person sees no more than a few. The first change
after a calm moment is never delayed.
"""

from __future__ import annotations

from dataclasses import dataclass

BETWEEN_S = 0.25


@dataclass(frozen=True, slots=True)
class Pace:
    """
    Attributes:
        free_at: when the next change may be shown.
        due_at: when the waiting one is shown; None when none waits.
    """

    free_at: float = float("-inf")
    due_at: float | None = None


def changed(pace: Pace, now: float) -> tuple[Pace, bool]:
    """Something changed. Returns whether it is shown now; else `due_at` says when, and one timer is enough."""
    if pace.due_at is not None:
        return pace, False
    if now >= pace.free_at:
        return Pace(now + BETWEEN_S), True
    return Pace(pace.free_at, pace.free_at), False


def shown(now: float) -> Pace:
    """What waited is shown."""
    return Pace(now + BETWEEN_S)
