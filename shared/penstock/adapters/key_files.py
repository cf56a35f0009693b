"""
Client keys in a folder: each file is named after the client whose key it holds.

A Secret is mounted like that. Kubernetes writes a new folder beside the old one and swaps the symbolic link
`..data`, so names that begin with a dot are the mount's own and a change shows in where the files lead to.

Source: kubernetes `pkg/volume/util/atomic_writer.go`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LONGEST_NAME = 64


def key_files(folder: str | None, problems: list[str]) -> dict[str, Path]:
    """
    The files of *folder* by the client's name; none for no folder.

    Args:
        problems: gets a sentence for what cannot be used.
    """
    if folder is None:
        return {}
    try:
        files = sorted(Path(folder).expanduser().iterdir())
    except OSError as exc:
        problems.append(
            f"listen.client_keys_dir: the folder {folder} cannot be read: {exc.strerror}"
        )
        return {}
    found = {f.name: f for f in files if not f.name.startswith(".") and f.is_file()}
    for name in [name for name in found if len(name) > _LONGEST_NAME]:
        problems.append(
            f"listen.client_keys_dir: {name[:_LONGEST_NAME]}...: expected a name of at most 64 signs"
        )
        del found[name]
    return found


@dataclass(slots=True)
class FolderWatch:
    """Notices that a file of a folder came, went or was replaced."""

    folder: Path
    _last: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        self._last = self._look()

    def changed(self) -> bool:
        """Whether it differs from the last call."""
        now = self._look()
        if now == self._last or not now:
            return False
        self._last = now
        return True

    def _look(self) -> tuple[Any, ...]:
        seen: list[tuple[str, str, int, int]] = []
        try:
            for file in sorted(self.folder.iterdir()):
                if not file.name.startswith("."):
                    told = file.stat()
                    seen.append((file.name, os.path.realpath(file), told.st_mtime_ns, told.st_size))
            return (os.path.realpath(self.folder), *seen)
        except OSError:
            return ()  # in the middle of a swap
