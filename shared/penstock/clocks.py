"""
Did time jump? Decided from what several clocks say at two looks.

All of Penstock's timers run on the event loop's monotonic clock, which no change of the wall clock moves. What
remains is what happens to the world while the machine sleeps: connections die without a word, servers are
restarted, profiles grow old. So two looks a few seconds apart are compared:

    sleep              Linux's monotonic clock stands still in a suspend, and CLOCK_BOOTTIME and the wall clock go
                       on (clock_gettime(2)); macOS's `mach_absolute_time` stands still as well
    standstill         more monotonic time has passed than was waited for: the process was stopped, or the
                       monotonic clock goes on in sleep (Windows), or a virtual machine was paused
    a changed clock    the wall clock moved, and nothing else did: set by a person, or by NTP
"""

from __future__ import annotations

from typing import Literal, NamedTuple

JUMP_FROM_S = 10.0
"""Less is a slow machine, or a clock that is being brought right little by little (500 ppm at most)."""
STOOD_STILL_FROM_S = 5.0
"""A timer that comes so late was not late: the process did not run."""


class Clocks(NamedTuple):
    """
    What the clocks say, seconds.

    Attributes:
        monotonic_s: the event loop's.
        wall_s: since 1970.
        boot_s: monotonic, and goes on while the machine sleeps; None where there is no such clock.
    """

    monotonic_s: float
    wall_s: float
    boot_s: float | None = None


class Jump(NamedTuple):
    """
    Time jumped.

    Attributes:
        kind: `slept`, `stopped` or `clock_set`.
        by_s: by how much; below 0 when the wall clock was set back.
        why: one sentence.
    """

    kind: Literal["slept", "stopped", "clock_set"]
    by_s: float
    why: str


def jump(before: Clocks, now: Clocks, waited_s: float) -> Jump | None:
    """
    Compare two looks.

    Args:
        waited_s: what was waited between them, by a timer.
    """
    passed_s = now.monotonic_s - before.monotonic_s
    wall_s = now.wall_s - before.wall_s - passed_s
    if before.boot_s is not None and now.boot_s is not None:
        asleep_s = now.boot_s - before.boot_s - passed_s
    else:
        asleep_s = (
            wall_s  # a clock that was set forward looks the same, and a sleep is the likelier one
        )
    if asleep_s >= JUMP_FROM_S:
        return Jump("slept", asleep_s, f"the machine slept for {_told(asleep_s)}")
    late_s = passed_s - waited_s
    if late_s >= JUMP_FROM_S:
        return Jump("stopped", late_s, f"the gateway stood still for {_told(late_s)}")
    if abs(wall_s) >= JUMP_FROM_S:
        way = "forward" if wall_s > 0 else "back"
        return Jump("clock_set", wall_s, f"the clock was set {way} by {_told(abs(wall_s))}")
    return None


def stood_still(late_s: float) -> bool:
    """Whether a timer that came *late_s* too late measured a standstill, and nothing that anybody did."""
    return late_s >= STOOD_STILL_FROM_S


def _told(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
