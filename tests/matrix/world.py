"""The machine that the matrix runs on, and what can be wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import socket
from typing import Any


class FullDisk(io.StringIO):
    """Standard error, on a disk without space."""

    def write(self, _: str) -> int:
        """Fails."""
        raise OSError(errno.ENOSPC, "No space left on device")


def plugged(port: int) -> list[socket.socket]:
    """A port whose queue of connections is full: the system answers no further one."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    made = [listener]
    for _ in range(2):
        one = socket.socket()
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(("127.0.0.1", port))
        made.append(one)
    return made


def tasks_now() -> set[asyncio.Task[Any]]:
    """All but those that serve connections to scripted servers: these live as long as the connection."""
    return {
        task
        for task in asyncio.all_tasks()
        if not str(getattr(task.get_coro(), "__qualname__", "")).startswith("RawServer.")
    }


def descriptors() -> int:
    """How many are open in this process."""
    place = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return len(os.listdir(place))
