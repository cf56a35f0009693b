"""
Text into the clipboard, by what the system has for it: `clip` and `pbcopy`; on Linux `wl-copy`, `xclip` or `xsel`, else
a small process of ours that owns X's clipboard (`x_clipboard`) until another program copies something.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

_WAYLAND = (("wl-copy",),)
_X = (("xclip", "-selection", "clipboard"), ("xsel", "--clipboard", "--input"))


def copy(text: str) -> bool:
    """Returns whether it could be copied."""
    for command in _commands():
        if shutil.which(command[0]) is None:
            continue
        try:
            done = subprocess.run(
                command, input=text.encode(), stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, timeout=10, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return True
    return False


def _commands() -> list[tuple[str, ...]]:
    if sys.platform == "win32":
        return [("clip",)]
    if sys.platform == "darwin":
        return [("pbcopy",)]
    commands: list[tuple[str, ...]] = []
    if os.environ.get("WAYLAND_DISPLAY"):
        commands += _WAYLAND
    if os.environ.get("DISPLAY"):
        commands += [*_X, (sys.executable, "-m", "penstock_tray.x_clipboard")]
    return commands
