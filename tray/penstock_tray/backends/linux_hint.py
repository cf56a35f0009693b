"""What to tell a person on whose Linux desktop no icon can be shown."""

from __future__ import annotations


def hint(desktop: str, has_bus: bool) -> str:
    """What to do where no panel shows icons."""
    if not has_bus:
        return "There is no session bus, and no panel that shows icons without one."
    if "GNOME" in desktop.upper().split(":"):
        return (
            "GNOME shows no tray icons by itself. Install its extension “AppIndicator and KStatusNotifierItem "
            "Support”; the icon appears as soon as it is on. `penstock open` shows the dashboard meanwhile."
        )
    return (
        "No panel here shows tray icons; the icon appears as soon as one does. `penstock open` shows the dashboard "
        "meanwhile."
    )
