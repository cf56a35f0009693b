"""
Penstock among the applications of a Linux desktop: the entry and its icons, in the user's own folders. pipx and pip
put no such files in place, so `penstock tray menu-entry on` does.

Source: Icon Theme Specification 0.13, Desktop Entry Specification 1.5 (freedesktop.org).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from penstock_tray.login import APP_ID, CannotSet, command, quoted

_HERE = Path(__file__).parent / "desktop"


def _data() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def _paths() -> tuple[Path, Path]:
    return (
        _data() / "applications" / f"{APP_ID}.desktop",
        _data() / "icons" / "hicolor" / "scalable" / "apps" / f"{APP_ID}.svg",
    )


def write() -> tuple[Path, ...]:
    """Put them in place. Returns what was written."""
    if not sys.platform.startswith("linux"):
        raise CannotSet(
            "A menu entry like this is Linux's own; here, pin `penstock tray` yourself."
        )
    entry, icon = _paths()
    run = " ".join(quoted(part) for part in command("tray") if part != "--at-login")
    text = (_HERE / f"{APP_ID}.desktop").read_text("utf-8").replace("@COMMAND@", run)
    for path in (entry, icon):
        path.parent.mkdir(parents=True, exist_ok=True)
    entry.write_text(text, "utf-8")
    shutil.copyfile(_HERE / f"{APP_ID}.svg", icon)
    return entry, icon


def remove() -> tuple[Path, ...]:
    """Take them away. Returns what was there."""
    there = tuple(path for path in _paths() if path.exists())
    for path in there:
        path.unlink()
    return there
