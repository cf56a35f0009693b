"""The Linux backend on a private bus, seen as a panel sees it: registered, drawn, clicked, updated."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from penstock_tray.menu import menu_spec, title
from penstock_tray.notifier_item import ITEM, ITEM_PATH, MENU, MENU_PATH, WATCHER, Notifier
from penstock_tray.snapshot import Server, Snapshot

ON = Snapshot("running", servers=(Server("my_server", "http://a", "ok"),))
DOT = [[1, 1, b"\xff\x00\xff\x00"]]


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    config = tmp_path / "bus.conf"
    config.write_text(
        f"<busconfig><type>session</type><listen>unix:path={tmp_path}/bus</listen>"
        '<policy context="default"><allow send_destination="*"/><allow own="*"/>'
        '<allow receive_sender="*"/></policy></busconfig>'
    )
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--print-address", "--nofork"],
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout is not None
    address = daemon.stdout.readline().decode().strip()
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    yield address
    daemon.terminate()
    daemon.wait()
    daemon.stdout.close()


class Panel:
    """
    A watcher and host in one: who registered, which signals came.

    Args:
        has_host: as the watcher's property says; None for one that does not know it.
    """

    def __init__(self, has_host: bool | None = None) -> None:
        self.has_host = has_host
        self.registered: asyncio.Queue[str] = asyncio.Queue()
        self.signals: asyncio.Queue[tuple[str, list[Any]]] = asyncio.Queue()

    async def start(self) -> Panel:
        self.bus = await MessageBus().connect()
        self.bus.add_message_handler(self._handle)
        await self.call(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s",
            ["type='signal',path_namespace='/'"],
        )  # fmt: skip
        await self.bus.request_name(WATCHER)
        return self

    def _handle(self, message: Message) -> Message | None:
        if message.member == "RegisterStatusNotifierItem":
            self.registered.put_nowait(message.body[0])
            return Message.new_method_return(message)
        if message.member == "Get" and self.has_host is not None:
            return Message.new_method_return(message, "v", [Variant("b", self.has_host)])
        if message.message_type is MessageType.SIGNAL and message.path in (ITEM_PATH, MENU_PATH):
            self.signals.put_nowait((message.member or "", message.body))
        return None

    async def call(
        self, to: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> list[Any]:
        reply = await self.bus.call(
            Message(
                destination=to, path=path, interface=interface, member=member, signature=signature,
                body=body,
            )
        )  # fmt: skip
        assert reply is not None
        assert reply.message_type is MessageType.METHOD_RETURN, reply.body
        return list(reply.body)

    async def layout(self, item: str) -> dict[str, tuple[int, dict[str, Variant]]]:
        _, root = await self.call(item, MENU_PATH, MENU, "GetLayout", "iias", [0, -1, []])
        rows = [variant.value for variant in root[2]]
        return {
            props["label"].value: (number, props) for number, props, _ in rows if "label" in props
        }


async def _shown(clicks: list[str]) -> Notifier:
    notifier = Notifier(clicks.append)
    notifier.update(menu_spec(ON), title(ON), DOT)
    await notifier.start()
    return notifier


def test_a_panel_gets_title_icon_and_menu_and_a_click_arrives(bus: str) -> None:
    """A panel reads all of it, and only an enabled item can be clicked."""

    async def play() -> None:
        clicks: list[str] = []
        panel = await Panel().start()
        notifier = await _shown(clicks)
        item = await asyncio.wait_for(panel.registered.get(), 5)
        props = (
            await panel.call(
                item, ITEM_PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", [ITEM]
            )
        )[0]
        assert props["Title"].value == "Penstock is on"
        assert [list(one) for one in props["IconPixmap"].value] == DOT
        rows = await panel.layout(item)
        assert "my__server" in rows  # one underscore would be a mnemonic
        number, on = rows["Penstock on"]
        assert on["toggle-state"].value == 1
        clicked = [number, "clicked", Variant("i", 0), 0]
        await panel.call(item, MENU_PATH, MENU, "Event", "isvu", clicked)
        await panel.call(
            item, MENU_PATH, MENU, "Event", "isvu", [rows["Penstock is on"][0], *clicked[1:]]
        )
        assert clicks == ["on"]  # the status line is not enabled
        notifier.stop()
        panel.bus.disconnect()

    asyncio.run(play())


def test_only_what_changed_is_said_and_an_open_menu_keeps_its_items(bus: str) -> None:
    """Nothing is sent for an equal state, one item for one label."""

    async def play() -> None:
        panel = await Panel().start()
        notifier = await _shown([])
        item = await asyncio.wait_for(panel.registered.get(), 5)
        before = await panel.layout(item)
        notifier.update(menu_spec(ON), title(ON), DOT)  # nothing differs: nothing is said
        bypassed = replace(ON, bypass="some", ours=True)
        notifier.update(menu_spec(bypassed), title(bypassed), DOT)
        name, body = await asyncio.wait_for(panel.signals.get(), 5)
        assert name == "ItemsPropertiesUpdated"
        assert [row[0] for row in body[0]] == [before["Quit Penstock tray (gateway goes on)"][0]]
        notifier.update(menu_spec(Snapshot()), title(Snapshot()), DOT)
        names = [(await asyncio.wait_for(panel.signals.get(), 5))[0] for _ in range(3)]
        assert names == ["NewTitle", "NewToolTip", "LayoutUpdated"]
        assert panel.signals.empty()
        notifier.stop()
        panel.bus.disconnect()

    asyncio.run(play())


def test_a_watcher_that_comes_late_or_again_gets_the_icon(bus: str) -> None:
    """The icon is registered each time that a watcher appears."""

    async def play() -> None:
        notifier = await _shown([])
        for _ in range(2):
            panel = await Panel().start()
            assert (await asyncio.wait_for(panel.registered.get(), 5)).startswith(ITEM)
            panel.bus.disconnect()
            await panel.bus.wait_for_disconnect()
        notifier.stop()

    asyncio.run(play())


@pytest.mark.parametrize("has_host", [None, True, False], ids=["it does not say", "yes", "no"])
def test_a_watcher_without_a_host_is_no_panel(bus: str, has_host: bool | None) -> None:
    """The icon is registered there all the same, and a host that comes or goes is noticed."""

    async def play() -> None:
        panel = await Panel(has_host).start()
        came: list[str] = []
        notifier = Notifier(lambda _key: None, panel_came=lambda: came.append("panel"))
        await notifier.start()
        await asyncio.wait_for(panel.registered.get(), 5)
        asked = notifier._asks
        assert asked is not None
        await asked
        assert notifier.has_panel == (has_host is not False)
        assert len(came) == notifier.has_panel
        if has_host is False:
            for now, member in ((True, "Registered"), (False, "Unregistered")):
                panel.has_host = now
                signal = Message.new_signal(
                    "/StatusNotifierWatcher", WATCHER, f"StatusNotifierHost{member}"
                )
                await panel.bus.send(signal)
                async with asyncio.timeout(5):
                    while notifier.has_panel != now:
                        await asyncio.sleep(0.01)
            await asyncio.wait_for(notifier.panel_left(), 5)
            assert came == ["panel"]
        notifier.stop()
        panel.bus.disconnect()

    asyncio.run(play())
