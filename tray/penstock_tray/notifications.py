"""
Notifications on the desktop, by desktop-notifier. What must not happen here is harm: without a notification service, or
with one that goes away, nothing is shown and nothing breaks. The package is imported with the first notification.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock_tray.notices import Button, Notice

LABELS: dict[Button, str] = {
    "show": "Show", "restart": "Restart server", "start": "Start Penstock", "logs": "Show logs",
}  # fmt: skip
ICON = Path(__file__).parent / "desktop" / "dev.penstock.Penstock.svg"


class Notifications:
    """
    Args:
        pressed: called in the event loop with a button and the notice that it stood on.
    """

    def __init__(self, pressed: Callable[[Button, Notice], None]) -> None:
        self._pressed = pressed
        self._notifier: Any = None

    async def send(self, notice: Notice) -> bool:
        """Show one. Returns whether somebody took it."""
        try:
            import desktop_notifier as desktop
        except ImportError:
            return False
        try:
            if self._notifier is None:
                icon = desktop.Icon(path=ICON)
                self._notifier = desktop.DesktopNotifier(app_name="Penstock", app_icon=icon)
            buttons = [self._button(desktop, one, notice) for one in notice.buttons]
            await self._notifier.send(
                title=notice.title,
                message=notice.text,
                buttons=buttons,
                on_clicked=lambda: self._pressed("show", notice),
            )
        except Exception as exc:  # noqa: BLE001 - each system's own errors, none worth more than a line
            logging.getLogger(__name__).info("No notification could be shown: %s", exc)
            self._notifier = None
            return False
        return True

    def _button(self, desktop: Any, button: Button, notice: Notice) -> Any:
        return desktop.Button(
            title=LABELS[button], on_pressed=lambda: self._pressed(button, notice)
        )
