"""
The tray under a real xfce4-panel, as a person uses it: with the mouse and the keyboard, in front of a real gateway on a
real llama.cpp. Pictures of the screen are kept for a look.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import parts
from desktops import Person, Screen, Xfce, end, need, session_bus, wait_for
from gateways import free_port

pytestmark = [pytest.mark.real, pytest.mark.slow]

ROW = 25.4
"""Height of a row of the menu; lines between rows add nearly nothing."""
ON, COPY, LOGIN, QUIT = 2, 6, 10, 11
MENU_AND_PANEL = (0, 356, 500, 720)
GREEN, RED, GREY = (46, 160, 67), (207, 34, 46), (128, 128, 128)


class Desk:
    """
    A desktop with the tray on it.

    Attributes:
        url: where its gateway listens while it runs.
    """

    def __init__(self, person: Person, screen: Screen, panel: Xfce, server: Any) -> None:
        self.person, self.screen, self.panel, self.server = person, screen, panel, server
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "version": 1,
            "listen": {"port": port},
            "upstreams": [{"name": "llama", "url": server.url}],
            "health": {"every_s": 1.0},
            "resume": {"probe_after_s": 3600.0},
        }
        person.write(".config/penstock/penstock.yaml", json.dumps(settings))
        person.env["BROWSER"] = str(
            person.write("browser", f'#!/bin/sh\necho "$1" >> {person.home}/opened\n', 0o755)
        )
        self.tray = self.begin()

    def begin(self) -> subprocess.Popen[bytes]:
        """Start the tray."""
        self.tray = self.person.start("penstock", "tray", name="tray")
        return self.tray

    def icon(self, colour: tuple[int, int, int]) -> tuple[int, int]:
        """Where the icon is, once it has this colour."""
        try:
            found: tuple[int, int] = wait_for(
                lambda: self.screen.find(colour), f"an icon in {colour}"
            )
        except AssertionError as exc:
            shot = self.screen.keep("xfce-failed")
            said = self.person.log("tray") + self.person.run("penstock", "logs").stdout[-2000:]
            raise AssertionError(f"{exc}, see {shot}\n{said}") from None
        return found

    def menu(self) -> tuple[int, int, int, int] | None:
        """Where the open menu is: x, y, width, height."""
        found = self.screen.windows("wrapper-2.0")
        return next((place for place in found if place[2] > 150 and place[3] > 200), None)

    def open_menu(self, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Click the icon."""
        self.screen.click(self.icon(colour))
        place: tuple[int, int, int, int] = wait_for(self.menu, "the menu")
        return place

    def highlighted(self, menu: tuple[int, int, int, int]) -> int | None:
        """Which row of the open menu is, counted from 0."""
        x, y, width, height = menu
        picture = self.screen.picture()
        for row in range(round(height / ROW)):
            red, _, blue = picture.getpixel((x + width - 4, y + round(16 + ROW * row)))  # type: ignore[misc]
            if blue > 130 and red < 70:
                return row
        return None

    def choose(self, row: int, colour: tuple[int, int, int] = GREEN) -> None:
        """Choose a row by the keyboard."""
        menu = self.open_menu(colour)

        def reached() -> bool:
            if self.highlighted(menu) == row:
                return True
            self.screen.do("key", "Down", "sleep", "0.1")
            return self.highlighted(menu) == row

        wait_for(reached, f"row {row}")
        self.screen.do("key", "Return")

    def click_row(self, row: int, shot: str) -> None:
        """Choose a row by the mouse."""
        menu = self.open_menu(GREEN)
        x, y = menu[0] + 60, menu[1] + round(16 + ROW * row)

        def reached() -> bool:
            self.screen.do(
                "mousemove", str(x), str(y - 3), "mousemove", str(x), str(y), "sleep", "0.1"
            )
            return self.highlighted(menu) == row

        wait_for(reached, f"row {row}")
        self.screen.keep(shot, MENU_AND_PANEL)
        self.screen.do("click", "1")

    def answers(self) -> int | str:
        """What a client sees: the status, or how it could not connect."""
        body = {"model": "any", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        try:
            return httpx.post(
                f"{self.url}/v1/chat/completions", json=body, timeout=60, trust_env=False
            ).status_code
        except httpx.ConnectError:
            return "refused"


@pytest.fixture(scope="module")
def desk(person: Person, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desktop with a panel, a model server and the tray."""
    need("xfce4-panel", "xclip")
    shots = Path(os.environ.get("PENSTOCK_TEST_SHOTS") or tmp_path_factory.mktemp("shots"))
    with session_bus(person, "org.xfce.Xfconf"), parts.start_llamacpp() as server:
        screen = Screen(person, shots)
        person.start("openbox")
        made = Desk(person, screen, Xfce(person), server)
        yield made
        end(made.tray)


def test_the_icon_comes_and_the_switch_in_its_menu_is_what_a_client_sees(desk: Desk) -> None:
    """Started with nothing running, the tray brings the gateway up; switched off by the mouse clients are refused,
    switched on by the keyboard they are answered."""
    desk.icon(GREEN)
    assert desk.answers() == 200
    desk.click_row(ON, "tray-menu")
    desk.icon(GREY)
    wait_for(lambda: desk.answers() == "refused", "the end of the gateway")
    desk.screen.keep("tray-off", MENU_AND_PANEL)
    desk.choose(ON, GREY)
    desk.icon(GREEN)
    assert desk.answers() == 200
    told = json.loads(desk.person.run("penstock", "status", "--json").stdout)
    assert told["started_by"] == "tray"


def test_an_open_menu_stays_open_while_the_state_changes(desk: Desk) -> None:
    """The server dies and comes back while the menu is open: the icon turns, the menu stays."""
    place = desk.open_menu(GREEN)
    desk.server.kill()
    desk.icon(RED)
    desk.screen.keep("tray-away", MENU_AND_PANEL)
    assert desk.menu() == place
    desk.server.start_again()
    desk.icon(GREEN)
    assert desk.menu() == place
    desk.screen.do("key", "Escape")
    wait_for(lambda: desk.menu() is None, "the end of the menu")


def test_the_endpoint_is_copied(desk: Desk) -> None:
    """The menu puts the address that clients want into the clipboard."""
    desk.choose(COPY)
    wait_for(
        lambda: (
            desk.person.run("xclip", "-selection", "clipboard", "-o").stdout == f"{desk.url}/v1"
        ),
        "the endpoint in the clipboard",
    )


def test_a_panel_that_crashes_gets_the_icon_back(desk: Desk) -> None:
    """The panel is killed and started again: the tray lives on, and its icon is there again."""
    desk.panel.crash()
    wait_for(lambda: desk.screen.find(GREEN) is None, "the end of the panel")
    desk.panel.begin()
    desk.icon(GREEN)
    assert desk.tray.poll() is None


def test_start_at_login_is_off_until_it_is_chosen(desk: Desk) -> None:
    """Nothing is written by itself; the submenu shows both ways; the right one is written and taken back."""
    entry = desk.person.home / ".config/autostart/dev.penstock.Penstock.desktop"
    assert not entry.exists()
    shown = len(desk.screen.windows("wrapper-2.0")) + 1  # with the menu
    for there in (True, False):
        desk.choose(LOGIN)
        wait_for(lambda: len(desk.screen.windows("wrapper-2.0")) > shown, "the submenu")
        desk.screen.do("sleep", "0.3")
        desk.screen.keep("tray-login", MENU_AND_PANEL)
        desk.screen.do("key", "Return")
        wait_for(lambda there=there: entry.exists() == there, "the entry")


def test_a_second_start_shows_the_first(desk: Desk) -> None:
    """It ends with a sentence, and the first one opens the dashboard."""
    done = desk.person.run("penstock", "tray")
    assert done.returncode == 0, done.stderr
    assert f"process {desk.tray.pid}" in done.stderr
    opened = desk.person.home / "opened"
    wait_for(lambda: opened.exists() and "/penstock/session?code=" in opened.read_text(), "a page")


def test_the_death_of_the_tray_ends_nothing_and_quit_ends_all(desk: Desk) -> None:
    """Killed, the tray leaves the gateway; the next tray finds it, and Quit ends it, for a tray started it. Nothing
    is left: no process, no file of a running one."""
    desk.tray.send_signal(signal.SIGKILL)
    desk.tray.wait()
    assert desk.answers() == 200
    desk.begin()
    desk.choose(QUIT)
    assert desk.tray.wait(60) == 0
    wait_for(lambda: desk.answers() == "refused", "the end of the gateway")
    own = str(desk.person.bin).encode()

    def left() -> list[bytes]:
        commands = []
        for pid in desk.person.left():
            with contextlib.suppress(OSError):  # it may be gone by now
                commands.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        return [command for command in commands if own in command]

    wait_for(lambda: not left(), "the end of all of Penstock")
    assert list((desk.person.runtime / "penstock").iterdir()) == []
    wait_for(lambda: desk.screen.find(GREEN) is None, "an empty panel")
