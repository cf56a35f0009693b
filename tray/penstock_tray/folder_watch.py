"""
Waits until something in a folder changes: by inotify on Linux, without a single wake-up; else by looking again.

Source: inotify(7). `ctypes` reaches it, so no package is needed.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import threading
from pathlib import Path

_LOOK_S = 2.0
_IN_CLOSE_WRITE, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x8, 0x80, 0x100, 0x200
_IN_CLOEXEC = 0o2000000


class FolderWatch:
    """
    Args:
        folder: made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._woken = threading.Event()
        self._notes = _inotify(folder)
        self._pipe = os.pipe() if self._notes is not None else None

    def wait(self, longest_s: float | None = None) -> None:
        """Until a file appears, changes or goes, `wake` is called, or *longest_s* is over."""
        if self._notes is None or self._pipe is None:
            self._woken.wait(_LOOK_S if longest_s is None else min(longest_s, _LOOK_S))
            self._woken.clear()
            return
        ready = [self._notes, self._pipe[0]]
        found, _, _ = select.select(ready, [], [], longest_s)
        for descriptor in found:
            os.read(descriptor, 65_536)

    def wake(self) -> None:
        """End a `wait`."""
        self._woken.set()
        if self._pipe is not None:
            os.write(self._pipe[1], b".")


def _inotify(folder: Path) -> int | None:
    """A descriptor that is readable when something appears in *folder*; None where there is no inotify."""
    if not sys.platform.startswith("linux"):
        return None
    c = ctypes.CDLL(None, use_errno=True)
    descriptor = int(c.inotify_init1(_IN_CLOEXEC))
    if descriptor < 0:
        return None
    mask = _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
    if c.inotify_add_watch(descriptor, os.fsencode(folder), mask) < 0:
        os.close(descriptor)
        return None
    return descriptor
