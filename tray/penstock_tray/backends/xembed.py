"""
pystray's XEmbed icon, for panels that know nothing newer (tint2, trayer, old docks). It has no menu: a click opens the
dashboard, which can do nearly all that the menu can.

Its defects are mended here: it never asked for clicks; it drew transparent icons on black, and stretched them; nobody
docked an icon whose panel went away and came again; its thread may wait for ever when it is stopped from another one;
an icon that no panel took (the panel was about to end when it was asked), or that one left at the size of a point,
waited for one without end.

Sources: pystray 0.19.5, `_xorg.py`; System Tray Protocol Specification 0.4 (freedesktop.org).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from PIL import Image

from penstock_tray.backends import Look
from penstock_tray.drawing import draw

_log = logging.getLogger(__name__)
_TAKEN_WITHIN_S = 10.0
_SMALLEST_PX = 8
_PLATE = (236, 238, 240)
"""Behind the icon: an old panel gives no way to see through. All shapes are readable on it."""


def has_panel() -> bool:
    """Whether a panel of the old kind is there."""
    if not os.environ.get("DISPLAY"):
        return False
    try:
        from Xlib import X, display
    except ImportError:
        return False
    # Its errors have no common class: XError, DisplayError, XauthError and ConnectionClosedError stand side by side,
    # and a display that is about to end may meet each of these calls with any of them.
    try:
        connection = display.Display()
        try:
            atom = connection.intern_atom(f"_NET_SYSTEM_TRAY_S{connection.get_default_screen()}")
            return bool(connection.get_selection_owner(atom) != X.NONE)
        finally:
            connection.close()
    except Exception as exc:  # noqa: BLE001
        _log.info("The display does not say whether it has a panel: %r", exc)
        return False


class XEmbedIcon(threading.Thread):
    """
    Lives as long as its panel does.

    Args:
        clicked: called in this thread.
        lost: its panel is gone, or it never got there; called in this thread.
    """

    def __init__(self, clicked: Callable[[], None], lost: Callable[[], None], look: Look) -> None:
        super().__init__(name="xembed", daemon=True)
        self._clicked, self._lost = clicked, lost
        self._look = look
        self._icon: Any = None
        self._embedded = threading.Event()
        self._sized = threading.Event()
        self._shown: Look | None = None
        self._wanted = threading.Event()
        self._ends = False

    def run(self) -> None:
        logging.getLogger("pystray").setLevel(logging.CRITICAL)
        try:
            self._shown = self._look
            self._icon = _made(self._clicked, self._shown, self._sized)
            self._follow_embedding()
            threading.Thread(target=self._update, name="xembed looks", daemon=True).start()
            self._icon.run(_visible)
        except Exception as exc:  # noqa: BLE001 - a panel that goes away may break any of its calls
            _log.info("The panel's icon is gone: %r", exc)
        self._leave()
        self._lost()

    def show(self, look: Look) -> None:
        """Show something else; never waits for the panel."""
        self._look = look
        self._wanted.set()

    def _update(self) -> None:
        """In one thread for all changes, which a panel that is slow may hold up; only the last look counts then."""
        while not self._ends:
            if (look := self._look) is not self._shown:
                self._shown = look
                try:
                    self._icon.title = look.title
                    self._icon.icon = draw(look.icon, 64)
                except Exception as exc:  # noqa: BLE001 - as above
                    _log.info("The panel's icon is gone: %r", exc)
            self._wanted.wait()
            self._wanted.clear()

    def _follow_embedding(self) -> None:
        """A panel that takes the icon makes its window a child of its own."""
        from Xlib import X

        icon, destroyed = self._icon, self._icon._message_handlers[X.DestroyNotify]

        def moved(event: Any) -> None:
            root = icon._display.screen().root.id
            if event.window.id == icon._window.id and event.parent.id != root:
                self._embedded.set()

        def panel_destroyed(event: Any) -> None:
            destroyed(event)
            if icon._systray_manager is None:
                self._lost()
            else:  # another one was asked
                self._expect()

        icon._message_handlers[X.ReparentNotify] = moved
        icon._message_handlers[X.DestroyNotify] = panel_destroyed
        self._expect()

    def _expect(self) -> None:
        self._embedded.clear()
        self._sized.clear()
        threading.Thread(target=self._check, name="xembed check", daemon=True).start()

    def _check(self) -> None:
        taken = self._embedded.wait(_TAKEN_WITHIN_S)
        # tint2 leaves an icon that comes while it starts at the size of a point.
        if taken and self._sized.wait(_TAKEN_WITHIN_S):
            return
        if not self._ends:
            _log.info("No panel took the icon within %g s", _TAKEN_WITHIN_S)
            self.stop()

    def _leave(self) -> None:
        self._ends = True
        self._wanted.set()

    def stop(self) -> None:
        """Take it away; its thread ends by itself, or with the process."""
        self._leave()
        icon = self._icon
        if icon is not None:
            threading.Thread(target=icon.stop, daemon=True).start()


def _visible(icon: Any) -> None:
    icon.visible = True


def _made(clicked: Callable[[], None], look: Look, sized: threading.Event) -> Any:
    os.environ["PYSTRAY_BACKEND"] = "xorg"
    import pystray
    from Xlib import X

    menu = pystray.Menu(pystray.MenuItem("Open", lambda _icon, _item: clicked(), default=True))
    icon: Any = pystray.Icon("penstock", draw(look.icon, 64), look.title, menu)
    icon._window.change_attributes(
        event_mask=X.ExposureMask | X.StructureNotifyMask | X.ButtonPressMask
    )

    def fit(width: int, height: int) -> None:
        if min(width, height) >= _SMALLEST_PX:
            sized.set()
        if icon._icon_data and icon._icon_data.size == (width, height):
            return
        icon._icon_data = on_plate(icon._icon, width, height)
        icon._icon_data.tostring = icon._icon_data.tobytes

    icon._assert_icon_data = fit
    icon._display.flush()
    return icon


def on_plate(image: Image.Image, width: int, height: int) -> Image.Image:
    """*image* in the middle of an opaque plate of this size, not stretched."""
    plate = Image.new("RGB", (width, height), _PLATE)
    side = max(1, min(width, height))
    small = image.resize((side, side), Image.Resampling.LANCZOS)
    plate.paste(small, ((width - side) // 2, (height - side) // 2), small)
    return plate
