"""
Windows and macOS as far as they can be seen from elsewhere: the menu that pystray is given, on its own `dummy` backend,
and the mended window procedure, on a fake of pystray's Windows icon.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from penstock_tray import command
from penstock_tray.backends import Calls, Look
from penstock_tray.backends.linux_hint import hint
from penstock_tray.backends.toolkit import (
    LONGEST_TITLE,
    WM_ENDSESSION,
    WM_QUERYENDSESSION,
    WM_SHOW,
    ToolkitBackend,
    on_windows,
)
from penstock_tray.drawing import template
from penstock_tray.icon_state import IconState
from penstock_tray.instance import Instance
from penstock_tray.menu import Item, menu_spec
from penstock_tray.snapshot import Model, Server, Snapshot

RIGHT_CLICK, LEFT_CLICK = 0x0205, 0x0202
SERVER = Server("box", "u", "ok", 1, (Model("m", True, 4096),), unloads=True)
ON = Snapshot("running", url="u", servers=(SERVER,))


class Heard:
    """What a backend called."""

    def __init__(self) -> None:
        self.clicks: list[str] = []
        self.opened = self.ended = 0
        self.calls = Calls(self.clicks.append, self._open, self.clicks.append, self._end)

    def _open(self) -> None:
        self.opened += 1

    def _end(self) -> None:
        self.ended += 1


@pytest.fixture
def pystray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """pystray without any display."""
    import sys

    for name in [name for name in sys.modules if name.startswith("pystray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("PYSTRAY_BACKEND", "dummy")
    import pystray

    yield pystray
    for name in [name for name in sys.modules if name.startswith("pystray")]:
        sys.modules.pop(name)


class FakeIcon:
    """
    pystray's Windows icon: its thread's messages are handled where they are posted.

    It draws nothing, and its menu is modal for as long as `while_open` takes.
    """

    def __init__(self, _name: str, image: Any, title: str, menu: Any) -> None:
        self.icon, self.title, self.menu = image, title, menu
        self.visible = False
        self.shown: list[str] = []
        self.while_open: Callable[[], None] = lambda: None
        self._message_handlers: dict[int, Callable[[int, int], Any]] = {0x40B: self._on_notify}

    def _on_notify(self, _w: int, what: int) -> None:
        self.shown.append("menu" if what == RIGHT_CLICK else "default")
        self.while_open()

    def send(self, number: int, w: int = 0, what: int = 0) -> Any:
        return self._message_handlers[number](w, what)

    def run(self, setup: Callable[[Any], None]) -> None:
        setup(self)

    def stop(self) -> None:
        self.visible = False


def look(snapshot: Snapshot = ON, title: str = "t") -> Look:
    return Look(menu_spec(snapshot), title, IconState("ok"))


def test_the_menu_is_what_was_asked_for(pystray: Any) -> None:
    """Rows, marks, submenus and separators are those of the values; a click says its key; a left click never toggles."""
    heard = Heard()
    backend = ToolkitBackend(heard.calls)
    menu = backend._menu(pystray, look())
    rows = {row.text: row for row in menu.items if row is not pystray.Menu.SEPARATOR}
    assert next(iter(rows)) == "Penstock is on"
    assert rows["Penstock on"].checked is True
    assert rows["Pass through unchanged"].checked is False
    assert not rows["Penstock is on"].enabled
    assert "Unload m" in [row.text for row in rows["box, 1 running"].submenu.items]
    rows["Penstock on"](None)
    menu(None)  # what a left click does
    assert heard.clicks == ["on", "dashboard"]


@pytest.fixture
def windows(pystray: Any) -> tuple[Heard, ToolkitBackend, FakeIcon]:
    """A backend on the fake icon."""
    heard = Heard()
    backend = ToolkitBackend(heard.calls, make=FakeIcon)
    backend.show(look())
    backend._ready.set()
    backend.main_loop()
    return heard, backend, backend._icon


def test_changes_wait_while_a_windows_menu_is_open(
    windows: tuple[Heard, ToolkitBackend, FakeIcon],
) -> None:
    """A menu that is open is not rebuilt under the mouse; what came meanwhile is shown when it closes."""
    heard, backend, icon = windows
    icon.send(WM_SHOW)
    assert icon.visible
    assert icon.title == "t"
    before = icon.menu

    def change() -> None:
        backend.show(look(Snapshot(), "off now"))
        icon.send(WM_SHOW)
        assert icon.menu is before
        assert icon.title == "t"

    icon.while_open = change
    icon.send(0x40B, 0, RIGHT_CLICK)
    assert heard.opened == 1
    assert icon.title == "off now"
    assert icon.menu is not before
    icon.while_open = lambda: None
    icon.send(0x40B, 0, LEFT_CLICK)
    assert icon.shown == ["menu", "default"]
    assert heard.opened == 1


def test_the_end_of_a_windows_session_is_not_held_up(
    windows: tuple[Heard, ToolkitBackend, FakeIcon],
) -> None:
    """Asked whether the session may end, the tray says yes; it ends when the session does, and not when that was
    cancelled."""
    heard, _, icon = windows
    assert icon.send(WM_QUERYENDSESSION) == 1
    icon.send(WM_ENDSESSION, 0)
    assert heard.ended == 0
    icon.send(WM_ENDSESSION, 1)
    assert heard.ended == 1


def test_a_title_is_cut_to_what_windows_takes(
    windows: tuple[Heard, ToolkitBackend, FakeIcon],
) -> None:
    """A long sentence breaks nothing."""
    _, backend, icon = windows
    backend.show(look(title="x" * 500))
    icon.send(WM_SHOW)
    assert len(icon.title) == LONGEST_TITLE


def test_an_icon_that_changed_meanwhile_is_not_mended_blindly(pystray: Any) -> None:
    """Should a later pystray handle clicks in another way, that is noticed at once and not at a click."""
    icon = FakeIcon("", None, "", None)
    icon._message_handlers = {1: lambda _w, _l: None}
    with pytest.raises(ValueError, match="not enough values"):
        on_windows(ToolkitBackend(Heard().calls), icon)


def test_main_loop_waits_for_the_event_loop(pystray: Any) -> None:
    """Started before the tray's own loop is ready, the toolkit shows nothing until it is."""
    backend = ToolkitBackend(Heard().calls, make=FakeIcon)
    thread = threading.Thread(target=backend.main_loop)
    thread.start()
    assert backend._icon is None
    backend.stop()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("state", ["off", "starting", "ok", "degraded", "error"])
def test_a_template_image_has_no_colour_and_a_shape(state: Any) -> None:
    """macOS takes the alpha only: black, with the light parts cut out, and neither empty nor full."""
    image = template(IconState(state), 36)
    red, green, blue, alpha = image.split()
    assert {band.getextrema() for band in (red, green, blue)} == {(0, 0)}
    solid = sum(alpha.histogram()[128:])
    assert 36 * 36 * 0.1 < solid < 36 * 36 * 0.95


@pytest.mark.parametrize(
    ("desktop", "has_bus", "part"),
    [
        pytest.param("ubuntu:GNOME", True, "AppIndicator", id="GNOME"),
        pytest.param("i3", True, "No panel here", id="another desktop"),
        pytest.param("", False, "no session bus", id="no session"),
    ],
)
def test_where_no_icon_can_be_the_hint_says_what_to_do(
    desktop: str, has_bus: bool, part: str
) -> None:
    """GNOME's extension is named; elsewhere the dashboard's command is."""
    assert part in hint(desktop, has_bus)


@pytest.mark.parametrize(
    ("platform", "label"),
    [pytest.param("win32", "a && b", id="Windows"), pytest.param("darwin", "a & b", id="macOS")],
)
def test_labels_keep_their_ampersands(
    pystray: Any, monkeypatch: pytest.MonkeyPatch, platform: str, label: str
) -> None:
    """Windows takes one as the mark of a shortcut and shows a doubled one as one; macOS shows what it gets."""
    monkeypatch.setattr("penstock_tray.backends.toolkit.sys.platform", platform)
    backend = ToolkitBackend(Heard().calls)
    assert backend._row(pystray, Item("k", "a & b")).text == label


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("chosen", [False, True], ids=["before the icon", "with the icon"])
def test_no_dead_icon_stays_behind(monkeypatch: pytest.MonkeyPatch, chosen: bool) -> None:
    """An event loop that dies of a defect ends the toolkit's loop, and the process says that it failed."""

    class Broken:
        def __init__(self, choose: Callable[[Calls], ToolkitBackend], *, starts: bool) -> None:
            if chosen:
                choose(Heard().calls)

        async def run(self, _instance: object) -> None:
            raise ZeroDivisionError

    monkeypatch.setattr("penstock_tray.desk.Desk", Broken)
    assert command._in_main_thread(cast(Instance, None), starts=False) == 1
