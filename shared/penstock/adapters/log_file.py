"""
A log file that stays small and that nobody waits for.

Lines are handed to a thread of its own, which writes them in batches: a slow disk delays no request, a full
one costs lines (counted, and told in the file once there is room again) and never the gateway. At its size
the file becomes `NAME.1`, that becomes `NAME.2`, and the oldest goes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

_MOST_WAITING_BYTES = 4 * 1024 * 1024
_BATCH_S = 0.1


class LogFile:
    """
    Args:
        path: of the file; its folder is made, for this user only.
        most_bytes: its size before it is set aside.
        keep: files that were set aside.

    Attributes:
        problem: why nothing can be written now, None while it can.
    """

    def __init__(self, path: Path, *, most_bytes: int, keep: int) -> None:
        self.path = path
        self.problem: str | None = None
        self._most_bytes = most_bytes
        self._keep = keep
        self._lines: list[str] = []
        self._waiting_bytes = 0
        self._lost = 0
        self._changed = threading.Condition()
        self._ended = False
        self._descriptor: int | None = None
        self._size = 0
        self._thread = threading.Thread(target=self._run, name="log file", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Have *text* written soon. Never waits, never fails."""
        with self._changed:
            if self._ended:
                return
            if self._waiting_bytes + len(text) > _MOST_WAITING_BYTES:
                self._lost += text.count("\n")
                return
            self._lines.append(text)
            self._waiting_bytes += len(text)
            if len(self._lines) == 1:
                self._changed.notify()

    def bounds(self, *, most_bytes: int, keep: int) -> None:
        """Other bounds from now on."""
        self._most_bytes, self._keep = most_bytes, keep

    def close(self, within_s: float = 2.0) -> None:
        """Write what waits, and end. A disk that hangs is not waited for longer than *within_s*."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(within_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._ended)
                if not self._ended:
                    self._changed.wait_for(lambda: self._ended, _BATCH_S)
                text, self._lines, self._waiting_bytes = "".join(self._lines), [], 0
                lost, self._lost = self._lost, 0
                ended = self._ended
            if text or lost:
                self._put(text, lost)
            if ended:
                self._shut()
                return

    def _put(self, text: str, lost: int) -> None:
        data = text.encode("utf-8", "replace")
        if lost:
            data = f"({lost} lines could not be written here)\n".encode() + data
        try:
            if self._descriptor is None:
                self._open()
            elif self._size and self._size + len(data) > self._most_bytes:
                self._set_aside()
                self._open()
            assert self._descriptor is not None
            view = memoryview(data)
            while view:
                written = os.write(self._descriptor, view)
                self._size += written
                view = view[written:]
            self.problem = None
        except OSError as exc:
            self.problem = f"{self.path} cannot be written: {exc.strerror}"
            self._shut()
            with self._changed:
                self._lost += lost + text.count("\n")

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _set_aside(self) -> None:
        self._shut()  # Windows renames no open file
        for number in range(self._keep, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = (
                self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            )
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        if not self._keep:
            self.path.unlink(missing_ok=True)

    def _shut(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
