"""
A panel and a notification service without a screen: what a StatusNotifierWatcher, a host and
org.freedesktop.Notifications are on a session bus, for black-box tests of the tray.

What it gets wrong: it draws nothing, keeps one item only, and shows a menu by reading it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

ITEM, MENU = "org.kde.StatusNotifierItem", "com.canonical.dbusmenu"
WATCHER, NOTES = "org.kde.StatusNotifierWatcher", "org.freedesktop.Notifications"
_INTROSPECTION = """<node><interface name="org.freedesktop.Notifications">
<method name="Notify"><arg type="s" direction="in"/><arg type="u" direction="in"/><arg type="s" direction="in"/>
<arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="as" direction="in"/>
<arg type="a{sv}" direction="in"/><arg type="i" direction="in"/><arg type="u" direction="out"/></method>
<method name="CloseNotification"><arg type="u" direction="in"/></method>
<method name="GetCapabilities"><arg type="as" direction="out"/></method>
<method name="GetServerInformation"><arg type="s" direction="out"/><arg type="s" direction="out"/>
<arg type="s" direction="out"/><arg type="s" direction="out"/></method>
<signal name="NotificationClosed"><arg type="u"/><arg type="u"/></signal>
<signal name="ActionInvoked"><arg type="u"/><arg type="s"/></signal>
</interface></node>"""


@dataclass(frozen=True)
class Row:
    """A line of the menu."""

    number: int
    label: str
    enabled: bool
    checked: bool | None
    rows: tuple[Row, ...] = ()


@dataclass
class Note:
    """A notification that was shown."""

    number: int
    title: str
    text: str
    actions: list[str]


@dataclass
class FakePanel:
    """
    Args:
        notifies: whether there is a notification service, too.
    """

    notifies: bool = True
    item: str = ""
    registered: int = 0
    notes: list[Note] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)

    async def start(self, address: str) -> Self:
        """Be there."""
        self.bus = await MessageBus(bus_address=address).connect()
        self.bus.add_message_handler(self._handle)
        await self._call(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s",
            ["type='signal',path_namespace='/'"],
        )  # fmt: skip
        if self.notifies:
            await self.bus.request_name(NOTES)
        await self.bus.request_name(WATCHER)
        return self

    async def stop(self) -> None:
        """Be gone, as after a crash."""
        self.bus.disconnect()
        gone: Any = self.bus.wait_for_disconnect
        await gone()

    def _handle(self, message: Message) -> Message | None:
        if message.message_type is MessageType.SIGNAL:
            if message.path in ("/StatusNotifierItem", "/MenuBar"):
                self.signals.append(message.member or "")
            return None
        match message.member:
            case "RegisterStatusNotifierItem":
                self.item, self.registered = message.body[0], self.registered + 1
                return Message.new_method_return(message)
            case "Introspect":
                return Message.new_method_return(message, "s", [_INTROSPECTION])
            case "GetCapabilities":
                return Message.new_method_return(message, "as", [["body", "actions"]])
            case "GetServerInformation":
                return Message.new_method_return(message, "ssss", ["fake", "tests", "1", "1.2"])
            case "Notify":
                number = len(self.notes) + 1
                self.notes.append(Note(number, message.body[3], message.body[4], message.body[5]))
                return Message.new_method_return(message, "u", [number])
        return None

    async def _call(
        self, to: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> list[Any]:
        reply = await self.bus.call(
            Message(
                destination=to, path=path, interface=interface, member=member, signature=signature, body=body,
            )
        )  # fmt: skip
        assert reply is not None
        assert reply.message_type is MessageType.METHOD_RETURN, reply.body
        return list(reply.body)

    async def properties(self) -> dict[str, Any]:
        """Of the item."""
        told = await self._call(
            self.item, "/StatusNotifierItem", "org.freedesktop.DBus.Properties", "GetAll", "s", [ITEM]
        )  # fmt: skip
        return {name: value.value for name, value in told[0].items()}

    async def menu(self) -> tuple[Row, ...]:
        """As it is now."""
        _, root = await self._call(self.item, "/MenuBar", MENU, "GetLayout", "iias", [0, -1, []])
        return _row(root).rows

    async def open(self) -> None:
        """Say that the menu opens."""
        await self._call(self.item, "/MenuBar", MENU, "AboutToShow", "i", [0])

    async def click(self, *labels: str) -> None:
        """Choose an item, by the beginning of its label, and those of the submenus on the way."""
        rows, found = await self.menu(), None
        for label in labels:
            names = [row.label for row in rows]
            found = next((row for row in rows if row.label.startswith(label)), None)
            assert found is not None, f"{label!r} is not in {names}"
            rows = found.rows
        assert found is not None
        await self._call(
            self.item, "/MenuBar", MENU, "Event", "isvu", [found.number, "clicked", Variant("i", 0), 0]
        )  # fmt: skip

    async def press(self, note: Note, label: str) -> None:
        """Press a button of a notification."""
        key = note.actions[note.actions.index(label) - 1]
        self.bus.send(
            Message.new_signal(
                "/org/freedesktop/Notifications", NOTES, "ActionInvoked", "us", [note.number, key]
            )
        )

    async def until(self, what: Callable[[], Any], name: str, within_s: float = 90.0) -> Any:
        """Poll *what*, which may be a coroutine function, until it is true; its value."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while True:
            value = what()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            assert loop.time() < deadline, f"{name} did not come true within {within_s:g} s"
            await asyncio.sleep(0.05)


def _row(node: Any) -> Row:
    number, values, kids = node
    told = {name: value.value for name, value in values.items()}
    return Row(
        number,
        told.get("label", "").replace("__", "_"),
        told.get("enabled", True),
        bool(told["toggle-state"]) if "toggle-state" in told else None,
        tuple(_row(kid.value) for kid in kids),
    )
