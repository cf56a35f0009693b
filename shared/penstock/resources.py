"""
What the machine has left, in a few classes: memory (and whose it is), descriptors, disk; and how many requests to
begin with.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from penstock.domain.pressure import Pressure

_PRESSURE_FROM, _HEAVY_FROM, _LEAVE_BELOW, _LEAVE_AFTER_S = 0.8, 0.9, 0.05, 60.0
_OUT_OF_MEMORY_COUNTS_S = 600.0
_GIB = 1024**3


_ORDER = (Pressure.CALM, Pressure.PRESSURE, Pressure.HEAVY)


def pressure_class(
    used_share: float,
    *,
    previous: Pressure,
    since_s: float,
    now_s: float,
    last_out_of_memory_s: float | None = None,
) -> tuple[Pressure, float]:
    """
    The class from now on, with hysteresis.

    A class is entered at once and left when the share stayed 0.05 below its threshold for 60 s.

    Args:
        used_share: 0 to 1, of the tighter of machine memory and cgroup limit.
        previous: the class so far.
        since_s: when the share was last high enough to hold *previous*.
        now_s: the same clock.
        last_out_of_memory_s: when an upstream ran out of memory last; heavy for 10 minutes.

    Returns:
        the class, and the new *since_s*.
    """
    recent = is_recent(last_out_of_memory_s, now_s)
    entered = Pressure.CALM
    if used_share >= _HEAVY_FROM or recent:
        entered = Pressure.HEAVY
    elif used_share >= _PRESSURE_FROM:
        entered = Pressure.PRESSURE
    if _ORDER.index(entered) >= _ORDER.index(previous):
        return entered, now_s
    threshold = _HEAVY_FROM if previous is Pressure.HEAVY else _PRESSURE_FROM
    if used_share > threshold - _LEAVE_BELOW:
        return previous, now_s
    if now_s - since_s < _LEAVE_AFTER_S:
        return previous, since_s
    if used_share > _PRESSURE_FROM - _LEAVE_BELOW:
        return Pressure.PRESSURE, now_s  # from heavy, and still inside the band of the class below
    return entered, now_s


def is_recent(out_of_memory_s: float | None, now_s: float) -> bool:
    """Whether running out of memory at *out_of_memory_s* (None for never) still counts."""
    return out_of_memory_s is not None and now_s - out_of_memory_s < _OUT_OF_MEMORY_COUNTS_S


def share_of(slots: int, gateways: int) -> int:
    """Requests that one of *gateways* sends at a time to a server with *slots*: never none (contracts 13)."""
    return max(1, slots // gateways)


def start_concurrency(
    *, available_bytes: int | None, slots: int | None, setting: int | None
) -> int:
    """
    How many requests at a time to begin with (behaviours G1).

    Args:
        available_bytes: memory left on the server's machine; None when we may not speak for it.
        slots: what the server told; None when it did not.
        setting: the user's number.
    """
    if setting is not None:
        return setting
    if slots is not None:
        return max(1, slots)
    if available_bytes is None:
        return 1
    if available_bytes < 4 * _GIB:
        return 1
    return 2 if available_bytes < 8 * _GIB else 4


def speaks_for(url: str, *, in_container: bool, is_child: bool) -> bool:
    """Whether this machine's memory is the memory of the server at *url*."""
    if is_child:
        return True
    if in_container:
        return False
    if url.startswith("unix:"):
        return True
    host = (urlsplit(url).hostname or "").lower().rstrip(".")
    return (
        host in ("localhost", "::1")
        or host.endswith(".localhost")
        or (host.startswith("127.") and host.replace(".", "").isdigit())
    )


class MemoryLeft(NamedTuple):
    """
    What a request may still take.

    Attributes:
        spare_bytes: of the machine's memory, with a twentieth left to everybody else.
        promised_bytes: taken since the machine was looked at last.
    """

    spare_bytes: int
    promised_bytes: int = 0

    def holds(self, needed_bytes: int) -> bool:
        """Whether a request that makes its server take so much more fits."""
        return needed_bytes <= self.spare_bytes - self.promised_bytes


def spare_bytes(*, available_bytes: int, total_bytes: int, gpu_free_bytes: int) -> int:
    """
    Bytes that servers here may still take: a twentieth of the memory is kept for everybody else. What is free
    on GPUs counts too, for a server puts its cache there first (0 where the GPU shares the memory).
    """
    return max(0, available_bytes - total_bytes // 20) + gpu_free_bytes


_DESCRIPTORS_KEPT = 64
"""For listeners, probes, files, and the interpreter itself."""


def most_connections(descriptors: int) -> int:
    """
    Client connections that a process with so many descriptors may have: each may need a second descriptor for
    its upstream, and a few are kept for all else.
    """
    return max(8, (descriptors - _DESCRIPTORS_KEPT) // 2)


def descriptors_are_short(in_use: int, limit: int, *, were_short: bool) -> bool:
    """Whether descriptors run out: from 0.85 of the limit on, and until less than 0.7 are in use."""
    return in_use >= limit * (0.7 if were_short else 0.85)


def disk_is_short(free_bytes: int, total_bytes: int) -> bool:
    """Whether a disk is nearly full: below 64 MiB, or below a hundredth as far as that is less than 1 GiB."""
    return free_bytes < max(64 * 1024**2, min(total_bytes // 100, _GIB))
