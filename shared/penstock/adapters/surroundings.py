"""What the gateway's process runs in, besides memory: clocks, descriptors, room on disks. Nothing here raises."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from penstock.clocks import Clocks

if sys.platform != "win32":
    import resource

_MOST_DESCRIPTORS = 65_536
"""More is of no use here, and macOS refuses `RLIM_INFINITY` for the soft limit."""
_LISTS = ("/proc/self/fd", "/dev/fd")


class Descriptors(NamedTuple):
    """Descriptors of this process: in use, and the most there may be."""

    in_use: int
    limit: int


class Disk(NamedTuple):
    """Room where *folder* lies, in bytes."""

    folder: Path
    free_bytes: int
    total_bytes: int


def read_clocks(monotonic_s: float) -> Clocks:
    """
    What the clocks say now.

    Args:
        monotonic_s: of the event loop.
    """
    boot_s = None
    if sys.platform == "linux":
        boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return Clocks(monotonic_s, time.time(), boot_s)


def raise_descriptor_limit() -> int | None:
    """
    Take as many descriptors as this user may have, as servers do: the soft limit of 256 or 1,024 is for
    programs that use `select`. Returns the limit in force; None where there is none (Windows).
    """
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MOST_DESCRIPTORS
        if hard != resource.RLIM_INFINITY:
            wanted = min(hard, wanted)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            for limit in (wanted, min(wanted, 10_240)):  # macOS: OPEN_MAX
                with contextlib.suppress(OSError, ValueError):
                    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                    return limit
        return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    return None


def descriptors() -> Descriptors | None:
    """Descriptors of this process; None where it cannot be told."""
    if sys.platform != "win32":
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
        for place in _LISTS:
            try:
                return Descriptors(len(os.listdir(place)) - 1, limit)  # one is the listing's own
            except FileNotFoundError:
                continue
            except OSError:
                return Descriptors(limit, limit)  # there is none left to look with
    return None


def disks(folders: Iterable[Path]) -> list[Disk]:
    """Room where each of *folders* lies, or would lie; those of which nothing can be told are left out."""
    found = []
    for folder in folders:
        place = folder
        while not place.exists() and place != place.parent:
            place = place.parent
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(place)
            found.append(Disk(folder, usage.free, usage.total))
    return found
