"""
The tray where there is no StatusNotifier panel (tint2, which knows XEmbed only), and where there is no X at all (waybar
under sway). Pictures of the screen are kept for a look.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import parts
from desktops import Person, Screen, end, middle_of, need, session_bus, wait_for
from gateways import free_port

pytestmark = [pytest.mark.real, pytest.mark.slow]

GREEN, GREY = (46, 160, 67), (128, 128, 128)
TINT2 = """\
panel_items = S
panel_size = 100% 40
panel_position = bottom center horizontal
panel_monitor = all
background_color = #333333 100
panel_background_id = 1
systray_icon_size = 32
systray_padding = 4 4 4
systray_background_id = 0
"""
SWAY = "output HEADLESS-1 resolution 900x420\noutput * bg #204060 solid_color\n"
WAYBAR = '{"layer":"top","position":"bottom","height":40,"modules-left":["tray"],"tray":{"icon-size":28}}'


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures are kept."""
    return Path(os.environ.get("PENSTOCK_TEST_SHOTS") or tmp_path_factory.mktemp("shots"))


@pytest.fixture(scope="module")
def at_home(person: Person) -> Iterator[Person]:
    """The person, with a bus, settings, a browser and a gateway that runs."""
    need("tint2", "sway", "waybar", "grim", "xclip")
    with session_bus(person), parts.start_llamacpp() as server:
        settings = {
            "version": 1,
            "listen": {"port": free_port()},
            "upstreams": [{"name": "llama", "url": server.url}],
        }
        person.write(".config/penstock/penstock.yaml", json.dumps(settings))
        person.env["BROWSER"] = str(
            person.write("browser", f'#!/bin/sh\necho "$1" >> {person.home}/opened\n', 0o755)
        )
        gateway = person.start("penstock", "serve", name="gateway")
        yield person
        end(gateway, 45)


def test_an_old_panel_shows_the_icon_and_a_click_opens_the_dashboard(
    at_home: Person, shots: Path
) -> None:
    """tint2 shows it on a plate of its own; a click opens the dashboard and toggles nothing; a panel that is killed and
    comes again has the icon again."""
    screen = Screen(at_home, shots, "800x200")
    rc = at_home.write("tint2rc", TINT2)
    window_manager = at_home.start("openbox")
    panel = at_home.start("tint2", "-c", str(rc))
    tray = at_home.start("penstock", "tray", name="tray")

    def told() -> str:
        screen.keep("tint2-without")
        return "".join(at_home.log(name) for name in ("tray", "tint2", "openbox"))

    try:
        place = wait_for(lambda: screen.find(GREEN), "the icon", told)
        screen.keep("tint2")
        screen.click(place)
        opened = at_home.home / "opened"
        wait_for(lambda: opened.exists() and "/penstock/session" in opened.read_text(), "a page")
        assert screen.find(GREEN)
        # Where no program for it is installed, a process of ours hands copied text out.
        copied = ("sh", "-c", "printf Schön | python -m penstock_tray.x_clipboard")
        assert at_home.run(*copied).returncode == 0
        assert at_home.run("xclip", "-selection", "clipboard", "-o").stdout == "Schön"
        panel.send_signal(signal.SIGKILL)
        panel.wait()
        wait_for(lambda: screen.find(GREEN) is None, "the end of the panel")
        assert tray.poll() is None
        panel = at_home.start("tint2", "-c", str(rc))
        wait_for(lambda: screen.find(GREEN), "the icon again", told)
        at_home.run("penstock", "tray", "quit")
        assert tray.wait(60) == 0
        wait_for(lambda: screen.find(GREEN) is None, "an empty panel")
    finally:
        for process in (tray, panel, window_manager, screen.process):
            end(process)


def test_wayland_without_x_shows_the_icon(at_home: Person, shots: Path) -> None:
    """waybar under sway shows it, and its colour follows the state."""
    at_home.env.pop("DISPLAY", None)
    wayland = {"XDG_CURRENT_DESKTOP": "sway"}
    config = at_home.write("sway.conf", SWAY)
    bar = at_home.write("waybar.json", WAYBAR)
    sway = at_home.start(
        "sway", "-c", str(config), WLR_BACKENDS="headless", WLR_LIBINPUT_NO_DEVICES="1", WLR_RENDERER="pixman",
        **wayland,
    )  # fmt: skip
    started = [sway]
    try:
        socket = wait_for(
            lambda: next((p.name for p in at_home.runtime.glob("wayland-?")), ""),
            f"sway: {at_home.log('sway')}",
        )
        wayland["WAYLAND_DISPLAY"] = socket
        started.append(at_home.start("waybar", "-c", str(bar), **wayland))
        tray = at_home.start("penstock", "tray", name="tray", **wayland)
        started.append(tray)

        def seen(colour: tuple[int, int, int]) -> bool:
            path = at_home.home / "screen.png"
            if at_home.run("grim", str(path), **wayland).returncode:
                return False
            with Image.open(path) as picture:
                return middle_of(picture.convert("RGB"), colour) is not None

        wait_for(
            lambda: seen(GREEN), "the icon", lambda: at_home.log("tray") + at_home.log("waybar")
        )
        (shots / "waybar.png").write_bytes((at_home.home / "screen.png").read_bytes())
        at_home.run("penstock", "stop")
        wait_for(lambda: seen(GREY), "the icon of what is off")
        (shots / "waybar-off.png").write_bytes((at_home.home / "screen.png").read_bytes())
        assert tray.poll() is None
    finally:
        for process in reversed(started):
            end(process)
