"""The icon on old panels, as far as it can be seen without one."""

from __future__ import annotations

import threading
from typing import Any

import pytest

pytest.importorskip("Xlib", reason="platform: X11")

from Xlib import error

from penstock_tray.backends import Look, xembed
from penstock_tray.icon_state import IconState


class Broken:
    """A display that ends while it is asked."""

    def __init__(self, wrong: Exception) -> None:
        self.wrong = wrong

    def get_default_screen(self) -> int:
        raise self.wrong

    def close(self) -> None:
        raise self.wrong


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(error.ConnectionClosedError("server"), id="the display ends"),
        pytest.param(error.XauthError("no cookie"), id="no cookie"),
        pytest.param(error.DisplayNameError(":x"), id="no such display"),
        pytest.param(OSError("broken pipe"), id="broken"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["when opened", "when asked"])
def test_a_display_that_fails_has_no_panel(
    monkeypatch: pytest.MonkeyPatch, wrong: Exception, late: bool
) -> None:
    """However it fails, the search for a panel goes on."""

    def opened() -> Any:
        if late:
            return Broken(wrong)
        raise wrong

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("Xlib.display.Display", opened)
    assert not xembed.has_panel()


class Icon:
    """What of pystray's icon is used; `held` lets a panel be slow."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.held, self.gone = threading.Event(), threading.Event()
        self.icon: Any = None
        self.held.set()

    @property
    def title(self) -> str:
        return ""

    @title.setter
    def title(self, title: str) -> None:
        self.titles.append(title)
        assert self.held.wait(10)

    def run(self, _setup: Any) -> None:
        assert self.gone.wait(10)

    def stop(self) -> None:
        self.gone.set()


@pytest.fixture
def icon(monkeypatch: pytest.MonkeyPatch) -> Icon:
    """Made by `XEmbedIcon` instead of pystray's."""
    one = Icon()
    monkeypatch.setattr(xembed, "_made", lambda _clicked, _look, _sized: one)
    monkeypatch.setattr(xembed.XEmbedIcon, "_follow_embedding", xembed.XEmbedIcon._expect)
    return one


def look(title: str) -> Look:
    return Look((), title, IconState("ok"))


def test_an_icon_that_no_panel_took_is_given_up(
    icon: Icon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A panel that ended just when it was asked, or overheard it, is asked again."""
    monkeypatch.setattr(xembed, "_TAKEN_WITHIN_S", 0.1)
    lost = threading.Event()
    xembed.XEmbedIcon(lambda: None, lost.set, look("a")).start()
    assert lost.wait(10)
    assert icon.gone.is_set()


def test_an_icon_that_stays_as_small_as_a_point_is_given_up(
    icon: Icon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tint2 takes one that comes while it starts, and never gives it a size; one with a size stays."""
    monkeypatch.setattr(xembed, "_TAKEN_WITHIN_S", 0.3)
    lost = threading.Event()
    shown = xembed.XEmbedIcon(lambda: None, lost.set, look("a"))
    shown._embedded.set()
    shown._sized.set()
    shown._check()
    assert not shown._ends
    shown._sized.clear()
    shown._check()
    assert shown._ends


def test_a_slow_panel_gets_the_last_look_only(icon: Icon) -> None:
    """One thread for all changes; what is outdated before it could be shown is passed over."""
    lost = threading.Event()
    shown = xembed.XEmbedIcon(lambda: None, lost.set, look("a"))
    shown._embedded.set()
    shown.start()
    icon.held.clear()
    before = threading.active_count()
    for title in ("b", "c", "d", "e"):
        shown.show(look(title))
    assert threading.active_count() <= before + 2
    icon.held.set()
    deadline = threading.Event()
    while not icon.titles or icon.titles[-1] != "e":
        assert not deadline.wait(0.01)
    assert len(icon.titles) <= 3
    shown.stop()
    assert lost.wait(10)
