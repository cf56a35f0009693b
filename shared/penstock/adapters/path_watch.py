"""
Notices that a file, or a file of a folder, was replaced, by asking about it.

An editor's rename and the swap of the symbolic link by which Kubernetes mounts ConfigMaps and Secrets are seen too;
watchers by inode miss both. Names that begin with a dot are the mount's own.

Source: kubernetes `pkg/volume/util/atomic_writer.go`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_Mark = tuple[str, int, int, int]


@dataclass(slots=True)
class PathWatch:
    """What lies at *path* now is what the first answer compares with."""

    path: Path
    _last: tuple[_Mark, ...] = ()

    def __post_init__(self) -> None:
        self._last = self._look()

    def changed(self) -> bool:
        """Whether it is another than at the last call; no while nothing is there, as in the middle of a swap."""
        now = self._look()
        if now == self._last or not now:
            return False
        self._last = now
        return True

    def _look(self) -> tuple[_Mark, ...]:
        try:
            if not self.path.is_dir():
                return (_mark(self.path),)
            files = sorted(self.path.iterdir())
            return (_mark(self.path), *(_mark(f) for f in files if not f.name.startswith(".")))
        except OSError:
            return ()


def _mark(path: Path) -> _Mark:
    found = path.stat()
    # The name stands in it: a folder's listing differs by it.
    return (
        f"{path.name}={os.path.realpath(path)}",
        found.st_mtime_ns,
        found.st_ino,
        found.st_size,
    )
