"""
When a gateway that a tray started, and that ended by itself, is started again.

The pause doubles, and after some deaths in a short time it is given up: a person has to look at the log, and nobody
fights over a port. One that was told to end, or that something else started, is never started again by a tray.
"""

from __future__ import annotations

GIVE_UP_AFTER, WITHIN_S = 5, 120.0
_LONGEST_S = 60.0


def after_death(deaths: tuple[float, ...], now: float) -> tuple[tuple[float, ...], float | None]:
    """
    Args:
        deaths: when it died before.

    Returns:
        the deaths that still count, this one among them, and the pause before a start; None for giving up.
    """
    recent = (*(at for at in deaths if now - at < WITHIN_S), now)
    if len(recent) >= GIVE_UP_AFTER:
        return recent, None
    return recent, min(_LONGEST_S, 2.0 ** (len(recent) - 1))
