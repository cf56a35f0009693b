"""
Which idle connection serves next, and until when one may be trusted. Decisions without effects.

A server closes idle connections after a time that it may or may not announce. A request written into
that moment is lost, so a connection is left alone a little before the time is up.
"""

from __future__ import annotations

import re
from typing import Protocol, TypeVar

UNANNOUNCED_IDLE_S = 55.0
"""Idle time when the server announces none: below nginx's 75 s, Go's 90 s; uvicorn's unannounced 5 s
is what the silent reconnect is for."""
MOST_IDLE = 64
_TIMEOUT = re.compile(rb"(?:^|[\s,;])timeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


def idle_limit_s(keep_alive: bytes | None) -> float:
    """
    Seconds that a connection may be idle.

    Args:
        keep_alive: the value of the answer's `Keep-Alive` header, None without one.

    Returns:
        the announced time less a second, at least a tenth less; 0 means: do not reuse.
    """
    if keep_alive is None:
        return UNANNOUNCED_IDLE_S
    found = _TIMEOUT.search(keep_alive)
    if found is None:
        return UNANNOUNCED_IDLE_S
    announced_s = float(found.group(1))
    return max(0.0, min(announced_s - 1.0, announced_s * 0.9))


class Idle(Protocol):
    """What the pool knows of a connection."""

    usable_until_s: float

    @property
    def is_open(self) -> bool:
        """Whether the other side has not closed it."""


IdleT = TypeVar("IdleT", bound=Idle)


def take(idle: list[IdleT], now_s: float) -> tuple[IdleT | None, list[IdleT]]:
    """
    Take the connection to use next out of *idle*.

    The one used last is the warmest and the least likely to have been closed; a crowd of older ones
    costs nothing, because only those that turn out to be stale are looked at.

    Returns:
        the connection or None, and those to be closed, which are out of *idle* too.
    """
    stale: list[IdleT] = []
    while idle:
        connection = idle.pop()
        if connection.is_open and now_s < connection.usable_until_s:
            return connection, stale
        stale.append(connection)
    return None, stale


def expired(idle: list[IdleT], now_s: float) -> tuple[list[IdleT], list[IdleT]]:
    """Those of *idle* that may stay, in the same order, and those whose time is up."""
    stay: list[IdleT] = []
    gone: list[IdleT] = []
    for connection in idle:
        usable = connection.is_open and now_s < connection.usable_until_s
        (stay if usable else gone).append(connection)
    return stay, gone
