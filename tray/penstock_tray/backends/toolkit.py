"""
Windows and macOS, by pystray, which owns the main thread there: `command` runs `main_loop` in it, and the event loop
in another.

All that touches pystray happens in its own thread. A menu is rebuilt by pystray at each change, and one that is open
would close, or a click would hit the wrong line; so while a menu is open, changes wait until it is closed. On Windows
the window procedure answers the end of a session with "yes" (pystray says "no", and is killed), texts are cut to what
the shell takes, and `&` is doubled. On macOS the icon is a template image in the size of the menu bar, drawn at twice
the points, so that it is sharp and fits light and dark.

Sources: pystray 0.19.5, `_win32.py` and `_darwin.py`; Microsoft Learn, WM_QUERYENDSESSION, WM_ENDSESSION,
NOTIFYICONDATAW; Apple, NSImage.isTemplate, NSMenu.didBeginTrackingNotification.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from penstock_tray.backends import Calls, Look
from penstock_tray.drawing import draw, template
from penstock_tray.menu import Item

LONGEST_TITLE = 127
WM_QUERYENDSESSION, WM_ENDSESSION, WM_APP = 0x11, 0x16, 0x8000
WM_SHOW = WM_APP + 7
_BAR_POINTS = 18


class ToolkitBackend:
    """
    See `backends.Backend`.

    Args:
        make: makes the icon, of a name, an image, a title and a menu; pystray's `Icon` by default.
    """

    def __init__(self, calls: Calls, make: Callable[..., Any] | None = None) -> None:
        self._calls = calls
        self._make = make
        self._look = Look()
        self._shown: Look | None = None
        self._icon: Any = None
        self._stopped = False
        self._open = False
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._post: Callable[[], None] | None = None
        self._in_its_thread: Callable[[Callable[[], None]], None] = _at_once

    async def start(self) -> None:
        """The icon appears with `main_loop`, which may have begun before."""
        self._ready.set()

    def show(self, look: Look) -> None:
        with self._lock:
            self._look = look
        if self._post is not None:
            self._post()

    def stop(self) -> None:
        self._stopped = True
        self._ready.set()
        if self._icon is not None:
            self._in_its_thread(self._icon.stop)

    def main_loop(self) -> None:
        """In the main thread, until `stop`."""
        self._ready.wait()
        if self._stopped:
            return
        import pystray

        make = self._make or pystray.Icon
        self._icon = make("Penstock", draw(self._look.icon, 64), "", self._menu(pystray, Look()))
        if sys.platform == "darwin" and self._make is None:
            self._in_its_thread = _on_macos(self)
            self._post = partial(self._in_its_thread, self.apply)
        elif hasattr(self._icon, "_message_handlers"):
            self._post = on_windows(self, self._icon)
        else:
            self._post = self.apply
        self._icon.run(self._begin)

    def _begin(self, icon: Any) -> None:
        icon.visible = True
        assert self._post is not None
        self._post()

    def apply(self) -> None:
        """In pystray's thread: show what is to be shown, unless a menu is open."""
        with self._lock:
            look, before = self._look, self._shown
            if self._open or look == before:
                return
            self._shown = look
        import pystray

        if before is None or look.title != before.title:
            self._icon.title = look.title[:LONGEST_TITLE]
        if before is None or look.icon != before.icon:
            self._icon.icon = draw(look.icon, 64)
            if sys.platform == "darwin" and self._make is None:
                _as_template(self._icon, look)
        if before is None or look.items != before.items:
            self._icon.menu = self._menu(pystray, look)

    def menu_opens(self) -> None:
        """Changes wait from now on."""
        self._open = True
        self._calls.opened()

    def menu_closed(self) -> None:
        """What waited is shown."""
        self._open = False
        self.apply()

    def session_ends(self) -> None:
        """The desktop's session is over: nothing is asked, nothing is kept waiting."""
        self._calls.ended()

    def _menu(self, pystray: Any, look: Look) -> Any:
        return pystray.Menu(*(self._row(pystray, one) for one in look.items))

    def _chosen(self, key: str, _icon: Any, _row: Any) -> None:
        self._calls.clicked(key)

    def _row(self, pystray: Any, one: Item) -> Any:
        if one.separator:
            return pystray.Menu.SEPARATOR
        label = one.label.replace("&", "&&") if sys.platform == "win32" else one.label
        if one.items:
            rows = pystray.Menu(*(self._row(pystray, kid) for kid in one.items))
            return pystray.MenuItem(label, rows, enabled=one.enabled)
        checked = None if one.checked is None else partial(_is, one.checked)
        # A left click does what opens the dashboard, and never what toggles.
        return pystray.MenuItem(
            label,
            partial(self._chosen, one.key),
            checked=checked,
            enabled=one.enabled,
            default=one.key == "dashboard",
        )


def _at_once(work: Callable[[], None]) -> None:
    work()


def _is(on: bool, _row: Any) -> bool:
    return on


def on_windows(backend: ToolkitBackend, icon: Any) -> Callable[[], None]:
    """Mend the window procedure; returns what asks its thread to show a change."""
    handlers = icon._message_handlers
    [(number, clicked)] = [
        (number, handler)
        for number, handler in handlers.items()
        if getattr(handler, "__name__", "") == "_on_notify"
    ]

    def notify(w: int, what: int) -> Any:
        if what != 0x0205:  # WM_RBUTTONUP: the menu, which returns when it is closed
            return clicked(w, what)
        backend.menu_opens()
        try:
            return clicked(w, what)
        finally:
            backend.menu_closed()

    def ends(w: int, _l: int) -> int:
        if w:  # the session does end
            backend.session_ends()
        return 0

    handlers[number] = notify
    handlers[WM_QUERYENDSESSION] = lambda _w, _l: 1
    handlers[WM_ENDSESSION] = ends
    handlers[WM_SHOW] = lambda _w, _l: backend.apply()

    def post() -> None:
        window = getattr(icon, "_hwnd", None)
        if window is not None:
            _post_message(window, WM_SHOW)

    return post


def _post_message(window: int, number: int) -> None:
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.user32.PostMessageW(window, number, 0, 0)


def _on_macos(backend: ToolkitBackend) -> Callable[[Callable[[], None]], None]:
    """Hear of menus that open and close; returns what has the main thread do something."""
    import AppKit
    from PyObjCTools import AppHelper

    centre = AppKit.NSNotificationCenter.defaultCenter()
    for name, call in (
        (AppKit.NSMenuDidBeginTrackingNotification, backend.menu_opens),
        (AppKit.NSMenuDidEndTrackingNotification, backend.menu_closed),
    ):
        centre.addObserverForName_object_queue_usingBlock_(
            name, None, None, lambda _note, call=call: call()
        )
    # The session ends: without this the tray would hold the logout up.
    AppKit.NSWorkspace.sharedWorkspace().notificationCenter().addObserverForName_object_queue_usingBlock_(
        AppKit.NSWorkspaceWillPowerOffNotification, None, None, lambda _note: backend.session_ends()
    )
    return lambda work: AppHelper.callAfter(work)


def _as_template(icon: Any, look: Look) -> None:
    import AppKit
    import Foundation

    file = io.BytesIO()
    template(look.icon, _BAR_POINTS * 2).save(file, "png")
    data = Foundation.NSData.dataWithBytes_length_(file.getvalue(), len(file.getvalue()))
    image = AppKit.NSImage.alloc().initWithData_(data)
    image.setSize_((_BAR_POINTS, _BAR_POINTS))
    image.setTemplate_(True)
    icon._status_item.button().setImage_(image)
