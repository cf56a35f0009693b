"""
The tray as a process on a private session bus, seen by a panel and a notification service that are fakes: whatever a real
panel can do to it, without a screen. The gateway and its server are real.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import parts
from desktops import Person, end, session_bus
from fake_panel import FakePanel, Row
from gateways import free_port

pytestmark = [pytest.mark.real, pytest.mark.slow]


class Stage:
    """
    A person with a bus, settings and a server.

    Attributes:
        url: where the gateway listens when one runs.
    """

    def __init__(self, person: Person, bus: str, server: parts.LlamaCpp) -> None:
        self.person, self.bus, self.server = person, bus, server
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.settings = {
            "version": 1, "listen": {"port": port}, "health": {"every_s": 1.0},
            "upstreams": [{"name": "llama", "url": server.url}],
        }  # fmt: skip
        self.write_settings()
        person.write("bin/xdg-open", f'#!/bin/sh\necho "$1" >> {person.home}/opened\n', 0o755)
        person.env["PATH"] = f"{person.home}/bin:{person.env['PATH']}"
        person.env["BROWSER"] = f"{person.home}/bin/xdg-open"

    def write_settings(self, **more: Any) -> None:
        """The person's settings file, with *more*."""
        self.person.write(".config/penstock/penstock.yaml", json.dumps({**self.settings, **more}))

    @asynccontextmanager
    async def tray(self, panel: FakePanel, *options: str) -> AsyncIterator[subprocess.Popen[bytes]]:
        """The tray, taken by *panel*."""
        before = panel.registered
        process = self.person.start("penstock", "tray", *options, name="tray")
        try:
            await panel.until(
                lambda: panel.registered > before, f"an icon: {self.person.log('tray')}"
            )
            yield process
        finally:
            end(process)

    def opened(self) -> str:
        """What the desktop was asked to open."""
        path = self.person.home / "opened"
        return path.read_text() if path.exists() else ""

    def status(self) -> dict[str, Any]:
        """The gateway's; `{}` if none answers."""
        try:
            return dict(httpx.get(f"{self.url}/penstock/status", trust_env=False).json())
        except httpx.HTTPError:
            return {}


@pytest.fixture(scope="module")
def stage(person: Person) -> Iterator[Stage]:
    """For all tests here."""
    with session_bus(person) as bus, parts.start_llamacpp("slow") as server:
        yield Stage(person, bus, server)
        person.run("penstock", "stop")


@pytest.fixture(scope="module")
def gateway(stage: Stage) -> Iterator[None]:
    """One that runs before the tray, started by hand."""
    process = stage.person.start("penstock", "serve", name="gateway")
    yield
    end(process, 45)


def on_panel(stage: Stage, play: Callable[[FakePanel], Coroutine[Any, Any, None]]) -> None:
    """Play with a panel that is there."""

    async def played() -> None:
        panel = await FakePanel().start(stage.bus)
        try:
            await play(panel)
        finally:
            panel.bus.disconnect()

    asyncio.run(played())


async def row(panel: FakePanel, *labels: str) -> Row | None:
    """The item under these labels' beginnings."""
    rows, found = await panel.menu(), None
    for label in labels:
        found = next((one for one in rows if one.label.startswith(label)), None)
        if found is None:
            return None
        rows = found.rows
    return found


def test_it_follows_a_gateway_that_was_there_and_leaves_it(stage: Stage, gateway: None) -> None:
    """It attaches to a gateway that was started by hand, shows what another process switches, switches itself, says that
    Quit leaves the gateway, and leaves it."""

    async def play(panel: FakePanel) -> None:
        async with stage.tray(panel) as tray:
            await panel.until(lambda: row(panel, "Penstock is on"), "the state")
            await panel.click("Pass through unchanged")
            await panel.until(lambda: stage.status()["switched"]["bypass"] == "all", "the bypass")
            await panel.until(lambda: row(panel, "Penstock passes through"), "the title")
            assert (await panel.properties())["ToolTip"][2] == "Penstock passes through unchanged"
            stage.person.run("penstock", "bypass", "off")
            await panel.until(lambda: row(panel, "Penstock is on"), "the other process's switch")
            stage.person.run("penstock", "pause")
            await panel.until(lambda: row(panel, "Let waiting requests go on"), "the pause")
            await panel.click("Let waiting")
            await panel.until(
                lambda: stage.status()["switched"]["paused"] == "none", "the end of it"
            )
            await panel.click("Quit Penstock tray (gateway goes on)")
            assert await asyncio.to_thread(tray.wait, 60) == 0
            assert stage.status()["state"] == "ok"

    on_panel(stage, play)


def test_what_the_menu_finds_is_added_and_forgotten(stage: Stage, gateway: None) -> None:
    """A second server that runs here is found, added and forgotten again, all from the menu; models show their window."""

    async def play(panel: FakePanel) -> None:
        with parts.start_llamacpp() as second:
            port = second.port
            stage.write_settings(discovery={"ports": [port]})
            async with stage.tray(panel):
                await panel.until(lambda: _windowed(panel, "llama"), "the model's window")
                await panel.click("Add server", "Look for servers")
                one = f"Add llamacpp at 127.0.0.1:{port}"
                await panel.until(
                    lambda: row(panel, "Add server", one), "the server that was found"
                )
                await panel.click("Add server", one)
                added = await panel.until(lambda: _upstream(stage, port), "the gateway's word")
                await panel.until(lambda: row(panel, added), "the server in the menu")
                await panel.until(
                    lambda: _missing(panel, "Add server", one), "its end among those found"
                )
                await panel.click(added, f"Forget {added}")
                await panel.until(lambda: _missing(panel, added), "its end")
                assert _upstream(stage, port) == ""

    try:
        on_panel(stage, play)
    finally:
        stage.write_settings()


async def _windowed(panel: FakePanel, server: str) -> bool:
    model = await row(panel, server, "")
    return model is not None and "window" in model.label


def _upstream(stage: Stage, port: int) -> str:
    """The name of the upstream at this port; empty if there is none."""
    rows = stage.status().get("upstreams", [])
    return next((str(one["name"]) for one in rows if one["url"].endswith(f":{port}")), "")


def test_a_model_is_unloaded_from_the_menu_where_the_server_can(
    stage: Stage, gateway: None
) -> None:
    """A real Ollama has its model in memory after a request and no longer after the click; llama.cpp offers none."""

    async def play(panel: FakePanel) -> None:
        with parts.start_ollama() as server:
            added = stage.person.run("penstock", "upstream", "add", server.url, "--name", "attic")
            assert added.returncode == 0, added.stderr
            async with stage.tray(panel):
                model = (await panel.until(lambda: row(panel, "attic", ""), "its model")).label
                name = model.partition(",")[0]
                body = {
                    "model": name,
                    "messages": [{"role": "user", "content": "hi"}],
                    "max_tokens": 4,
                }
                async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                    answer = await client.post(f"{stage.url}/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                await panel.until(lambda: row(panel, "attic", f"Unload {name}"), "the offer")
                assert await row(panel, "llama", "Unload") is None
                await panel.click("attic", f"Unload {name}")
                await panel.until(
                    lambda: _missing(panel, "attic", "Unload"), "the end of the offer"
                )
                told = next(one for one in stage.status()["upstreams"] if one["name"] == "attic")
                assert [one["loaded"] for one in told["models"]] == [False]
                await panel.click("attic", "Forget attic")
                await panel.until(lambda: _missing(panel, "attic"), "its end")

    on_panel(stage, play)


async def _missing(panel: FakePanel, *labels: str) -> bool:
    return await row(panel, *labels) is None


def test_how_many_requests_run_is_asked_when_the_menu_opens(stage: Stage, gateway: None) -> None:
    """Nothing is polled while nobody looks; a menu that opens shows what runs just now."""

    async def play(panel: FakePanel) -> None:
        async with stage.tray(panel), httpx.AsyncClient(trust_env=False, timeout=60) as client:
            await panel.until(lambda: row(panel, "llama"), "the server")
            body = {
                "model": "any", "stream": True, "max_tokens": 2000,
                "messages": [{"role": "user", "content": "go on"}],
            }  # fmt: skip
            async with client.stream(
                "POST", f"{stage.url}/v1/chat/completions", json=body
            ) as answer:
                lines = answer.aiter_lines()
                await anext(lines)

                async def busy() -> bool:
                    await panel.open()
                    return await row(panel, "llama, 1 running") is not None

                await panel.until(busy, "a request that runs")

    on_panel(stage, play)


def test_it_is_small_and_sleeps_while_nothing_changes(stage: Stage, gateway: None) -> None:
    """At most 50 MB resident, and ten seconds in which no thread of it wakes up: nothing is polled."""

    async def play(panel: FakePanel) -> None:
        async with stage.tray(panel) as tray:
            await panel.until(lambda: row(panel, "llama"), "the server")

            async def sleeps() -> bool:
                before = wakeups(tray.pid)
                await asyncio.sleep(10.0)  # longer than anything that polls would sleep
                return wakeups(tray.pid) == before

            await panel.until(sleeps, "ten seconds of sleep")
            assert resident_kb(tray.pid) <= 50 * 1024

    on_panel(stage, play)


def wakeups(pid: int) -> int:
    """How often its threads woke up so far."""
    told = "".join((task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(
        int(number)
        for number in re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", told, re.MULTILINE)
    )


def resident_kb(pid: int) -> int:
    """Its memory."""
    return int(
        re.findall(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0]
    )


def test_logs_settings_and_pages_open(stage: Stage, gateway: None) -> None:
    """What the desktop opens: the log, the settings file, the dashboard's pages."""

    async def play(panel: FakePanel) -> None:
        async with stage.tray(panel):
            await panel.until(lambda: row(panel, "llama"), "the server")
            await panel.click("Show logs")
            await panel.until(lambda: ".log" in stage.opened(), "the log")
            await panel.click("Settings", "Edit settings file")
            await panel.until(lambda: "penstock.yaml" in stage.opened(), "the settings")
            await panel.click("Connect a client", "All clients")
            await panel.until(lambda: "#connect" in stage.opened(), "the page on clients")

    on_panel(stage, play)


def test_start_at_login_and_notifications_are_one_with_the_command_line(
    stage: Stage, gateway: None
) -> None:
    """What the menu sets the command line shows, and the other way round; a valid entry, gone without a trace."""

    async def play(panel: FakePanel) -> None:
        person = stage.person
        async with stage.tray(panel):
            file = person.home / ".config/autostart/dev.penstock.Penstock.desktop"
            await panel.click("Start at login", "Penstock with this icon")
            await panel.until(file.exists, "the entry")
            assert "with its icon" in person.run("penstock", "login").stdout
            checked = await panel.until(lambda: row(panel, "Start at login", "Penstock with"), "it")
            await panel.until(
                lambda: _checked(panel, "Start at login", "Penstock with"), "its mark"
            )
            assert checked.checked is not None
            await panel.click("Start at login", "Penstock with this icon")
            await panel.until(lambda: not file.exists(), "its end")
            assert person.run("penstock", "tray", "notifications", "off").returncode == 0
            await panel.until(
                lambda: _unchecked(panel, "Settings", "Show notifications"), "the setting"
            )
            person.run("penstock", "tray", "notifications", "on")
            await panel.until(
                lambda: _checked(panel, "Settings", "Show notifications"), "the setting"
            )

    on_panel(stage, play)


async def _checked(panel: FakePanel, *labels: str) -> bool:
    found = await row(panel, *labels)
    return found is not None and found.checked is True


async def _unchecked(panel: FakePanel, *labels: str) -> bool:
    found = await row(panel, *labels)
    return found is not None and found.checked is False


def test_what_lasts_is_notified_and_its_button_works(stage: Stage, gateway: None) -> None:
    """Nothing at the start; a server that stays away for ten seconds is told once, and Show opens the dashboard."""

    async def play(panel: FakePanel) -> None:
        async with stage.tray(panel):
            await panel.until(lambda: row(panel, "Penstock is on"), "the state")
            stage.server.kill()
            try:
                await panel.until(lambda: panel.notes, "a notification")
            finally:
                stage.server.start_again()
            [note] = panel.notes
            assert note.title == "llama does not answer"
            pages = stage.opened().count("/penstock/session")
            await panel.press(note, "Show")
            await panel.until(lambda: stage.opened().count("/penstock/session") > pages, "a page")
            await panel.until(lambda: row(panel, "Penstock is on"), "its return")

    on_panel(stage, play)


def test_a_panel_that_comes_late_or_again_gets_the_icon(stage: Stage, gateway: None) -> None:
    """Without a panel the tray says what to do and waits; it is there for each panel that comes, also where nobody
    shows notifications."""

    async def play() -> None:
        tray = stage.person.start(
            "penstock", "tray", name="late", XDG_CURRENT_DESKTOP="ubuntu:GNOME"
        )
        try:
            waiting = FakePanel(notifies=False)
            await waiting.until(lambda: "extension" in stage.person.log("late"), "the hint")
            for _ in range(2):
                panel = await FakePanel(notifies=False).start(stage.bus)
                await panel.until(lambda p=panel: p.registered, "the icon")
                await panel.until(lambda p=panel: row(p, "Penstock is on"), "the menu")
                await panel.stop()
            assert tray.poll() is None
        finally:
            end(tray)
        assert tray.returncode == 0

    asyncio.run(play())


def test_a_gateway_that_was_killed_comes_back_only_where_a_tray_started_it(stage: Stage) -> None:
    """A gateway of the tray's own that dies is started again; a port that another program has is left alone and said;
    logging out leaves the gateway."""

    stage.person.run("penstock", "stop")  # the one of the tests before

    async def play(panel: FakePanel) -> None:
        async with stage.tray(panel) as tray:
            await panel.until(lambda: stage.status().get("started_by") == "tray", "its own gateway")
            first = stage.status()["pid"]
            stage.person.run("kill", "-9", str(first))
            await panel.until(lambda: stage.status().get("pid", first) != first, "another one")
            await panel.until(lambda: row(panel, "Penstock is on"), "the state")
            tray.terminate()
            assert await asyncio.to_thread(tray.wait, 60) == 0
            assert stage.status()["state"] == "ok"
        stage.person.run("penstock", "stop")
        port = int(stage.url.rpartition(":")[2])
        server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", port)
        async with server, stage.tray(panel):
            await panel.until(lambda: row(panel, "Penstock does not run: another"), "the reason")
            assert await _unchecked(panel, "Penstock on")

    on_panel(stage, play)


def test_without_a_desktop_it_says_so_and_ends(person: Person) -> None:
    """Nothing could ever be shown where there is neither bus nor display; no gateway is started either."""
    told = person.run(
        "penstock", "tray", DBUS_SESSION_BUS_ADDRESS="unix:path=/nowhere/bus", DISPLAY=""
    )
    assert told.returncode == 1
    assert "There is no desktop session here" in told.stderr
    assert "penstock serve" in told.stderr
    assert person.run("penstock", "status").returncode != 0
